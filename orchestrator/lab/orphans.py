"""Processes whose parent has ended: a laboratory adopts them, and collects them when they end too."""

import contextlib
import ctypes
import os
import time
from typing import ClassVar, Final

from orchestrator.domain.spans import Span
from orchestrator.keeper.tree import children, state_of

PR_SET_CHILD_SUBREAPER: Final = 36
PR_GET_CHILD_SUBREAPER: Final = 37


class Orphans:
    """Keepers and servers outlive their daemons; they become our children then, and are waited for.

    Only as long as there is a laboratory: whoever adopts orphans, and does not collect them, keeps them as zombies.
    """

    _laboratories = 0
    _adopted_before = ctypes.c_int(0)
    _daemons: ClassVar[set[int]] = set()
    """Children of ours from the beginning, in sessions of their own: whoever started them waits for them."""

    @classmethod
    def adopt(cls) -> None:
        if cls._laboratories == 0:
            ctypes.CDLL(None).prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(cls._adopted_before))
        cls._laboratories += 1
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)

    @classmethod
    def leave(cls) -> None:
        cls._laboratories -= 1
        if cls._laboratories == 0:
            ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, cls._adopted_before.value)

    @classmethod
    def except_for(cls, daemon: int) -> None:
        cls._daemons.add(daemon)

    @classmethod
    def all(cls) -> list[int]:
        return [pid for pid in children(os.getpid()) if cls._is_one(pid)]

    @classmethod
    def collect(cls, within: Span = 0.0) -> None:
        """Those that have ended, as init would; with `within`, wait so long for the others."""
        deadline = time.monotonic() + within
        while found := cls.all():
            for pid in found:
                if state_of(pid) == "Z":
                    with contextlib.suppress(ChildProcessError):
                        os.waitpid(pid, os.WNOHANG)
            if time.monotonic() >= deadline:
                return
            time.sleep(0.01)

    @classmethod
    def _is_one(cls, pid: int) -> bool:
        """What else we started ourselves is in our session."""
        try:
            return pid not in cls._daemons and os.getsid(pid) != os.getsid(0)
        except ProcessLookupError:
            return False
