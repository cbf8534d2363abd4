"""The daemon's writing to disk, on a thread of its own: a disk that stalls must not hold up a decision."""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from orchestrator.domain.spans import Span

Act = Callable[[], None]

BACKLOG: Final = 20_000
"""Journal lines that may wait. When there are more, the disk is far behind, and the newest are dropped and counted."""

LEISURE: Span = 0.25
"""Journal lines are written together, this often: putting them into words must not compete with a failover."""


AGAIN: Span = 1.0
"""What must reach the disk is tried this often until it does."""


class DiskThread:
    def __init__(self, log: Callable[[str], None]) -> None:
        self._log = log
        self._lasting: dict[str, Act] = {}
        self._refused: dict[str, str] = {}
        self._again_at = 0.0
        self._urgent: deque[Act] = deque()
        self._leisurely: deque[Act] = deque()
        self._woken = threading.Event()
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="disk", daemon=True)
        self.dropped = 0
        self._thread.start()

    def put_until_done(self, key: str, act: Act) -> None:
        """The newest of its key, now, and again until the disk takes it."""
        self._lasting[key] = act
        self._again_at = 0.0
        self._woken.set()

    def put(self, act: Act) -> None:
        """In order, now."""
        self._urgent.append(act)
        self._woken.set()

    def put_at_leisure(self, act: Act) -> None:
        """In order among its like, within a moment, unless the disk is far behind."""
        if len(self._leisurely) > BACKLOG:
            self.dropped += 1
            return
        self._leisurely.append(act)

    def stop(self, within: Span = 2.0) -> None:
        """Write what waits, unless the disk does not let us."""
        self._ending = True
        self._woken.set()
        self._thread.join(within)

    def _run(self) -> None:
        while not self._ending:
            woken = self._woken.wait(LEISURE)
            self._woken.clear()
            self._keep_trying()
            self._drain(self._urgent)
            if not woken:
                self._drain(self._leisurely)
        self._keep_trying()
        self._drain(self._urgent)
        self._drain(self._leisurely)

    def _keep_trying(self) -> None:
        if not self._lasting or time.monotonic() < self._again_at:
            return
        for key, act in list(self._lasting.items()):
            if self._try(key, act) and self._lasting.get(key) is act:
                del self._lasting[key]
        self._again_at = time.monotonic() + AGAIN

    def _drain(self, waiting: deque[Act]) -> None:
        while waiting:
            self._try("journal", waiting.popleft())

    def _try(self, what: str, act: Act) -> bool:
        """Whatever goes wrong, this thread lives on; it says so once, and once more when it is well again."""
        try:
            act()
        except Exception as error:
            if self._refused.get(what) != str(error):
                self._refused[what] = str(error)
                self._log(f"the disk refuses ({what}): {error}")
            return False
        if self._refused.pop(what, None) is not None:
            self._log(f"the disk takes writes again ({what})")
        return True
