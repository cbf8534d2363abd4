"""Phase HANDING_OVER: a switchover, on the side that gives. One function per stage; any failure in time rolls back.

Nothing is lost because the clients' writes are held before the target's position is awaited, and because the old primary
has said that it is a standby before the right is released.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from orchestrator.domain import commands
from orchestrator.domain.effects import EnsureService, LookNow, NoticeKind, TellKeeper, WantedRole
from orchestrator.domain.observations import Hold, Role, Statement
from orchestrator.domain.positions import bytes_behind
from orchestrator.domain.record import Record, Request, RequestKind
from orchestrator.domain.spans import Span
from orchestrator.domain.topology import NodeName, Pair
from orchestrator.engine import electing, writes
from orchestrator.engine.state import Handover, HandoverStage, Phase, State
from orchestrator.engine.turn import Turn

HANDOVER_WITHIN: Span = 5.0
"""Clients' writes are never held longer than this: then the old primary serves on."""

AGAIN: Span = 1.0
LOOK_AGAIN: Span = 0.01


def begin_handover(turn: Turn, record: Record, request: Request) -> None:
    """Check the target; nothing has been touched yet, so every refusal is free."""
    state = turn.state
    if request.id == state.heard_request:
        return
    turn.change(heard_request=request.id, answer="")
    target, reason = _target(state, record, request)
    if target is None:
        turn.change(answer=reason)
        turn.refuse("switchover", "target", reason)
        turn.notice(NoticeKind.REFUSAL, "switchover refused", f"request {request.id} of {request.by} refused: {reason}")
        return
    turn.allow("switchover")
    turn.change(
        handover=Handover(
            request=request.id,
            target=target,
            stage=HandoverStage.HOLD,
            began_at=state.now,
            stage_since=state.now,
        )
    )
    turn.enter(Phase.HANDING_OVER, f"switchover from {state.me} to {target}, by the word of {request.by}")


def _target(state: State, record: Record, request: Request) -> tuple[NodeName | None, str]:
    """The member that shall take over, or why it cannot."""
    if request.target is None:
        unfit = {pair.name: why_not_target(state, record, pair.name, request.kind) for pair in record.succession}
        choice = electing.candidate(state, record, unfit)
        return choice.name, "; ".join(choice.passed_over) or "the succession is empty"
    reason = why_not_target(state, record, request.target, request.kind)
    return (None if reason else request.target), reason


def why_not_target(state: State, record: Record, name: NodeName, kind: RequestKind = RequestKind.SWITCHOVER) -> str:
    """Why the role cannot be handed over to this member now; empty when it can."""
    if name == state.me:
        return f"{name} is the primary already"
    life = record.life_in_succession(name)
    if life is None:
        return f"{name} is not in the succession of epoch {record.epoch}"
    peer = state.heard(name)
    if peer is None or peer.life != life or peer.statement is None:
        return f"{name} is not heard"
    if not peer.statement.electable:
        return f"{name} cannot be primary: {peer.statement.why_not}"
    if kind is not RequestKind.SWITCHOVER:
        return ""
    if peer.statement.following != state.me:
        return f"{name} does not follow {state.me} at the moment"
    view, position = state.local.view, peer.statement.position
    if view is not None and position is not None and bytes_behind(position, view.position) is None:
        return f"{name} still holds what it copied before {state.me} began anew"
    return ""


def handing_over(turn: Turn) -> None:
    state = turn.state
    record, handover, keeper = state.record, state.handover, state.keeper
    if record is None or handover is None or keeper is None:
        return
    if record.primary.name != state.me:
        turn.change(handover=None)
        turn.enter(Phase.JOINING, f"{record.primary.name} has taken over in epoch {record.epoch}")
        return
    if keeper.hold is Hold.NONE and _ended_by_itself(state, record, handover):
        turn.change(handover=None)
        turn.enter(Phase.LETTING_GO, "the service ended during the switchover")
        return
    if handover.stage is not HandoverStage.ROLL_BACK and state.now > handover.began_at + HANDOVER_WITHIN:
        _fail(turn, record, handover, f"not finished within {HANDOVER_WITHIN:.0f} s while it was to {handover.stage}")
        return
    turn.wake(handover.began_at + HANDOVER_WITHIN)
    if keeper.hold is not Hold.NONE and writes.renew_due(turn) and writes.may_write(turn):
        writes.send(turn, writes.next_record(turn, primary=Pair(state.me, keeper.life)))
    STAGES[handover.stage](turn, record, handover)


def _ended_by_itself(state: State, record: Record, handover: Handover) -> bool:
    """The service has gone, and not because it was stopped, or had been brought to a standstill, for the switchover."""
    if state.local.gone_since is None or handover.position is not None:
        return False
    return EnsureService(role=WantedRole.HELD, epoch=record.epoch) in state.failures


def _next(turn: Turn, handover: Handover, stage: HandoverStage) -> None:
    following = replace(handover, stage=stage, stage_since=turn.now)
    turn.change(handover=following)
    turn.notice(NoticeKind.EVENT, "switchover", f"switchover to {handover.target}: {stage}")
    record = turn.state.record
    assert record is not None
    STAGES[stage](turn, record, following)


def _fail(turn: Turn, record: Record, handover: Handover, reason: str) -> None:
    """Clients' writes are held meanwhile, so the way back begins in this very step."""
    turn.notice(NoticeKind.DECISION, "switchover failed", f"switchover to {handover.target} failed: {reason}")
    failed = replace(handover, stage=HandoverStage.ROLL_BACK, stage_since=turn.now, failure=reason)
    turn.change(handover=failed, answer=f"switchover to {handover.target} failed: {reason}")
    _roll_back(turn, record, failed)


def _target_words(turn: Turn, handover: Handover) -> Statement | None:
    peer = turn.state.heard(handover.target)
    return peer.statement if peer is not None else None


def _hold(turn: Turn, record: Record, handover: Handover) -> None:
    """Clients' writes wait from here on; the position that is read after that is the end of the data."""
    wanted = EnsureService(role=WantedRole.HELD, epoch=record.epoch)
    if not turn.is_done(wanted):
        turn.want(wanted, again_every=AGAIN)
        if wanted in turn.state.failures:
            _fail(turn, record, handover, f"clients' writes could not be held: {turn.state.failures[wanted]}")
        return
    view = turn.state.local.view
    if view is None or turn.state.local.viewed_at < turn.state.local.changed_at:
        turn.want(LookNow(), again_every=LOOK_AGAIN)
        return
    _next(turn, replace(handover, position=view.position), HandoverStage.DRAIN)


def _drain(turn: Turn, record: Record, handover: Handover) -> None:
    words = _target_words(turn, handover)
    if words is None:
        _fail(turn, record, handover, f"{handover.target} is not heard any more")
        return
    if words.position is None or handover.position is None:
        return
    behind = bytes_behind(words.position, handover.position)
    if behind is None:
        _fail(turn, record, handover, f"{handover.target} has another history")
    elif behind <= 0:
        _next(turn, handover, HandoverStage.DEMOTE)


def _demote(turn: Turn, record: Record, handover: Handover) -> None:
    """The old primary becomes a standby while it still holds the right: from then on nothing here can commit.

    A service whose writes can only be held by stopping it has no process left: that is as good.
    """
    stopped = turn.state.local.view is not None and not turn.state.local.view.pid
    if stopped or turn.state.local.gone_since is not None:
        if turn.state.keeper is not None and turn.state.keeper.hold is Hold.NONE:
            _next(turn, handover, HandoverStage.RELEASE)
        return
    wanted = EnsureService(role=WantedRole.STANDBY, epoch=record.epoch, upstream=handover.target)
    if not turn.is_done(wanted):
        turn.want(wanted, again_every=AGAIN)
        return
    view, keeper = turn.state.local.view, turn.state.keeper
    assert keeper is not None
    if view is None or view.role is not Role.STANDBY:
        turn.want(LookNow(), again_every=LOOK_AGAIN)
        return
    if keeper.hold is not Hold.NONE:
        turn.want(TellKeeper(commands.Demoted()), again_every=AGAIN)
        return
    _next(turn, handover, HandoverStage.RELEASE)


def _release(turn: Turn, record: Record, handover: Handover) -> None:
    """The right is the target's for the taking; a target that does not take it within two leases is not waited for."""
    keeper = turn.state.keeper
    assert keeper is not None
    if keeper.release is None:
        turn.want(TellKeeper(commands.GiveUp(handover.position, handover.target)), again_every=AGAIN)
    patience = max(2 * record.lease, 1.0)
    turn.wake(handover.stage_since + patience)
    if turn.now > handover.stage_since + patience:
        _fail(turn, record, handover, f"{handover.target} did not take over")


def _roll_back(turn: Turn, record: Record, handover: Handover) -> None:
    """Serve on. After a release it takes a write (rule 21): if the target's claim was first, it fails and we follow."""
    state = turn.state
    keeper = state.keeper
    assert keeper is not None
    if state.local.gone_since is not None and keeper.hold is Hold.NONE:
        _back(turn, Phase.STARTING, handover)
        return
    if keeper.hold is not Hold.NONE and keeper.release is None and keeper.right_epoch == record.epoch:
        unheld = EnsureService(role=WantedRole.PRIMARY, epoch=record.epoch)
        if not turn.is_done(unheld):
            turn.want(unheld, again_every=AGAIN)
            return
        _back(turn, Phase.SERVING, handover)
        return
    if keeper.release is None and keeper.right_until > turn.now and keeper.right_epoch == record.epoch:
        _back(turn, Phase.STARTING, handover)  # whatever answers now is compared with the others before it serves
        return
    due = state.last_write_at + record.lease / 3
    turn.wake(due)
    if turn.now >= due and writes.may_write(turn):
        writes.send(turn, writes.next_record(turn, primary=Pair(state.me, keeper.life)))


def _back(turn: Turn, phase: Phase, handover: Handover) -> None:
    turn.change(handover=None)
    turn.enter(phase, f"switchover to {handover.target} rolled back: {handover.failure}")


STAGES: Final[Mapping[HandoverStage, Callable[[Turn, Record, Handover], None]]] = {
    HandoverStage.HOLD: _hold,
    HandoverStage.DRAIN: _drain,
    HandoverStage.DEMOTE: _demote,
    HandoverStage.RELEASE: _release,
    HandoverStage.ROLL_BACK: _roll_back,
}
