"""How the daemon starts its keeper: at real-time priority from the first instruction, where that is permitted."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.daemon.keeper_link import spawn

TELL = [sys.executable, "-c", "import os; print(os.sched_getscheduler(0), os.getsid(0) == os.getpid())"]


def told_by(tmp_path: Path, *, realtime: bool) -> str:
    output = tmp_path / "output"
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        pid = spawn(TELL, descriptor, realtime=realtime)
    finally:
        os.close(descriptor)
    assert os.waitpid(pid, 0)[1] == 0
    return output.read_text().strip()


def permitted() -> bool:
    before = os.sched_getscheduler(0)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        return False
    os.sched_setscheduler(0, before, os.sched_param(0))
    return True


@pytest.mark.skipif(not permitted(), reason="no permission for real-time priority")
def test_it_starts_at_real_time_priority(tmp_path: Path):
    assert told_by(tmp_path, realtime=True) == f"{os.SCHED_FIFO} True"


def test_it_starts_as_any_other_where_the_configuration_says_so(tmp_path: Path):
    assert told_by(tmp_path, realtime=False) == f"{os.sched_getscheduler(0)} True"


def test_it_starts_as_any_other_where_real_time_is_not_permitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    really = os.posix_spawn

    def refuse(*args: Any, scheduler: Any = None, **rest: Any) -> int:
        if scheduler is not None:
            raise PermissionError("not permitted")
        return really(*args, **rest)

    monkeypatch.setattr(os, "posix_spawn", refuse)
    assert told_by(tmp_path, realtime=True) == f"{os.sched_getscheduler(0)} True"
