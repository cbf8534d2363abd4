"""Who could take over, and who should: the members' own words put before the strategy."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from orchestrator.domain.effects import Run
from orchestrator.domain.observations import Role, ServiceView, Statement
from orchestrator.domain.positions import Position, bytes_behind
from orchestrator.domain.record import Record
from orchestrator.domain.spans import FOREVER, Instant
from orchestrator.domain.topology import Member, NodeName, Pair
from orchestrator.engine.state import State
from strategies.candidate import Choice, Contender, choose


def candidate(state: State, record: Record, unfit: Mapping[NodeName, str] = MappingProxyType({})) -> Choice:
    """The member of the succession that should be primary next, among those that answer and are not `unfit` for some reason."""
    contenders = (_contender(state, pair) for pair in record.succession)
    able = tuple(replace(each, barred=each.barred or unfit.get(each.name, "")) for each in contenders)
    return choose(able, _known_history(state, record))


def _known_history(state: State, record: Record) -> str | None:
    primary = state.peer(record.primary.name)
    if primary and primary.statement and primary.statement.position:
        return primary.statement.position.history
    view = state.local.view
    return view.position.history if view else None


def _contender(state: State, pair: Pair) -> Contender:
    member = state.group.member(pair.name)
    if pair.name == state.me:
        view = state.local.view
        return Contender(
            name=pair.name,
            position=view.position if view else None,
            preference=state.group.preference(pair.name),
            barred=why_not_electable(state) or _barred_by_tag(member),
            empty=view.empty if view else False,
        )
    statement = said_by(state, pair)
    return Contender(
        name=pair.name,
        position=statement.position if statement else None,
        preference=state.group.preference(pair.name),
        barred=_barred(statement, member),
        empty=statement.empty if statement else False,
    )


def said_by(state: State, pair: Pair) -> Statement | None:
    peer = state.heard(pair.name)
    return peer.statement if peer is not None and peer.life == pair.life else None


def _barred(statement: Statement | None, member: Member | None) -> str:
    if statement is None:
        return "it is not heard in its listed life"
    if not statement.electable:
        return statement.why_not or "it says that it cannot be primary"
    return _barred_by_tag(member)


def _barred_by_tag(member: Member | None) -> str:
    if member is None:
        return "it is no member of the group any more"
    return "its configuration says never_primary" if member.never_primary else ""


def why_not_electable(state: State) -> str:
    """Why our own service could not become primary now; empty when it could."""
    view = state.local.view
    if view is None:
        return state.local.refused or "its service does not run"
    if state.local.silent_since is not None:
        return "its service does not answer"
    if state.local.finding is not None and state.local.finding.cannot_work:
        return str(state.local.finding)
    if view.role is not Role.STANDBY:
        return "its service is not a standby"
    return ""


def present_run(state: State) -> Run | None:
    """The run of the local service that answers now, as the keeper watches it."""
    view, keeper = state.local.view, state.keeper
    if view is None or keeper is None or (keeper.pid, keeper.process_started) != (view.pid, view.process_started):
        return None
    return Run(keeper.life, view.pid, view.process_started, state.boot)


def process(state: State) -> tuple[int, int] | None:
    """The local service's main process, as it was last seen: its id and start."""
    view = state.local.view
    return (view.pid, view.process_started) if view is not None else None


def is_another_run(state: State, view: ServiceView) -> bool:
    """Than the one that was seen with its data; a keeper that has lost its memory cannot tell."""
    run = state.history.whole
    return run is not None and (run.pid, run.process_started, run.boot) != (view.pid, view.process_started, state.boot)


def why_not_whole(state: State, record: Record) -> str:
    """Why the data here may be far older than what it once was; empty when that is known not to be so.

    A service that was restarted may have come back with an older copy, or none. Its own word is not enough then: it has
    followed the primary since, or has all that the primary was last known to have.
    """
    view = state.local.view
    if view is None or view.durable or (state.history.whole is not None and state.history.whole == present_run(state)):
        return ""
    if expected_loss(state, record, view.position) == 0:
        return ""
    return "its service was restarted, and may have come back with an older copy of the data"


def who_holds_data(state: State) -> NodeName | None:
    """Another member that said, when it was last heard, that it holds data."""
    for name in state.group.member_names:
        peer = state.peer(name)
        said = peer.statement if peer is not None else None
        if name != state.me and said is not None and said.position is not None and not said.empty:
            return name
    return None


def all_settled(state: State, record: Record) -> bool:
    """Every listed member that answers has looked at its position since the primary was found gone."""
    if not is_settled(state, record):
        return False
    statements = (said_by(state, pair) for pair in record.succession if pair.name != state.me)
    return all(said.settled >= record.version for said in statements if said is not None and said.electable)


def is_settled(state: State, record: Record) -> bool:
    version, since = state.settled
    return version == record.version and state.local.viewed_at >= since


def settled_by(state: State) -> Instant:
    """How long the others' final positions are waited for: not for ever."""
    version, since = state.settled
    return since + state.policy.positions_within if version >= 0 else FOREVER


def last_known_position(state: State, name: NodeName) -> Position | None:
    """Of what it has, or last had."""
    peer, told = state.peer(name), state.told.get(name)
    if peer is not None and peer.statement is not None and peer.statement.position is not None:
        return peer.statement.position
    return told.position if told is not None else None


def expected_loss(state: State, record: Record, copy: Position | None) -> int | None:
    """Bytes that the primary was known to have and `copy` lacks; None when that cannot be told."""
    primary = last_known_position(state, record.primary.name)
    if primary is None or copy is None:
        return None
    behind = bytes_behind(copy, primary)
    return None if behind is None else max(0, behind)
