"""What standbys do for clients: hot ones serve reads through a failover, warm ones turn clients away, as all without a right do.

The first part has a real keeper whose daemon the test plays, the second whole groups on hosts of their own.
"""

import contextlib
import itertools
import json
import os
import signal
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import replace

import psycopg
import pytest

from orchestrator.domain import commands
from orchestrator.domain.topology import Pair
from orchestrator.keeper.gate import ADMIN_SOURCE
from orchestrator.keeper.tree import started
from orchestrator.lab.redis import RedisKind
from tests.contract.servers import why_no_zookeeper
from tests.system.conftest import LEASE as KEEPERS_LEASE
from tests.system.conftest import PEER, Keeper
from tests.system.hosts import Host, why_no_hosts
from tests.system.postgresql_servers import why_not as why_no_postgresql
from tests.system.redis_servers import RedisServer, Servers, say, state_of, wait_for, why_no_redis
from tests.system.spread_group import CLIENT, MEMBERS, SpreadGroup, spread_group

WHY_NOT = why_no_hosts() or why_no_zookeeper() or why_no_redis()
pytestmark = [
    pytest.mark.root,
    pytest.mark.redis,
    pytest.mark.zookeeper,
    pytest.mark.timeout(180),
    pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT),
]

LEASE = 0.5
WHOLE_WITHIN = 25.0
EVERY = 0.005
LONGEST_GAP = 0.25
"""Between two reads on a standby while another member takes over: a reader notices less than half of the lease."""
AT_ONCE = 0.05
"""Within this time whoever connects in vain is told so; nobody's timeout is as short."""

# --- a keeper --------------------------------------------------------------------------------------------------------

CLIENT_SOURCE, MEMBER_SOURCE = "127.0.0.1", "127.84.73.99"


@pytest.fixture
def server(redis_servers: Servers) -> RedisServer:
    return redis_servers.start("a")


@pytest.fixture
def keeper(make_keeper: Callable[..., Keeper], server: RedisServer) -> Keeper:
    """Of a group whose standbys are warm."""
    made = make_keeper(gate_port=server.port)
    (group,) = made.setup.groups
    made.setup = replace(made.setup, groups=(replace(group, warm=True, member_addresses=(MEMBER_SOURCE,)),))
    made.start()
    return made


@contextlib.contextmanager
def connected(server: RedisServer, source: str) -> Iterator[socket.socket]:
    """Refused it may be for a moment: a gate is shut while it is laid."""
    deadline = time.monotonic() + 0.3
    while True:
        try:
            link = socket.create_connection(server.end, timeout=2.0, source_address=(source, 0))
            break
        except ConnectionRefusedError:
            assert time.monotonic() < deadline, "refused"
    with link:
        assert say(link, "PING") == "PONG"
        yield link


def told(link: socket.socket) -> float:
    """How long it takes until a client that only waits is told that its connection is over."""
    began = time.monotonic()
    with pytest.raises(ConnectionResetError):
        link.recv(1)
    return time.monotonic() - began


def is_shut(server: RedisServer) -> bool:
    """The gate follows the freeze on a thread of its own, a moment later."""
    try:
        socket.create_connection(server.end, timeout=2.0, source_address=(CLIENT_SOURCE, 0)).close()
    except ConnectionRefusedError:
        return True
    return False


def stand_by(keeper: Keeper, server: RedisServer) -> None:
    began = started(server.pid)
    assert began is not None
    keeper.tell(commands.Saw(keeper.record(Pair(PEER, 4711))))
    keeper.tell(commands.Found(server.pid, began, 0, readable=True))


def test_a_warm_standby_turns_its_clients_away_and_lets_members_and_its_daemon_in(keeper: Keeper, server: RedisServer):
    with (
        connected(server, CLIENT_SOURCE) as client,
        connected(server, MEMBER_SOURCE) as member,
        connected(server, ADMIN_SOURCE) as daemon,
    ):
        stand_by(keeper, server)
        told(client)
        wait_for(lambda: "connection of clients ended" in keeper.log(), why=keeper.log)
        began = time.monotonic()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(server.end, timeout=2.0, source_address=(CLIENT_SOURCE, 0))
        assert time.monotonic() - began < AT_ONCE
        for link in (member, daemon):
            assert say(link, "PING") == "PONG"
        for source in (MEMBER_SOURCE, ADMIN_SOURCE):
            with connected(server, source):
                pass
        wait_for(lambda: f"clients are refused: db1 is a warm standby; the primary is {PEER}" in keeper.log(), why=keeper.log)
    for _ in range(2):  # each takes one more of the keeper's looks, a second apart
        keeper.counts()
    assert keeper.log().count("clients are refused: db1 is a warm standby") == 1, keeper.log()


def test_clients_of_a_frozen_service_wait_for_its_renewal_and_are_told_when_it_is_given_up(keeper: Keeper, server: RedisServer):
    """Their connections are ended while the server stands still; members keep theirs."""
    keeper.serve(server.pid, lasts=0.45)
    with connected(server, CLIENT_SOURCE) as client, connected(server, MEMBER_SOURCE) as member:
        wait_for(lambda: state_of(server.pid) == "T", why=keeper.log)
        client.settimeout(KEEPERS_LEASE / 2)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(5.0)
        told(client)
        assert keeper.page().release is not None
        assert state_of(server.pid) == "T"
        member.settimeout(0.1)
        with pytest.raises(TimeoutError):
            member.recv(1)


def test_clients_of_a_service_that_is_killed_are_told_at_once_behind_the_shut_gate(keeper: Keeper, server: RedisServer):
    """The gate keeps the kernel's own goodbye back, as it does everything but resets."""
    keeper.serve(server.pid, lasts=0.45)
    with connected(server, CLIENT_SOURCE) as client:
        wait_for(lambda: state_of(server.pid) == "T" and is_shut(server), why=keeper.log)
        keeper.tell(commands.KillService())
        assert told(client) < KEEPERS_LEASE / 2
    wait_for(lambda: "of clients ended" in keeper.log(), why=keeper.log)
    assert keeper.page().release is None


# --- whole groups ----------------------------------------------------------------------------------------------------


class Reader(ABC):
    """Reads on one member, from the clients' host; keeps when each read was answered, and every failure."""

    def __init__(self, host: Host, address: str) -> None:
        self.read_at: list[float] = []
        self.failures: list[tuple[float, str]] = []
        self._host = host
        self._address = address
        self._ending = threading.Event()
        self._thread = threading.Thread(target=lambda: host.inside(self._run), daemon=True)

    def __enter__(self) -> "Reader":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(10)

    def longest_gap(self) -> float:
        return max(later - earlier for earlier, later in itertools.pairwise(self.read_at))

    def _run(self) -> None:
        while not self._ending.is_set() and not self.failures:
            try:
                self.read(self._ending, self._note)
            except (OSError, psycopg.Error) as error:
                self.failures.append((time.monotonic(), f"{type(error).__name__}: {error}"))

    def _note(self) -> None:
        self.read_at.append(time.monotonic())
        time.sleep(EVERY)

    @abstractmethod
    def read(self, ending: threading.Event, note: Callable[[], None]) -> None:
        """Until it is to end."""


class RedisReader(Reader):
    def link(self) -> socket.socket:
        return socket.create_connection((self._address, RedisKind.port), timeout=2.0)

    def read(self, ending: threading.Event, note: Callable[[], None]) -> None:
        with self.link() as link:
            while not ending.is_set():
                self.ask(link)
                note()

    @staticmethod
    def ask(link: socket.socket) -> None:
        answer = say(link, "GET", "any")
        if answer.startswith("-"):
            raise OSError(answer)


class NewRedisReader(RedisReader):
    """A new connection for every read."""

    def read(self, ending: threading.Event, note: Callable[[], None]) -> None:
        with self.link() as link:
            self.ask(link)
        note()


class PostgresqlReader(Reader):
    def link(self) -> "psycopg.Connection[tuple[object, ...]]":
        return psycopg.connect(host=self._address, user="postgres", connect_timeout=2, autocommit=True)

    def read(self, ending: threading.Event, note: Callable[[], None]) -> None:
        with self.link() as link:
            while not ending.is_set():
                link.execute("SELECT count(*) FROM lab")
                note()


class NewPostgresqlReader(PostgresqlReader):
    def read(self, ending: threading.Event, note: Callable[[], None]) -> None:
        with self.link() as link:
            link.execute("SELECT count(*) FROM lab")
        note()


READERS: dict[str, tuple[type[Reader], type[Reader]]] = {
    "redis": (RedisReader, NewRedisReader),
    "postgresql": (PostgresqlReader, NewPostgresqlReader),
}
POSTGRESQL = pytest.param(
    "postgresql",
    marks=[pytest.mark.postgresql, pytest.mark.skipif(bool(why_no_postgresql()), reason=why_no_postgresql() or "there")],
)


@pytest.fixture(scope="module", params=["redis", POSTGRESQL])
def group(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SpreadGroup]:
    with spread_group(tmp_path_factory.mktemp("standbys"), (), service=request.param, lease=LEASE) as made:
        yield made


def kill_service(group: SpreadGroup, name: str) -> None:
    pid = group.hosts[name].service_pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


def fail_over(group: SpreadGroup, primary: str) -> str:
    """F1, and the new primary's name once all is whole again."""
    kill_service(group, primary)
    wait_for(lambda: group.whole() not in (None, primary), within=WHOLE_WITHIN, why=group.logs)
    after = group.whole()
    assert after is not None
    return after


@contextlib.contextmanager
def readers(group: SpreadGroup, names: list[str]) -> Iterator[dict[str, list[Reader]]]:
    """Of both kinds, on each of these members."""
    client, kinds = group.on[CLIENT], READERS[group.kind.name]
    with contextlib.ExitStack() as stack:
        made = {name: [stack.enter_context(kind(client, group.on[name].address)) for kind in kinds] for name in names}
        wait_for(lambda: all(len(each.read_at) > 20 for pair in made.values() for each in pair))
        yield made


def test_reads_on_standbys_go_on_while_the_primary_is_replaced(group: SpreadGroup):
    """On the one that stays a standby, over standing connections and new ones; and on the one that is promoted."""
    primary = group.wait_whole(WHOLE_WITHIN)
    standbys = [name for name in MEMBERS if name != primary]
    make_hot(group)
    with readers(group, standbys) as reading:
        after = fail_over(group, primary)
        seen = {each: len(each.read_at) for pair in reading.values() for each in pair}
        wait_for(lambda: all(len(each.read_at) > count + 20 for each, count in seen.items()), why=group.logs)
    for name, pair in reading.items():
        role = "promoted" if name == after else "stayed a standby"
        print(f"{group.kind.says}, {name} ({role}): " + ", ".join(f"longest gap {each.longest_gap():.3f} s" for each in pair))
        assert [each.failures for each in pair] == [[], []], name
        assert max(each.longest_gap() for each in pair) < LONGEST_GAP, name


def make_standbys(group: SpreadGroup, word: str) -> None:
    """Said in the file, and read again by the daemons that run."""
    changed = json.loads(group.config.read_text())
    changed["groups"]["orders"]["standbys"] = word
    group.config.write_text(json.dumps(changed))
    for name in MEMBERS:
        daemon = group.hosts[name].daemon
        assert daemon is not None
        group.config_of(group.hosts[name])
        os.kill(daemon.pid, signal.SIGHUP)


def make_hot(group: SpreadGroup) -> None:
    make_standbys(group, "hot")
    for name in MEMBERS:
        wait_for(lambda name=name: accepts(group, name), why=lambda name=name: group.keeper_log(name))


def accepts(group: SpreadGroup, name: str) -> bool:
    def connect() -> bool:
        with contextlib.suppress(OSError), socket.create_connection((group.on[name].address, group.kind.port), timeout=2.0):
            return True
        return False

    return group.on[CLIENT].inside(connect)


def refused_after(host: Host, address: str, port: int) -> float:
    def connect() -> float:
        began = time.monotonic()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((address, port), timeout=2.0)
        return time.monotonic() - began

    return host.inside(connect)


def test_warm_standbys_refuse_clients_at_once_and_take_over_and_follow_as_ever(group: SpreadGroup):
    primary = group.wait_whole(WHOLE_WITHIN)
    client, port = group.on[CLIENT], group.kind.port
    standing, _ = READERS[group.kind.name]
    standbys = [name for name in MEMBERS if name != primary]
    make_hot(group)
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(standing(client, group.on[name].address)) for name in MEMBERS]
        on = dict(zip(MEMBERS, made, strict=True))
        wait_for(lambda: all(len(each.read_at) > 20 for each in made))
        make_standbys(group, "warm")
        wait_for(lambda: all(on[name].failures for name in standbys), why=group.logs)
        for name in standbys:
            ((failed_at, why),) = on[name].failures
            print(f"{name}: {why.splitlines()[0]} {failed_at - on[name].read_at[-1]:.3f} s after its last read")
            assert "reset" in why or "closed the connection" in why
            assert failed_at - on[name].read_at[-1] < LONGEST_GAP
        assert on[primary].failures == []
    after = fail_over(group, primary)
    for name in MEMBERS:
        if name == after:
            with standing(client, group.on[name].address) as reader:
                wait_for(lambda: len(reader.read_at) > 20)
            continue
        took = sorted(refused_after(client, group.on[name].address, port) for _ in range(5))
        print(f"{name}: refused after {took[0] * 1000:.1f} to {took[-1] * 1000:.1f} ms")
        assert took[-1] < AT_ONCE
        said = f"orders: clients are refused: {name} is a warm standby; the primary is {after}"
        wait_for(lambda name=name, said=said: said in group.keeper_log(name), why=lambda name=name: group.keeper_log(name))
