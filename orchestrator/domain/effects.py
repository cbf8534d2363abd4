"""What the engine wants of the world. An effect names a wanted end state and its epoch, so asking twice is safe."""

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from orchestrator.domain.commands import Command
from orchestrator.domain.record import Control, Record
from orchestrator.domain.spans import Span
from orchestrator.domain.topology import Life, NodeName


class WantedRole(StrEnum):
    """End states of the local service."""

    PRIMARY = "primary"
    HELD = "held"
    """Primary whose clients' writes wait: the data stands still for a switchover."""
    STANDBY = "standby"


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsureService:
    role: WantedRole
    epoch: int
    upstream: NodeName | None = None
    """Whom a standby follows; None: it follows nobody yet (and accepts no writes)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsureReplicas:
    """Which standbys must have a write before it is acknowledged.

    `names` are exactly the members without whose word no commit is acknowledged (PostgreSQL `synchronous_standby_names`), or,
    where `enough` says so, of whom any so many must have it; `at_least` is how many standbys must follow at all (Redis
    `min-replicas-to-write`); with fewer names than that a commit waits for a standby that does not exist.
    """

    at_least: int
    epoch: int
    names: tuple[NodeName, ...] = ()
    enough: int | None = None
    """How many of `names` must have a commit; None: each of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsureClients:
    """Clients on this host are led to `primary`."""

    primary: NodeName
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteRecord:
    """Compare-and-set of the record, never repeated by anybody but the engine, given up after `within` (rule 10)."""

    record: Record
    expected: int | None
    """The version that must still stand; None to create the record."""
    control_expected: int | None = None
    """The control's version that must still stand too; None when people's words do not matter to this write."""
    control: Control | None = None
    """Written in the same transaction, to use up the word on which the write rests."""
    within: Span


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteControl:
    control: Control
    expected: int
    within: Span = 2.0


@dataclass(frozen=True, slots=True)
class ReadMediator:
    """Read now, rather than at the next notice or poll."""


@dataclass(frozen=True, slots=True)
class LookNow:
    """Look at the local service now, rather than at the next turn."""


@dataclass(frozen=True, slots=True)
class TellKeeper:
    command: Command


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the local service: its process, in the boot that the keeper's life stands for."""

    life: Life
    pid: int
    process_started: int
    boot: str = ""
    """The host's own name for its boot; process numbers mean nothing in another one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What this member has lived through; kept on disk, so that an emptied mediator is recognised (rule 23)."""

    record: Record | None = None
    """The newest record seen."""
    served_epoch: int = 0
    """The last epoch in which the local service was made primary."""
    whole: Run | None = None
    """The run in which the local service served, or its primary's data was seen arriving."""

    @property
    def epoch(self) -> int:
        return max(self.served_epoch, self.record.epoch if self.record else 0)


@dataclass(frozen=True, slots=True)
class Remember:
    history: History


class NoticeKind(StrEnum):
    DECISION = "decision"
    REFUSAL = "refusal"
    ALARM = "alarm"
    EVENT = "event"


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """A sentence for the history: what was decided or refused, and why."""

    kind: NoticeKind
    code: str
    text: str
    epoch: int
    evidence: tuple[str, ...] = ()


Effect: TypeAlias = (
    EnsureService
    | EnsureReplicas
    | EnsureClients
    | WriteRecord
    | WriteControl
    | ReadMediator
    | LookNow
    | TellKeeper
    | Remember
    | Notice
)
