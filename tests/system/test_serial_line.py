"""Serial lines, made of pseudo-terminals: noise and loss cost beats and nothing else, and no device ever holds up a keeper."""

import contextlib
import os
import select
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.domain.spans import FOREVER
from orchestrator.keeper.gate import why_impossible
from orchestrator.keeper.line import SerialLine, close_device, open_device
from orchestrator.keeper.setup import LineSetup
from orchestrator.lab.cable import Cable
from orchestrator.lab.group import GROUP, Host, LabGroup, LabSettings
from probes.interconnected.serial import Deframer, frame
from probes.interconnected.wire import Codec, Section, digest, pack_section
from tests.system.conftest import LEASE, PEER, Keeper, now
from tests.system.redis_servers import Writer, wait_for, why_no_redis
from tests.system.test_group import Hands, running, stays

pytestmark = pytest.mark.timeout(120)

ROOM = 1300


# --- one line --------------------------------------------------------------------------------------------------------


class Loop:
    """As little of a keeper's loop as a line needs."""

    def __init__(self, device: Path, baud: int = 4_000_000) -> None:
        self.line = SerialLine("db2", str(device), baud, 0.01, ROOM)
        self.longest = 0.0
        self.open = False
        self.got: list[bytes] = []
        self.line.start(lambda: None)

    def turn(self) -> None:
        began = time.monotonic()
        self.got += self.line.receive()
        self.line.send_on(now())
        if self.open and self.line.fileno() < 0:
            self.line.open_again()
        self.line.notice()
        self.open = self.line.fileno() >= 0
        self.longest = max(self.longest, time.monotonic() - began)

    def send(self, datagram: bytes) -> None:
        if self.line.fileno() >= 0 and self.line.wake_at() == FOREVER:
            self.line.send(datagram, now())

    def until(self, condition: Callable[[], object], within: float = 10.0) -> None:
        deadline = time.monotonic() + within
        while not condition():
            assert time.monotonic() < deadline, (self.line.trouble, self.line.news)
            select.select([], [], [], 0.002)
            self.turn()


@pytest.fixture
def ends(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "here", tmp_path / "there"


def test_what_one_end_sends_the_other_receives(ends: tuple[Path, Path]):
    with Cable(ends, baud=4_000_000):
        here, there = Loop(ends[0]), Loop(ends[1])
        for each in (here, there):
            each.until(lambda each=each: not each.line.trouble)
        every = bytes(range(256)) * 4
        here.send(every)
        there.until(lambda: there.got == [every])


def test_a_terminals_own_habits_change_nothing(ends: tuple[Path, Path]):
    """No echo, no line ends, no signals, no flow control."""
    with Cable(ends):
        descriptor = open_device(str(ends[0]), 115200)
        other = open_device(str(ends[1]), 115200)
        awkward = b"\x03\x04\x11\x13\x1a\r\n\x7f\xff\0 end"
        os.write(descriptor, awkward)
        found = b""
        deadline = time.monotonic() + 5
        while len(found) < len(awkward) and time.monotonic() < deadline:
            with contextlib.suppress(BlockingIOError):
                found += os.read(other, 100)
            time.sleep(0.005)
        assert found == awkward
        with pytest.raises(BlockingIOError):
            os.read(descriptor, 100)
        close_device(descriptor)
        close_device(other)


def test_a_device_that_takes_no_bytes_holds_nobody_up_and_is_opened_again(ends: tuple[Path, Path]):
    master, slave = os.openpty()
    try:
        loop = Loop(Path(os.ttyname(slave)))
        loop.until(lambda: not loop.line.trouble)
        loop.until(lambda: loop.send(b"x" * 1200) or loop.line.trouble == "it takes no more bytes")
        loop.until(lambda: not loop.line.trouble)
        assert loop.longest < 0.1
        with contextlib.suppress(BlockingIOError):
            os.set_blocking(master, False)
            while os.read(master, 65536):
                pass
        loop.send(b"fresh")
        assert Deframer().feed(os.read(master, 65536)) == [b"fresh"]
    finally:
        os.close(master)
        os.close(slave)


@pytest.mark.parametrize(
    ("make", "says"), [(lambda path: None, "No such file"), (lambda path: path.touch(), "is it a serial line?")]
)
def test_a_device_that_cannot_be_used_is_told_and_tried_until_it_can(
    make: Callable[[Path], None], says: str, ends: tuple[Path, Path]
):
    make(ends[0])
    loop = Loop(ends[0])
    loop.until(lambda: says in loop.line.trouble)
    assert any(f"to db2 cannot be used: {loop.line.trouble}" in each for each in loop.line.news)
    ends[0].unlink(missing_ok=True)
    with Cable(ends):
        loop.until(lambda: not loop.line.trouble)


# --- a keeper with a line --------------------------------------------------------------------------------------------


class FarEnd:
    """The peer db2, on the line only."""

    def __init__(self, keeper: Keeper, device: Path) -> None:
        self.keeper = keeper
        self.device = open_device(str(device), 115200)
        self.codec = Codec(keeper.setup.cluster, PEER, (keeper.key.read_bytes().strip(),))
        self.deframer = Deframer()
        self.heard: list[Section] = []
        self.count = 0

    def beat(self, before: bytes = b"") -> int:
        self.count += 1
        number = int(now() * 1e6)
        plain = {"group": digest(GROUP), "life": 4711, "number": number, "echo_life": self.keeper.page().life}
        section = Section(**{**plain, "epoch": 5, "lease_us": int(LEASE * 1e6), "asking": True})  # type: ignore[arg-type]
        os.write(self.device, before + frame(self.codec.seal(pack_section(section), 0, self.count)))
        return number

    def listen(self) -> list[Section]:
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.device, 4096):
                for datagram in self.deframer.feed(data):
                    self.heard += self.codec.open(datagram).sections
        return self.heard

    def promised(self, number: int) -> bool:
        return any(section.echo_number == number and section.granted for section in self.listen())


@pytest.fixture
def lined(make_keeper: Callable[..., Keeper], ends: tuple[Path, Path]) -> Keeper:
    keeper = make_keeper()
    keeper.setup = replace(keeper.setup, lines=(LineSetup(peer=PEER, device=str(ends[0]), baud=115200),))
    return keeper


def test_a_beat_over_the_line_alone_is_answered_with_a_promise_whatever_noise_came_before(lined: Keeper, ends: tuple[Path, Path]):
    with Cable(ends):
        lined.start()
        wait_for(lambda: lined.counts()["line_up", f"{PEER}|serial://{ends[0]}"], why=lined.log)
        far = FarEnd(lined, ends[1])
        number = far.beat(before=b"\0noise\0\xff\xff\xff")
        wait_for(lambda: far.promised(number), why=lined.log)
        assert (lined.page().promised_to, lined.page().promised_life) == (PEER, 4711)
        assert lined.counts()["beats_refused", "noise"] >= 1
        seen = lined.seen()
        assert seen is not None
        network, line = next(peer.paths for peer in seen.view.peers if peer.name == PEER)
        assert line.path == f"serial://{ends[0]}"
        assert (line.heard_at > network.heard_at, network.round_trip) == (True, None)


def test_a_device_that_is_missing_at_the_start_is_a_remark_and_not_the_end(lined: Keeper, ends: tuple[Path, Path]):
    lined.start()
    counts = lined.counts()
    label = f"{PEER}|serial://{ends[0]}"
    assert counts["line_up", label] == 0
    assert counts["beats_unsendable", label] > 0
    remarks = [each.remarks for each in lined.hear() if hasattr(each, "remarks")][-1]
    assert any(f"serial://{ends[0]} to {PEER} cannot be used: No such file or directory" in each for each in remarks)
    for _ in range(2):
        with Cable(ends):
            wait_for(lambda: lined.counts()["line_up", label], why=lined.log)
            far = FarEnd(lined, ends[1])
            wait_for(far.listen, why=lined.log)
            os.close(far.device)
        wait_for(lambda: not lined.counts()["line_up", label], why=lined.log)
    assert all(process.poll() is None for process in lined.processes)


# --- a group with a line ---------------------------------------------------------------------------------------------

GROUP_LEASE = 0.5
LASTS = 10 * GROUP_LEASE

on_a_group = [
    pytest.mark.redis,
    pytest.mark.root,
    pytest.mark.skipif(bool(why_no_redis()), reason=why_no_redis()),
    pytest.mark.skipif(bool(why_impossible()), reason=f"kernel rules: {why_impossible()}"),
]


class Networks:
    """All networks between the two members, as far as this machine has any."""

    def __init__(self, one: Host, other: Host, cluster: str) -> None:
        self.table = f"tanist_part_{cluster.replace('-', '_')}"
        self.pairs = ((one.address, other.address), (other.address, one.address))
        self.stand = True

    def cut(self, *, one_way: bool = False) -> None:
        """`one_way`: the primary's beats are lost, and everything else arrives."""
        rules = [f"add table inet {self.table}"]
        rules.append(f"add chain inet {self.table} out {{ type filter hook output priority -20; policy accept; }}")
        pairs, what = (self.pairs[:1], "udp dport 7400 drop") if one_way else (self.pairs, "drop")
        rules += [f"add rule inet {self.table} out ip saddr {one} ip daddr {other} {what}" for one, other in pairs]
        self._nft("\n".join(rules))
        self.stand = False

    def mend(self) -> None:
        if not self.stand:
            self._nft(f"delete table inet {self.table}")
            self.stand = True

    @staticmethod
    def _nft(rules: str) -> None:
        subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True, capture_output=True)


class Joined:
    """Two members, a line between them, and what a test may take away."""

    def __init__(self, hands: Hands, client: Writer) -> None:
        self.hands = hands
        self.client = client
        self.primary = hands.primary()
        (self.standby,) = hands.others(self.primary)
        cable = hands.group.cable
        assert cable is not None
        self.cable = cable
        self.networks = Networks(self.primary, self.standby, hands.group.cluster)
        self.epoch = hands.epoch(self.primary)

    def cut_off_the_primary(self) -> None:
        """From the standby by every network, and from the mediator, which the standby still reaches."""
        self.primary.mediator_link.unlink()
        self.networks.cut()
        wait_for(lambda: not self.hears("udp"))

    def mend(self) -> None:
        self.networks.mend()
        self.hands.group.join_mediator(self.primary)

    def report(self, host: Host) -> dict[str, Any]:
        """A daemon on a busy machine may take its time."""
        found: dict[str, Any] = {}
        wait_for(lambda: found.update(self.hands.report(host)) or found)
        return found

    def paths(self, host: Host, to: Host) -> dict[str, Any]:
        """How the host hears the other one: on `udp` and on `serial`."""
        members = {member["name"]: member for member in self.report(host)["members"]}
        return {path["path"].partition(":")[0]: path for path in members[to.name]["paths"]}

    def hears(self, medium: str) -> bool:
        """Each hears the other on this medium: now, and not only a while ago (daemons are told twice a lease)."""
        pairs = ((self.primary, self.standby), (self.standby, self.primary))
        ages = [self.paths(host, other)[medium]["heard_ago_seconds"] for host, other in pairs]
        return all(age is not None and age < 1.5 * GROUP_LEASE for age in ages)

    def freezes(self) -> int:
        text = (self.hands.group.run / self.primary.name / "keeper.log").read_text()
        return text.count("service frozen")

    def as_it_was(self) -> bool:
        report = self.report(self.primary)
        right = report["right"]
        return (report["phase"], report["epoch"]) == ("serving", self.epoch) and right["held"] and not right["frozen"]


@pytest.fixture(scope="module")
def group() -> Iterator[Hands]:
    with running(LabGroup(LabSettings(members=2, lease=GROUP_LEASE, line=True))) as hands:
        yield hands


@pytest.fixture
def joined(group: Hands) -> Iterator[Joined]:
    group.whole()
    with group.client() as client:
        made = Joined(group, client)
        wait_for(lambda: made.hears("serial") and made.hears("udp"))
        yield made
        made.cable.cut, made.cable.noise = False, 0.0
        if not made.cable.plugged:
            made.cable.plug()
        made.mend()
    group.whole()


@pytest.mark.parametrize("_marks", [pytest.param("", marks=on_a_group, id="lined")])
def test_with_all_networks_between_two_members_cut_the_line_keeps_everybody_in_their_roles(joined: Joined, _marks: str):
    """The mediator is lost for the primary as well: nothing but what comes over the line gives it its right."""
    frozen = joined.freezes()
    joined.cut_off_the_primary()
    stays(joined.as_it_was, LASTS)
    assert joined.hears("serial")
    assert (joined.freezes(), joined.hands.epoch(joined.standby)) == (frozen, joined.epoch)
    assert joined.hands.report(joined.primary)["right"]["counted"] == [joined.standby.name]
    assert joined.client.longest_gap() < GROUP_LEASE / 2
    joined.networks.mend()
    wait_for(lambda: joined.hears("udp"))
    stays(joined.as_it_was, 2 * GROUP_LEASE)
    assert joined.freezes() == frozen
    joined.mend()
    joined.hands.whole()
    assert joined.hands.epoch(joined.primary) == joined.epoch


@pytest.mark.parametrize("_marks", [pytest.param("", marks=on_a_group, id="lined")])
def test_without_the_line_the_same_ends_the_primarys_right(joined: Joined, _marks: str):
    """What the test before this one shows is the line's doing."""
    joined.cable.cut = True
    frozen = joined.freezes()
    joined.cut_off_the_primary()
    wait_for(lambda: joined.freezes() > frozen)
    wait_for(lambda: joined.hands.epoch(joined.standby) == joined.epoch + 1, why=lambda: joined.hands.refusals(joined.standby))


@pytest.mark.parametrize("_marks", [pytest.param("", marks=on_a_group, id="lined")])
def test_noise_on_the_line_costs_beats_and_nothing_else(joined: Joined, _marks: str):
    frozen = joined.freezes()
    joined.cable.noise = 0.3
    stays(joined.as_it_was, LASTS)
    wait_for(lambda: joined.paths(joined.primary, joined.standby)["serial"]["lost"] > 0.05)
    assert joined.paths(joined.primary, joined.standby)["udp"]["lost"] == 0.0
    assert (joined.freezes(), joined.hands.epoch(joined.standby)) == (frozen, joined.epoch)


@pytest.mark.parametrize("_marks", [pytest.param("", marks=on_a_group, id="lined")])
def test_a_line_that_is_pulled_out_and_put_back_carries_beats_again(joined: Joined, _marks: str):
    frozen = joined.freezes()
    joined.cable.unplug()

    def remarks() -> str:
        return "; ".join(joined.primary.api.get("/v1/status")["keeper"]["remarks"])

    wait_for(lambda: "serial://" in remarks() and "cannot be used" in remarks(), why=remarks)
    stays(joined.as_it_was, 2 * GROUP_LEASE)
    joined.cable.plug()
    wait_for(lambda: joined.hears("serial"), why=remarks)
    wait_for(lambda: "serial://" not in remarks(), why=remarks)
    assert (joined.freezes(), joined.hands.epoch(joined.standby)) == (frozen, joined.epoch)


@pytest.mark.parametrize("_marks", [pytest.param("", marks=on_a_group, id="lined")])
def test_a_slow_line_spoils_no_figure_of_the_network(joined: Joined, _marks: str):
    """Beats reach the standby over the line only, and its answers come back at once over the network."""

    def trips() -> dict[str, float]:
        return {medium: path["round_trip_seconds"] for medium, path in joined.paths(joined.primary, joined.standby).items()}

    joined.networks.cut(one_way=True)
    wait_for(lambda: joined.paths(joined.standby, joined.primary)["udp"]["heard_ago_seconds"] > 2 * GROUP_LEASE)
    before = trips()
    wait_for(lambda: trips()["serial"] != before["serial"])
    stays(joined.as_it_was, 2 * GROUP_LEASE)
    assert joined.paths(joined.primary, joined.standby)["udp"]["heard_ago_seconds"] < 1.5 * GROUP_LEASE
    assert trips()["udp"] == before["udp"]
