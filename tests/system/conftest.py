"""Fixtures of the tests with real servers, and a keeper whose daemon and peers the test itself plays."""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.domain import commands
from orchestrator.domain.record import Cause, Record
from orchestrator.domain.topology import Pair
from orchestrator.keeper.gate import remove_table, table_name, why_impossible
from orchestrator.keeper.memory import Memory
from orchestrator.keeper.page import Page
from orchestrator.keeper.setup import Endpoint, GroupSetup, KeeperSetup, PathSetup, write_setup
from orchestrator.keeper.talk import FromKeeper, NotObeyed, Order, Seen, Tally, decode_from_keeper, encode_to_keeper
from orchestrator.keeper.tree import started
from orchestrator.lab.group import LabGroup
from tests.system.redis_servers import Servers, is_alive, servers, wait_for, why_no_redis

GROUP = "orders"
ME, PEER, OTHER = "db1", "db2", "db3"
LEASE = 0.5


@pytest.fixture(scope="session", autouse=True)
def _orphans_are_collected() -> None:
    """PostgreSQL takes a zombie for a server that runs: if nobody collects them, test after test waits in vain."""
    orphan = int(subprocess.run(["sh", "-c", "sleep 0.01 >&- 2>&- & echo $!"], capture_output=True, text=True, check=True).stdout)
    deadline = time.monotonic() + 5.0
    while Path(f"/proc/{orphan}").exists():
        if time.monotonic() > deadline:
            pytest.exit("nobody collects orphans here (a container without an init): run deploy/test, or tini -s -- pytest", 3)
        time.sleep(0.01)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that fails says what its group's daemons had to say in that moment, and what they had decided before."""
    report = yield
    if report.when == "call" and report.failed:
        for name, value in getattr(item, "funcargs", {}).items():
            group = getattr(value, "group", value)
            if isinstance(group, LabGroup):
                report.sections.append((f"the group of {name}", "\n".join(_told_by(group))))
    return report


def _told_by(group: LabGroup) -> Iterator[str]:
    for host in group.hosts.values():
        said = group.report(host)
        if said is None:
            yield f"{host.name}: does not answer"
            continue
        yield (
            f"{host.name}: {said['phase']} for {said['in_phase_seconds']} s, epoch {said['epoch']} of {said['primary']}, "
            f"succession {said['succession']}, right {said['right']}, service {host.service_pid()}, watched {said['watched_pid']}"
        )
        for each in said["refusals"]:
            yield f"    {each['act']}: {each['gate']}: {each['reason']} ({each['for_seconds']} s)"
        for entry in host.api.get(f"/v1/groups/{said['group']}/history?last=12"):
            yield f"    {entry}"


@pytest.fixture
def redis_servers(tmp_path: Path) -> Iterator[Servers]:
    if reason := why_no_redis():
        pytest.skip(reason)
    with servers(tmp_path) as made:
        yield made


def now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Keeper:
    """A real keeper process on loopback addresses of its own; the test is its daemon, and may be its peers."""

    def __init__(self, directory: Path, gate_port: int = 0) -> None:
        self.directory = directory
        self.net = f"127.{secrets.randbelow(180) + 40}.{secrets.randbelow(250) + 2}"
        self.run = directory / "run"
        self.run.mkdir()
        self.key = directory / "key"
        self.key.write_text(secrets.token_hex(32))
        self.setup_path = self.run / "keeper.json"
        self.log_path = self.run / "keeper.log"
        self.setup = self._setup(gate_port)
        self.processes: list[subprocess.Popen[bytes]] = []
        self.daemon: socket.socket | None = None
        self.news: list[FromKeeper] = []

    def _setup(self, gate_port: int) -> KeeperSetup:
        peers = tuple(Endpoint(peer=name, host=self.address(name)[0], port=7400) for name in (PEER, OTHER))
        gate = "auto" if gate_port else "off"
        group = GroupSetup(
            name=GROUP,
            peers=(PEER, OTHER),
            lease=LEASE,
            beat_every=LEASE / 10,
            gate_port=gate_port,
            gate_addresses=("127.0.0.1",),
            gate=gate,
        )
        return KeeperSetup(
            node=ME,
            cluster=f"test-{secrets.token_hex(3)}",
            keys=(str(self.key),),
            run_directory=str(self.run),
            state_directory=str(self.directory / "state"),
            paths=(PathSetup(host=self.address(ME)[0], port=7400, peers=peers),),
            groups=(group,),
            realtime=False,
        )

    def address(self, name: str) -> tuple[str, int]:
        return f"{self.net}.{name[-1]}", 7400

    @property
    def table(self) -> str:
        return table_name(self.setup.cluster, ME, GROUP)

    # --- its life ----------------------------------------------------------------------------------------------------

    def spawn(self) -> subprocess.Popen[bytes]:
        write_setup(self.setup, self.setup_path)
        with open(self.log_path, "ab") as log:
            process = subprocess.Popen([sys.executable, "-m", "orchestrator.keeper", str(self.setup_path)], stderr=log)
        self.processes.append(process)
        return process

    def start(self) -> subprocess.Popen[bytes]:
        process = self.spawn()
        self.connect()
        return process

    def connect(self) -> None:
        """As the node's daemon."""
        if self.daemon is not None:
            self.daemon.close()
        self.news.clear()
        link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)

        def connected() -> bool:
            with contextlib.suppress(OSError):
                link.connect(str(self.setup.socket_path))
                return True
            return False

        wait_for(connected, why=self.log)
        link.setblocking(False)
        self.daemon = link
        wait_for(self.seen, why=self.log)

    def log(self) -> str:
        return self.log_path.read_text() if self.log_path.exists() else ""

    def end(self) -> None:
        if self.daemon is not None:
            self.daemon.close()
        for process in self.processes:
            process.kill()
            process.wait(10)
        if not why_impossible():
            remove_table(self.table)

    # --- what it says and remembers ----------------------------------------------------------------------------------

    def page(self) -> Memory:
        page = Page(self.setup.page_path(GROUP), create=False)
        try:
            memory = page.read()
        finally:
            page.close()
        assert memory is not None
        return memory

    def hear(self) -> list[FromKeeper]:
        """All that it has said since it was connected to."""
        assert self.daemon is not None
        with contextlib.suppress(BlockingIOError):
            while data := self.daemon.recv(65536):
                self.news.append(decode_from_keeper(data))
        return self.news

    def seen(self) -> Seen | None:
        return next((each for each in reversed(self.hear()) if isinstance(each, Seen)), None)

    def declined(self) -> list[str]:
        return [each.reason for each in self.hear() if isinstance(each, NotObeyed)]

    def counts(self) -> dict[tuple[str, str], float]:
        """From a tally that is made after this was asked: whoever connects is told at once."""
        asked_at = now()
        assert any(process.poll() is None for process in self.processes), self.log()
        self.connect()

        def fresh() -> list[Tally]:
            return [each for each in self.hear() if isinstance(each, Tally) and each.at > asked_at]

        wait_for(fresh, why=self.log)
        return {(count.name, count.label): count.value for count in fresh()[-1].counts}

    # --- as its daemon -----------------------------------------------------------------------------------------------

    def tell_raw(self, data: bytes) -> None:
        assert self.daemon is not None
        self.daemon.setblocking(True)
        self.daemon.send(data)
        self.daemon.setblocking(False)

    def tell(self, command: commands.Command) -> None:
        self.tell_raw(encode_to_keeper(Order(group=GROUP, command=command)))

    def record(self, primary: Pair | None = None, version: int = 1, epoch: int = 1) -> Record:
        return Record(
            version=version,
            incarnation=7,
            epoch=epoch,
            primary=primary or Pair(ME, self.page().life),
            succession=(),
            lease=LEASE,
            nonce=1,
            cause=Cause.FOUNDING,
            reason="a test",
            since=0.0,
        )

    def serve(self, pid: int, *, lasts: float | None = None) -> float:
        """Make it hold a right over this process: without end, or (a member never promises) for so many seconds.

        A new life counts as having promised at its start, so this takes a lease. Returns the right's end.
        """
        wait_for(lambda: now() > self.page().promised_until)
        record = self.record()
        began_at = now()
        if lasts is not None:
            record = replace(record, succession=(Pair(PEER, 1),))
            began_at += lasts - 0.99 * LEASE
        self.tell(commands.Saw(record))
        self.tell(commands.Wrote(record, began_at))
        began = started(pid)
        assert began is not None
        self.tell(commands.Found(pid, began, 1))
        wait_for(lambda: self.page().pid == pid and self.page().hold == "serving", why=lambda: (self.log(), self.declined()))
        return began_at + 0.99 * LEASE


@pytest.fixture
def make_keeper(tmp_path: Path) -> Iterator[Callable[..., Keeper]]:
    made: list[Keeper] = []

    def make(gate_port: int = 0) -> Keeper:
        directory = tmp_path / f"keeper{len(made)}"
        directory.mkdir()
        made.append(Keeper(directory, gate_port))
        return made[-1]

    yield make
    for keeper in made:
        keeper.end()


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that a keeper may guard."""
    process = subprocess.Popen(["sleep", "600"])
    yield process
    if is_alive(process.pid):
        os.kill(process.pid, signal.SIGKILL)
    process.wait(10)
