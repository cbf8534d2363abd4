"""Errands beside the looks: sent in time, waited for in earnest, never abandoned."""

import asyncio

from orchestrator.domain.verdicts import Diagnosis, Finding
from orchestrator.services.postgresql.probing import Errand

NOT_BACK = Finding(Diagnosis.STALLED_STORAGE, "it does not come back")
FOUND = Finding(Diagnosis.DISK_FULL, "full")


def test_an_errand_is_out_until_it_comes_back_and_then_tells_what_it_found():
    async def scenario() -> None:
        back, sent = asyncio.Event(), []

        async def act() -> Finding:
            sent.append(1)
            await back.wait()
            return FOUND

        errand = Errand(NOT_BACK, act)
        errand.send(60.0)
        assert (sent, errand.late, await errand.result()) == ([], None, None), "whoever looks only once sends none"
        errand.send(0.0)
        assert await errand.result() is None, "a fresh one is not waited for in earnest"
        assert errand.late == NOT_BACK
        errand.send(0.0)
        try:
            async with asyncio.timeout(0.05):
                await errand.result()
            raise AssertionError("it is waited for")
        except TimeoutError:
            assert errand.late == NOT_BACK, "the end of the wait is not its end"
        back.set()
        assert await errand.result() == FOUND
        assert (sent, errand.late) == ([1], None), "one at a time"
        errand.send(60.0)
        assert (await errand.result(), sent) == (FOUND, [1]), "not due: what was found last stands"
        await errand.stop()
        assert errand.found is None

    asyncio.run(scenario())
