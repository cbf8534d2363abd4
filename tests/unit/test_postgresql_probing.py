"""Errands beside the looks of the PostgreSQL adapter."""

import asyncio

from orchestrator.domain.verdicts import Diagnosis, Finding
from orchestrator.services.postgresql.probing import Errand

NOT_BACK = Finding(Diagnosis.STALLED_STORAGE, "it does not come back")


def test_a_look_that_waits_for_an_errand_outlives_its_being_given_up():
    """A switchover stops the server while a look waits for a commit to disk: the daemon must not end by that."""

    async def scenario() -> None:
        async def act() -> Finding | None:
            await asyncio.Event().wait()
            return None

        errand = Errand(NOT_BACK, act)
        errand.send(0.0)
        errand.send(0.0)
        waiting = asyncio.ensure_future(errand.result())
        await asyncio.sleep(0)
        assert errand.late == NOT_BACK
        await errand.stop()
        assert await asyncio.wait_for(waiting, 1.0) is None
        assert errand.late is None

    asyncio.run(scenario())


def test_what_an_errand_found_is_told_until_it_is_given_up():
    async def scenario() -> None:
        async def act() -> Finding | None:
            return NOT_BACK

        errand = Errand(NOT_BACK, act)
        errand.send(0.0)
        errand.send(0.0)
        assert await errand.result() == NOT_BACK
        assert await errand.result() == NOT_BACK
        await errand.stop()
        assert await errand.result() is None

    asyncio.run(scenario())
