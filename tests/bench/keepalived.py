"""keepalived with Redis: VRRP moves the address, a check script watches Redis, notify scripts change Redis's role."""

import contextlib
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

from orchestrator.lab.clients import RecordingClient
from tests.bench.system import END_WITHIN, VIP, RedisSystem, command
from tests.system.hosts import INTERFACE
from tests.system.spread_group import MEMBERS

CONFIG = """\
global_defs {{
    router_id {name}
    enable_script_security
    script_user root
{more}}}
vrrp_script redis {{
    script "/usr/bin/redis-cli -h 127.0.0.1 ping"
    interval {interval}
    timeout {interval}
    fall {fall}
    rise {fall}
}}
vrrp_instance orders {{
    state BACKUP
    nopreempt
    interface {interface}
    virtual_router_id 51
    priority {priority}
    advert_int {advert}
    virtual_ipaddress {{
        {vip}/24 dev {interface}
    }}
    track_script {{
        redis
    }}
    notify_master "{notify} no one"
    notify_backup "{notify} {vip} 6379"
    notify_fault "{notify} {vip} 6379"
    notify_stop "{notify} {vip} 6379"
}}
"""
NOTIFY = """\
#!/bin/sh
exec timeout 2 redis-cli -h 127.0.0.1 replicaof "$1" "$2"
"""


class Keepalived(RedisSystem):
    tool = "keepalived"
    client_is = "virtual address"

    def __init__(self, *args: Any, advert: str = "1", interval: int = 2, fall: int = 2, fast: bool = False, **more: Any) -> None:
        super().__init__(*args, **more)
        self.advert, self.interval, self.fall, self.fast = advert, interval, fall, fast
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        self.prepare()
        for number, name in enumerate(MEMBERS):
            notify = self.home(name) / "notify"
            notify.write_text(NOTIFY)
            notify.chmod(0o755)
            (self.home(name) / "keepalived.conf").write_text(
                CONFIG.format(
                    name=name,
                    interface=INTERFACE,
                    priority=100 - 10 * number,
                    advert=self.advert,
                    interval=self.interval,
                    fall=self.fall,
                    vip=VIP,
                    notify=notify,
                    more="    vrrp_version 3\n    vrrp_rt_priority 50\n" if self.fast else "",
                )
            )
        for name in MEMBERS:
            self.boot(name)

    def boot(self, name: str) -> None:
        self.start_server(name)
        self.start_agents(name)

    def start_agents(self, name: str) -> None:
        home = self.home(name)
        words = ["keepalived", "--vrrp", "-n", "-l", "-D", "-f", str(home / "keepalived.conf")]
        words += ["-p", str(home / "keepalived.pid"), "-r", str(home / "vrrp.pid")]
        with open(home / "keepalived.log", "ab") as log:
            self.daemons[name] = self.on[name].start(*words, stdout=log, stderr=log)

    def why_not_settled(self) -> str:
        if reason := self.why_not_replicating():
            return reason
        holders = [name for name in MEMBERS if self.on[name].has(VIP)]
        return "" if holders == [self.primary()] else f"the address is on {holders}"

    def settings(self) -> dict[str, Any]:
        return {"advert_int": self.advert, "check script": f"every {self.interval} s, fall {self.fall}", "nopreempt": "yes"}

    def versions(self) -> dict[str, str]:
        said = command(self.client, "keepalived", "--version")
        return {**super().versions(), "keepalived": said.split()[1].lstrip("v")}

    def make_client(self) -> RecordingClient:
        return self.vip_client()

    def agents(self, name: str) -> list[int]:
        return with_children(self.daemons[name].pid)

    def switchover(self, primary: str) -> None:
        """Stopped in order, it gives the address away; started again, it is a backup."""
        daemon = self.daemons[primary]
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(END_WITHIN)
        self.start_agents(primary)

    def stop(self) -> None:
        for daemon in self.daemons.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(daemon.pid, signal.SIGKILL)
        super().stop()


def with_children(pid: int) -> list[int]:
    """The process and those that it has started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in with_children(int(child)))]
