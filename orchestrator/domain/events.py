"""What happened. Events change what is known; what is known decides."""

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from orchestrator.domain.effects import Effect, WriteRecord
from orchestrator.domain.observations import KeeperView, Outcome, ServiceView
from orchestrator.domain.policy import Policy
from orchestrator.domain.record import Snapshot
from orchestrator.domain.spans import Instant, WallTime


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticked:
    """The instant for which the engine asked has come."""

    at: Instant
    wall: WallTime


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """One look at the local service, begun at `began_at`."""

    at: Instant
    wall: WallTime
    began_at: Instant
    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class KeeperSeen:
    """The keeper's page, read because something in it changed. None: there is no keeper at the moment."""

    at: Instant
    wall: WallTime
    view: KeeperView | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MediatorRead:
    at: Instant
    wall: WallTime
    snapshot: Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class MediatorLost:
    """Nothing is known of the record from now on; everything that was known goes on counting down."""

    at: Instant
    wall: WallTime
    reason: str


class WriteOutcome(StrEnum):
    APPLIED = "applied"
    CONFLICT = "conflict"
    UNKNOWN = "unknown"
    """No answer in time: it may have been applied, or may be yet (rule 10)."""
    NOT_SENT = "not sent"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordWritten:
    """How a write of the record ended. `began_at` is from before it was handed to the library."""

    at: Instant
    wall: WallTime
    began_at: Instant
    write: WriteRecord
    outcome: WriteOutcome
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectDone:
    at: Instant
    wall: WallTime
    effect: Effect
    view: ServiceView | None = None
    """The service as it was read back after its role was changed. Without a process: it was stopped in that role."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectFailed:
    at: Instant
    wall: WallTime
    effect: Effect
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyChanged:
    at: Instant
    wall: WallTime
    policy: Policy


Event: TypeAlias = (
    Ticked | Looked | KeeperSeen | MediatorRead | MediatorLost | RecordWritten | EffectDone | EffectFailed | PolicyChanged
)
