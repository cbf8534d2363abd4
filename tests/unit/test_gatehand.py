"""The gate's thread: the loop never waits for it, and it always ends at the latest wish."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.domain.spans import FOREVER, NEVER
from orchestrator.keeper.gate import NoGate
from orchestrator.keeper.gatehand import SET_AT_MOST, GateHand, State


class Kernel:
    """What a gate does, in memory; each call can be held up, refused or slowed."""

    def __init__(self) -> None:
        self.table = "tanist_test"
        self.open_until_: list[float] = []
        self.laid = 0
        self.rules = False
        self.why_not = ""
        self.go_on = threading.Event()
        self.go_on.set()
        self.inside = threading.Event()
        self.clock = 100.0
        self.takes = 0.0
        self.taken_away = 0
        """How often the rules are taken away as soon as they are laid."""
        self.closed = False
        self.members_until = NEVER
        self.ended_at: list[float] = []
        """How far the gate stood open each time when clients' connections were ended."""
        self.cannot_end = False

    def now(self) -> float:
        return self.clock

    def lay(self) -> None:
        if self.why_not:
            raise NoGate(self.why_not)
        self.laid += 1
        self.rules = self.laid > self.taken_away

    def rules_stand(self) -> bool:
        return self.rules

    def open_until(self, until: float, now: float, members_until: float = NEVER) -> None:
        assert now == self.clock, "the time that is left is counted from when the kernel is called"
        self.inside.set()
        assert self.go_on.wait(5)
        self.clock += self.takes
        if not self.rules:
            raise OSError(2, "No such file or directory")
        self.open_until_.append(until)
        self.members_until = members_until

    def end_connections(self) -> int:
        if self.cannot_end:
            raise OSError(95, "Operation not supported")
        self.ended_at.append(self.open_until_[-1])
        return len(self.ended_at)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


@pytest.fixture
def hand(kernel: Kernel, tmp_path: Path) -> Iterator[GateHand]:
    made = GateHand(kernel, tmp_path / "orders.guarded", kernel.now, lambda: None)  # type: ignore[arg-type]
    yield made
    kernel.go_on.set()
    if made._thread.is_alive():
        made.end()
        assert kernel.closed


def until(true: Callable[[], object], within: float = 5.0) -> None:
    end = time.monotonic() + within
    while not true():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.001)


def test_it_lays_the_rules_opens_them_and_notes_it_on_disk(kernel: Kernel, hand: GateHand, tmp_path: Path):
    hand.start(150.0)
    until(lambda: hand.state is State.STANDS and (tmp_path / "orders.guarded").exists())
    assert (kernel.laid, kernel.open_until_) == (1, [150.0])


def test_rules_of_a_predecessor_count_at_once(kernel: Kernel, hand: GateHand):
    kernel.rules = True
    hand.start(150.0)
    until(lambda: kernel.laid == 1 and len(kernel.open_until_) == 2)
    assert hand.state is State.STANDS


def test_the_loop_never_waits_and_the_latest_wish_wins(kernel: Kernel, hand: GateHand):
    hand.start(150.0)
    until(lambda: hand.state is State.STANDS)
    kernel.go_on.clear()
    kernel.inside.clear()
    hand.open_until(151.0)
    assert kernel.inside.wait(5)
    began = time.monotonic()
    for moment in range(152, 160):
        hand.open_until(float(moment))
        hand.make_sure()
    assert time.monotonic() - began < 1.0
    kernel.go_on.set()
    until(lambda: kernel.open_until_[-1] == 159.0)
    assert kernel.open_until_[1:] == [151.0, 159.0]


def test_an_unchanged_wish_costs_no_call(kernel: Kernel, hand: GateHand):
    hand.start(FOREVER)
    until(lambda: hand.state is State.STANDS)
    for _ in range(3):
        hand.open_until(FOREVER)
    hand.open_until(NEVER)
    until(lambda: kernel.open_until_[-1] == NEVER)
    assert kernel.open_until_ == [FOREVER, NEVER]


def test_members_may_come_in_while_clients_may_not(kernel: Kernel, hand: GateHand):
    hand.start(NEVER, 150.0)
    until(lambda: hand.state is State.STANDS)
    assert (kernel.open_until_[-1], kernel.members_until) == (NEVER, 150.0)
    hand.open_until(NEVER, 151.0)
    until(lambda: kernel.members_until == 151.0)


def test_connections_are_ended_once_and_only_behind_a_gate_that_has_been_shut(kernel: Kernel, hand: GateHand):
    hand.start(150.0)
    until(lambda: hand.state is State.STANDS)
    kernel.go_on.clear()
    kernel.inside.clear()
    hand.open_until(151.0)
    assert kernel.inside.wait(5)
    hand.open_until(NEVER)
    hand.end_connections()
    assert kernel.ended_at == []
    kernel.go_on.set()
    until(lambda: kernel.ended_at)
    hand.make_sure()
    until(lambda: not hand._sure)
    assert kernel.ended_at == [NEVER]
    assert list(hand.news) == ["1 connection of clients ended: nobody will answer them here"]


def test_connections_wait_for_rules_that_are_still_being_laid(kernel: Kernel, hand: GateHand):
    kernel.why_not = "no permission"
    hand.start(NEVER)
    until(lambda: hand.state is State.REFUSED)
    hand.end_connections()
    kernel.why_not = ""
    kernel.clock += 31.0
    hand.make_sure()
    until(lambda: kernel.ended_at == [NEVER])


def test_connections_are_ended_also_when_the_gate_has_to_be_laid_again_first(kernel: Kernel, hand: GateHand):
    hand.start(150.0)
    until(lambda: hand.state is State.STANDS)
    kernel.rules = False
    hand.open_until(NEVER)
    hand.end_connections()
    until(lambda: kernel.ended_at == [NEVER])
    assert kernel.laid == 2


def test_a_kernel_that_cannot_end_connections_is_told_of(kernel: Kernel, hand: GateHand):
    kernel.cannot_end = True
    hand.start(NEVER)
    until(lambda: hand.state is State.STANDS)
    hand.end_connections()
    until(lambda: hand.news)
    assert "cannot be ended here (Operation not supported)" in hand.news[0]


def test_a_slow_call_is_made_again_because_the_kernel_counted_from_its_end(kernel: Kernel, hand: GateHand):
    hand.start(NEVER)
    until(lambda: hand.state is State.STANDS)
    kernel.takes = 0.01
    before = len(kernel.open_until_)
    hand.open_until(101.0)
    until(lambda: len(kernel.open_until_) == before + SET_AT_MOST)


def test_rules_that_were_taken_away_are_laid_again(kernel: Kernel, hand: GateHand):
    hand.start(150.0)
    until(lambda: hand.state is State.STANDS)
    kernel.rules = False
    hand.make_sure()
    until(lambda: kernel.laid == 2 and hand.state is State.STANDS)
    assert list(hand.news) == ["the gate is gone: laying it again"]


def test_rules_that_are_taken_away_as_soon_as_they_are_laid_are_laid_again_at_once(kernel: Kernel, hand: GateHand):
    kernel.taken_away = 2
    hand.start(150.0)
    until(lambda: hand.state is not State.LAYING)
    assert (hand.state, kernel.laid, list(hand.news)) == (State.STANDS, 3, [])


def test_whoever_takes_them_away_every_time_is_told_of(kernel: Kernel, hand: GateHand):
    kernel.taken_away = 99
    hand.start(150.0)
    until(lambda: hand.state is State.REFUSED)
    assert "takes the rules away" in hand.why_refused


def test_what_is_refused_is_said_once_and_tried_again(kernel: Kernel, hand: GateHand):
    kernel.why_not = "no permission"
    hand.start(150.0)
    until(lambda: hand.state is State.REFUSED)
    assert hand.why_refused == "no permission"
    kernel.clock += 31.0
    hand.make_sure()
    until(lambda: hand._lay_at > kernel.clock)
    kernel.clock += 31.0
    kernel.why_not = ""
    hand.make_sure()
    until(lambda: hand.state is State.STANDS)
    assert [each for each in hand.news if "NO GATE" in each] == [
        "NO GATE: no permission: when keeper and daemon both stand still, nothing ends the right"
    ]


def test_the_loop_is_woken_for_news(kernel: Kernel, tmp_path: Path):
    woken = threading.Event()
    hand = GateHand(kernel, tmp_path / "mark", kernel.now, woken.set)  # type: ignore[arg-type]
    hand.start(150.0)
    try:
        assert woken.wait(5)
    finally:
        hand.end()
