"""repmgr: repmgrd beside each server, failover automatic, as the chapter on repmgrd of its manual sets it up."""

import contextlib
import os
import shutil
import signal
import subprocess
from typing import Any

from orchestrator.lab.postgresql import RUN_AS
from tests.bench.system import BenchError, PostgresSystem, as_postgres, command, wait_for_server, wait_until_settled
from tests.system.redis_servers import is_alive
from tests.system.spread_group import MEMBERS

HOLDS = 60.0


class Repmgr(PostgresSystem):
    tool = "repmgr"
    client_is = "libpq's rule for several hosts"
    faults = ("F1", "F2", "F3", "F4", "F7", "F8")
    """Its switchover needs ssh between the hosts, and is left out."""
    rejoins = False

    def __init__(self, *args: Any, more: dict[str, Any] | None = None, **rest: Any) -> None:
        super().__init__(*args, **rest)
        self.more = more or {}
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        self.kind.prepare(self.directory)
        for number, name in enumerate(MEMBERS, 1):
            self.home(name).mkdir(parents=True)
            shutil.chown(self.home(name), RUN_AS, RUN_AS)
            (self.home(name) / "repmgr.conf").write_text(self._configuration(name, number))
        first = MEMBERS[0]
        self.kind.prepare_host(self.home(first), self.on[first].address)
        shutil.chown(self.home(first), RUN_AS, RUN_AS)
        with open(self.home(first) / "data" / "postgresql.conf", "a", encoding="utf-8") as stream:
            stream.write("shared_preload_libraries = 'repmgr'\nmax_connections = 300\n")
        self._start_server(first)
        wait_for_server(self, first)
        self.ask(first, "CREATE DATABASE repmgr")
        self._repmgr(first, "primary", "register")
        for name in MEMBERS[1:]:
            primary = self.on[first].address
            (self.home(name) / "sockets").mkdir()
            shutil.chown(self.home(name) / "sockets", RUN_AS, RUN_AS)
            self._repmgr(name, "-h", primary, "-U", "postgres", "-d", "repmgr", "standby", "clone", "--fast-checkpoint")
            conf = self.home(name) / "data" / "postgresql.conf"
            conf.write_text(conf.read_text().replace(f"{self.home(first)}/sockets", f"{self.home(name)}/sockets"))
            self._start_server(name)
            self._repmgr(name, "standby", "register", "--wait-sync=30")
        for name in MEMBERS:
            self.start_agents(name)
        if not wait_until_settled(self, HOLDS, 0.0):
            raise BenchError(f"repmgr does not begin: {self.why_not_settled()}")

    def _configuration(self, name: str, number: int) -> str:
        home, conf = self.home(name), self.home(name) / "repmgr.conf"
        lines = {
            "node_id": number,
            "node_name": name,
            "conninfo": f"host={self.on[name].address} user=postgres dbname=repmgr connect_timeout=2",
            "data_directory": f"{home}/data",
            "pg_bindir": self.kind._programs,
            "use_replication_slots": "yes",
            "failover": "automatic",
            "promote_command": f"repmgr -f {conf} standby promote --log-to-file",
            "follow_command": f"repmgr -f {conf} standby follow --log-to-file --upstream-node-id=%n",
            "log_file": f"{home}/repmgr.log",
            "repmgrd_pid_file": f"{home}/repmgrd.pid",
            **self.more,
        }
        return "".join(f"{key}='{value}'\n" for key, value in lines.items())

    def _repmgr(self, name: str, *words: str) -> None:
        command(self.on[name], *as_postgres(), "repmgr", "-f", str(self.home(name) / "repmgr.conf"), *words, cwd="/")

    def _start_server(self, name: str) -> None:
        with open(self.home(name) / "postgresql.log", "ab") as log:
            words = (*as_postgres(), self.kind.program("postgres"), "-D", str(self.home(name) / "data"))
            self.on[name].start(*words, stdout=log, stderr=log, cwd="/")

    def start_agents(self, name: str) -> None:
        with open(self.home(name) / "repmgrd.log", "ab") as log:
            words = (*as_postgres(), "repmgrd", "-f", str(self.home(name) / "repmgr.conf"), "--daemonize=false")
            self.daemons[name] = self.on[name].start(*words, stdout=log, stderr=log, cwd="/")

    def boot(self, name: str) -> None:
        self._start_server(name)
        self.start_agents(name)

    def revive(self, name: str) -> None:
        try:
            self.service_pid(name)
        except BenchError:
            self._start_server(name)

    def stop(self) -> None:
        for daemon in self.daemons.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(daemon.pid, signal.SIGKILL)
        self.end_servers()
        super().stop()

    def why_not_settled(self) -> str:
        if reason := self.why_not_replicating():
            return reason
        silent = [name for name in MEMBERS if not is_alive(self.daemons[name].pid)]
        return f"repmgrd is not running on {silent}" if silent else ""

    def settings(self) -> dict[str, Any]:
        return self.more or {"reconnect_attempts": "6 (default)", "reconnect_interval": "10 (default)"}

    def versions(self) -> dict[str, str]:
        return {**super().versions(), "repmgr": command(self.client, "repmgr", "--version").split()[-1]}

    def agents(self, name: str) -> list[int]:
        return [self.daemons[name].pid]
