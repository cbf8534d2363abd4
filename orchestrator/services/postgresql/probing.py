"""Errands beside the looks: a commit to disk and a fresh connection show what an answer on an old connection hides.

An errand that does not come back is never abandoned: as long as it is out, every look waits for it and says so.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

from orchestrator import tasks
from orchestrator.domain.spans import Span
from orchestrator.domain.verdicts import Finding

GRACE: Span = 0.02
"""How long the look that sends an errand waits for it; only one that is still out at the next look is waited for in earnest."""


class Errand:
    def __init__(self, not_back: Finding, act: Callable[[], Awaitable[Finding | None]]) -> None:
        self._not_back = not_back
        self._act = act
        """Comes back with what was found wrong."""
        self._task: asyncio.Task[Finding | None] | None = None
        self._sent_at: float | None = None
        self._is_fresh = False
        self.found: Finding | None = None

    @property
    def late(self) -> Finding | None:
        """What it means that it is still out."""
        return None if self._task is None or self._task.done() else self._not_back

    def send(self, every: Span) -> None:
        """If it is due, and not out."""
        now = time.monotonic()
        self._is_fresh = False
        if self._sent_at is None:
            self._sent_at = now  # whoever looks only once, to check, sends none
        if self._task is None and now >= self._sent_at + every:
            self._sent_at, self._is_fresh = now, True
            self._task = asyncio.ensure_future(self._act())

    async def result(self) -> Finding | None:
        """The newest; waits for one that is out. The caller bounds the wait, which does not end the errand."""
        task = self._task
        if task is not None:
            await asyncio.wait({task}, timeout=GRACE if self._is_fresh else None)
            if task.done() and self._task is task:  # it may have been given up meanwhile: a switchover stops the server
                self._task = None
                self.found = task.result()
        return self.found

    async def stop(self) -> None:
        """Give it up: it is another server now, or none."""
        task, self._task = self._task, None
        self.found, self._sent_at = None, None
        if task is not None:
            await tasks.end([task])
