"""Ending tasks for certain."""

import asyncio
from collections.abc import Iterable
from typing import Any

from orchestrator.domain.spans import Span

TOLD_AGAIN: Span = 0.2


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel them, and wait until all have ended, however they end.

    One cancellation may be lost on its way: `asyncio.wait_for` of Python 3.11 swallows it when what it waits for is done at
    that very moment (python/cpython#86296), and looks at a Redis that was told to end did so once in some 70 ends on a busy
    machine. Whoever has not ended is told again.
    """
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=TOLD_AGAIN)
