"""A real keeper process: alone on its node, deaf to what is not for it, and gone without taking anything with it."""

import contextlib
import hmac
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from orchestrator.domain import commands
from orchestrator.domain.topology import Pair
from orchestrator.keeper.talk import Order, encode_to_keeper
from orchestrator.keeper.tree import started
from probes.interconnected.wire import MAC_BYTES, Codec, Section, digest, pack_section
from tests.system.conftest import GROUP, LEASE, ME, OTHER, PEER, Keeper, now
from tests.system.redis_servers import is_alive, state_of, wait_for

pytestmark = pytest.mark.timeout(60)

MakeKeeper = Callable[..., Keeper]


# --- alone on its node -----------------------------------------------------------------------------------------------


def test_a_second_keeper_is_refused_and_disturbs_nobody(make_keeper: MakeKeeper):
    keeper = make_keeper()
    first = keeper.start()
    life = keeper.page().life
    second = keeper.spawn()
    assert second.wait(10) == 1
    assert "another keeper of this node runs" in keeper.log()
    assert first.poll() is None
    assert keeper.page().life == life
    assert keeper.counts()
    keeper.connect()
    first.kill()
    first.wait(10)
    keeper.start()
    assert keeper.page().life == life, "the page outlives the process: the next keeper is the same life"


def test_a_taken_beat_address_is_refused_by_name(make_keeper: MakeKeeper):
    keeper = make_keeper()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(keeper.address(ME))
        assert keeper.spawn().wait(10) == 1
        host, port = keeper.address(ME)
        assert f"cannot bind the beat socket to {host}:{port}" in keeper.log()
    keeper.start()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda keeper: keeper.key.unlink(), "key"),
        (lambda keeper: keeper.key.write_text("short"), "a key needs at least 16"),
    ],
)
def test_without_a_good_key_it_does_not_start(make_keeper: MakeKeeper, spoil: Callable[[Keeper], None], said: str):
    keeper = make_keeper()
    spoil(keeper)
    assert keeper.spawn().wait(10) == 1
    assert said in keeper.log()
    assert "Traceback" not in keeper.log()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"node": 1}'])
def test_a_setup_that_cannot_be_read_is_refused_without_a_traceback(make_keeper: MakeKeeper, text: str):
    keeper = make_keeper()
    path = keeper.directory / "bad.json"
    path.write_text(text)
    done = subprocess.run([sys.executable, "-m", "orchestrator.keeper", str(path)], capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    assert "cannot start" in done.stderr
    assert "Traceback" not in done.stderr


# --- beats -----------------------------------------------------------------------------------------------------------


class PeerSocket:
    """The peer db2, as far as its beats go."""

    def __init__(self, keeper: Keeper, name: str = PEER, key: bytes | None = None) -> None:
        self.keeper = keeper
        self.codec = Codec(keeper.setup.cluster, name, (key or keeper.key.read_bytes().strip(),))
        self.life = 4711
        self.count = 0
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(keeper.address(name))
        self.socket.settimeout(1.0)

    def beat(self, **more: object) -> bytes:
        """Fresh, from this peer's life to the keeper's, asking for a promise in a high epoch."""
        self.count += 1
        moment = int(now() * 1e6)
        plain = {"group": digest(GROUP), "life": self.life, "number": moment, "echo_life": self.keeper.page().life}
        plain |= {"echo_number": moment}  # as if a beat of the keeper's had come just now
        section = Section(**{**plain, "epoch": 5, "lease_us": int(LEASE * 1e6), "asking": True, **more})  # type: ignore[arg-type]
        return self.codec.seal(pack_section(section), 0, self.count)

    def send(self, datagram: bytes) -> None:
        self.socket.sendto(datagram, self.keeper.address(ME))

    def answer_to(self, number: int, within: float = 0.5) -> Section | None:
        """The keeper's answer to the beat of this number; None when there is none in time."""
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            with contextlib.suppress(TimeoutError):
                self.socket.settimeout(max(0.001, deadline - time.monotonic()))
                beat = self.codec.open(self.socket.recv(4096))
                for section in beat.sections:
                    if section.answer and section.echo_number == number:
                        return section
        return None


@pytest.fixture
def keeper(make_keeper: MakeKeeper) -> Keeper:
    made = make_keeper()
    made.start()
    return made


@pytest.fixture
def peer(keeper: Keeper) -> Iterator[PeerSocket]:
    made = PeerSocket(keeper)
    yield made
    made.socket.close()


def number_of(peer: PeerSocket, datagram: bytes) -> int:
    return peer.codec.open(datagram).sections[0].number


def test_a_good_beat_is_answered_with_a_promise(keeper: Keeper, peer: PeerSocket):
    """The others mean something only beside this one."""
    beat = peer.beat()
    peer.send(beat)
    answer = peer.answer_to(number_of(peer, beat))
    assert answer is not None
    assert answer.granted
    assert (keeper.page().promised_to, keeper.page().promised_life, keeper.page().epoch) == (PEER, peer.life, 5)


def future(peer: PeerSocket) -> bytes:
    """Rightly signed, of the version after ours."""
    body = bytearray(peer.beat()[:-MAC_BYTES])
    body[2] += 1
    key = hmac.digest(peer.keeper.key.read_bytes().strip(), b"tanist beat", "sha256")
    return bytes(body) + hmac.digest(key, bytes(body), "sha256")[:MAC_BYTES]


def wrong_key(peer: PeerSocket) -> bytes:
    own, peer.codec = peer.codec, Codec(peer.keeper.setup.cluster, PEER, (b"another key than the right one",))
    try:
        return peer.beat()
    finally:
        peer.codec = own


def of_another_cluster(peer: PeerSocket) -> bytes:
    own, peer.codec = peer.codec, Codec("elsewhere", PEER, (peer.keeper.key.read_bytes().strip(),))
    try:
        return peer.beat()
    finally:
        peer.codec = own


def in_another_name(peer: PeerSocket) -> bytes:
    own, peer.codec = peer.codec, Codec(peer.keeper.setup.cluster, OTHER, (peer.keeper.key.read_bytes().strip(),))
    try:
        return peer.beat()
    finally:
        peer.codec = own


def changed_on_the_way(peer: PeerSocket) -> bytes:
    beat = bytearray(peer.beat())
    beat[40] ^= 1
    return bytes(beat)


BAD: dict[str, tuple[Callable[[PeerSocket], bytes], str]] = {
    "of a future version": (future, "version"),
    "signed with another key": (wrong_key, "key"),
    "changed on the way": (changed_on_the_way, "key"),
    "cut short": (lambda peer: peer.beat()[:-20], "key"),
    "cut to almost nothing": (lambda peer: peer.beat()[:10], "truncated"),
    "empty": (lambda peer: b"", "truncated"),
    "something else": (lambda peer: b"GET / HTTP/1.1\r\nHost: example\r\n\r\n", "foreign"),
    "of another cluster": (of_another_cluster, "cluster"),
    "in another's name": (in_another_name, "sender"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_beat_is_counted_and_changes_nothing(keeper: Keeper, peer: PeerSocket, case: str):
    make, kind = BAD[case]
    before = keeper.page()
    for _ in range(3):
        peer.send(make(peer))
    assert peer.answer_to(-1, within=0.1) is None
    wait_for(lambda: keeper.counts().get(("beats_refused", kind), 0) == 3, why=keeper.counts)
    assert keeper.page() == before
    beat = peer.beat()
    peer.send(beat)
    assert peer.answer_to(number_of(peer, beat)) is not None, "it goes on hearing good ones"


def test_a_strangers_beat_is_counted_and_changes_nothing(keeper: Keeper, peer: PeerSocket):
    """Rightly signed, but from an address that is no configured path (rule 3)."""
    before = keeper.page()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.bind((f"{keeper.net}.99", 7400))
        stranger.sendto(peer.beat(), keeper.address(ME))
    wait_for(lambda: keeper.counts().get(("beats_refused", "stranger"), 0) == 1, why=keeper.counts)
    assert keeper.page() == before


def test_a_replayed_beat_gets_no_promise(keeper: Keeper, peer: PeerSocket):
    beat = peer.beat()
    peer.send(beat)
    assert peer.answer_to(number_of(peer, beat)) is not None
    before = keeper.page()
    for _ in range(3):
        peer.send(beat)
    assert peer.answer_to(number_of(peer, beat), within=0.3) is None
    after = keeper.page()
    assert (after.promised_until, after.heard, after.epoch) == (before.promised_until, before.heard, before.epoch)


def test_a_beat_recorded_before_the_keepers_memory_began_is_worth_nothing(keeper: Keeper, peer: PeerSocket):
    beat = peer.beat(echo_life=12345, epoch=99)
    peer.send(beat)
    answer = peer.answer_to(number_of(peer, beat))
    assert answer is None or not answer.granted
    assert keeper.page().epoch == 0
    assert keeper.page().heard == {}


def test_a_life_that_was_left_never_returns(keeper: Keeper, peer: PeerSocket):
    peer.send(peer.beat())
    peer.life = 4712
    beat = peer.beat()
    peer.send(beat)
    assert peer.answer_to(number_of(peer, beat)) is not None
    peer.life = 4711
    late = peer.beat(epoch=50)
    peer.send(late)
    assert peer.answer_to(number_of(peer, late), within=0.3) is None
    assert keeper.page().epoch == 5
    assert keeper.page().heard[PEER][0] == 4712


# --- the daemon's socket ---------------------------------------------------------------------------------------------


def order(command: dict[str, object]) -> bytes:
    """A rightly spelled order with something in it that the keeper cannot do."""
    plain = json.loads(encode_to_keeper(Order(group=GROUP, command=commands.Found(1, 1, 0))))
    spelled = json.dumps(plain)
    for name, value in command.items():
        plain["command"][name] = value
    assert json.dumps(plain) != spelled
    return json.dumps(plain).encode()


GARBAGE = {
    "no text": b"\xff\xfe\x00\x80garbage",
    "no JSON": b"{",
    "nothing known": b"{}",
    "a list": b"[]",
    "a number": b"17",
    "another group": encode_to_keeper(Order(group="nobody", command=commands.Demoted())),
    "an unknown kind": b'{"kind":"Nonsense","group":"orders"}',
    "as much as fits": b"x" * 60_000,
    "too much": b"x" * 120_000,
    "very deep": b"[" * 50_000,
    "a negative process": order({"pid": -1}),
    "a process beyond all numbers": order({"pid": 2**70}),
}


@pytest.mark.parametrize("case", GARBAGE)
def test_garbage_from_the_daemon_is_ignored(keeper: Keeper, case: str):
    before = keeper.page()
    keeper.tell_raw(GARBAGE[case])
    assert keeper.counts(), "it lives, and speaks on"
    assert keeper.page() == before
    keeper.tell(commands.Saw(keeper.record(Pair(PEER, 4711), epoch=3)))
    wait_for(lambda: keeper.page().epoch == 3)


def test_a_new_daemon_takes_the_place_of_the_old(keeper: Keeper):
    old = keeper.daemon
    keeper.daemon = None
    keeper.connect()
    assert old is not None
    old.setblocking(True)
    old.settimeout(5)
    while old.recv(65536):
        pass
    old.close()
    assert keeper.processes[0].poll() is None


def test_an_old_daemon_may_speak_its_last_in_the_moment_in_which_a_new_one_comes(keeper: Keeper):
    """The keeper learns of both in one turn."""
    old, process = keeper.daemon, keeper.processes[0]
    assert old is not None
    process.send_signal(signal.SIGSTOP)
    wait_for(lambda: state_of(process.pid) == "T")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as new:
        new.connect(str(keeper.setup.socket_path))
        old.send(encode_to_keeper(Order(group=GROUP, command=commands.Demoted())))
        process.send_signal(signal.SIGCONT)
        new.settimeout(5)
        assert new.recv(65536)
        assert process.poll() is None


def test_a_daemon_that_never_reads_holds_nobody_up(keeper: Keeper, peer: PeerSocket):
    assert keeper.daemon is not None
    for number in range(3000):
        keeper.tell_raw(encode_to_keeper(Order(group=GROUP, command=commands.Found(2**22 + number, 1, 0))))
    beat = peer.beat()
    peer.send(beat)
    assert peer.answer_to(number_of(peer, beat), within=2.0) is not None
    assert keeper.processes[0].poll() is None


# --- what it guards --------------------------------------------------------------------------------------------------


def test_a_right_that_ends_freezes_the_service_in_time(keeper: Keeper, sleeper: subprocess.Popen[bytes]):
    until = keeper.serve(sleeper.pid, lasts=0.4)
    assert keeper.page().right_until == pytest.approx(until, abs=0.001)
    assert state_of(sleeper.pid) == "S"
    while state_of(sleeper.pid) != "T":
        assert now() < until, "the freeze must begin before the right ends"
        time.sleep(0.001)
    assert now() < until


def freezes(keeper: Keeper) -> int:
    """How often it has seen the service stopped, in its own words."""
    return keeper.log().count("service frozen in")


def test_a_frozen_service_that_somebody_lets_go_on_is_frozen_again(keeper: Keeper, sleeper: subprocess.Popen[bytes]):
    keeper.serve(sleeper.pid, lasts=0.4)
    wait_for(lambda: freezes(keeper) == 1, why=keeper.log)
    for again in (2, 3):
        sleeper.send_signal(signal.SIGCONT)
        wait_for(lambda again=again: freezes(keeper) == again, within=2.5, why=keeper.log)
        assert state_of(sleeper.pid) == "T"


def test_somebody_who_lets_it_go_on_in_the_midst_of_the_freeze_does_not_keep_it_running(
    keeper: Keeper, sleeper: subprocess.Popen[bytes]
):
    """Between the signal that stops it and the look that sees it stopped."""
    until = keeper.serve(sleeper.pid, lasts=0.4)
    while now() < until:
        if state_of(sleeper.pid) == "T":
            sleeper.send_signal(signal.SIGCONT)
    wait_for(lambda: state_of(sleeper.pid) == "T", within=2.5, why=keeper.log)
    wait_for(lambda: freezes(keeper) >= 1, within=2.5, why=keeper.log)


def test_a_process_that_somebody_stopped_and_let_go_on_is_left_alone(keeper: Keeper, sleeper: subprocess.Popen[bytes]):
    """Only what the keeper froze itself is frozen again."""
    keeper.serve(sleeper.pid)
    sleeper.send_signal(signal.SIGSTOP)
    wait_for(lambda: state_of(sleeper.pid) == "T")
    sleeper.send_signal(signal.SIGCONT)
    wait_for(lambda: state_of(sleeper.pid) == "S")
    until = now() + 1.2
    while now() < until:
        assert state_of(sleeper.pid) == "S"
        time.sleep(0.02)


def test_terminated_it_leaves_the_service_as_it_is(keeper: Keeper, sleeper: subprocess.Popen[bytes]):
    keeper.serve(sleeper.pid)
    before = keeper.page()
    keeper.processes[0].send_signal(signal.SIGTERM)
    assert keeper.processes[0].wait(10) == 0
    assert "ends; page, gate and service stay as they are" in keeper.log()
    assert state_of(sleeper.pid) == "S"
    after = keeper.page()
    assert (after.life, after.hold, after.right_until, after.pid) == (before.life, before.hold, before.right_until, sleeper.pid)
    keeper.start()
    seen = keeper.seen()
    assert seen is not None
    assert (seen.view.life, seen.view.pid, seen.view.hold) == (before.life, sleeper.pid, "serving")
    assert keeper.log().count("no memory of this boot was found") == 1
    sleeper.kill()
    sleeper.wait(10)
    wait_for(lambda: keeper.page().exited, why=keeper.log)


def test_killed_and_back_while_the_right_ran_out_it_freezes_at_once(keeper: Keeper, sleeper: subprocess.Popen[bytes]):
    keeper.serve(sleeper.pid, lasts=0.4)
    keeper.processes[0].kill()
    keeper.processes[0].wait(10)
    wait_for(lambda: now() > keeper.page().right_until)
    assert state_of(sleeper.pid) == "S", "nobody is there to freeze it: that is the daemon's guard, and the gate"
    keeper.start()
    wait_for(lambda: state_of(sleeper.pid) == "T", within=1.0)


def test_back_after_the_service_ended_it_says_so(keeper: Keeper, sleeper: subprocess.Popen[bytes]):
    keeper.serve(sleeper.pid)
    keeper.processes[0].kill()
    keeper.processes[0].wait(10)
    sleeper.kill()
    sleeper.wait(10)
    keeper.start()
    wait_for(lambda: keeper.page().exited and keeper.page().hold == "none", why=keeper.log)


def test_a_superseded_service_is_killed_with_its_children(keeper: Keeper, peer: PeerSocket, sleeper: subprocess.Popen[bytes]):
    """Rule 22: a newer epoch is heard from a peer."""
    keeper.serve(sleeper.pid)
    peer.send(peer.beat(epoch=9, asking=False, incarnation=7, version=4))
    assert sleeper.wait(5) == -signal.SIGKILL
    wait_for(lambda: keeper.page().exited)
    assert keeper.page().epoch == 9


def test_a_process_that_has_ended_already_is_not_relied_upon(keeper: Keeper, sleeper: subprocess.Popen[bytes]):
    began = started(sleeper.pid)
    assert began is not None
    keeper.tell(commands.Found(sleeper.pid, began - 1, 0))
    wait_for(lambda: any("another one by now" in reason for reason in keeper.declined()))
    assert keeper.page().pid == 0
    assert is_alive(sleeper.pid)
