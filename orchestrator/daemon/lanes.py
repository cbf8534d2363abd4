"""Lanes: acts of one kind run one after the other, and a newer wish takes the place of one that has not begun."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from orchestrator import tasks

T = TypeVar("T")


class Lane(Generic[T]):
    """Calls `act` for the newest wish; wishes that were overtaken before they began are dropped."""

    def __init__(self, act: Callable[[T], Awaitable[None]]) -> None:
        self._act = act
        self._wish: T | None = None
        self._task: asyncio.Task[None] | None = None

    def put(self, wish: T) -> None:
        self._wish = wish
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while self._wish is not None:
            wish, self._wish = self._wish, None
            await self._act(wish)

    async def stop(self) -> None:
        self._wish = None
        if self._task is not None:
            await tasks.end([self._task])
