import asyncio
import contextlib

from orchestrator import tasks


def test_a_task_that_lost_its_cancellation_is_told_again():
    """As a library does in which the cancellation arrives together with the answer."""
    lost = []

    async def deaf(times: int) -> None:
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                lost.append(times)
                if len(lost) > times:
                    raise

    async def scenario() -> None:
        task = asyncio.create_task(deaf(2))
        await asyncio.sleep(0)
        await asyncio.wait_for(tasks.end([task]), 5.0)
        assert task.cancelled()

    asyncio.run(scenario())
    assert len(lost) == 3


def test_what_a_task_fails_with_stops_nobody_from_ending():
    async def fails() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        raise RuntimeError("on its way out")

    async def scenario() -> None:
        made = [asyncio.create_task(fails()), asyncio.create_task(asyncio.sleep(60))]
        await asyncio.sleep(0)
        await tasks.end(made)
        assert all(task.done() for task in made)
        made[0].exception()
        await tasks.end(made)
        await tasks.end([])

    asyncio.run(scenario())
