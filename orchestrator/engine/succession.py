"""The succession: which standbys may become primary. Only the primary changes it (rules 9 and 12)."""

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.domain.observations import PeerView, ServiceView, Statement
from orchestrator.domain.policy import Replication
from orchestrator.domain.positions import bytes_behind
from orchestrator.domain.record import Record
from orchestrator.domain.spans import Instant, in_words
from orchestrator.domain.topology import NodeName, Pair
from orchestrator.engine.diagnosing import silence_of
from orchestrator.engine.state import State, frozen_mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The succession as it should be, and a sentence for every change to it."""

    pairs: tuple[Pair, ...]
    changes: tuple[tuple[NodeName, str], ...]


def wanted(state: State, record: Record) -> Wanted:
    pairs: list[Pair] = []
    changes: list[tuple[NodeName, str]] = []
    for name in state.group.member_names:
        if name == state.me:
            continue
        listed = record.life_in_succession(name)
        pair, change = _wanted_pair(state, name, listed)
        if pair is not None:
            pairs.append(pair)
        if change:
            changes.append((name, change))
    strangers = [pair.name for pair in record.succession if state.group.member(pair.name) is None]
    changes += [(name, f"drop {name}: it is no member of the group any more") for name in strangers]
    return Wanted(pairs=tuple(pairs), changes=tuple(changes))


def made(wished: Wanted, record: Record, pairs: tuple[Pair, ...]) -> tuple[str, ...]:
    """The sentences of those changes that a record of these pairs makes."""
    now = {pair.name: pair.life for pair in pairs}
    return tuple(sentence for name, sentence in wished.changes if now.get(name) != record.life_in_succession(name))


def _wanted_pair(state: State, name: NodeName, listed: int | None) -> tuple[Pair | None, str]:
    peer = state.peer(name)
    if listed is None:
        return _newcomer(state, name, peer)
    silent_since = silence_of(state, name)
    if peer is None or silent_since is not None:
        return _kept_while_silent(state, Pair(name, listed), state.now - (silent_since or state.began_at))
    if peer.life != listed:
        newcomer, _ = _newcomer(state, name, peer)
        return newcomer, f"{name}: a new life of its keeper's memory"
    if peer.statement is not None and (reason := _unfit(state, name, peer.statement) or _lags(state, name)):
        return None, f"drop {name}: {reason}"
    return Pair(name, listed), ""


def _kept_while_silent(state: State, pair: Pair, silent_for: float) -> tuple[Pair | None, str]:
    """A silent member is renewed around for three leases before it is dropped (rule 9)."""
    if silent_for < state.policy.drop_after:
        return pair, ""
    return None, f"drop {pair.name}: it has not been heard for {in_words(state.policy.drop_after)}"


def _newcomer(state: State, name: NodeName, peer: PeerView | None) -> tuple[Pair | None, str]:
    """A member comes in when it is heard, follows us, and has caught up."""
    if peer is None or not peer.life or peer.silent_since is not None or peer.statement is None:
        return None, ""
    if peer.statement.following != state.me or _unfit(state, name, peer.statement) or name in state.lagging:
        return None, ""
    return Pair(name, peer.life), f"add {name}: it follows and has caught up"


def _unfit(state: State, name: NodeName, statement: Statement) -> str:
    """Why a member that answers must not be able to take over; empty when it may."""
    member = state.group.member(name)
    if member is not None and member.never_synchronous and state.policy.replication is not Replication.ASYNCHRONOUS:
        return "no commit waits for it: its configuration says never_synchronous"
    if not statement.electable:
        return statement.why_not or "it is not electable"
    return ""


def _lags(state: State, name: NodeName) -> str:
    since = state.lagging.get(name)
    if since is None or state.now - since < state.policy.lag_after:
        return ""
    lasted = in_words(state.now - since)
    return f"it has been more than the {state.policy.max_lag_bytes} bytes behind that are allowed for {lasted}"


def lagging(state: State) -> Mapping[NodeName, Instant]:
    """Standbys of ours that are too far behind now, and since when. To be looked at whenever positions were heard."""
    view, keeper = state.local.view, state.keeper
    if view is None or keeper is None:
        return state.lagging
    return frozen_mapping(
        {peer.name: state.lagging.get(peer.name, state.now) for peer in keeper.peers if _is_too_far_behind(state, peer, view)}
    )


def _is_too_far_behind(state: State, peer: PeerView, view: ServiceView) -> bool:
    said = peer.statement
    if said is None or said.position is None or said.following != state.me:
        return False
    behind = bytes_behind(said.position, view.position)
    return behind is not None and behind > state.policy.max_lag_bytes
