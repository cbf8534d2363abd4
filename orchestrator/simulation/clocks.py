"""A host's clock: it drifts, and it stands still while its machine is stopped."""

from orchestrator.domain.spans import Instant


class Clock:
    """CLOCK_BOOTTIME of one simulated host: runs at `rate`, started `offset` seconds into its own time."""

    __slots__ = ("_offset", "_stopped_at", "rate")

    def __init__(self, rate: float, offset: float) -> None:
        self.rate = rate
        self._offset = offset
        self._stopped_at: float | None = None

    def read(self, true: float) -> Instant:
        moment = true if self._stopped_at is None else self._stopped_at
        return moment * self.rate + self._offset

    def true_at(self, instant: Instant) -> float:
        """When, in true time, this clock will show `instant` if it is not stopped before."""
        return (instant - self._offset) / self.rate

    def set(self, true: float, reading: Instant) -> None:
        """Let the clock show `reading` at this moment, so that a changed rate does not make it jump."""
        self._offset = reading - true * self.rate

    def stop(self, true: float) -> None:
        self._stopped_at = true

    def go_on(self, true: float) -> None:
        if self._stopped_at is not None:
            self._offset -= (true - self._stopped_at) * self.rate
            self._stopped_at = None
