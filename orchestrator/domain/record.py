"""What the mediator keeps for a group: the record of the right, and the control of the people.

The record is the right itself (design, section 5, rule 1); the control holds what people said: a pause, an open proposal,
a request. A claim checks both in one transaction, so a pause that was set in time always wins.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from orchestrator.domain.spans import Span, WallTime
from orchestrator.domain.topology import GroupName, Life, NodeName, Pair


class Cause(StrEnum):
    """What made the present primary primary."""

    FOUNDING = "founding"
    FAILOVER = "failover"
    SWITCHOVER = "switchover"
    ADOPTION = "adoption"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Who is primary, in which epoch, and who may follow. Changed only by compare-and-set of the whole."""

    version: int
    incarnation: int
    """Random number of this line of records: a mediator that was emptied or restored by hand has another one."""
    epoch: int
    primary: Pair
    succession: tuple[Pair, ...]
    lease: Span
    nonce: int
    """Random number of the write: its author recognises its own write by it when the answer was lost."""
    cause: Cause
    reason: str
    since: WallTime
    """When the epoch began; for people."""
    quorum: int = 0
    """Every acknowledged commit is on at least so many of the succession; 0 where that is all of it (or nothing is promised)."""

    def life_in_succession(self, name: NodeName) -> Life | None:
        return next((pair.life for pair in self.succession if pair.name == name), None)


class RequestKind(StrEnum):
    SWITCHOVER = "switchover"
    FAILOVER = "failover"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A person's word that a role shall change: by command, or by approving a proposal. Counts once."""

    id: str
    kind: RequestKind
    epoch: int
    """The word holds for this epoch only: any change of primary makes it void."""
    target: NodeName | None
    by: str
    at_wall: WallTime
    expires_wall: WallTime
    proposal: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Why a request was not carried out: whoever asked may have asked on another host than the one that decided."""

    request: str
    text: str
    by: NodeName
    at_wall: WallTime


FAILBACK: Final = "failback"
"""What stands in the place of a diagnosis when nobody has failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A decision that waits for a person, with everything the person needs to decide."""

    id: str
    epoch: int
    diagnosis: str
    """Code of the diagnosis; the proposal is void as soon as it no longer holds."""
    subject: NodeName
    candidate: NodeName
    situation: str
    evidence: tuple[str, ...]
    expected_loss_bytes: int | None
    """Bytes that the primary was known to have and the candidate lacks; None when that cannot be told."""
    author: NodeName
    at_wall: WallTime
    expires_wall: WallTime


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    by: str
    at_wall: WallTime
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """What people said about the group."""

    version: int
    paused: Pause | None = None
    proposal: Proposal | None = None
    request: Request | None = None
    answer: Answer | None = None
    """To the last request that was not carried out."""
    rejected: str | None = None
    """Id of the proposal that was rejected last: the same situation does not ask again before `reject_holds`."""
    rejected_wall: WallTime = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Both, as read at one moment. `record` is None when the mediator answered that there is none."""

    group: GroupName
    record: Record | None
    control: Control
