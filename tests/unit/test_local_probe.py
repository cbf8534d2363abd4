"""The local probe: one look at a time, again and again, at once when asked, and never out of date when asked for."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from orchestrator.domain.observations import Outcome, Silent
from probes.local import LocalProbe

WITHIN = 5.0
LONG = 3600.0


class Watched:
    """A probe, what it reported, and a service whose looks end when the test says so."""

    def __init__(self, *, every: float, held: bool = False) -> None:
        self.clock = 0.0
        self.begun: list[float] = []
        self.deadlines: list[float] = []
        self.reports: list[tuple[float, Outcome]] = []
        self.at_once = 0
        self._free = asyncio.Event()
        self._moved = asyncio.Event()
        if not held:
            self._free.set()
        self.probe = LocalProbe(self._look, every=every, within=0.5, clock=self._now, report=self._report)

    def _now(self) -> float:
        self.clock += 1.0
        return self.clock

    async def _look(self, within: float) -> Outcome:
        assert self.at_once == 0, "two looks at once"
        self.at_once += 1
        self.begun.append(self.clock)
        self.deadlines.append(within)
        self._moved.set()
        try:
            await self._free.wait()
        finally:
            self.at_once -= 1
        return Silent(within)

    def _report(self, began_at: float, outcome: Outcome) -> None:
        self.reports.append((began_at, outcome))
        self._moved.set()

    def let_go(self) -> None:
        self._free.set()

    async def until(self, reached: Callable[[], bool]) -> None:
        async with asyncio.timeout(WITHIN):
            while not reached():
                self._moved.clear()
                await self._moved.wait()


def run(test: Callable[[Watched], Awaitable[Any]], *, every: float, held: bool = False) -> Watched:
    async def inside() -> Watched:
        watched = Watched(every=every, held=held)
        task = asyncio.create_task(watched.probe.run())
        try:
            await test(watched)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert watched.at_once == 0
        return watched

    return asyncio.run(inside())


async def settle() -> None:
    """Everything that is ready to run has run."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_it_looks_again_and_again():
    async def test(watched: Watched) -> None:
        await watched.until(lambda: len(watched.reports) >= 3)

    run(test, every=0.001)


def test_it_looks_at_once_when_it_begins_and_then_waits():
    async def test(watched: Watched) -> None:
        await watched.until(lambda: len(watched.reports) == 1)
        await settle()
        assert len(watched.begun) == 1

    run(test, every=LONG)


def test_a_look_is_told_with_the_moment_before_it_began():
    async def test(watched: Watched) -> None:
        await watched.until(lambda: len(watched.begun) == 1)
        watched.clock = 50.0
        watched.let_go()
        await watched.until(lambda: len(watched.reports) == 1)
        assert watched.reports == [(1.0, Silent(0.5))]

    run(test, every=LONG, held=True)


def test_it_looks_at_once_when_asked():
    async def test(watched: Watched) -> None:
        await watched.until(lambda: len(watched.reports) == 1)
        watched.probe.look_now()
        await watched.until(lambda: len(watched.reports) == 2)

    run(test, every=LONG)


def test_a_look_that_is_asked_for_during_another_begins_after_it():
    """The one under way may have seen what was before the question."""

    async def test(watched: Watched) -> None:
        await watched.until(lambda: len(watched.begun) == 1)
        watched.probe.look_now()
        asked_at = watched.clock
        watched.let_go()
        await watched.until(lambda: len(watched.reports) == 2)
        assert watched.reports[1][0] > asked_at

    run(test, every=LONG, held=True)


def test_asking_many_times_during_a_look_brings_one_more():
    async def test(watched: Watched) -> None:
        await watched.until(lambda: len(watched.begun) == 1)
        for _ in range(5):
            watched.probe.look_now()
        watched.let_go()
        await watched.until(lambda: len(watched.reports) == 2)
        await settle()
        assert len(watched.begun) == 2

    run(test, every=LONG, held=True)


def test_a_new_policy_counts_from_the_next_look_on():
    async def test(watched: Watched) -> None:
        await watched.until(lambda: len(watched.reports) == 1)
        watched.probe.within = 0.25
        watched.probe.every = 0.001
        watched.probe.look_now()
        await watched.until(lambda: len(watched.reports) >= 4)
        assert watched.deadlines[:2] == [0.5, 0.25]

    run(test, every=LONG)


def test_ending_the_probe_ends_the_look_under_way():
    async def test(watched: Watched) -> None:
        await watched.until(lambda: watched.at_once == 1)

    assert run(test, every=LONG, held=True).reports == []
