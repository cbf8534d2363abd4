"""The mediated probe: reads a group's record and control whenever they may have changed, and from time to time anyway."""

import asyncio
import contextlib
from collections.abc import Callable

from orchestrator.domain.record import Snapshot
from orchestrator.domain.spans import Span
from orchestrator.domain.topology import GroupName
from orchestrator.ports import Mediator, RefusedByPeer, Unreachable

READ_EVERY: Span = 1.0
READ_WITHIN: Span = 1.0


class MediatedProbe:
    """One read at a time; asked for again while one is under way, another follows."""

    def __init__(
        self,
        mediator: Mediator,
        group: GroupName,
        *,
        report: Callable[[Snapshot], None],
        lost: Callable[[str], None],
    ) -> None:
        self._mediator = mediator
        self._group = group
        self._report = report
        self._lost = lost
        self._asked = asyncio.Event()
        mediator.watch(group, self.read_now)

    def read_now(self) -> None:
        self._asked.set()

    async def run(self) -> None:
        while True:
            self._asked.clear()
            try:
                snapshot = await self._mediator.read(self._group, READ_WITHIN)
            except (Unreachable, RefusedByPeer) as error:
                self._lost(str(error))
            else:
                self._report(snapshot)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(READ_EVERY):
                    await self._asked.wait()
