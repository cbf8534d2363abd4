"""Phases JOINING and STANDBY: follow the primary, and be ready to succeed it."""

from orchestrator.domain import commands
from orchestrator.domain.effects import EnsureService, LookNow, TellKeeper, WantedRole
from orchestrator.domain.observations import Hold, Role
from orchestrator.domain.positions import bytes_behind
from orchestrator.domain.record import Record
from orchestrator.domain.spans import Span
from orchestrator.domain.verdicts import Diagnosis
from orchestrator.engine import asking, fetching, gates, people
from orchestrator.engine.informing import following, is_awaited_target, serving_member
from orchestrator.engine.state import Phase
from orchestrator.engine.turn import Turn

FOLLOW_AGAIN: Span = 1.0
STUCK_AGAIN: Span = 3.0
START_AGAIN: Span = 2.0
CLAIM_AGAIN: Span = 0.02
LOOK_WHILE_AWAITED: Span = 0.005


def joining(turn: Turn) -> None:
    """Become a standby of the present primary. What could still commit here is the keeper's to kill first."""
    state = turn.state
    record = state.record
    if record is None:
        return
    if record.primary.name == state.me:
        turn.enter(Phase.STARTING, f"the record of epoch {record.epoch} names {state.me}")
        return
    keeper = state.keeper
    if keeper is not None and keeper.hold is not Hold.NONE:
        turn.refuse("join", "service", "the service here is still being stopped from its older epoch")
        return
    if _holds_foreign_data(turn, record) or _would_be_wiped(turn, record):
        return
    _follow(turn, record)
    if following(state) == record.primary.name:
        turn.allow("join")
        turn.enter(Phase.STANDBY, f"{state.me} follows {record.primary.name} in epoch {record.epoch}")
        return
    _be_ready(turn, record)


def _holds_foreign_data(turn: Turn, record: Record) -> bool:
    """A service that is a primary on its own, was never ours, and holds data: it is not overwritten without a word."""
    view, history = turn.state.local.view, turn.state.history
    was_ours = history.served_epoch > 0 or history.whole is not None
    if view is None or view.role is not Role.PRIMARY or view.empty or was_ours:
        return False
    turn.refuse(
        "join",
        "foreign data",
        f"the service here runs as a primary with data of its own, and {record.primary.name} is the group's primary: "
        "make it a standby by hand, or empty it, to say that its data may go",
    )
    return True


def _would_be_wiped(turn: Turn, record: Record) -> bool:
    """The primary is empty, we are not, and following it would mean copying the emptiness: not without a person."""
    view = turn.state.local.view
    primary = turn.state.heard(record.primary.name)
    said = primary.statement if primary is not None else None
    if view is None or view.empty or said is None or said.position is None or not said.empty:
        return False
    if bytes_behind(view.position, said.position) is not None or following(turn.state) == record.primary.name:
        return False
    turn.refuse(
        "join",
        "empty primary",
        f"{record.primary.name} is primary and empty, and the service here holds data that following would wipe: "
        f"`tanist adopt` makes {turn.state.me} the primary; empty the service here to say that its data may go",
    )
    return True


def _follow(turn: Turn, record: Record) -> None:
    """Follow as soon as the primary says that it serves; until then run without an upstream, so that the position shows."""
    state = turn.state
    view = state.local.view
    primary = state.group.member(record.primary.name)
    if primary is None:
        return
    if serving_member(state) == (record.primary.name, record.epoch):
        if view is None or view.role is Role.PRIMARY or view.upstream != (primary.address, primary.port):
            wanted = EnsureService(role=WantedRole.STANDBY, epoch=record.epoch, upstream=primary.name)
            turn.want(wanted, again_every=FOLLOW_AGAIN)
        elif not view.link_up:  # it looks there, and nothing arrives: what stands in the way is looked for again
            wanted = EnsureService(role=WantedRole.STANDBY, epoch=record.epoch, upstream=primary.name)
            turn.want(wanted, again_every=STUCK_AGAIN)
    elif view is None or view.role is Role.PRIMARY:
        turn.want(EnsureService(role=WantedRole.STANDBY, epoch=record.epoch), again_every=START_AGAIN)


def standby(turn: Turn) -> None:
    state = turn.state
    record = state.record
    if record is None:
        return
    if record.primary.name == state.me:
        turn.enter(Phase.STARTING, f"the record of epoch {record.epoch} names {state.me}")
        return
    if not fetching.fetch(turn, record, due=gates.right_is_over(state, record)):
        _follow(turn, record)
    if is_awaited_target(state):
        turn.want(LookNow(), again_every=LOOK_WHILE_AWAITED)
    _be_ready(turn, record)


def _be_ready(turn: Turn, record: Record) -> None:
    """Ask every gate of a takeover; when all are green, stop promising and claim."""
    _settle(turn, record)
    asking.ask(turn, record, gates.right_is_over)
    red = gates.red_gates(turn.state, record)
    for _, closed in red:
        turn.wake(closed.until)
    verdict = turn.state.verdict
    if verdict is None or not verdict.is_failure:
        turn.allow("takeover")
        people.withdraw(turn)
        return
    if red:
        name, closed = red[0]
        turn.refuse("takeover", name, closed.reason, closed.until)
        people.consider_proposal(turn, record, red)
        return
    turn.allow("takeover")
    _claim(turn, record)


def _claim(turn: Turn, record: Record) -> None:
    state = turn.state
    keeper = state.keeper
    if keeper is None:
        return
    if keeper.claim == record.version:
        verdict = state.verdict
        assert verdict is not None
        turn.enter(Phase.CLAIMING, f"{verdict.sentence}: claiming epoch {state.epoch + 1}", verdict.evidence)
        return
    rests_on = state.asking.no_promise_after if state.asking is not None else None
    turn.want(TellKeeper(commands.BeginClaim(record.version, rests_on)), again_every=CLAIM_AGAIN)


def _settle(turn: Turn, record: Record) -> None:
    """Once the primary can write no more, look where our data ends: the others wait for that word.

    One that is not heard any more writes on until its right has ended, and so does one that fails; a dead one does not.
    """
    state = turn.state
    verdict = state.verdict
    if verdict is None or not verdict.is_failure:
        if state.settled[0] >= 0:
            turn.change(settled=(-1, state.now))
        return
    if verdict.diagnosis is not Diagnosis.PROCESS_DOWN and not gates.right_is_over(state, record):
        return
    if state.settled[0] != record.version:
        turn.change(settled=(record.version, state.now))
        turn.emit(LookNow())
