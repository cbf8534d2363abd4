"""A standby that may not be primary may have more than the one that takes over: that is copied first, for a bounded time."""

from orchestrator.domain.effects import EnsureService, LookNow, NoticeKind, WantedRole
from orchestrator.domain.observations import Role
from orchestrator.domain.policy import Replication
from orchestrator.domain.positions import bytes_behind
from orchestrator.domain.record import Record
from orchestrator.domain.spans import Instant, Span
from orchestrator.domain.topology import NodeName
from orchestrator.engine import electing
from orchestrator.engine.diagnosing import usable_release
from orchestrator.engine.state import Fetching, State
from orchestrator.engine.turn import Turn

FOLLOW_AGAIN: Span = 1.0
LOOK_AGAIN: Span = 0.02


def better(state: State, record: Record) -> tuple[NodeName, int] | None:
    """The listed standby that is barred by its configuration alone and has most more than us, and how many bytes.

    A synchronous group has all that was acknowledged here; a service whose standbys keep nothing durable could come away
    with less than it had.
    """
    view, release = state.local.view, usable_release(state, record)
    if state.policy.replication is Replication.SYNCHRONOUS or view is None or not view.durable or view.role is not Role.STANDBY:
        return None
    if release is not None and release.target is not None:
        return None
    more: list[tuple[int, NodeName]] = []
    for pair in record.succession:
        member, said = state.group.member(pair.name), electing.said_by(state, pair)
        if member is None or not member.never_primary or said is None or not said.electable or said.position is None:
            continue
        behind = bytes_behind(view.position, said.position)
        if behind is not None and behind > 0:
            more.append((behind, pair.name))
    if not more:
        return None
    behind, name = max(more)
    return name, behind


def over_at(state: State, record: Record) -> Instant | None:
    """When it is given up; None while it has not begun."""
    fetching = state.fetching
    if fetching is None or fetching.version != record.version:
        return None
    return fetching.since + state.policy.fetch_within


def fetch(turn: Turn, record: Record, *, due: bool) -> bool:
    """Follow the better standby as long as it has more; false when there is nothing to fetch, or it has taken too long."""
    state = turn.state
    found = better(state, record) if due else None
    if found is None:
        if not due and state.fetching is not None:
            turn.change(fetching=None)
        return False
    if state.fetching is None or state.fetching.version != record.version:
        turn.change(fetching=Fetching(source=found[0], version=record.version, since=state.now))
        more = f"{found[0]}, which is never primary, has {found[1]} bytes more: they are fetched first"
        turn.notice(NoticeKind.DECISION, "fetch", more)
    fetching, until = turn.state.fetching, over_at(turn.state, record)
    assert fetching is not None and until is not None
    if state.now >= until:
        return False
    turn.wake(until)
    turn.want(EnsureService(role=WantedRole.STANDBY, epoch=record.epoch, upstream=fetching.source), again_every=FOLLOW_AGAIN)
    turn.want(LookNow(), again_every=LOOK_AGAIN)
    return True
