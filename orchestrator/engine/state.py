"""Everything the engine knows about one group on one node. Frozen: a step makes a new one."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import TypeVar

from orchestrator.domain.effects import Effect, History, WriteRecord
from orchestrator.domain.observations import Health, KeeperView, PeerView, ServiceView, Statement
from orchestrator.domain.policy import Policy
from orchestrator.domain.positions import Position
from orchestrator.domain.record import Control, Record
from orchestrator.domain.spans import NEVER, Instant, WallTime
from orchestrator.domain.topology import Group, NodeName
from orchestrator.domain.verdicts import Finding, Refusal, Verdict

K = TypeVar("K")
V = TypeVar("V")


def frozen_mapping(source: Mapping[K, V] | None = None) -> Mapping[K, V]:
    return MappingProxyType(dict(source or {}))


class Phase(StrEnum):
    """Where this member is in the life of a group. The edges between phases stand in `phases.py`."""

    STARTING = "starting"
    WITNESS = "witness"
    JOINING = "joining"
    STANDBY = "standby"
    CLAIMING = "claiming"
    PROMOTING = "promoting"
    SERVING = "serving"
    HANDING_OVER = "handing over"
    LETTING_GO = "letting go"


class Mediation(StrEnum):
    """What is known of the mediator's record."""

    UNKNOWN = "unknown"
    """Not read yet in this run of the daemon."""
    PRESENT = "present"
    ABSENT = "absent"
    """It answered that there is no record."""
    OLDER = "older"
    """Its record is older than one seen or heard, or of another incarnation (rule 23)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mediated:
    status: Mediation = Mediation.UNKNOWN
    record: Record | None = None
    """The newest record known: read in this run, or remembered from an earlier one while the mediator is away."""
    first_seen_at: Instant = NEVER
    """When this run of the daemon first saw the record's version (rule 12); NEVER while it is only remembered."""
    control: Control = field(default_factory=lambda: Control(version=-1))
    older_since: Instant | None = None
    """Since when every read has brought a record older than the one known."""
    lost_since: Instant | None = None
    lost_because: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Local:
    """What the looks at the local service have shown."""

    view: ServiceView | None = None
    """The newest answer; None when it does not answer or was never asked."""
    viewed_at: Instant = NEVER
    """When the look that brought `view` was begun."""
    silent_since: Instant | None = None
    """Beginning of the first of an unbroken row of silent looks."""
    gone_since: Instant | None = None
    """Nobody listens there, or the keeper saw the process end."""
    refused: str = ""
    finding: Finding | None = None
    """What the newest look that says anything found wrong; of a service that is gone, what made it unable to work before."""
    found_since: Instant = NEVER
    """Beginning of the first of an unbroken row of looks with such a finding."""
    changed_at: Instant = NEVER
    """When its role was changed last: looks begun earlier are out of date."""
    restarts: int = 0
    """Starts in place since the service last served steadily."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Covered:
    """Standbys that every write waits for, as the service was last seen to do."""

    names: tuple[NodeName, ...]
    since: Instant
    floor: Position | None = None
    """Where our data ended at a look begun after that: what was acknowledged earlier, without them, lies below it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a peer's daemon says, and since when it says so (by our clock)."""

    health: Health
    since: Instant
    finding: Finding | None = None
    found_since: Instant = NEVER
    position: Position | None = None
    """The last that it told: a service that is gone has none any more, and what it had is what may be lost."""


@dataclass(frozen=True, slots=True)
class Asking:
    """A candidate's question to the others, where their data ends now that the right has ended."""

    token: int
    version: int
    since: Instant
    no_promise_after: Instant | None
    """The end of the own promise on which it rests; None where it rests on a release."""


@dataclass(frozen=True, slots=True)
class Fetching:
    """A candidate copies what another standby has more than it."""

    source: NodeName
    version: int
    since: Instant


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingWrite:
    """An own write whose outcome is not known yet (rule 10)."""

    write: WriteRecord
    began_at: Instant
    asked_at: Instant
    in_flight: bool = True
    refused: bool = False
    """The mediator has answered that it was not applied."""


class HandoverStage(StrEnum):
    HOLD = "hold the clients' writes"
    DRAIN = "wait until the target has everything"
    DEMOTE = "make the old primary a standby"
    RELEASE = "release the right to the target"
    ROLL_BACK = "roll back: serve on"


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """A switchover under way, on the side that gives."""

    request: str
    target: NodeName
    stage: HandoverStage
    began_at: Instant
    stage_since: Instant
    position: Position | None = None
    failure: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    me: NodeName
    group: Group
    policy: Policy
    run: int
    """Random number of this run of the daemon; nonces and ids derive from it and `drawn`."""
    boot: str = ""
    """The host's own name for its present boot."""
    drawn: int = 0
    now: Instant = 0.0
    wall: WallTime = 0.0
    phase: Phase = Phase.STARTING
    phase_since: Instant = 0.0
    began_at: Instant = 0.0
    mediated: Mediated = field(default_factory=Mediated)
    history: History = field(default_factory=History)
    keeper: KeeperView | None = None
    local: Local = field(default_factory=Local)
    told: Mapping[NodeName, Told] = field(default_factory=frozen_mapping)
    lagging: Mapping[NodeName, Instant] = field(default_factory=frozen_mapping)
    """Standbys of ours that are further behind than policy allows, and since when."""
    pending: tuple[PendingWrite, ...] = ()
    last_write_at: Instant = NEVER
    applied: tuple[Record, Instant] | None = None
    """An own write that was just found applied, with its beginning: the keeper has yet to hear of it."""
    said: Statement | None = None
    """What the beats say now."""
    asked: Mapping[Effect, Instant] = field(default_factory=frozen_mapping)
    """When each effect was last asked for; repeated, paced, until what it wants is seen."""
    done: frozenset[Effect] = frozenset()
    """Effects whose end state was confirmed since they were last asked for."""
    failures: Mapping[Effect, str] = field(default_factory=frozen_mapping)
    covered: Covered | None = None
    preferred_fit_since: Instant | None = None
    """Since when the preferred member could take the role back; None while it could not, or while it is being handed over."""
    handover: Handover | None = None
    promotable: tuple[int, int] | None = None
    """The process (id, start) whose data was compared with the others' before it is made primary."""
    heard_request: str = ""
    """The request that was acted upon or refused last: a word counts once."""
    answer: str = ""
    """Why that request was not carried out; empty as long as it may be."""
    settled: tuple[int, Instant] = (-1, NEVER)
    """For which record version this standby looked for its final position, and from when on a look counts for it."""
    asking: Asking | None = None
    questions: Mapping[int, Instant] = field(default_factory=frozen_mapping)
    """What the others ask, and since when that has been known."""
    fetching: Fetching | None = None
    announced: tuple[str, ...] = ()
    """Changes of the succession that are being written, and that the history knows of."""
    epoch_seen_at: Instant = NEVER
    """When this run first saw the present epoch; for the cool-down."""
    refusals: Mapping[str, Refusal] = field(default_factory=frozen_mapping)
    verdict: Verdict | None = None
    alarmed: Finding | None = None
    """What the history was told to be wrong with the service here, and not yet that it is over."""
    wake_at: Instant = NEVER

    def with_remembered_record(self) -> "State":
        """At the start of a run: the record that the disk remembers stands until the mediator has been read."""
        if self.history.record is None:
            return self
        return replace(self, mediated=replace(self.mediated, record=self.history.record))

    @property
    def record(self) -> Record | None:
        return self.mediated.record

    @property
    def control(self) -> Control:
        return self.mediated.control

    @property
    def epoch(self) -> int:
        """The highest epoch known from record, keeper (that is: page and beats) or disk (rule 6)."""
        known = [self.history.epoch]
        if self.record:
            known.append(self.record.epoch)
        if self.keeper:
            known.append(self.keeper.epoch)
        return max(known)

    @property
    def primary(self) -> NodeName | None:
        return self.record.primary.name if self.record else None

    @property
    def is_member(self) -> bool:
        return self.group.member(self.me) is not None

    def peer(self, name: NodeName) -> PeerView | None:
        return self.keeper.peer(name) if self.keeper else None

    def heard(self, name: NodeName) -> PeerView | None:
        """The peer, if it is being heard now."""
        peer = self.peer(name)
        return peer if peer is not None and peer.life and peer.silent_since is None else None
