"""The operator's choices: numbers and levels, already checked."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from orchestrator.domain.spans import Span

BEATS: Final = 10
"""To a lease: three missing still leave time to renew through the mediator (rule 9)."""


class Automation(StrEnum):
    """Who acts. Ordered from most to least by itself."""

    AUTOMATIC = "automatic"
    CONFIRM = "confirm"
    MANUAL = "manual"
    OBSERVE = "observe"


class Replication(StrEnum):
    ASYNCHRONOUS = "asynchronous"
    SYNCHRONOUS = "synchronous"
    QUORUM = "quorum"


@dataclass(frozen=True, slots=True, kw_only=True)
class TimingRule:
    """How long a condition must last before it counts as a failure, and who then decides."""

    after: Span
    automation: Automation | None = None
    """Overrides the group's level for this condition."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    host_down: TimingRule
    process_down: TimingRule = field(default_factory=lambda: TimingRule(after=0.0))
    unresponsive: TimingRule = field(default_factory=lambda: TimingRule(after=2.0))
    restarts_first: int = 0
    """How often a dead process is started again in place before its role is given away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A time of some days of the week, UTC."""

    days: tuple[int, ...]
    """Monday is 0."""
    begins: int
    """Minutes after midnight."""
    ends: int
    """Minutes after midnight; of the next day when that is not later than the beginning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failback:
    """The role goes back to the preferred member by a switchover."""

    after: Span
    """How long it must have been fit to take over, without a break."""
    window: Window | None = None
    """Only then; None: at any time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """One group's policy."""

    lease: Span
    timing: Timing
    automation: Automation = Automation.AUTOMATIC
    cooldown: Span = 0.0
    """After a failover no other starts by itself for this long; it becomes a proposal."""
    failback: Failback | None = None
    """None: whoever is primary stays it."""
    proposal_expires: Span = 600.0
    max_lag_bytes: int = 16 * 1024 * 1024
    """A standby further behind than this does not come into the succession, and leaves it once that has lasted `lag_after`."""
    lag_after: Span = 1.0
    """Not at once: where PostgreSQL switches to the next segment, positions move by up to 16 MB without any data."""
    replication: Replication = Replication.ASYNCHRONOUS
    min_replicas: int = 0
    """Redis: `min-replicas-to-write` that the primary runs with while enough standbys follow. Under a quorum: how many standbys
    must have a commit, while so many are listed."""
    strict: bool = False
    """Without a standby that could take over the primary acknowledges nothing, where it otherwise goes on alone."""
    fetch_within: Span = 5.0
    """How long a candidate copies what a standby that may not be primary has more than it."""
    revision: str = ""
    """Digest of the policy's text, so that members with different policies are noticed."""

    @property
    def beat_every(self) -> Span:
        return self.lease / BEATS

    @property
    def drop_after(self) -> Span:
        """Silence after which a member leaves the succession (rule 9)."""
        return 3 * self.lease

    @property
    def positions_within(self) -> Span:
        """How long a candidate waits for the other standbys' final positions."""
        return min(self.lease / 4, 0.25)

    @property
    def look_every(self) -> Span:
        """Spacing of looks at the local service: eight fit into the time that makes a service unresponsive."""
        return min(max(self.timing.unresponsive.after / 8, 0.05), 0.25)
