import asyncio
import gc
import os
import signal
import sys
import time

import pytest

from orchestrator.services import starting
from orchestrator.services.postgresql import commands

LEAVES_SOMEBODY_BEHIND = ["sh", "-c", "sleep 60 & echo $!"]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_whoever_a_command_leaves_behind_holds_nobody_up_and_our_end_of_the_pipe_is_closed(monkeypatch: pytest.MonkeyPatch):
    """As pg_ctl leaves the server behind. A pipe that is only closed with the garbage ends in an error of a loop long gone."""
    complaints: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", complaints.append)

    async def scenario() -> None:
        before = descriptors()
        began = time.monotonic()
        pid = int(await starting.run_command(LEAVES_SOMEBODY_BEHIND, within=5.0))
        assert time.monotonic() - began < 2.0
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert descriptors() == before
        os.kill(pid, signal.SIGKILL)

    asyncio.run(scenario())
    gc.collect()
    assert complaints == []


def test_a_command_that_is_ended_for_its_silence_leaves_no_pipe_open():
    async def scenario() -> None:
        before = descriptors()
        with pytest.raises(starting.CannotStart, match=r"not finished within|silent for"):
            await commands.run(["sleep", "60"], within=0.1)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert descriptors() == before

    asyncio.run(scenario())
