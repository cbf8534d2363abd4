"""pg_auto_failover: a monitor on a host of its own, and a keeper beside each server; synchronous, as it is by default."""

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

from orchestrator.lab.postgresql import RUN_AS, TABLE
from tests.bench.system import ELSEWHERE, BenchError, PostgresSystem, as_postgres, command, wait_for_server, wait_until_settled
from tests.system.hosts import NET
from tests.system.spread_group import MEMBERS

HOLDS = 90.0
MONITOR_PORT = 5432
MONITOR_DATABASE = "pg_auto_failover"

OWN_SOCKETS = 'mkdir -p /run/postgresql && mount --bind "$0" /run/postgresql && exec "$@"'
"""Servers of Debian's packages meet in this directory; hosts have one each. (`ip netns exec` keeps mounts to itself.)"""


class AutoFailover(PostgresSystem):
    tool = "pg_auto_failover"
    client_is = "libpq's rule for several hosts"
    faults = ("F1", "F2", "F3", "F4", "F5", "F6", "F7", "F8")

    def __init__(self, *args: Any, more: dict[str, str] | None = None, **rest: Any) -> None:
        super().__init__(*args, **rest)
        self.more = more or {}
        """Settings of the monitor."""
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        for name in (ELSEWHERE, *MEMBERS):
            for made in (self.home(name), self.home(name) / "sockets"):
                made.mkdir(parents=True)
                shutil.chown(made, RUN_AS, RUN_AS)
        hostname = self.on[ELSEWHERE].address
        self._run(ELSEWHERE, "create", "monitor", "--hostname", hostname, "--pgport", str(MONITOR_PORT), *self._always)
        self._let_in(ELSEWHERE)
        self._start(ELSEWHERE)
        self._wait_monitor()
        for name, value in self.more.items():
            self._monitor(f"ALTER SYSTEM SET pgautofailover.{name} = '{value}'")
        self._monitor("SELECT pg_reload_conf()")
        uri = f"postgres://autoctl_node@{hostname}:{MONITOR_PORT}/{MONITOR_DATABASE}"
        for number, name in enumerate(MEMBERS):
            words = ("create", "postgres", "--hostname", self.on[name].address, "--name", name, "--pgport", "5432")
            self._run(name, *words, "--monitor", uri, *self._always)
            self._let_in(name)
            self._start(name)
            if number == 0:
                wait_for_server(self, name)
                for setting in ("max_connections = 300", "shared_buffers = '16MB'"):
                    self.ask(name, f"ALTER SYSTEM SET {setting}")
        if not wait_until_settled(self, HOLDS, 0.0):
            raise BenchError(f"pg_auto_failover does not begin: {self.why_not_settled()}")
        self.ask(self.primary(), TABLE)

    @property
    def _always(self) -> tuple[str, ...]:
        return ("--auth", "trust", "--no-ssl", "--pgctl", self.kind.program("pg_ctl"))

    def _let_in(self, name: str) -> None:
        """The bench's clients too."""
        access = self.home(name) / "data" / "pg_hba.conf"
        if access.exists():  # the others copy it
            with open(access, "a", encoding="utf-8") as stream:
                stream.write(f"host all all {NET} trust\nhost replication all {NET} trust\n")

    def _words(self, name: str, *words: str) -> tuple[str, ...]:
        home = self.home(name)
        places = dict.fromkeys(("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR"), home)
        path = f"{self.kind._programs}:{os.environ['PATH']}"
        environment = as_postgres(**places, PATH=path, PGDATA=home / "data", PG_CONFIG="/usr/bin/pg_config")
        return ("sh", "-c", OWN_SOCKETS, str(home / "sockets"), *environment, "pg_autoctl", *words)

    def _run(self, name: str, *words: str) -> None:
        command(self.on[name], *self._words(name, *words), cwd="/")

    def _start(self, name: str) -> None:
        with open(self.home(name) / "autoctl.log", "ab") as log:
            self.daemons[name] = self.on[name].start(*self._words(name, "run"), stdout=log, stderr=log, cwd="/")

    boot = start_agents = _start

    def stop(self) -> None:
        for name in self.daemons:
            for pid in self.agents(name):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(OSError, ValueError, IndexError):
            self.kind.end(int((self.home(ELSEWHERE) / "data" / "postmaster.pid").read_text().split()[0]))
        self.end_servers()
        super().stop()

    def _monitor(self, query: str) -> list[tuple[Any, ...]]:
        return self.ask(ELSEWHERE, query, database=MONITOR_DATABASE)

    def _wait_monitor(self) -> None:
        if not wait_until_settled(_Monitor(self), HOLDS, 0.0):
            raise BenchError("the monitor does not begin")

    def why_not_settled(self) -> str:
        if reason := self.why_not_replicating(1):
            return reason
        try:
            rows = self._monitor("SELECT nodename, reportedstate::text, goalstate::text, health FROM pgautofailover.node")
        except Exception as error:
            return f"the monitor does not answer: {error}"
        primary = self.primary()
        found = {name: (reported, goal, health) for name, reported, goal, health in rows}
        wanted = {name: ("primary", "primary", 1) if name == primary else ("secondary", "secondary", 1) for name in MEMBERS}
        return "" if found == wanted else f"the monitor knows {found}"

    def settings(self) -> dict[str, Any]:
        return {"number_sync_standbys": 1, **(self.more or {"monitor": "all defaults"})}

    def versions(self) -> dict[str, str]:
        said = command(self.client, "pg_autoctl", "version").split()
        return {**super().versions(), "pg_auto_failover": said[said.index("version") + 1]}

    def agents(self, name: str) -> list[int]:
        """Every pg_autoctl, but not the server that it has started."""
        return [pid for pid in self.on[name].pids() if Path(f"/proc/{pid}/comm").read_text().strip() == "pg_autoctl"]

    def arbiters(self) -> tuple[str, ...]:
        return (ELSEWHERE,)

    def switchover(self, primary: str) -> None:
        """Asked of the monitor itself, as `pg_autoctl perform switchover` does, which then only waits and tells."""
        self._monitor("SELECT pgautofailover.perform_failover('default', 0)")


class _Monitor:
    """To wait for."""

    def __init__(self, system: AutoFailover) -> None:
        self._system = system

    def why_not_settled(self) -> str:
        try:
            self._system._monitor("SELECT count(*) FROM pgautofailover.node")
        except Exception as error:
            return str(error)
        return ""
