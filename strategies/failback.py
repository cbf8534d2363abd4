"""Failback: when may the role go back to the preferred member, once that is well again?"""

from typing import Final

from orchestrator.domain.policy import Failback, Window
from orchestrator.domain.spans import Instant, WallTime

DAY: Final = 86400.0
MINUTE: Final = 60.0
THURSDAY: Final = 3
"""The day on which Unix time begins; Monday is 0."""


def earliest(failback: Failback, fit_since: Instant, now: Instant, wall: WallTime) -> Instant:
    """From when on the role may go back to a member that has been fit for it since then."""
    at = max(now, fit_since + failback.after)
    if failback.window is None:
        return at
    return now + (opens_at(failback.window, wall + (at - now)) - wall)


def opens_at(window: Window, wall: WallTime) -> WallTime:
    """The first instant from `wall` on that lies in the window. A window past midnight belongs to the day on which it begins."""
    today = wall // DAY
    lasts = (window.ends - window.begins) % (24 * 60) * MINUTE
    for day in range(-1, 8):
        begins = (today + day) * DAY + window.begins * MINUTE
        if int(today + day + THURSDAY) % 7 in window.days and wall < begins + lasts:
            return max(wall, begins)
    raise ValueError(f"a window without days: {window}")
