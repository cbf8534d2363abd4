"""The thread that drops a group's addresses at the end of the right, and keeps those that the daemon took from running out.

A thread of its own for the reason of the gate's: every change of addresses on a host waits for every other change of its
network, also for those of strangers, and a beat must not wait for that.
"""

import contextlib
import math
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from orchestrator.domain.spans import FOREVER, NEVER, Instant, Span
from orchestrator.keeper.netlink import drop_address, prefixes, take_address
from orchestrator.keeper.setup import AddressSetup

LONGER: Final = 2
"""Seconds by which an address outlasts a lease when nobody sets its time anew: a keeper that hangs is replaced sooner."""

AGAIN: Span = 0.05
"""How soon a drop that the kernel refused is tried again."""


def lasts(lease: Span) -> int:
    """Whole seconds, as the kernel counts them: so long an address stands when keeper and daemon both stand still."""
    return math.ceil(lease) + LONGER


class AddressHand:
    """The daemon adds addresses; this one lets them stand until `hold_until`, and deletes them then, every time it looks."""

    def __init__(
        self, held: tuple[AddressSetup, ...], lease: Span, now: Callable[[], Instant], wake: Callable[[], None], name: str
    ) -> None:
        self.held = held
        self.news: deque[str] = deque()
        self._left: tuple[AddressSetup, ...] = ()
        self._lasts = lasts(lease)
        self._now = now
        self._wake = wake
        self._asked = threading.Condition()
        self._until: Instant = NEVER
        self._sure = True
        self._ended = False
        self._told: dict[AddressSetup, str] = {}
        self._thread = threading.Thread(target=self._work, name=f"addresses {name}", daemon=True)

    # --- called by the loop, never waiting ---------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def hold_until(self, until: Instant) -> None:
        """A later end than before wakes nobody: it is looked up when the earlier one has come."""
        before, self._until = self._until, until
        if until < before:
            self._look()

    def change(self, held: tuple[AddressSetup, ...]) -> None:
        """Those that are not named any more are dropped, once: from then on they are somebody else's business."""
        with self._asked:
            self._left = tuple(each for each in (*self._left, *self.held) if each not in held)
            self.held = held
        self._look()

    def make_sure(self) -> None:
        """Delete what somebody added without a right, or set the time of what stands anew."""
        self._look()

    def end(self) -> None:
        """Addresses stay as they are, for their time."""
        self._ended = True
        self._look()
        self._thread.join()

    def _look(self) -> None:
        with self._asked:
            self._sure = True
            self._asked.notify()

    # --- the thread --------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while not self._ended:
            until = self._until
            held = self._now() < until
            done = [self._keep(each, until) if held else self._drop(each) for each in self.held]
            done.append(self._drop_left())
            with self._asked:
                wait = AGAIN if not all(done) else until - self._now() if held and until != FOREVER else None
                self._asked.wait_for(lambda: self._sure, timeout=wait)
                self._sure = False

    def _drop_left(self) -> bool:
        with self._asked:
            left, self._left = self._left, ()
        refused = tuple(each for each in left if not self._drop(each))
        with self._asked:
            self._left += refused
        return not refused

    def _drop(self, each: AddressSetup) -> bool:
        try:
            if drop_address(each.address, each.prefix, each.interface):
                self._say(f"address {each.address} dropped from {each.interface}")
        except OSError as error:
            self._complain(each, f"CANNOT DROP address {each.address}: {error}")
            return False
        self._told.pop(each, None)
        return True

    def _keep(self, each: AddressSetup, until: Instant) -> bool:
        """Only one that stands: taking it, after a look for other holders, is the daemon's."""
        try:
            if each.prefix in prefixes(each.address, each.interface):
                take_address(each.address, each.prefix, each.interface, None if until == FOREVER else self._lasts)
        except OSError as error:
            self._complain(each, f"the time of address {each.address} cannot be set anew: {error}")
        return True

    def _complain(self, each: AddressSetup, text: str) -> None:
        if self._told.get(each) != text:
            self._told[each] = text
            self._say(text)

    def _say(self, text: str) -> None:
        self.news.append(text)
        with contextlib.suppress(OSError):  # the loop has ended
            self._wake()
