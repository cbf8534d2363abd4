"""Phase STARTING: the daemon has begun, or the record names a member that does not serve. Who are we?"""

from orchestrator.domain import commands
from orchestrator.domain.effects import EnsureService, NoticeKind, ReadMediator, TellKeeper, WantedRole
from orchestrator.domain.observations import Hold, KeeperView, PeerView, Role, Statement
from orchestrator.domain.positions import bytes_behind
from orchestrator.domain.record import Cause, Record
from orchestrator.domain.spans import Span
from orchestrator.domain.topology import Pair
from orchestrator.engine import electing, writes
from orchestrator.engine.state import Mediation, Phase, State
from orchestrator.engine.turn import Turn
from strategies.candidate import Contender, choose

START_AGAIN: Span = 2.0
KILL_AGAIN: Span = 0.25
RELEASE_AGAIN: Span = 1.0
YIELD_GATE = "less data"
FOUND_ALONE_AFTER: Span = 5.0
"""A running primary founds its group without having heard every member after this long."""


def starting(turn: Turn) -> None:
    state = turn.state
    if not state.is_member:
        turn.enter(Phase.WITNESS, f"{state.me} observes {state.group.name}")
        return
    keeper, record = state.keeper, state.record
    if keeper is None:
        turn.refuse("start", "keeper", "there is no keeper yet")
        return
    if record is not None and _held_all_the_while(keeper, record, state):
        turn.allow("start")
        turn.emit(EnsureService(role=WantedRole.PRIMARY, epoch=record.epoch))  # writes may have been held by the run before
        turn.enter(Phase.SERVING, f"the daemon is back; the keeper held the right of epoch {record.epoch} all the while")
        return
    match state.mediated.status:
        case Mediation.UNKNOWN:
            turn.refuse("start", "mediator", "the mediator has not been read yet")
            turn.want(ReadMediator(), again_every=0.5)
        case Mediation.ABSENT:
            _found(turn, keeper)
        case Mediation.OLDER:
            turn.refuse("start", "record", "the mediator's record is older than what this member has seen")
        case Mediation.PRESENT if record is not None and record.primary.name != state.me:
            turn.allow("start")
            turn.enter(Phase.JOINING, f"{record.primary.name} is primary in epoch {record.epoch}")
        case Mediation.PRESENT if record is not None:
            _regain(turn, keeper, record)


def _held_all_the_while(keeper: KeeperView, record: Record, state: State) -> bool:
    same = record.primary == Pair(state.me, keeper.life) and keeper.right_epoch == record.epoch
    return same and keeper.hold is Hold.SERVING and state.epoch == record.epoch


# --- the record names this member ------------------------------------------------------------------------------------


def _regain(turn: Turn, keeper: KeeperView, record: Record) -> None:
    """The record names us, but nothing of ours holds the right: only a write of this life gives it back (rule 6)."""
    state = turn.state
    view = state.local.view
    guards = keeper.hold is Hold.SERVING and state.history.served_epoch == record.epoch
    if view is None and guards and keeper.frozen_since is not None:
        _write_to_regain(turn, keeper, record)  # its right lets it go on; then it answers
        return
    if view is None:
        turn.refuse("serve", "service", "the service does not run yet")
        turn.want(EnsureService(role=WantedRole.STANDBY, epoch=record.epoch), again_every=START_AGAIN)
        return
    guarded = guards and keeper.pid == view.pid
    if view.role is Role.PRIMARY and state.history.served_epoch and not guarded:
        turn.refuse("serve", "service", "it runs as primary without a right: it is killed, and compared before it serves")
        if keeper.pid == view.pid:
            turn.want(TellKeeper(commands.KillService()), again_every=KILL_AGAIN)
        return
    if better := _better_data_elsewhere(state, record):
        turn.refuse("serve", YIELD_GATE, better)
        if keeper.release is None:
            turn.want(TellKeeper(commands.GiveUp(None, None)), again_every=RELEASE_AGAIN)
        return
    turn.allow("serve")
    if _right_is_back(turn, keeper, record):
        phase = Phase.SERVING if keeper.hold is Hold.SERVING else Phase.PROMOTING
        turn.change(promotable=electing.process(state))
        turn.enter(phase, f"{state.me} has its right of epoch {record.epoch} again")
        return
    _write_to_regain(turn, keeper, record)


def _write_to_regain(turn: Turn, keeper: KeeperView, record: Record) -> None:
    state = turn.state
    if writes.may_write(turn) and _paced(turn):
        reason = f"{record.reason}; regained by {state.me}" if "regained" not in record.reason else record.reason
        writes.send(turn, writes.next_record(turn, primary=Pair(state.me, keeper.life), reason=reason))


def _right_is_back(turn: Turn, keeper: KeeperView, record: Record) -> bool:
    """Rule 6: a write of this very life stands in the record, and the keeper has made a right of it."""
    confirmed = record.primary.life == keeper.life and keeper.right_epoch == record.epoch
    return confirmed and keeper.right_until > turn.now


def _paced(turn: Turn) -> bool:
    due = turn.state.last_write_at + turn.state.policy.lease / 3
    turn.wake(due)
    return turn.now >= due


def _better_data_elsewhere(state: State, record: Record) -> str:
    """A service that came back with less than a standby holds must not become that standby's source."""
    mine = state.local.view
    assert mine is not None
    for pair in record.succession:
        peer = state.heard(pair.name)
        said = peer.statement if peer is not None and peer.life == pair.life else None
        if said is None or said.position is None or not said.electable or said.empty:
            continue
        behind = bytes_behind(mine.position, said.position)
        if mine.empty:
            return f"the service came back empty, and {pair.name} holds data"
        if behind is None:
            return f"the service came back with a history that cannot be compared with {pair.name}'s data"
        if behind > 0:
            return f"the service came back with {behind} bytes less than {pair.name} holds"
    return _data_elsewhere(state, record) if mine.empty else ""


def _data_elsewhere(state: State, record: Record) -> str:
    """An empty service serves only when nobody else holds data: its standbys would copy the emptiness."""
    unheard = []
    for name in state.group.member_names:
        peer = state.heard(name)
        said = peer.statement if peer is not None else None
        if name == state.me:
            continue
        if said is None or said.position is None:
            unheard.append(name)
        elif not said.empty:
            return f"the service came back empty, and {name} holds data; `tanist adopt` says whose data counts"
    if unheard and record.cause is not Cause.ADOPTION:
        names = ", ".join(unheard)
        return f"the service came back empty, and {names} may hold data: to be heard first, or `tanist adopt` says whose counts"
    return ""


# --- there is no record ----------------------------------------------------------------------------------------------


def _found(turn: Turn, keeper: KeeperView) -> None:
    """Create the first record of the group; only where nobody has lived through one (rule 23)."""
    state = turn.state
    if state.history.record is None and keeper.epoch > 0:
        turn.refuse("found", "record", f"the others are in epoch {keeper.epoch} already: reading the record again")
        turn.want(ReadMediator(), again_every=0.1)
        return
    if state.history.record is not None:
        turn.refuse(
            "found",
            "history",
            f"the mediator has no record of {state.group.name}, but this member has lived through epoch {state.epoch}: "
            "the mediator is empty by mistake, or restored; `tanist adopt` begins a new incarnation",
        )
        return
    if state.local.view is None:
        turn.refuse("found", "service", state.local.refused or "the service does not run yet")
        turn.want(EnsureService(role=WantedRole.STANDBY, epoch=0), again_every=START_AGAIN)
        return
    if reason := _why_not_founder(turn):
        turn.refuse("found", "founder", reason)
        return
    turn.allow("found")
    if any(pending.in_flight for pending in state.pending) or not _paced(turn):
        return
    record = Record(
        version=0,
        incarnation=turn.draw(),
        epoch=1,
        primary=Pair(state.me, keeper.life),
        succession=(),
        lease=state.policy.lease,
        nonce=turn.draw(),
        cause=Cause.FOUNDING,
        reason=f"founded by {state.me}",
        since=state.wall,
    )
    turn.notice(NoticeKind.DECISION, "found", f"{state.me} founds {state.group.name}")
    writes.send(turn, record)


def _why_not_founder(turn: Turn) -> str:
    """The running primary founds; where none runs, the best of all members once all are heard."""
    state = turn.state
    view = state.local.view
    assert view is not None
    others = [(name, state.heard(name)) for name in state.group.member_names if name != state.me]
    said = [(name, _words(peer)) for name, peer in others]
    rivals = [name for name, words in said if words is not None and words.wants_role]
    unheard = [name for name, words in said if words is None or words.position is None]
    if view.role is Role.PRIMARY:
        if rivals:
            return f"{', '.join(rivals)} runs as a primary too: make all but one a standby"
        alone_at = state.began_at + FOUND_ALONE_AFTER
        if unheard and not view.replicas and state.now < alone_at:
            turn.wake(alone_at)
            return f"not heard yet: {', '.join(unheard)}"
        return ""
    if rivals:
        return f"{', '.join(rivals)} runs as the primary and will found the group"
    if unheard:
        return f"not heard yet: {', '.join(unheard)}"
    return _why_not_best(state, [(name, words) for name, words in said if words is not None])


def _words(peer: PeerView | None) -> Statement | None:
    return peer.statement if peer is not None else None


def _why_not_best(state: State, said: list[tuple[str, Statement]]) -> str:
    view = state.local.view
    assert view is not None
    full = {words.position.history for _, words in said if words.position and not words.empty}
    if not view.empty:
        full.add(view.position.history)
    if len(full) > 1:
        return "the members hold different data: empty those whose data may go"
    contenders = [
        Contender(name=name, position=words.position, preference=state.group.preference(name), empty=words.empty)
        for name, words in said
    ]
    contenders.append(
        Contender(name=state.me, position=view.position, preference=state.group.preference(state.me), empty=view.empty)
    )
    choice = choose(tuple(each for each in contenders if _may_lead(state, each.name)), None)
    return "" if choice.name == state.me else f"{choice.name} is the better founder"


def _may_lead(state: State, name: str) -> bool:
    member = state.group.member(name)
    return member is not None and not member.never_primary
