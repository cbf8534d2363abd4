"""Real PostgreSQL servers for tests: a template of three members is made once, and every test begins with fresh copies.

Everything lies below one temporary directory; only processes that were started from it are ended.
"""

import asyncio
import os
import pwd
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg

from orchestrator.domain.effects import EnsureService, WantedRole
from orchestrator.domain.observations import Answered, Outcome, ServiceView
from orchestrator.domain.topology import Member
from orchestrator.keeper.tree import Tree
from orchestrator.lab.group import fast_directory
from orchestrator.services.postgresql import postmaster
from orchestrator.services.postgresql.service import PostgresqlService
from orchestrator.services.postgresql.settings import DEBIAN_PROGRAMS, PostgresqlSettings

HOST = "127.0.0.1"
NAMES = ("a", "b", "c")
USER = "postgres"
PASSWORD = "it's a secret"
REPLICATION_PASSWORD = r"back\slash"

PROGRAMS = Path(os.environ.get("TANIST_TEST_POSTGRESQL", DEBIAN_PROGRAMS / "15" / "bin"))
"""Another version's servers: TANIST_TEST_POSTGRESQL=/usr/lib/postgresql/17/bin"""


def why_not() -> str:
    """Why no server can be run here; empty when one can."""
    if not (PROGRAMS / "postgres").exists():
        return f"no PostgreSQL in {PROGRAMS}"
    if os.geteuid() == 0:
        try:
            pwd.getpwnam(USER)
        except KeyError:
            return f"no user {USER}"
    return ""


def free_ports(count: int) -> list[int]:
    """Below the kernel's own choices: a standby that knocks at a closed one of those may get through to itself."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
        found.append(port)
    return found


class Servers:
    """Three members in one directory."""

    def __init__(self, directory: Path, ports: list[int]) -> None:
        self.directory = directory
        self.ports = dict(zip(NAMES, ports, strict=True))
        self.members = tuple(Member(name=name, address=HOST, port=port) for name, port in self.ports.items())
        self.asked: list[tuple[int, int, int]] = []
        """Every question whether the keeper is armed."""
        self.is_armed = True
        self._services: list[PostgresqlService] = []
        self.heard: dict[str, list[str]] = {name: [] for name in NAMES}

    def settings(self, name: str) -> PostgresqlSettings:
        return PostgresqlSettings(
            name=name,
            host=HOST,
            port=self.ports[name],
            data_directory=self.directory / name,
            socket_directory=self.directory,
            user="postgres",
            password_file=self.directory / "password",
            replication_user="follower",
            replication_password_file=self.directory / "replication-password",
            bin_directory=PROGRAMS,
            run_as=USER if os.geteuid() == 0 else None,
            parameters={"shared_buffers": "16MB"},
            stop_within=5.0,
            start_within=20.0,
        )

    def service(self, name: str, **changes: Any) -> PostgresqlService:
        made = PostgresqlService(replace(self.settings(name), **changes), self.members, self._armed)
        made.progress = lambda words: self.heard[name].append(words) if words else None
        self._services.append(made)
        return made

    def _armed(self, epoch: int, pid: int, started: int) -> bool:
        self.asked.append((epoch, pid, started))
        return self.is_armed

    async def close(self) -> None:
        for service in self._services:
            await service.close()
        self._services.clear()

    # --- doing -------------------------------------------------------------------------------------------------------

    def sql(self, name: str, query: str, **words: Any) -> list[tuple[Any, ...]]:
        with self.connection(name, **words) as connection:
            cursor = connection.execute(query)  # type: ignore[call-overload]
            return cursor.fetchall() if cursor.description else []

    def connection(self, name: str, **words: Any) -> psycopg.Connection[Any]:
        told = {"host": HOST, "port": self.ports[name], "user": "postgres", "password": PASSWORD, "dbname": "postgres", **words}
        return psycopg.connect(**told, autocommit=True)

    def tree(self, name: str) -> Tree:
        running = postmaster.find(self.directory / name)
        assert running is not None
        return Tree(running.pid, running.started)

    def kill(self, name: str) -> None:
        """As a power loss: all processes at once, nothing written any more."""
        end_tree(self.tree(name))

    def end(self) -> None:
        for directory in self.directory.iterdir():
            if (running := postmaster.find(directory)) is not None:
                end_tree(Tree(running.pid, running.started))


def end_tree(tree: Tree) -> None:
    tree.kill()
    until(tree.is_empty)


def until(condition: Callable[[], object], within: float = 20.0) -> Any:
    deadline = time.monotonic() + within
    while not (found := condition()):
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.005)
    return found


async def until_seen(look: Callable[[], Awaitable[Any]], shown: Callable[[Any], bool], within: float = 20.0) -> Any:
    deadline = time.monotonic() + within
    while not shown(seen := await look()):
        assert time.monotonic() < deadline, f"not in time, last seen: {seen}"
        await asyncio.sleep(0.005)
    return seen


async def until_view(service: PostgresqlService, shown: Callable[[ServiceView], bool], within: float = 20.0) -> ServiceView:
    async def look() -> Outcome:
        return await service.look(2.0)

    seen = await until_seen(look, lambda outcome: isinstance(outcome, Answered) and shown(outcome.view), within)
    assert isinstance(seen, Answered)
    return seen.view


def primary(epoch: int) -> EnsureService:
    return EnsureService(role=WantedRole.PRIMARY, epoch=epoch)


def held(epoch: int) -> EnsureService:
    return EnsureService(role=WantedRole.HELD, epoch=epoch)


def standby(epoch: int, of: str | None = None) -> EnsureService:
    return EnsureService(role=WantedRole.STANDBY, epoch=epoch, upstream=of)


# --- the template ----------------------------------------------------------------------------------------------------

IN_THE_DIRECTORY = "dynamic_shared_memory_type = mmap\n"
"""A killed server leaves its shared memory behind, about 1 MB in /dev/shm; here it goes with the data directory."""


@contextmanager
def template() -> Iterator[Path]:
    """A directory with three members, stopped cleanly: a is primary, b and c follow it."""
    root = Path(tempfile.mkdtemp(prefix="tanist-pg-", dir=fast_directory()))
    try:
        if os.geteuid() == 0:
            user = pwd.getpwnam(USER)
            os.chown(root, user.pw_uid, user.pw_gid)
        root.chmod(0o755)
        made = root / "template"
        _directory(made)
        (made / "password").write_text(PASSWORD + "\n")
        (made / "replication-password").write_text(REPLICATION_PASSWORD + "\n")
        (root / "ports").write_text(" ".join(str(port) for port in free_ports(len(NAMES))))
        servers = Servers(made, ports_of(root))
        try:
            asyncio.run(_make(servers))
        finally:
            servers.end()
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


def ports_of(root: Path) -> list[int]:
    return [int(port) for port in (root / "ports").read_text().split()]


def _directory(path: Path) -> None:
    path.mkdir(mode=0o755)
    if os.geteuid() == 0:
        user = pwd.getpwnam(USER)
        os.chown(path, user.pw_uid, user.pw_gid)


async def _make(servers: Servers) -> None:
    first = servers.service("a")
    await first.create(None)
    first.files.path.joinpath("postgresql.conf").write_text((first.files.path / "postgresql.conf").read_text() + IN_THE_DIRECTORY)
    await first.ensure(standby(1))
    await first.ensure(primary(1))
    servers.sql("a", "CREATE TABLE kept (id bigserial PRIMARY KEY, what text)")
    servers.sql("a", "INSERT INTO kept (what) SELECT 'row ' || n FROM generate_series(1, 1000) n")
    for name in ("b", "c"):
        service = servers.service(name)
        await service.create("a")
        await service.ensure(standby(1, "a"))
        await until_view(service, lambda view: view.link_up)
    for name in NAMES:
        await servers.service(name).control.stop()
    (servers.directory / "a" / "standby.signal").unlink()
    await servers.close()


@contextmanager
def copies(root: Path, running: tuple[str, ...] = ("a", "b")) -> Iterator[Servers]:
    """Fresh copies of the template's members, running as an administrator would have started them: Tanist knows nothing yet."""
    directory = root / "group"
    subprocess.run(["cp", "-a", "--reflink=auto", str(root / "template"), str(directory)], check=True)
    servers = Servers(directory, ports_of(root))
    try:
        for name in running:
            start_by_hand(servers, name)
        if "a" in running and len(running) > 1:
            query = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"
            until(lambda: servers.sql("a", query) == [(len(running) - 1,)])
        yield servers
    finally:
        servers.end()
        shutil.rmtree(directory, ignore_errors=True)


def start_by_hand(servers: Servers, name: str) -> None:
    """Without Tanist: pg_ctl, as whatever the data directory says that it is."""
    until(lambda: not is_dying(servers.settings(name).data_directory))
    subprocess.run(start_command(servers, name), check=True, cwd="/", timeout=60)


def start_command(servers: Servers, name: str) -> list[str]:
    settings = servers.settings(name)
    options = f"-p {settings.port} -k {settings.socket_directory} -c shared_buffers=16MB"
    command = [str(PROGRAMS / "pg_ctl"), "start", "-w", "-s", "-D", str(settings.data_directory), "-o", options]
    command += ["-l", str(settings.log)]
    if settings.run_as is None:
        return command
    return ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--init-groups", *command]


def is_dying(data_directory: Path) -> bool:
    """A killed main process that nobody has collected yet still holds the lock file, as PostgreSQL sees it."""
    try:
        pid = int((data_directory / "postmaster.pid").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return False
    return Path(f"/proc/{pid}").exists() and not postmaster.command_line(pid)
