"""What the daemon may ask of its keeper. Plain data: the same values reach a real keeper and a simulated one."""

from dataclasses import dataclass
from typing import TypeAlias

from orchestrator.domain.observations import Statement
from orchestrator.domain.positions import Position
from orchestrator.domain.record import Record
from orchestrator.domain.spans import Instant, Span
from orchestrator.domain.topology import NodeName, Pair


@dataclass(frozen=True, slots=True)
class Saw:
    """The record as the mediator shows it."""

    record: Record


@dataclass(frozen=True, slots=True)
class Prepare:
    """Before a write is sent that adds members or shortens the lease: count them, and it, from now on (rule 9, rule 2)."""

    pairs: tuple[Pair, ...]
    lease: Span


@dataclass(frozen=True, slots=True)
class Wrote:
    """An own write is known to have been applied; it was begun at `began_at`, before it was handed to the library."""

    record: Record
    began_at: Instant


@dataclass(frozen=True, slots=True)
class Arm:
    """The service is about to be made primary in `epoch`: guard and gate must stand first (rule 13)."""

    epoch: int


@dataclass(frozen=True, slots=True)
class BeginClaim:
    """Stop promising, if the own promise has run out or a release stands: the claim on `version` follows (rule 11)."""

    version: int
    no_promise_after: Instant | None = None
    """The end of the own promise on which the claim rests: the others' positions count only if none was given since."""


@dataclass(frozen=True, slots=True)
class Found:
    """The local service's main process. `writable_epoch` is the epoch in which it may commit as primary; 0 when it cannot."""

    pid: int
    process_started: int
    writable_epoch: int
    readable: bool = False
    """It has said that it is a standby: clients may read from it, as long as the keeper lives and sees it live."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The service is confirmed primary in `epoch`: promotion is over."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Demoted:
    """The service is confirmed unable to commit clients' writes (it says that it is a standby, or it is stopped)."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Release the right (rule 18). With a target only that member may use it, and must hold the position."""

    position: Position | None
    target: NodeName | None


@dataclass(frozen=True, slots=True)
class Froze:
    """The daemon has stopped the service itself, because the keeper was late; only the keeper lets it go on."""


@dataclass(frozen=True, slots=True)
class KillService:
    """Freeze, then kill every process of the local service."""


@dataclass(frozen=True, slots=True)
class Say:
    """The daemon's own words for the beats, and whether the service lives."""

    statement: Statement
    urgent: bool = False
    """Others wait for these words: beat now."""


Command: TypeAlias = Saw | Prepare | Wrote | Arm | BeginClaim | Found | Opened | Demoted | GiveUp | Froze | KillService | Say
