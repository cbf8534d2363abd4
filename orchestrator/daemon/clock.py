"""This host's clocks, read in one place."""

import time

from orchestrator.domain.spans import Instant, WallTime


def now() -> Instant:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def wall() -> WallTime:
    return time.time()
