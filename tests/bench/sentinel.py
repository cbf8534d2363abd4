"""Redis Sentinel: a Sentinel beside each Redis, quorum 2, as the second example of its documentation has it."""

import subprocess
from typing import Any

from orchestrator.lab.clients import RecordingClient
from tests.bench.clients import MASTER, SENTINEL_PORT, Connect, SentinelClient
from tests.bench.system import WRITE_EVERY, BenchError, RedisSystem
from tests.system.redis_servers import ask
from tests.system.spread_group import MEMBERS

CONFIG = """\
port {port}
bind * -::*
protected-mode no
dir {directory}
pidfile {directory}/sentinel.pid
logfile {directory}/sentinel.log
sentinel monitor {master} {primary} 6379 2
sentinel down-after-milliseconds {master} {down_after}
sentinel failover-timeout {master} {failover_timeout}
sentinel parallel-syncs {master} 1
"""


class Sentinel(RedisSystem):
    tool = "Redis Sentinel"
    client_is = "asks Sentinel"

    def __init__(self, *args: Any, down_after: int, failover_timeout: int = 180_000, guarded: bool = False, **more: Any) -> None:
        super().__init__(*args, **more)
        self.down_after, self.failover_timeout, self.guarded = down_after, failover_timeout, guarded
        self.sentinels: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        self.prepare()
        primary = self.on["db1"].address
        for name in MEMBERS:
            with open(self.home(name) / "redis.conf", "a", encoding="utf-8") as stream:
                if name != "db1":
                    stream.write(f"replicaof {primary} 6379\n")
                if self.guarded:
                    stream.write("min-replicas-to-write 1\nmin-replicas-max-lag 10\n")
            (self.home(name) / "sentinel.conf").write_text(
                CONFIG.format(
                    port=SENTINEL_PORT,
                    directory=self.home(name),
                    master=MASTER,
                    primary=primary,
                    down_after=self.down_after,
                    failover_timeout=self.failover_timeout,
                )
            )
        for name in MEMBERS:
            self.boot(name)

    def boot(self, name: str) -> None:
        self.start_server(name)
        self.start_agents(name)

    def start_agents(self, name: str) -> None:
        words = ("redis-server", str(self.home(name) / "sentinel.conf"), "--sentinel")
        self.sentinels[name] = self.on[name].start(*words, stdout=subprocess.DEVNULL)

    def _says(self, name: str, *words: str) -> list[str]:
        end, source = (self.on[name].address, SENTINEL_PORT), self.client.address
        return self.client.inside(lambda: ask(end, "SENTINEL", *words, MASTER, source=source)).split("\n")

    def why_not_settled(self) -> str:
        if reason := self.why_not_replicating():
            return reason
        master = self.on[self.primary()].address
        for name in MEMBERS:
            try:
                words = self._says(name, "master")
            except OSError as error:
                return f"the Sentinel of {name} does not answer: {error}"
            known = dict(zip(words[::2], words[1::2], strict=False))
            seen = (known.get("ip"), known.get("flags"), known.get("num-slaves"), known.get("num-other-sentinels"))
            if seen != (master, "master", "2", "2"):
                return f"the Sentinel of {name} knows {seen}"
        return ""

    def settings(self) -> dict[str, Any]:
        guard = {"min-replicas-to-write": "1", "min-replicas-max-lag": "10"} if self.guarded else {}
        return {"down-after-milliseconds": self.down_after, "failover-timeout": self.failover_timeout, "quorum": 2, **guard}

    def make_client(self) -> RecordingClient:
        addresses = [self.on[name].address for name in MEMBERS]
        return SentinelClient(Connect.on(self.kind.connection, [self.client]), self.client, WRITE_EVERY, addresses)

    def agents(self, name: str) -> list[int]:
        return [self.sentinels[name].pid]

    def switchover(self, primary: str) -> None:
        other = next(name for name in MEMBERS if name != primary)
        if (said := self._says(other, "failover")) != ["OK"]:
            raise BenchError(f"SENTINEL FAILOVER: {said}")
