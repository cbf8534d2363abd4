"""Lanes: one act after the other, the newest wish first, and nothing that was overtaken is done."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from orchestrator.daemon.lanes import Lane

WITHIN = 5.0


class Acts:
    """Acts that end when the test says so."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.at_once = 0
        self.most_at_once = 0
        self.fails: dict[str, Exception] = {}
        self._open = asyncio.Semaphore(0)
        self._moved = asyncio.Event()
        self.lane: Lane[str] = Lane(self._act)

    async def _act(self, wish: str) -> None:
        self.begun.append(wish)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self._moved.set()
        try:
            await self._open.acquire()
            if wish in self.fails:
                raise self.fails[wish]
            self.ended.append(wish)
        finally:
            self.at_once -= 1
            self._moved.set()

    def end_one(self) -> None:
        self._open.release()

    async def until(self, reached: Callable[[], bool]) -> None:
        async with asyncio.timeout(WITHIN):
            while not reached():
                self._moved.clear()
                await self._moved.wait()


def run(test: Callable[[Acts], Awaitable[Any]]) -> None:
    async def inside() -> None:
        acts = Acts()
        await test(acts)
        await acts.lane.stop()
        assert acts.at_once == 0

    asyncio.run(inside())


def test_a_wish_is_carried_out():
    async def test(acts: Acts) -> None:
        acts.lane.put("a")
        acts.end_one()
        await acts.until(lambda: acts.ended == ["a"])

    run(test)


def test_acts_of_one_lane_never_run_at_once():
    async def test(acts: Acts) -> None:
        for wish in ("a", "b", "c"):
            acts.lane.put(wish)
            await acts.until(lambda: bool(acts.begun))
            acts.end_one()
        await acts.until(lambda: "c" in acts.ended)
        assert acts.most_at_once == 1

    run(test)


def test_a_wish_that_is_overtaken_before_it_began_is_dropped():
    async def test(acts: Acts) -> None:
        acts.lane.put("a")
        await acts.until(lambda: acts.begun == ["a"])
        acts.lane.put("b")
        acts.lane.put("c")
        for _ in range(3):
            acts.end_one()
        await acts.until(lambda: "c" in acts.ended)
        assert acts.ended == ["a", "c"]

    run(test)


def test_what_has_begun_is_ended_before_the_newer_wish_begins():
    async def test(acts: Acts) -> None:
        acts.lane.put("a")
        await acts.until(lambda: acts.begun == ["a"])
        acts.lane.put("b")
        await asyncio.sleep(0)
        assert acts.begun == ["a"]
        acts.end_one()
        await acts.until(lambda: acts.begun == ["a", "b"])
        assert acts.ended == ["a"]

    run(test)


def test_a_lane_that_was_idle_takes_the_next_wish():
    async def test(acts: Acts) -> None:
        for wish in ("a", "b"):
            acts.lane.put(wish)
            acts.end_one()
            await acts.until(lambda wish=wish: wish in acts.ended)
        assert acts.ended == ["a", "b"]

    run(test)


def test_the_same_wish_may_come_again():
    async def test(acts: Acts) -> None:
        acts.lane.put("a")
        await acts.until(lambda: acts.begun == ["a"])
        acts.lane.put("a")
        acts.end_one()
        acts.end_one()
        await acts.until(lambda: acts.ended == ["a", "a"])

    run(test)


def test_stopping_ends_the_act_and_forgets_the_wish_that_waits():
    async def test(acts: Acts) -> None:
        acts.lane.put("a")
        await acts.until(lambda: acts.begun == ["a"])
        acts.lane.put("b")
        await acts.lane.stop()
        assert (acts.begun, acts.ended, acts.at_once) == (["a"], [], 0)

    run(test)


@pytest.mark.parametrize("times", [1, 2])
def test_a_lane_that_never_ran_can_be_stopped(times: int):
    async def test(acts: Acts) -> None:
        for _ in range(times):
            await acts.lane.stop()

    run(test)


def test_a_lane_goes_on_after_an_act_that_failed_when_it_is_wanted_again():
    """The failure itself is whoever's who acts; the lane must not stay shut."""

    async def test(acts: Acts) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        acts.fails["a"] = RuntimeError("no")
        acts.lane.put("a")
        acts.end_one()
        await acts.until(lambda: acts.begun == ["a"] and acts.at_once == 0)
        await asyncio.sleep(0)
        acts.lane.put("b")
        acts.end_one()
        await acts.until(lambda: acts.ended == ["b"])

    run(test)
