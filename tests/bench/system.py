"""What the bench asks of a tool that it measures: Tanist or a peer, set up on hosts that are the same for all."""

import contextlib
import os
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import psycopg

from orchestrator.domain.spans import Span
from orchestrator.keeper.tree import Tree, started
from orchestrator.lab.clients import Connection, RecordingClient
from orchestrator.lab.kinds import Kind
from orchestrator.lab.postgresql import RUN_AS, PostgresqlKind
from tests.bench.clients import Connect, HostsClient, PatientPostgresConnection
from tests.system.hosts import Host
from tests.system.redis_servers import is_alive
from tests.system.spread_group import CLIENT, MEMBERS, EverywherePostgresql, EverywhereRedis, ZooKeeper

VIP = "10.77.0.200"
ZOOKEEPERS = ("zk1", "zk2", "zk3")
ELSEWHERE = "app1"
"""Tanist's witness, or the monitor of pg_auto_failover."""

PEERS = Path(os.environ.get("TANIST_BENCH_PEERS", "/opt/tanist-bench"))
"""The virtual environment of peers that come from PyPI; every user can read it."""

HOSTS = (*MEMBERS, ELSEWHERE, *ZOOKEEPERS, CLIENT)
WRITE_EVERY: Span = 0.005
END_WITHIN: Span = 10.0
BEGINS_WITHIN: Span = 60.0

FAULTS = ("F1", "F2", "F3", "F4", "F5", "F6", "F7", "F8", "F9", "F9-frozen", "F10")


class BenchError(Exception):
    """The bench itself failed; says nothing about the tool that it measures."""


class System(ABC):
    """One tool with one set of settings: three members on three hosts, one of them primary."""

    tool: ClassVar[str]
    kind: Kind
    client_is: str
    """How its clients find the primary, in words."""
    faults: ClassVar[tuple[str, ...]] = ("F1", "F2", "F3", "F4", "F5", "F7", "F8")
    """Those that have a meaning for it."""

    rejoins: ClassVar[bool] = True
    """An old primary becomes a standby by itself; else each run that moves the role begins with a system made anew."""

    def __init__(self, on: dict[str, Host], directory: Path, *, hold: Span, limit: Span) -> None:
        self.on = on
        self.directory = directory
        self.hold = hold
        """How long an isolation, or a frozen or killed agent, lasts: longer than the tool takes to notice."""
        self.limit = limit
        """How long the client waits for somebody to write to before the fault is mended: well beyond the tool's own times."""

    # --- life --------------------------------------------------------------------------------------------------------

    @abstractmethod
    def start(self) -> None: ...

    def stop(self) -> None:
        """The hosts are as they were before: nothing runs there, and no address and no rule of the kernel is left."""
        for name in (*MEMBERS, ELSEWHERE):
            host = self.on[name]
            host.kill_all()
            host.processes.clear()
            host.heal()
            drop_vip(host)
            host.run("nft", "flush", "ruleset")

    @abstractmethod
    def boot(self, name: str) -> None:
        """The host has its power back: what its services would do."""

    @abstractmethod
    def why_not_settled(self) -> str:
        """Empty when every member is in its place and knows it."""

    @abstractmethod
    def primary(self) -> str: ...

    def settings(self) -> dict[str, Any]:
        """What was set, in the tool's own words."""
        return {}

    def versions(self) -> dict[str, str]:
        return {}

    # --- where things are --------------------------------------------------------------------------------------------

    def home(self, name: str) -> Path:
        return self.directory / name

    def service_pid(self, name: str) -> int:
        path = self.kind.pid_file(self.home(name))
        try:
            pid = int(path.read_text().split()[0])
        except (OSError, ValueError, IndexError) as error:
            raise BenchError(f"{name} has no server running: {error}") from error
        if not is_alive(pid):
            raise BenchError(f"{name} has no server running: process {pid} is gone")
        return pid

    def agents(self, name: str) -> list[int]:
        """The tool's own processes on that host, those first that watch others."""
        return []

    def arbiters(self) -> Sequence[str]:
        """Hosts of what decides between members, if that is something else than the members."""
        return ()

    @property
    def client(self) -> Host:
        return self.on[CLIENT]

    def make_client(self) -> RecordingClient:
        """On the client's host, as this tool's documentation recommends; here for tools without a virtual address."""
        ends = [(self.on[name].address, self.kind.port) for name in MEMBERS]
        return HostsClient(Connect.on(self.kind.connection, [self.client]), self.client.address, WRITE_EVERY, ends)

    def vip_client(self) -> RecordingClient:
        leads = self.directory / "vip"
        leads.write_text(f"{VIP} {self.kind.port}\n")
        connect: Any = Connect.on(self.kind.connection, [self.client])
        return RecordingClient(connect, leads, self.client.address, WRITE_EVERY)

    @property
    def watching(self) -> type[Connection]:
        return PatientPostgresConnection if isinstance(self.kind, PostgresqlKind) else self.kind.connection

    # --- what is done to it ------------------------------------------------------------------------------------------

    def switchover(self, primary: str) -> None:
        raise NotImplementedError

    def start_agents(self, name: str) -> None:
        """After they were killed."""

    def revive(self, name: str) -> None:
        """As a supervisor would: start the server if the tool does not."""


def drop_vip(host: Host) -> None:
    """As a host without power does."""
    host.ip("address", "flush", "to", f"{VIP}/32")


def stop_tree(pid: int) -> Tree:
    tree = Tree(pid, started(pid) or 0)
    tree.stop()
    return tree


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def command(host: Host, *words: str, within: Span = 60.0, **more: Any) -> str:
    """Run on that host to its end."""
    made: subprocess.Popen[str] = host.start(*words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)  # type: ignore[assignment]
    try:
        said, _ = made.communicate(timeout=within)
    except subprocess.TimeoutExpired as error:
        made.kill()
        raise BenchError(f"{' '.join(words)}: no end after {within:.0f} s") from error
    finally:
        host.processes.remove(made)  # type: ignore[arg-type]
    if made.returncode != 0:
        raise BenchError(f"{' '.join(words)}: {said.strip()[-500:]}")
    return said


class RedisSystem(System):
    kind: EverywhereRedis

    def __init__(self, on: dict[str, Host], directory: Path, **more: Any) -> None:
        super().__init__(on, directory, **more)
        self.kind = EverywhereRedis()

    def prepare(self) -> None:
        for name in MEMBERS:
            self.home(name).mkdir(parents=True)
            self.kind.prepare_host(self.home(name), self.on[name].address)

    def start_server(self, name: str) -> None:
        self.on[name].start("redis-server", str(self.home(name) / "redis.conf"), stdout=subprocess.DEVNULL)

    def revive(self, name: str) -> None:
        try:
            self.service_pid(name)
        except BenchError:
            self.start_server(name)

    def info(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.client.inside(lambda: self.kind._replication(self.on[name].address))
        return found

    def why_not_replicating(self) -> str:
        """One master, and two replicas that have all."""
        try:
            found = {name: self.info(name) for name in MEMBERS}
        except Exception as error:  # redis has many
            return f"Redis does not answer: {error}"
        masters = [name for name, info in found.items() if info["role"] == "master"]
        if len(masters) != 1:
            return f"masters: {masters}"
        for name, info in found.items():
            if name not in masters and (info["master_link_status"] != "up" or info["master_sync_in_progress"]):
                return f"{name} does not replicate"
        return "" if found[masters[0]]["connected_slaves"] == 2 else "a replica is not there"

    def primary(self) -> str:
        return next(name for name in MEMBERS if self.info(name)["role"] == "master")

    def versions(self) -> dict[str, str]:
        return {"redis": self.client.inside(lambda: self.kind.version(self.on["db1"].address, ""))}


class PostgresSystem(System):
    kind: EverywherePostgresql

    def __init__(self, on: dict[str, Host], directory: Path, *, replication: str = "asynchronous", **more: Any) -> None:
        super().__init__(on, directory, **more)
        self.kind = EverywherePostgresql(replication)

    def ask(self, name: str, query: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        def asked() -> list[tuple[Any, ...]]:
            with self._connect(name, database) as connection:
                done = connection.execute(query.encode())
                return done.fetchall() if done.description else []

        return self.client.inside(asked)

    def _connect(self, name: str, database: str) -> psycopg.Connection[tuple[Any, ...]]:
        where: dict[str, Any] = {"host": self.on[name].address, "port": self.kind.port, "dbname": database}
        return psycopg.connect(**where, user="postgres", autocommit=True, connect_timeout=2, tcp_user_timeout=2000)

    def end_servers(self) -> None:
        """In order as far as it goes: a killed server leaves shared memory behind."""
        for name in MEMBERS:
            with contextlib.suppress(BenchError):
                self.kind.end(self.service_pid(name))

    def why_not_replicating(self, synchronous: int = 0) -> str:
        try:
            standing = {name: bool(self.ask(name, "SELECT pg_is_in_recovery()")[0][0]) for name in MEMBERS}
        except Exception as error:
            return f"PostgreSQL does not answer: {error}"
        primaries = [name for name, standby in standing.items() if not standby]
        if len(primaries) != 1:
            return f"primaries: {primaries}"
        query = "SELECT sync_state FROM pg_stat_replication WHERE state = 'streaming' AND application_name <> 'pg_basebackup'"
        states = [row[0] for row in self.ask(primaries[0], query)]
        if len(states) != 2:
            return f"standbys that stream: {len(states)}"
        good = sum(state in ("sync", "quorum") for state in states)
        return "" if good >= synchronous else f"synchronous standbys: {good}"

    def primary(self) -> str:
        return next(name for name in MEMBERS if not self.ask(name, "SELECT pg_is_in_recovery()")[0][0])

    def versions(self) -> dict[str, str]:
        return {"postgresql": self.client.inside(lambda: self.kind.version(self.on["db1"].address, ""))}


class Quorum(ZooKeeper):
    """One of three servers. Sessions may be as long as a tool asks for: a server that shortens them would not be fair to it."""

    number: int
    lines: str

    def start(self) -> None:
        (self.directory / "data").mkdir(parents=True, exist_ok=True)
        (self.directory / "data" / "myid").write_text(f"{self.number}\n")
        (self.directory / "zoo.cfg").write_text(
            f"tickTime=500\ninitLimit=20\nsyncLimit=10\nmaxSessionTimeout=60000\ndataDir={self.directory}/data\n"
            f"clientPort=2181\nclientPortAddress={self.address}\nadmin.enableServer=false\n4lw.commands.whitelist=*\n{self.lines}"
        )
        with open(self.directory / "log", "ab") as log:
            self.process = self.host.start(*self.command, stdout=log, stderr=log)


class Zookeepers:
    """Three servers on three hosts."""

    says = "three servers, tickTime=500, maxSessionTimeout=60000"

    def __init__(self, on: dict[str, Host], directory: Path) -> None:
        lines = "".join(f"server.{number}={on[name].address}:2888:3888\n" for number, name in enumerate(ZOOKEEPERS, 1))
        self.servers = [Quorum(directory / name, on[name].address) for name in ZOOKEEPERS]
        for number, (server, name) in enumerate(zip(self.servers, ZOOKEEPERS, strict=True), 1):
            server.host, server.number, server.lines = on[name], number, lines

    def start(self) -> None:
        for server in self.servers:
            server.start()
        for server in self.servers:
            server.wait_up()

    def stop(self) -> None:
        for server in self.servers:
            server.host.kill_all()
            server.host.processes.clear()
            server.host.heal()

    @property
    def ends(self) -> str:
        return ",".join(server.end for server in self.servers)


class Settling(Protocol):
    def why_not_settled(self) -> str: ...


def wait_until_settled(system: Settling, within: Span, holds: Span = 2.0) -> bool:
    """Healthy, and healthy still a while later."""
    deadline, since = time.monotonic() + within, None
    while True:
        moment = time.monotonic()
        since = None if system.why_not_settled() else (since or moment)
        if since is not None and moment - since >= holds:
            return True
        if moment > deadline:
            return False
        time.sleep(0.1)


def as_postgres(**environment: str | Path) -> tuple[str, ...]:
    """The words that make a command the postgres user's; its number stays."""
    words = tuple(f"{name}={value}" for name, value in environment.items())
    return ("setpriv", f"--reuid={RUN_AS}", f"--regid={RUN_AS}", "--init-groups", "env", *words)


def wait_for_server(system: PostgresSystem, name: str) -> None:
    """The first one can be written to, so that the others have something to copy."""
    deadline = time.monotonic() + BEGINS_WITHIN
    while True:
        try:
            if not system.ask(name, "SELECT pg_is_in_recovery()")[0][0]:
                return
        except Exception as error:
            if time.monotonic() > deadline:
                raise BenchError(f"{name} does not begin: {error}") from error
        time.sleep(0.2)
