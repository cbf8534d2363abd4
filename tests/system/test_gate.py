"""The kernel's gate: shut unless it was opened, and shut again at its time by nobody's hand."""

import contextlib
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from orchestrator.domain import commands
from orchestrator.domain.spans import FOREVER
from orchestrator.domain.topology import Pair
from orchestrator.keeper.gate import ADMIN_SOURCE, Gate, remove_table, table_name, why_impossible
from tests.system.conftest import PEER, Keeper, now
from tests.system.redis_servers import RedisServer, Servers, say, state_of, wait_for

pytestmark = [
    pytest.mark.root,
    pytest.mark.redis,
    pytest.mark.timeout(60),
    pytest.mark.skipif(bool(why_impossible()), reason=f"kernel rules: {why_impossible()}"),
]

CLOSES_WITHIN = 0.03
"""How far from its time the last answer may pass."""

CLIENT = "127.0.0.1"
STEADY = 0.005
"""A client that was itself held up longer than this shortly before the end cannot tell when the gate closed."""


def tables() -> str:
    return subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout


def rules(table: str) -> str:
    done = subprocess.run(["nft", "list", "table", "inet", table], capture_output=True, text=True, check=False)
    return done.stdout


def nft(*words: str) -> None:
    subprocess.run(["nft", *words], capture_output=True, text=True, check=True)


def connects(server: RedisServer, source: str = CLIENT) -> str:
    """`yes`, `refused` (at once), or `no answer`."""
    try:
        with socket.create_connection(server.end, timeout=0.3, source_address=(source, 0)):
            return "yes"
    except ConnectionRefusedError:
        return "refused"
    except TimeoutError:
        return "no answer"


@pytest.fixture
def server(redis_servers: Servers) -> RedisServer:
    return redis_servers.start("a")


def gate_of(server: RedisServer) -> Gate:
    return Gate(table_name("test", "db1", f"port{server.port}"), server.port, (server.address,))


@pytest.fixture
def gate(server: RedisServer) -> Iterator[Gate]:
    made = gate_of(server)
    try:
        made.lay()
        yield made
    finally:
        made.close()
        remove_table(made.table)


@contextlib.contextmanager
def client_of(server: RedisServer) -> Iterator[socket.socket]:
    with socket.create_connection(server.end, timeout=1.0, source_address=(CLIENT, 0)) as link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield link


def test_it_is_shut_from_the_beginning(server: RedisServer, gate: Gate):
    began = time.monotonic()
    assert connects(server) == "refused"
    assert time.monotonic() - began < 0.2, "whoever knocks is told at once, and can look elsewhere"
    assert connects(server, ADMIN_SOURCE) == "yes", "the daemon on this host gets through"


def test_a_connection_that_stands_gets_no_answer_once_the_gate_is_laid(redis_servers: Servers):
    server = redis_servers.start("a")
    gate = gate_of(server)
    with client_of(server) as link:
        assert say(link, "PING") == "PONG"
        gate.lay()
        try:
            link.settimeout(0.2)
            with pytest.raises(TimeoutError):
                say(link, "SET", "key", "value")
            assert server.ask("GET", "key") == "", "what knocks at a shut gate does not happen either"
        finally:
            gate.close()
            remove_table(gate.table)


def test_it_opens_and_other_ports_were_never_its_business(server: RedisServer, gate: Gate, redis_servers: Servers):
    other = redis_servers.start("b")
    assert connects(other) == "yes"
    gate.open_until(now() + 5, now())
    assert connects(server) == "yes"
    gate.open_until(now() - 1, now())
    assert connects(server) == "refused"


def last_answer(link: socket.socket, until: float) -> tuple[float, float]:
    """When the last answer came, and the longest that one took in the last tenth of a second before the end."""
    link.settimeout(0.15)
    last = longest = 0.0
    while now() < until + 0.5:
        sent_at = now()
        try:
            say(link, "PING")
        except TimeoutError:
            break
        last = now()
        if last > until - 0.1:
            longest = max(longest, last - sent_at)
    return last, longest


def test_it_shuts_by_itself_at_its_time(server: RedisServer, gate: Gate):
    """Nobody acts at the end: this process only asks, and stops when nobody answers any more."""
    tried = []
    for _ in range(8):
        with client_of_open(server, gate) as link:
            until = now() + 0.4
            gate.open_until(until, now())
            last, longest = last_answer(link, until)
        late = last - until
        tried.append((round(late * 1000, 1), round(longest * 1000, 1)))
        assert late < CLOSES_WITHIN or longest > STEADY, tried
        if abs(late) <= CLOSES_WITHIN and longest <= STEADY:
            return
    pytest.fail(f"the last answer came at (ms from the end, longest answer): {tried}")


@contextlib.contextmanager
def client_of_open(server: RedisServer, gate: Gate) -> Iterator[socket.socket]:
    gate.open_until(now() + 2, now())
    with client_of(server) as link:
        yield link


def test_renewed_in_time_it_never_shuts(server: RedisServer, gate: Gate):
    """The older kernels' elements do not get a new time by being added again."""
    with client_of_open(server, gate) as link:
        slowest = 0.0
        link.settimeout(1.0)
        end = now() + 1.5
        while (moment := now()) < end:
            gate.open_until(moment + 0.3, moment)
            for _ in range(20):
                began = now()
                assert say(link, "PING") == "PONG"
                slowest = max(slowest, now() - began)
        assert slowest < 0.2, "no packet may meet a gap: one that is lost comes again after 200 ms"


def test_a_connection_that_stood_goes_on_after_a_late_renewal(server: RedisServer, gate: Gate):
    with client_of_open(server, gate) as link:
        gate.open_until(now() + 0.05, now())
        link.settimeout(0.2)
        with contextlib.suppress(TimeoutError):
            while True:
                say(link, "PING")
        wait_for(lambda: connects(server) == "refused")
        gate.open_until(now() + 5, now())
        link.settimeout(3.0)
        assert link.recv(100) == b"+PONG\r\n", "the answer that waited"
        assert say(link, "PING") == "PONG"


def test_a_shorter_time_replaces_a_longer_one(server: RedisServer, gate: Gate):
    gate.open_until(now() + 30, now())
    assert connects(server) == "yes"
    gate.open_until(now() + 0.1, now())
    wait_for(lambda: connects(server) == "refused", within=1.0)


def test_a_gate_without_an_end_stays_open_until_it_is_shut(server: RedisServer, gate: Gate):
    gate.open_until(FOREVER, now())
    assert "timeout" not in rules(gate.table).partition("elements")[2].partition("}")[0]
    assert connects(server) == "yes"
    gate.open_until(now(), now())
    assert connects(server) == "refused"


def test_laying_it_again_keeps_it_open(server: RedisServer, gate: Gate):
    """The next keeper lays it again while the right stands; nobody's packet may be lost."""
    gate.open_until(now() + 5, now())
    with client_of(server) as link:
        again = gate_of(server)
        for _ in range(3):
            again.lay()
            assert say(link, "PING") == "PONG"
        again.close()
    assert rules(gate.table).count("drop") == 2, "the rules stand once"


def test_the_end_of_a_server_is_told_through_a_shut_gate(server: RedisServer, gate: Gate):
    with client_of_open(server, gate) as link:
        assert say(link, "PING") == "PONG"
        gate.open_until(now(), now())
        server.kill()
        link.settimeout(1.0)
        with pytest.raises((ConnectionError, TimeoutError)):
            say(link, "PING")


def test_removed_nothing_of_it_is_left(server: RedisServer, gate: Gate):
    assert gate.table in tables()
    remove_table(gate.table)
    assert gate.table not in tables()
    assert connects(server) == "yes"
    remove_table(gate.table)


def test_rules_that_are_gone_are_told_when_it_is_to_open(server: RedisServer, gate: Gate):
    remove_table(gate.table)
    with pytest.raises(OSError):
        gate.open_until(now() + 5, now())


# --- a keeper's gate -------------------------------------------------------------------------------------------------


@pytest.fixture
def keeper(make_keeper: Callable[..., Keeper], server: RedisServer) -> Keeper:
    made = make_keeper(gate_port=server.port)
    made.start()
    return made


def shut(keeper: Keeper, server: RedisServer) -> None:
    """It has seen a record in which another member is primary."""
    keeper.tell(commands.Saw(keeper.record(Pair(PEER, 4711))))
    wait_for(lambda: connects(server) == "refused", why=keeper.log)


def serving(keeper: Keeper, server: RedisServer, **more: float) -> float:
    """It holds the right, and the gate stands open."""
    until = keeper.serve(server.pid, **more)
    wait_for(lambda: rules(keeper.table).count("drop") == 2 and "elements" in rules(keeper.table), why=keeper.log)
    return until


def test_a_keeper_lays_the_gate_when_the_group_is_known_to_be_its(keeper: Keeper, server: RedisServer):
    assert connects(server) == "yes", "a service that was never Tanist's is let alone"
    shut(keeper, server)
    assert keeper.table in tables()


DAMAGE = {
    "table deleted": lambda table: nft("delete", "table", "inet", table),
    "rules flushed": lambda table: nft("flush", "table", "inet", table),
    "chain flushed": lambda table: [nft("flush", "chain", "inet", table, chain) for chain in ("leaving", "arriving")],
}
MENDED_WITHIN = 2.5


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_shut_gate_that_somebody_takes_away_is_laid_again(keeper: Keeper, server: RedisServer, damage: str):
    """As `nft flush ruleset` does when somebody loads other rules."""
    shut(keeper, server)
    DAMAGE[damage](keeper.table)
    assert connects(server) == "yes"
    wait_for(lambda: connects(server) == "refused", within=MENDED_WITHIN, why=keeper.log)
    assert connects(server, ADMIN_SOURCE) == "yes"


@pytest.mark.parametrize("damage", DAMAGE)
def test_an_open_gate_that_somebody_takes_away_is_laid_again_and_open(keeper: Keeper, server: RedisServer, damage: str):
    serving(keeper, server)
    assert connects(server) == "yes"
    with client_of(server) as link:
        DAMAGE[damage](keeper.table)
        wait_for(lambda: rules(keeper.table).count("drop") == 2, within=MENDED_WITHIN, why=keeper.log)
        link.settimeout(2.0)
        assert say(link, "PING") == "PONG"


def test_an_element_that_somebody_deletes_is_put_back(keeper: Keeper, server: RedisServer):
    serving(keeper, server)
    nft("delete", "element", "inet", keeper.table, "open", f"{{ {server.port} }}")
    assert connects(server) == "refused"
    wait_for(lambda: connects(server) == "yes", within=MENDED_WITHIN, why=keeper.log)


def test_an_element_that_somebody_adds_does_not_hold_the_gate_open_for_ever(keeper: Keeper, server: RedisServer):
    shut(keeper, server)

    def opened() -> bool:
        nft("add", "element", "inet", keeper.table, "open", f"{{ {server.port} }}")
        return connects(server) == "yes"

    wait_for(opened, within=1.0)  # the keeper's look, once a second, may fall in between
    wait_for(lambda: connects(server) == "refused", within=MENDED_WITHIN, why=keeper.log)


def test_a_keeper_that_ends_leaves_the_gate_to_its_time(keeper: Keeper, server: RedisServer):
    lasts = 0.45
    until = serving(keeper, server, lasts=lasts)
    keeper.processes[0].send_signal(signal.SIGTERM)
    assert keeper.processes[0].wait(5) == 0
    if now() < until - 0.05:
        assert connects(server) == "yes"
    wait_for(lambda: connects(server) == "refused", within=1.0)
    assert now() > until - CLOSES_WITHIN
    assert keeper.table in tables()
    assert state_of(server.pid) != "T", "nobody was there to freeze it: the gate alone ended the right"


def test_an_endless_right_stays_open_while_the_keeper_is_away(keeper: Keeper, server: RedisServer):
    serving(keeper, server)
    keeper.processes[0].send_signal(signal.SIGTERM)
    assert keeper.processes[0].wait(5) == 0
    assert connects(server) == "yes"
    assert keeper.table in tables()


def test_a_service_that_ends_shuts_its_gate_at_once(keeper: Keeper, server: RedisServer):
    """Whoever starts it again within the moment finds it shut: nobody has compared its data yet."""
    serving(keeper, server)
    server.kill()
    server.start()
    assert connects(server) == "refused"
    assert connects(server, ADMIN_SOURCE) == "yes"
