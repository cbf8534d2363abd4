"""Did our own clock stand still? Seen by comparing with the clocks that peers put into their beats (rule 5)."""

from typing import Final

from orchestrator.domain.spans import NEVER, Instant, Span

WINDOW: Final[Span] = 5.0
"""The largest difference is taken over the last one to two windows, so that honest drift cannot hide a stop for long."""

DRIFT: Final = 0.02
"""Two clocks, each up to 1 % off, may part by this much per second."""

SHARE_OF_LEASE: Final = 0.05
"""A stop shorter than this share of the lease is covered by the freeze budget."""


SAMPLES: Final = 30
"""Readings before a verdict: the least delayed of so many is near the truth even on a host whose every wake-up is late."""


class ClockWatch:
    """Largest (theirs - ours) seen between two lives, over a sliding window.

    Delay on the way only makes the difference smaller, so the largest one seen is the nearest to the truth; one that
    exceeds it by more than drift explains means that our clock missed time.
    """

    __slots__ = ("_began_at", "_newest", "_older", "_samples")

    def __init__(self) -> None:
        self._samples = 0
        self._began_at: Instant = NEVER
        self._newest: tuple[Span, Instant] = (NEVER, NEVER)
        self._older: tuple[Span, Instant] = (NEVER, NEVER)

    def stood_still(self, theirs: Instant, ours: Instant, lease: Span, *, slack: Span = 0.0) -> bool:
        """Note one pair of clock readings (seconds); True when ours must have stopped since an earlier one.

        `slack`: by how much the least delayed of a window may be later than that of another one.
        """
        if self.ran_ahead(theirs, ours, lease, slack=slack):
            return True
        self._samples += 1
        if ours - self._began_at >= WINDOW:
            self._older, self._newest, self._began_at = self._newest, (NEVER, NEVER), ours
        self._newest = max(self._newest, (theirs - ours, ours))
        return False

    def ran_ahead(self, theirs: Instant, ours: Instant, lease: Span, *, slack: Span = 0.0) -> bool:
        """The same, but the reading is only judged, not noted."""
        known, noted_at = max(self._newest, self._older)
        allowed = slack + SHARE_OF_LEASE * lease + DRIFT * (ours - noted_at)
        return self._samples >= SAMPLES and theirs - ours > known + allowed
