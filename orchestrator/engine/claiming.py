"""Phases CLAIMING and PROMOTING: win the record, then make the service primary under guard."""

from orchestrator.domain import commands
from orchestrator.domain.effects import EnsureReplicas, EnsureService, NoticeKind, ReadMediator, TellKeeper, WantedRole
from orchestrator.domain.observations import Hold, Role
from orchestrator.domain.record import Cause, Record
from orchestrator.domain.spans import Span
from orchestrator.domain.topology import Pair
from orchestrator.engine import electing, gates, people, replicas, writes
from orchestrator.engine.diagnosing import usable_release
from orchestrator.engine.state import Phase, State
from orchestrator.engine.turn import Turn

ARM_AGAIN: Span = 0.05
PROMOTE_AGAIN: Span = 1.0
PROMOTE_WITHIN: Span = 30.0
"""A promotion that has not succeeded by then is given up, so that another member may try."""


def claiming(turn: Turn) -> None:
    """The keeper has stopped promising; the claim goes out, and stays out until a newer version decides it."""
    state = turn.state
    record, keeper = state.record, state.keeper
    if record is None or keeper is None:
        return
    if record.primary == Pair(state.me, keeper.life):
        turn.change(asking=None, promotable=electing.process(state))
        if _was_replaced(state, record):
            turn.enter(Phase.JOINING, "the service here was restarted while it was claimed for: its data is compared first")
            return
        turn.enter(Phase.PROMOTING, f"{state.me} holds epoch {record.epoch}")
        return
    if keeper.claim != record.version:
        if any(pending.in_flight for pending in state.pending):
            turn.want(ReadMediator(), again_every=record.lease / 4)  # that newer version may well be our own
            return
        turn.enter(Phase.JOINING, f"the record has moved on to version {max(record.version, keeper.version)}")
        return
    if any(pending.in_flight for pending in state.pending):
        return
    if state.pending:
        turn.want(ReadMediator(), again_every=record.lease / 4)
    _send_claim(turn, record, keeper.life)


def _was_replaced(state: State, record: Record) -> bool:
    """What answers now is not the standby whose data the claim rested on."""
    view = state.local.view
    return view is not None and (view.role is not Role.STANDBY or electing.why_not_whole(state, record) != "")


def _send_claim(turn: Turn, record: Record, life: int) -> None:
    """The gates are asked once more: a pause or a revived primary since the keeper stopped promising still counts."""
    state = turn.state
    due = _claim_again_at(state, record)
    turn.wake(due)
    red = gates.red_gates(state, record)
    if red:
        name, closed = red[0]
        turn.refuse("takeover", name, closed.reason, closed.until)
        turn.wake(closed.until)
        return
    if turn.now < due:
        return
    cause, reason = _why(state, record)
    claim = writes.claim_record(turn, life, cause, reason)
    writes.send(turn, claim, claim=True, control=people.use_up(state.control))


def _claim_again_at(state: State, record: Record) -> float:
    """An undecided claim waits a lease; one that was refused because people's words had changed goes out with the new ones."""
    if not state.pending:
        return state.now
    outdated = all(each.refused and each.write.control_expected != state.control.version for each in state.pending)
    return state.now if outdated else state.last_write_at + record.lease


def _why(state: State, record: Record) -> tuple[Cause, str]:
    release = usable_release(state, record)
    request = gates.standing_request(state)
    by = f", by the word of {request.by}" if request else ""
    if release is not None and release.target == state.me:
        return Cause.SWITCHOVER, f"switchover from {record.primary.name} to {state.me}{by}"
    sentence = state.verdict.sentence if state.verdict else "unknown"
    return Cause.FAILOVER, f"failover to {state.me}: {sentence}{by}"


def promoting(turn: Turn) -> None:
    """Guard and gate first (rule 13), then the service; open only what has said that it is primary."""
    state = turn.state
    record, keeper = state.record, state.keeper
    if record is None or keeper is None:
        return
    if record.primary.name != state.me or state.epoch > record.epoch:
        turn.enter(Phase.JOINING, f"epoch {state.epoch} is newer than the one that was being served here")
        return
    if state.now > state.phase_since + PROMOTE_WITHIN:
        turn.enter(Phase.LETTING_GO, "the service could not be made primary in time")
        return
    turn.wake(state.phase_since + PROMOTE_WITHIN)
    if state.local.gone_since is not None and keeper.hold is Hold.NONE:
        turn.enter(Phase.LETTING_GO, "the service ended while it was being made primary")
        return
    if keeper.hold is Hold.NONE and state.promotable not in (None, electing.process(state)) and state.local.view is not None:
        turn.enter(Phase.STARTING, "the service was restarted before it was made primary: its data is compared first")
        return
    _keep_right(turn)
    if keeper.right_epoch != record.epoch:
        if state.phase_since == state.now and keeper.life == record.primary.life:
            turn.want(TellKeeper(commands.Arm(record.epoch)), again_every=ARM_AGAIN)  # right behind the news of the write
        return
    if keeper.hold is Hold.NONE:
        turn.want(TellKeeper(commands.Arm(record.epoch)), again_every=ARM_AGAIN)
        return
    if not replicas.ready_to_open(turn, record):
        return
    wanted = EnsureService(role=WantedRole.PRIMARY, epoch=record.epoch)
    view = state.local.view
    if not turn.is_done(wanted) or view is None or view.role is not Role.PRIMARY:
        turn.want(wanted, again_every=PROMOTE_AGAIN)
        return
    if keeper.hold is Hold.PROMOTING:
        turn.emit(TellKeeper(commands.Opened(record.epoch)))
    turn.forget(EnsureReplicas)
    turn.enter(Phase.SERVING, f"{state.me} serves epoch {record.epoch}: {record.reason}")
    turn.notice(NoticeKind.EVENT, "serving", f"{state.me} is primary of {state.group.name} in epoch {record.epoch}")


def _keep_right(turn: Turn) -> None:
    """A promotion that outlasts the claim's own lease is carried by renewals."""
    state = turn.state
    keeper, record = state.keeper, state.record
    assert keeper is not None and record is not None
    lapsed = keeper.hold is Hold.NONE and keeper.right_until < turn.now + record.lease / 2
    if not lapsed and not writes.renew_due(turn):
        return
    due = state.last_write_at + record.lease / 3
    turn.wake(due)
    if turn.now >= due and writes.may_write(turn):
        writes.send(turn, writes.next_record(turn, primary=Pair(state.me, keeper.life)))
