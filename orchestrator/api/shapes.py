"""What goes in and comes out, as the published document describes it. A test holds real reports against it."""

from typing import Any

from pydantic import BaseModel, ConfigDict


class Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Word(Shape):
    """What a person says, and who says it."""

    by: str | None = None
    """On the host's own socket. Over the network the token says it."""
    target: str | None = None
    proposal: str | None = None
    epoch: int | None = None
    reason: str = ""


class Problem(Shape):
    error: str


class Health(Shape):
    phase: str
    epoch: int
    reason: str | None = None


class Path(Shape):
    path: str
    heard_ago_seconds: float | None
    lost: float
    """Share of the last 64 beats."""
    round_trip_seconds: float | None


class FindingTold(Shape):
    code: str
    words: str
    for_seconds: float


class Member(Shape):
    name: str
    witness: bool
    address: str | None
    health: str
    finding: FindingTold | None
    role: str | None
    phase: str | None
    serving_epoch: int
    electable: bool
    why_not: str
    hears: list[str]
    following: str | None
    offset: int | None
    lag_bytes: int | None
    in_succession: bool
    heard_ago_seconds: float | None
    silent: bool
    paths: list[Path]
    self: bool


class RefusalTold(Shape):
    act: str
    gate: str
    reason: str
    for_seconds: float
    opens_in_seconds: float | None


class VerdictTold(Shape):
    diagnosis: str
    subject: str
    sentence: str
    certain: bool
    evidence: list[str]


class MediatorTold(Shape):
    record: str
    lost_seconds: float | None
    because: str


class RightTold(Shape):
    held: bool
    left_seconds: float | None
    frozen: bool
    endless: bool | None = None
    counted: list[str] | None = None
    budget_seconds: float | None = None


class GroupTold(Shape):
    group: str
    node: str
    phase: str
    in_phase_seconds: float
    epoch: int
    primary: str | None
    serving: str | None
    since_wall: float | None
    cause: str | None
    reason: str | None
    version: int | None
    succession: list[str]
    quorum: int
    lease_seconds: float
    right: RightTold
    watched_pid: int
    gate: str
    automation: str
    paused: dict[str, Any] | None
    proposal: dict[str, Any] | None
    request: dict[str, Any] | None
    answer: dict[str, Any] | None
    mediator: MediatorTold
    verdict: VerdictTold | None
    refusals: list[RefusalTold]
    members: list[Member]
    clients: str
    divergence: list[Any]
    failures: list[str]


class KeeperTold(Shape):
    connected: bool
    started_by_this_daemon: int
    remarks: list[str]


class NodeTold(Shape):
    cluster: str
    node: str
    up_seconds: float
    mediator: str
    keeper: KeeperTold
    groups: dict[str, GroupTold]


class Sentence(Shape):
    wall: float
    node: str
    kind: str
    code: str
    text: str
    epoch: int
    evidence: list[str] = []


class Explanation(Shape):
    group: str
    epoch: int
    primary: str | None
    phase: str
    reason: str | None
    verdict: VerdictTold | None
    refusals: list[RefusalTold]
    failures: list[str]
    divergence: list[Any]
    history: list[Sentence]


class Said(Shape):
    said: dict[str, Any]
    """What stands at the mediator now."""
    epoch: int


class Adopted(Shape):
    record: dict[str, Any]
