"""Writing the record: one write at a time, each with a deadline and a nonce, never repeated blindly (rule 10)."""

from dataclasses import replace

from orchestrator.domain import commands
from orchestrator.domain.effects import ReadMediator, TellKeeper, WriteRecord
from orchestrator.domain.positions import bytes_behind
from orchestrator.domain.record import Cause, Control, Record
from orchestrator.domain.spans import Span
from orchestrator.domain.topology import Pair
from orchestrator.engine import electing, quorum
from orchestrator.engine.state import Mediation, PendingWrite, State
from orchestrator.engine.turn import Turn

SHORTEST_DEADLINE: Span = 0.1
SHORTEST_SPACING: Span = 0.02
"""Between two renewals, so that news still on their way from the keeper cannot make a storm of writes."""


def report_applied(turn: Turn) -> None:
    """The keeper hears first of an own write that was found applied: it alone turns it into a right."""
    applied = turn.state.applied
    if applied is not None and turn.state.keeper is not None:
        turn.emit(TellKeeper(commands.Wrote(*applied)))
        turn.change(applied=None)


def may_write(turn: Turn) -> bool:
    """Nothing is in flight, and the record is one that may be continued (rule 23)."""
    state = turn.state
    if any(pending.in_flight for pending in state.pending):
        return False
    if state.record is None or state.mediated.status in (Mediation.ABSENT, Mediation.OLDER):
        turn.refuse("write", "record", f"the mediator's record is {state.mediated.status}")
        return False
    if is_behind(state, state.record):
        turn.want(ReadMediator(), again_every=state.policy.lease / 4)
        return False
    turn.allow("write")
    return True


def is_behind(state: State, record: Record) -> bool:
    """Rule 6: a newer epoch is known than the one that was read."""
    return state.epoch > record.epoch


def next_record(turn: Turn, **changes: object) -> Record:
    """The present record, one version on, with an own nonce."""
    record = turn.state.record
    assert record is not None
    return replace(record, version=record.version + 1, nonce=turn.draw(), **changes)  # type: ignore[arg-type]


def claim_record(turn: Turn, life: int, cause: Cause, reason: str) -> Record:
    """Rule 12: the next epoch; the old succession less self, less the old primary, less those known down."""
    state = turn.state
    record = state.record
    assert record is not None
    others = (pair for pair in record.succession if pair.name not in (state.me, record.primary.name))
    left = tuple(pair for pair in others if _still_there(turn, pair) and _has_all(state, record, pair))
    return next_record(
        turn,
        epoch=state.epoch + 1,
        primary=Pair(state.me, life),
        succession=left,
        quorum=quorum.wished(state.policy, len(left)),
        lease=state.policy.lease,
        cause=cause,
        reason=reason,
        since=state.wall,
    )


def _still_there(turn: Turn, pair: Pair) -> bool:
    peer = turn.state.heard(pair.name)
    return peer is not None and peer.life == pair.life


def _has_all(state: State, record: Record, pair: Pair) -> bool:
    """Where a listed member may lack an acknowledged commit, only those stay listed that have all that we have."""
    if quorum.needed(record) <= 1:
        return True
    said, view = electing.said_by(state, pair), state.local.view
    if said is None or said.position is None or view is None:
        return False
    behind = bytes_behind(said.position, view.position)
    return behind is not None and behind <= 0


def send(turn: Turn, record: Record, *, claim: bool = False, control: Control | None = None) -> None:
    """Hand one write to the mediator. A claim holds only while people's words are as this step read them."""
    state = turn.state
    write = WriteRecord(
        record=record,
        expected=record.version - 1 if record.version > 0 else None,
        control_expected=state.control.version if claim or control else None,
        control=control,
        within=max(record.lease / 2, SHORTEST_DEADLINE),
    )
    pending = PendingWrite(write=write, began_at=state.now, asked_at=state.now)
    kept = state.pending[-7:]  # undecided ones die with the next newer version; more than a few never stand
    turn.change(pending=(*kept, pending), last_write_at=state.now)
    turn.emit(write)


def renew_due(turn: Turn) -> bool:
    """The keeper wants a write, and the last attempt is not too young: an undecided one may still be applied."""
    state = turn.state
    keeper = state.keeper
    if keeper is None or not keeper.wants_write:
        return False
    in_doubt = state.pending or state.mediated.lost_since is not None
    paced = state.policy.lease / 3 if in_doubt else SHORTEST_SPACING
    due = state.last_write_at + paced
    turn.wake(due)
    return state.now >= due
