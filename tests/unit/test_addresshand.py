"""The thread of the addresses: what stands, what is dropped and when, with a kernel in memory."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from orchestrator.domain.spans import FOREVER, NEVER
from orchestrator.keeper import addresshand
from orchestrator.keeper.addresshand import AddressHand
from orchestrator.keeper.setup import AddressSetup

ONE = AddressSetup(address="10.0.0.100", prefix=24, interface="eth0")
OTHER = AddressSetup(address="fd00::100", prefix=64, interface="eth0")


class Kernel:
    """Addresses of one interface; calls can be held up or refused."""

    def __init__(self) -> None:
        self.there: dict[tuple[str, int], int | None] = {}
        self.refuses = False
        self.go_on = threading.Event()
        self.go_on.set()
        self.asked = 0

    def prefixes(self, address: str, interface: str) -> set[int]:
        self.asked += 1
        assert self.go_on.wait(5)
        return {prefix for each, prefix in self.there if each == address}

    def take(self, address: str, prefix: int, interface: str, lasts: int | None) -> None:
        self.there[address, prefix] = lasts

    def drop(self, address: str, prefix: int, interface: str) -> bool:
        assert self.go_on.wait(5)
        if self.refuses:
            raise OSError(16, "Device or resource busy")
        return self.there.pop((address, prefix), 0) != 0

    def add(self, *added: AddressSetup) -> None:
        self.there |= {(each.address, each.prefix): 9 for each in added}


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    monkeypatch.setattr(addresshand, "prefixes", made.prefixes)
    monkeypatch.setattr(addresshand, "take_address", made.take)
    monkeypatch.setattr(addresshand, "drop_address", made.drop)
    return made


@pytest.fixture
def hand(kernel: Kernel) -> Iterator[AddressHand]:
    made = AddressHand((ONE, OTHER), 0.3, time.monotonic, lambda: None, "orders")
    yield made
    kernel.go_on.set()
    made.end()


def until(true: Callable[[], object], within: float = 5.0) -> None:
    end = time.monotonic() + within
    while not true():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.001)


def test_without_a_right_everything_goes_at_once_and_whatever_comes_later_too(kernel: Kernel, hand: AddressHand):
    kernel.add(ONE, OTHER)
    hand.start()
    until(lambda: not kernel.there and len(hand.news) == 2)
    assert "address 10.0.0.100 dropped from eth0" in hand.news[0]
    kernel.add(OTHER)
    hand.make_sure()
    until(lambda: not kernel.there)


def test_with_a_right_what_stands_gets_its_time_anew_and_nothing_is_added(kernel: Kernel, hand: AddressHand):
    kernel.add(ONE)
    hand.hold_until(time.monotonic() + 60)
    hand.start()
    until(lambda: kernel.there == {(ONE.address, ONE.prefix): 3})
    hand.hold_until(FOREVER)
    hand.make_sure()
    until(lambda: kernel.there == {(ONE.address, ONE.prefix): None})


def test_they_go_when_the_right_has_run_out_although_nobody_says_so(kernel: Kernel, hand: AddressHand):
    kernel.add(ONE, OTHER)
    ends_at = time.monotonic() + 0.2
    hand.hold_until(ends_at)
    hand.start()
    until(lambda: not kernel.there)
    assert time.monotonic() >= ends_at


def test_a_right_that_was_renewed_meanwhile_lets_them_stand_without_a_wake_up(kernel: Kernel, hand: AddressHand):
    kernel.add(ONE)
    hand.hold_until(time.monotonic() + 0.1)
    hand.start()
    until(lambda: kernel.asked)
    asked = kernel.asked
    hand.hold_until(time.monotonic() + 60)
    assert kernel.asked == asked
    until(lambda: kernel.asked > asked)
    assert (ONE.address, ONE.prefix) in kernel.there


def test_a_right_that_ends_early_drops_them_at_once(kernel: Kernel, hand: AddressHand):
    kernel.add(ONE)
    hand.hold_until(FOREVER)
    hand.start()
    until(lambda: kernel.there == {(ONE.address, ONE.prefix): None})
    hand.hold_until(NEVER)
    until(lambda: not kernel.there)


def test_what_the_configuration_does_not_name_any_more_goes_and_the_rest_stays(kernel: Kernel, hand: AddressHand):
    kernel.add(ONE, OTHER)
    hand.hold_until(FOREVER)
    hand.start()
    until(lambda: set(kernel.there.values()) == {None})
    hand.change((OTHER,))
    until(lambda: set(kernel.there) == {(OTHER.address, OTHER.prefix)})
    kernel.add(ONE)
    asked = kernel.asked
    hand.make_sure()
    until(lambda: kernel.asked > asked)
    assert kernel.there[ONE.address, ONE.prefix] == 9, "whoever put it there again did so without us"
    hand.change((ONE, OTHER))
    until(lambda: kernel.there[ONE.address, ONE.prefix] is None)


def test_the_loop_never_waits_for_the_kernel(kernel: Kernel, hand: AddressHand):
    kernel.go_on.clear()
    hand.hold_until(time.monotonic() + 60)
    hand.start()
    until(lambda: kernel.asked)
    began = time.monotonic()
    for _ in range(100):
        hand.hold_until(time.monotonic() + 60)
        hand.make_sure()
        hand.hold_until(NEVER)
    assert time.monotonic() - began < 1.0


def test_a_drop_that_is_refused_is_told_once_and_tried_until_it_succeeds(kernel: Kernel, hand: AddressHand):
    kernel.add(ONE)
    kernel.refuses = True
    hand.start()
    until(lambda: hand.news)
    kernel.refuses = False
    until(lambda: not kernel.there)
    assert [text for text in hand.news if "CANNOT DROP" in text and ONE.address in text] == [
        "CANNOT DROP address 10.0.0.100: [Errno 16] Device or resource busy"
    ]


def test_a_lease_is_outlasted_in_whole_seconds():
    assert [addresshand.lasts(lease) for lease in (0.3, 1.0, 1.5, 60.0)] == [3, 3, 4, 62]
