"""Adoption: a person begins a new line of records after the mediator was emptied or restored (rule 23)."""

from collections.abc import Callable

from orchestrator.domain.record import Cause, Record
from orchestrator.domain.topology import NodeName, Pair
from orchestrator.engine.state import State
from orchestrator.engine.words import Void


def adopted(
    state: State, found: Record | None, primary: NodeName, *, by: str, epoch_above: int, draw: Callable[[], int]
) -> Record:
    """The first record of a new incarnation.

    Where it names the very primary, in the same life and epoch, that this member knows, nothing changes for anybody who
    serves or follows. Otherwise it begins an epoch above all known, with nobody in the succession.
    """
    if not by.strip():
        raise Void("a person's name is needed: --by NAME")
    if state.group.member(primary) is None:
        raise Void(f"{primary!r} is no member of {state.group.name}; its members are {', '.join(state.group.member_names)}")
    known = state.record
    epoch = max(state.epoch, epoch_above, found.epoch if found is not None else 0)
    life = _life(state, primary)
    same = known is not None and known.primary == Pair(primary, life) and known.epoch == epoch
    return Record(
        version=0,
        incarnation=draw(),
        epoch=epoch if same else epoch + 1,
        primary=Pair(primary, life),
        succession=known.succession if known is not None and same else (),
        quorum=known.quorum if known is not None and same else 0,
        lease=max(state.policy.lease, known.lease if known is not None else 0.0),
        nonce=draw(),
        cause=Cause.ADOPTION,
        reason=f"adopted by {by.strip()}" + (f"; before: {known.reason}" if known is not None and same else ""),
        since=known.since if known is not None and same else state.wall,
    )


def _life(state: State, name: NodeName) -> int:
    """The life in which the member is heard now; 0 when it is not: then it takes office by a write of its own."""
    if name == state.me:
        return state.keeper.life if state.keeper is not None else 0
    peer = state.heard(name)
    return peer.life if peer is not None else 0
