"""What was seen: of the local service, of the keeper, of the other members. Seen, not yet judged."""

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from orchestrator.domain.positions import Position
from orchestrator.domain.spans import Instant, Span
from orchestrator.domain.topology import Life, NodeName, Pair
from orchestrator.domain.verdicts import Finding


class Role(StrEnum):
    """What a running service says it is."""

    PRIMARY = "primary"
    STANDBY = "standby"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceView:
    """What the local service answered to one look."""

    role: Role
    position: Position
    pid: int
    """Main process; freezing and killing start here."""
    process_started: int
    """Clock ticks since boot at which the main process began (proc(5), stat field 22): with the pid it names one process."""
    upstream: tuple[str, int] | None = None
    """Whom it replicates from, as host and port; None on a primary and on a standby without one."""
    link_up: bool = False
    """The upstream's data is arriving (first copy finished)."""
    link_heard_ago: Span | None = None
    """How long ago the upstream's last word came, by this host's clock alone; None where the service does not tell."""
    empty: bool = False
    """It holds no data at all: it must never become anybody's source while others hold some."""
    durable: bool = False
    """Whatever it has received survives its own restart; otherwise a restart may have taken it back to an older copy."""
    writes_held: bool = False
    replicas: int = 0
    software: str = ""


@dataclass(frozen=True, slots=True)
class Answered:
    view: ServiceView
    after: Span
    finding: Finding | None = None
    """It answers, and yet something is wrong: a commit to disk does not come back, a fresh connection is not let in."""


@dataclass(frozen=True, slots=True)
class Refused:
    """It spoke, and said no: starting up, loading, wrong password. `gone` when nobody listens there."""

    reason: str
    gone: bool = False
    finding: Finding | None = None
    """Set where it refuses its clients as it refuses us, so that it cannot do its work."""


@dataclass(frozen=True, slots=True)
class Silent:
    within: Span
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Abstained:
    """Our own side was at fault (no route, no socket, we were stalled): not a vote."""

    reason: str
    finding: Finding | None = None
    """What is worth telling all the same: that the service is overloaded."""


Outcome: TypeAlias = Answered | Refused | Silent | Abstained


class Health(StrEnum):
    """One word about a member's service, as its own daemon puts it into the beats."""

    WELL = "well"
    STARTING = "starting"
    DEAD = "dead"
    UNRESPONSIVE = "unresponsive"
    YIELDING = "yielding"
    """It runs, but must not serve although the record names it: a standby holds more."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What a member's daemon says of itself in every beat."""

    health: Health = Health.UNKNOWN
    finding: Finding | None = None
    """What is wrong with its service, lasting or not; of a service that is gone, what was wrong with it before."""
    role: Role | None = None
    position: Position | None = None
    serving_epoch: int = 0
    """The epoch in which its service is confirmed primary and open; 0 when it is not."""
    electable: bool = False
    why_not: str = ""
    following: NodeName | None = None
    """The member whose data is arriving."""
    settled: int = 0
    """The record version for which `position` was looked at after the primary was found gone: it will not grow any more."""
    phase: str = ""
    handover: NodeName | None = None
    """The member to which a switchover is under way."""
    held_position: Position | None = None
    """Where the data ends while writes are held for a switchover."""
    restarts: int = 0
    empty: bool = False
    asks: int = 0
    """A candidate's question: look where your data ends from now on, and answer with this number."""
    answers: tuple[int, ...] = ()
    """Questions of others since which `position` was looked at; none while its data may be older than what it once had."""
    wants_role: bool = False
    """It holds a first-time claim to be primary: its service runs as one although there is no record yet."""
    hears: tuple[NodeName, ...] = ()
    """Whom its keeper hears, so that everybody can see who does not see whom."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """The holder's word that it gave the right up: usable for a claim on exactly this version (rules 18 to 20)."""

    epoch: int
    version: int
    position: Position | None = None
    target: NodeName | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PathView:
    """One way to a peer, over the last minute of beats."""

    path: str
    heard_at: Instant
    lost: float
    """Share of the peer's beats that did not arrive on this path, 0 to 1."""
    round_trip: Span | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerView:
    """Another node, as our keeper hears it."""

    name: NodeName
    life: Life = 0
    silent_since: Instant | None = None
    """When it was last heard, once three beats in a row are missing; None while it is being heard."""
    statement: Statement | None = None
    release: Release | None = None
    exited: bool = False
    """Its keeper has seen its service end, whatever its daemon says."""
    paths: tuple[PathView, ...] = ()


class Hold(StrEnum):
    """What the keeper believes of the local service's power to commit."""

    NONE = "none"
    """It cannot commit clients' writes: standby, stopped or never ours."""
    PROMOTING = "promoting"
    SERVING = "serving"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeeperView:
    """The keeper's memory, as its page shows it."""

    life: Life
    epoch: int
    version: int
    """The highest version of the record known, be it only from a beat."""
    seen_version: int = -1
    """The version whose content the keeper has."""
    incarnation: int = 0
    """The line of records that it is in; 0 while it has seen none."""
    hold: Hold
    right_epoch: int
    right_until: Instant
    wants_write: bool
    """Promises are late or void: only a write to the mediator keeps or restores the right."""
    counted: tuple[Pair, ...] = ()
    promised_to: NodeName | None = None
    promised_until: Instant = float("-inf")
    claim: int | None = None
    release: Release | None = None
    frozen_since: Instant | None = None
    gate: str = "absent"
    """`open`, `closed`, or why there is none."""
    budget: Span = 0.0
    pid: int = 0
    process_started: int = 0
    """The main process that it watches; 0 when it knows none."""
    readable: bool = False
    """The gate lets clients read from a standby."""
    main_exited: bool = False
    """The service's main process is gone and its process tree is empty."""
    stranger: bool = False
    """The service's process took another one's place, and may have come back without its data."""
    peers: tuple[PeerView, ...] = ()

    def knows_newer(self, version: int, incarnation: int) -> bool:
        """A newer version of the same line of records, be it only from a beat."""
        return self.incarnation in (0, incarnation) and self.version > version

    def peer(self, name: NodeName) -> PeerView | None:
        return next((peer for peer in self.peers if peer.name == name), None)
