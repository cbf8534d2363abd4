import ctypes
import os
import signal
import subprocess
import time

from orchestrator.lab.orphans import PR_GET_CHILD_SUBREAPER, Orphans


def adopts() -> bool:
    found = ctypes.c_int(0)
    ctypes.CDLL(None).prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(found))
    return bool(found.value)


def orphan(lasts: str) -> int:
    """In a session of its own, and its parent has ended."""
    done = subprocess.run(["sh", "-c", f"setsid sleep {lasts} >&- 2>&- & echo $!"], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_orphans_are_adopted_as_long_as_there_is_a_laboratory_and_no_longer():
    """Who adopts and does not collect keeps zombies, and PostgreSQL takes a zombie for a server that runs."""
    assert not adopts()
    Orphans.adopt()
    Orphans.adopt()
    Orphans.leave()
    assert adopts()
    Orphans.leave()
    assert not adopts()


def test_orphans_that_have_ended_are_collected_and_what_was_started_here_is_left_alone():
    Orphans.adopt()
    daemon = subprocess.Popen(["sh", "-c", "exit 7"], start_new_session=True)
    Orphans.except_for(daemon.pid)
    try:
        pid = orphan("60")
        deadline = time.monotonic() + 5.0
        while Orphans.all() != [pid]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        Orphans.collect()
        assert Orphans.all() == [pid]
        os.kill(pid, signal.SIGKILL)
        Orphans.collect(within=5.0)
        assert Orphans.all() == []
        assert daemon.wait(5) == 7
    finally:
        Orphans.leave()
