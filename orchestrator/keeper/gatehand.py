"""The gate's own thread: a kernel call or a disk that takes its time never holds up a beat.

Every change of packet filter rules on a host waits for every other one, also for those of strangers; on a burning host
that was seen to take more than a second.
"""

import contextlib
import signal
import threading
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Final

from orchestrator.domain.spans import FOREVER, NEVER, Instant, Span
from orchestrator.keeper.gate import Gate, NoGate

LAY_AGAIN: Span = 30.0
"""How often a gate that could not be laid is tried again."""

LAY_AT_ONCE: Final = 3
"""How often in a row, when somebody takes the rules away right after they were laid."""

SLOW: Span = 0.002
"""The kernel counts an element's time from when it takes it up: after a call that took longer it is set anew."""

SET_AT_MOST: Final = 5
"""How often in a row; each is a call that took longer than SLOW. After that the next renewal sets it."""


class State(StrEnum):
    LAYING = "being laid"
    STANDS = "stands"
    REFUSED = "refused"


class GateHand:
    """Carries out the latest wish for one gate. What it learns is in `state` and `news`, after `wake` was called."""

    def __init__(self, gate: Gate, mark: Path, now: Callable[[], Instant], wake: Callable[[], None]) -> None:
        self._gate = gate
        self._mark = mark
        self._now = now
        self._wake = wake
        self._asked = threading.Condition()
        self._wish: tuple[Instant, Instant] = (NEVER, NEVER)
        """Until when clients, and until when other members."""
        self._sure = False
        self._ending_connections = False
        self._ended = False
        self._set: tuple[Instant, Instant] | None = None
        self._lay_at: Instant = NEVER
        self.state = State.LAYING
        self.why_refused = ""
        self.news: deque[str] = deque()
        self._thread = threading.Thread(target=self._work, name=f"gate {gate.table}", daemon=True)

    # --- called by the loop, never waiting ---------------------------------------------------------------------------

    def start(self, until: Instant, members_until: Instant = NEVER) -> None:
        self._wish = (until, members_until)
        self._thread.start()

    def open_until(self, until: Instant, members_until: Instant = NEVER) -> None:
        if (until, members_until) != self._wish:
            with self._asked:
                self._wish = (until, members_until)
                self._asked.notify()

    def end_connections(self) -> None:
        """Of clients, after the gate has followed the latest wish."""
        with self._asked:
            self._ending_connections = True
            self._asked.notify()

    def make_sure(self) -> None:
        """Set the element anew and count the rules, in case somebody else took any of them away."""
        with self._asked:
            self._sure = True
            self._asked.notify()

    def end(self) -> None:
        """The gate stays as it is."""
        with self._asked:
            self._ended = True
            self._asked.notify()
        self._thread.join()

    # --- the thread --------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        if self._try(self._wish):  # rules that a predecessor laid guard on while they are laid anew
            self._become(State.STANDS)
        while not self._ended:
            if self._lay_at <= self._now():
                self._lay()
            with self._asked:
                self._asked.wait_for(self._has_work, timeout=self._idle_for())
                sure, self._sure = self._sure, False
                wish = self._wish
                if ending := self.state is State.STANDS and self._ending_connections:
                    self._ending_connections = False
            if self.state is State.STANDS and not self._ended:
                self._serve(wish, sure=sure, ending=ending)
        self._gate.close()

    def _has_work(self) -> bool:
        if self._ended or self._lay_at <= self._now():
            return True
        return self.state is State.STANDS and (self._sure or self._wish != self._set or self._ending_connections)

    def _idle_for(self) -> Span | None:
        return None if self._lay_at == FOREVER else max(0.0, self._lay_at - self._now())

    def _lay(self) -> None:
        for _ in range(LAY_AT_ONCE):
            try:
                self._gate.lay()
            except NoGate as error:
                self._refuse(str(error))
                return
            if self._try(self._wish):
                self._lay_at = FOREVER
                self._become(State.STANDS)
                self._note_on_disk()
                return
        self._refuse("somebody takes the rules away as soon as they are laid")

    def _serve(self, wish: tuple[Instant, Instant], *, sure: bool, ending: bool) -> None:
        if (sure or wish != self._set) and not self._try(wish):
            self._lay_anew("the gate is gone")
            if ending:
                self.end_connections()  # once it stands again
            return
        if ending:
            self._end_connections()
        if sure and not self._gate.rules_stand():
            self._lay_anew("somebody took rules of the gate away")

    def _lay_anew(self, what: str) -> None:
        self._lay_at = NEVER
        self._become(State.LAYING, f"{what}: laying it again")

    def _end_connections(self) -> None:
        try:
            ended = self._gate.end_connections()
        except OSError as error:
            self._say(f"clients' connections cannot be ended here ({error.strerror}): clients learn it by their own timeouts")
            return
        if ended:
            self._say(f"{ended} connection{'s' if ended > 1 else ''} of clients ended: nobody will answer them here")

    def _try(self, wish: tuple[Instant, Instant]) -> bool:
        until, members_until = wish
        for _ in range(SET_AT_MOST):
            began = self._now()
            try:
                self._gate.open_until(until, began, members_until)
            except OSError:
                self._set = None
                return False
            if until == FOREVER or self._now() < began + SLOW:
                break
        self._set = wish
        return True

    def _note_on_disk(self) -> None:
        """From now on the gate is laid, closed, as soon as a keeper starts on this host: before any record is seen."""
        try:
            self._mark.touch()
        except OSError as error:
            self._say(f"{self._mark} cannot be made ({error.strerror}): a gate after a reboot comes late")

    def _refuse(self, reason: str) -> None:
        self._lay_at = self._now() + LAY_AGAIN
        said = f"NO GATE: {reason}: when keeper and daemon both stand still, nothing ends the right"
        self._become(State.REFUSED, said if reason != self.why_refused else "", why=reason)

    def _become(self, state: State, said: str = "", why: str = "") -> None:
        self.state, self.why_refused = state, why
        self._say(said)

    def _say(self, text: str) -> None:
        if text:
            self.news.append(text)
        with contextlib.suppress(OSError):  # the loop has ended
            self._wake()
