"""Patroni with ZooKeeper, from PyPI, run by the user postgres as its documentation has it."""

import contextlib
import json
import os
import shutil
import subprocess
import urllib.request
from typing import Any

from orchestrator.lab.postgresql import RUN_AS, TABLE
from tests.bench.system import (
    PEERS,
    ZOOKEEPERS,
    BenchError,
    PostgresSystem,
    Zookeepers,
    as_postgres,
    command,
    wait_for_server,
    wait_until_settled,
)
from tests.system.hosts import NET
from tests.system.spread_group import MEMBERS

PARAMETERS = {
    "shared_buffers": "16MB",
    "dynamic_shared_memory_type": "mmap",
    "max_wal_size": "256MB",
    "wal_keep_size": "256MB",
    "wal_retrieve_retry_interval": "100ms",
    "max_connections": 300,
}
HOLDS = 60.0


class Patroni(PostgresSystem):
    tool = "Patroni"
    client_is = "libpq's rule for several hosts"
    faults = ("F1", "F2", "F3", "F4", "F5", "F6", "F7", "F8")

    def __init__(
        self, *args: Any, ttl: int, loop_wait: int, retry_timeout: int, more: dict[str, Any] | None = None, **rest: Any
    ) -> None:
        super().__init__(*args, **rest)
        self.dcs = {"ttl": ttl, "loop_wait": loop_wait, "retry_timeout": retry_timeout, **(more or {})}
        self.zookeepers = Zookeepers(self.on, self.directory / "zookeeper")
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        self.zookeepers.start()
        for name in MEMBERS:
            home = self.home(name)
            home.mkdir(parents=True)
            shutil.chown(home, RUN_AS, RUN_AS)
            (home / "patroni.yaml").write_text(json.dumps(self._configuration(name), indent=1))  # JSON is YAML too
        self.boot(MEMBERS[0])
        wait_for_server(self, MEMBERS[0])
        for name in MEMBERS[1:]:
            self.boot(name)
        if not wait_until_settled(self, HOLDS, 0.0):
            raise BenchError(f"Patroni does not begin: {self.why_not_settled()}")
        self.ask(self.primary(), TABLE)

    def _configuration(self, name: str) -> dict[str, Any]:
        address, home = self.on[name].address, self.home(name)
        dcs = {**self.dcs, "postgresql": {"use_pg_rewind": True, "parameters": PARAMETERS}}
        access = ["local all all trust", f"host all all {NET} trust", f"host replication all {NET} trust"]
        return {
            "scope": "orders",
            "name": name,
            "restapi": {"listen": f"{address}:8008", "connect_address": f"{address}:8008"},
            "zookeeper": {"hosts": [f"{self.on[each].address}:2181" for each in ZOOKEEPERS]},
            "bootstrap": {"dcs": dcs, "initdb": [{"encoding": "UTF8"}, {"locale": "C"}, "no-sync", "data-checksums"]},
            "postgresql": {
                "listen": f"{address}:5432",
                "connect_address": f"{address}:5432",
                "data_dir": str(home / "data"),
                "bin_dir": str(self.kind._programs),
                "authentication": {"superuser": {"username": "postgres"}, "replication": {"username": "postgres"}},
                "parameters": {"unix_socket_directories": str(home)},
                "pg_hba": access,
            },
        }

    def boot(self, name: str) -> None:
        with open(self.home(name) / "patroni.log", "ab") as log:
            words = (*as_postgres(HOME=self.home(name)), str(PEERS / "bin/patroni"), str(self.home(name) / "patroni.yaml"))
            self.daemons[name] = self.on[name].start(*words, stdout=log, stderr=log, cwd="/")

    start_agents = boot

    def stop(self) -> None:
        for daemon in self.daemons.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(daemon.pid, 9)
        self.end_servers()
        super().stop()
        self.zookeepers.stop()

    def _rest(self, name: str, path: str, body: dict[str, Any] | None = None) -> str:
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(f"http://{self.on[name].address}:8008{path}", data)

        def asked() -> str:
            with urllib.request.urlopen(request, timeout=60) as answer:
                said: bytes = answer.read()
                return said.decode()

        return self.client.inside(asked)

    def why_not_settled(self) -> str:
        if reason := self.why_not_replicating(1 if self.dcs.get("synchronous_mode") else 0):
            return reason
        try:
            known = {each["name"]: each for each in json.loads(self._rest(self.primary(), "/cluster"))["members"]}
        except (OSError, ValueError) as error:
            return f"Patroni does not answer: {error}"
        for name in MEMBERS:
            role, state = (known.get(name, {}).get(word) for word in ("role", "state"))
            if (role == "leader") != (name == self.primary()) or state not in ("running", "streaming"):
                return f"{name} is {role}, {state}"
        return ""

    def settings(self) -> dict[str, Any]:
        return {**self.dcs, "zookeeper": self.zookeepers.says}

    def versions(self) -> dict[str, str]:
        said = command(self.client, str(PEERS / "bin/patroni"), "--version")
        return {**super().versions(), "patroni": said.split()[-1]}

    def agents(self, name: str) -> list[int]:
        return [self.daemons[name].pid]

    def arbiters(self) -> tuple[str, ...]:
        return ZOOKEEPERS

    def switchover(self, primary: str) -> None:
        candidate = next(name for name in MEMBERS if name != primary)
        self._rest(primary, "/switchover", {"leader": primary, "candidate": candidate})
