"""The daemon's writing to disk, on a thread of its own: a disk that stalls must not hold up a decision."""

import queue
import threading
from collections.abc import Callable
from typing import Final

BACKLOG: Final = 20_000
"""Writes that may wait. More than that, and the least important (journal lines) are dropped and counted."""


class DiskThread:
    def __init__(self, log: Callable[[str], None]) -> None:
        self._log = log
        self._waiting: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="disk", daemon=True)
        self.dropped = 0
        self._thread.start()

    def put(self, act: Callable[[], None], *, dispensable: bool = False) -> None:
        """In order, soon. `dispensable` acts are dropped while the disk is far behind."""
        if dispensable and self._waiting.qsize() > BACKLOG:
            self.dropped += 1
            return
        self._waiting.put(act)

    def stop(self, within: float = 2.0) -> None:
        """Write what waits, unless the disk does not let us."""
        self._waiting.put(None)
        self._thread.join(within)

    def _run(self) -> None:
        while (act := self._waiting.get()) is not None:
            try:
                act()
            except OSError as error:
                self._log(f"the disk refuses: {error}")
