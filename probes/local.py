"""The local probe: looks at this host's instance, again and again, and at once when asked."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from orchestrator.domain.observations import Outcome
from orchestrator.domain.spans import Instant, Span


class LocalProbe:
    """One look at a time. A look that was asked for begins after the one under way has ended, so it is never out of date."""

    def __init__(
        self,
        look: Callable[[Span], Awaitable[Outcome]],
        *,
        every: Span,
        within: Span,
        clock: Callable[[], Instant],
        report: Callable[[Instant, Outcome], None],
    ) -> None:
        self.every = every
        """Spacing of looks, seconds."""
        self.within = within
        """Deadline of one look, seconds; after it the outcome is silence."""
        self._look = look
        self._clock = clock
        self._report = report
        self._asked = asyncio.Event()

    def look_now(self) -> None:
        self._asked.set()

    async def run(self) -> None:
        while True:
            self._asked.clear()
            began_at = self._clock()
            self._report(began_at, await self._look(self.within))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.every):
                    await self._asked.wait()
