"""What every phase does first: the keeper knows the record, the service and our words; the disk knows our history."""

from typing import Final

from orchestrator.domain import commands
from orchestrator.domain.effects import EnsureClients, History, NoticeKind, ReadMediator, Remember, Run, TellKeeper
from orchestrator.domain.observations import Health, Hold, KeeperView, Role, ServiceView, Statement
from orchestrator.domain.record import Record
from orchestrator.domain.spans import NEVER, Span
from orchestrator.domain.topology import NodeName
from orchestrator.engine import asking, electing
from orchestrator.engine.starting import YIELD_GATE
from orchestrator.engine.state import Mediation, Phase, State
from orchestrator.engine.turn import Turn

AGAIN: Span = 0.25
"""Spacing of repeated words to the keeper while it does not show that it has heard them."""

RECORD_ACT: Final = "any change of primary"

CLIENTS_AGAIN: Span = 10.0
"""Client configurations are compared with what they should be this often, in case somebody else changed them."""


def inform(turn: Turn) -> None:
    asking.answer_questions(turn)
    _tell_record(turn)
    _tell_service(turn)
    _tell_words(turn)
    _remember(turn)


def _tell_record(turn: Turn) -> None:
    """A beat that knows a newer version than we have read is reason to read; what was read, the keeper must know."""
    state = turn.state
    keeper, record = state.keeper, state.record
    if keeper is None:
        return
    known = record.version if record is not None and state.mediated.first_seen_at != NEVER else -1
    incarnation = record.incarnation if record is not None else 0
    if record is not None and known >= 0 and (known > keeper.seen_version or keeper.incarnation != incarnation):
        turn.want(TellKeeper(commands.Saw(record)), again_every=AGAIN)
    if keeper.knows_newer(known, incarnation) or (record is not None and state.epoch > record.epoch):
        turn.want(ReadMediator(), again_every=state.policy.lease / 4)


def _tell_service(turn: Turn) -> None:
    """The keeper watches the main process that we see, and guards it as soon as it is writable."""
    state = turn.state
    keeper, view = state.keeper, state.local.view
    if keeper is None or state.handover is not None:
        return
    if view is None:
        _tell_of_silent(turn, keeper)
        return
    writable = _writable_epoch(state, view, keeper)
    known = (keeper.pid, keeper.process_started) == (view.pid, view.process_started)
    readable = view.role is Role.STANDBY and keeper.hold is Hold.NONE
    if not known or (writable and keeper.hold is Hold.NONE) or keeper.readable is not readable:
        found = commands.Found(view.pid, view.process_started, writable, readable=readable)
        turn.want(TellKeeper(found), again_every=AGAIN)
    if view.role is Role.STANDBY and keeper.hold is Hold.SERVING and state.local.viewed_at > state.phase_since:
        turn.want(TellKeeper(commands.Demoted()), again_every=AGAIN)


def _tell_of_silent(turn: Turn, keeper: KeeperView) -> None:
    """The guard of an earlier run froze our primary, and neither that run nor the keeper's memory lives on.

    Nobody but the keeper may let it go on, and it must know which process that is: the very one that served this epoch.
    """
    state, record, run = turn.state, turn.state.record, turn.state.history.whole
    unknown = not keeper.pid and state.local.silent_since is not None and state.phase is Phase.STARTING
    if not unknown or record is None or run is None or not run.boot or run.boot != state.boot:
        return
    if record.primary.name == state.me and record.epoch == state.history.served_epoch:
        turn.want(TellKeeper(commands.Found(run.pid, run.process_started, record.epoch)), again_every=AGAIN)


def _writable_epoch(state: State, view: ServiceView, keeper: KeeperView) -> int:
    """The epoch in which the service may be committing; 0 for a standby, and for one that was never ours to guard.

    One that was never confirmed while this daemon runs is guarded from the start, and so frozen: it has no right yet (rule
    15). A process that replaced another one is not guarded but killed, or compared, by its phase.
    """
    guarded = state.phase in (Phase.STARTING, Phase.SERVING, Phase.JOINING, Phase.STANDBY)
    stranger = keeper.stranger or keeper.main_exited or keeper.pid not in (0, view.pid) or electing.is_another_run(state, view)
    return state.history.served_epoch if guarded and view.role is Role.PRIMARY and not stranger else 0


def _tell_words(turn: Turn) -> None:
    state = turn.state
    if state.keeper is None:
        return
    statement = compose(state)
    if statement == state.said:
        return
    urgent = is_awaited_target(state) or _is_urgent(state.said, statement)
    turn.emit(TellKeeper(commands.Say(statement, urgent=urgent)))
    turn.change(said=statement)


def is_awaited_target(state: State) -> bool:
    """The primary is handing over to us, and waits until our position has reached the end of its data."""
    primary = state.heard(state.primary) if state.primary else None
    return primary is not None and primary.statement is not None and primary.statement.handover == state.me


def _is_urgent(before: Statement | None, after: Statement) -> bool:
    """Words for which another member may be waiting."""
    if before is None:
        return True
    return after.handover is not None or any(
        getattr(before, name) != getattr(after, name)
        for name in (
            "health",
            "finding",
            "role",
            "serving_epoch",
            "electable",
            "settled",
            "handover",
            "held_position",
            "asks",
            "answers",
        )
    )


def compose(state: State) -> Statement:
    """What our beats say of us."""
    local, view, record = state.local, state.local.view, state.record
    why_not = electing.why_not_electable(state) if state.is_member else "a witness has no data"
    settled = record.version if record is not None and electing.is_settled(state, record) else 0
    handover = state.handover
    return Statement(
        health=_health(state),
        finding=local.finding if state.is_member else None,
        role=view.role if view else None,
        position=view.position if view else None,
        serving_epoch=record.epoch if record is not None and state.phase is Phase.SERVING else 0,
        electable=not why_not,
        why_not=why_not,
        following=following(state),
        settled=settled,
        asks=state.asking.token if state.asking is not None else 0,
        answers=asking.answers(state),
        phase=state.phase,
        handover=handover.target if handover else None,
        held_position=handover.position if handover else None,
        restarts=local.restarts,
        empty=view.empty if view else False,
        wants_role=view is not None and view.role is Role.PRIMARY and record is None,
        hears=tuple(each.name for each in state.keeper.peers if state.heard(each.name) is not None) if state.keeper else (),
    )


def _health(state: State) -> Health:
    local = state.local
    if not state.is_member or state.handover is not None:
        return Health.WELL
    if local.gone_since is not None:
        return Health.DEAD
    if local.finding is not None and local.finding.cannot_work:
        verdict = state.verdict
        if verdict is not None and verdict.subject == state.me and verdict.is_certain(state.now):
            return Health.UNRESPONSIVE
    if local.silent_since is not None:
        return Health.WELL  # not for long enough yet, or a standby: `why_not` says it
    if "serve" in state.refusals and state.refusals["serve"].gate == YIELD_GATE:
        return Health.YIELDING
    if local.view is None:
        return Health.STARTING if local.refused else Health.UNKNOWN
    return Health.WELL


def following(state: State) -> NodeName | None:
    """The member whose data arrives here."""
    view = state.local.view
    if view is None or view.role is not Role.STANDBY or not view.link_up or view.upstream is None:
        return None
    return next((each.name for each in state.group.members if (each.address, each.port) == view.upstream), None)


def _remember(turn: Turn) -> None:
    state = turn.state
    record = state.record
    if record is None or state.mediated.first_seen_at == NEVER:
        return
    served = state.history.served_epoch
    if record.primary.name == state.me and state.phase in (Phase.PROMOTING, Phase.SERVING):
        served = record.epoch
    history = History(record=record, served_epoch=served, whole=_whole(state))
    if history != state.history:
        _tell_new_primary(turn, state.history.record, record)
        turn.change(history=history)
        turn.emit(Remember(history))


def _tell_new_primary(turn: Turn, before: Record | None, record: Record) -> None:
    """Whoever had no part in it keeps the reason too."""
    if record.primary.name != turn.state.me and (before is None or before.epoch < record.epoch):
        text = f"{record.primary.name} is primary in epoch {record.epoch}: {record.reason}"
        turn.notice(NoticeKind.EVENT, "new primary", text)


def _whole(state: State) -> Run | None:
    """A run of the service is whole once it serves, or has its primary's data arriving; that lasts until it ends."""
    run = electing.present_run(state)
    arriving = following(state) is not None and following(state) == state.primary
    return run if run is not None and (arriving or state.phase is Phase.SERVING) else state.history.whole


def watch_record(turn: Turn) -> None:
    """Rule 23: a mediator without the record that this member has lived through is a person's to look at."""
    state = turn.state
    bad = state.mediated.status in (Mediation.ABSENT, Mediation.OLDER)
    if not bad or state.history.record is None:
        turn.allow(RECORD_ACT)
        return
    text = (
        f"the mediator's record is {state.mediated.status}, although this member has lived through epoch {state.epoch}: it was "
        "emptied or restored. Nobody can take over until `tanist adopt` begins a new line of records"
    )
    turn.refuse(RECORD_ACT, "record", text, alarm=True)


def lead_clients(turn: Turn) -> None:
    """Clients on this host go to the member that says it serves, in the highest epoch that anybody serves."""
    state = turn.state
    serving = serving_member(state)
    if serving is not None:
        name, epoch = serving
        turn.want(EnsureClients(primary=name, epoch=epoch), again_every=CLIENTS_AGAIN)


def serving_member(state: State) -> tuple[NodeName, int] | None:
    """Who serves, and in which epoch, by our own knowledge or by the words in the beats."""
    if state.phase is Phase.SERVING and state.record is not None:
        return state.me, state.record.epoch
    heard = [state.heard(name) for name in state.group.member_names if name != state.me]
    serving = [
        (peer.statement.serving_epoch, peer.name)
        for peer in heard
        if peer is not None and peer.statement is not None and peer.statement.serving_epoch >= max(1, state.epoch)
    ]
    if not serving:
        return None
    epoch, name = max(serving)
    return name, epoch
