"""Which standbys must have a write before it is acknowledged; always at least all that could take over (rule 9, P3)."""

from orchestrator.domain.effects import EnsureReplicas
from orchestrator.domain.policy import Replication
from orchestrator.domain.record import Record
from orchestrator.domain.spans import Span
from orchestrator.domain.topology import NodeName, Pair
from orchestrator.engine.state import State
from orchestrator.engine.turn import Turn

AGAIN: Span = 30.0


def cover(turn: Turn, record: Record, new: tuple[Pair, ...]) -> bool:
    """Ask the service for what the succession needs; true when `new` members are covered already, so that they may be counted.

    A newcomer is covered before it is counted and written; a member that was dropped stays covered until no promise of its
    is counted and no record lists it.
    """
    state = turn.state
    names = _names(state, record, new)
    wanted = EnsureReplicas(at_least=_at_least(state, record), epoch=record.epoch, names=names)
    if not wanted.at_least and not _is_synchronous(state):
        return True
    turn.want(wanted, again_every=AGAIN)
    return not _is_synchronous(state) or turn.is_done(wanted)


def ready_to_open(turn: Turn, record: Record) -> bool:
    """A service that is about to be made primary must wait for its standbys from the first write on."""
    return not _is_synchronous(turn.state) or cover(turn, record, ())


def _is_synchronous(state: State) -> bool:
    return state.policy.replication is not Replication.ASYNCHRONOUS


def _names(state: State, record: Record, new: tuple[Pair, ...]) -> tuple[NodeName, ...]:
    if not _is_synchronous(state):
        return ()
    counted = state.keeper.counted if state.keeper is not None else ()
    undecided = [pair for pending in state.pending for pair in pending.write.record.succession]
    names = {pair.name for pair in (*record.succession, *counted, *undecided, *new)}
    return tuple(sorted(names - {state.me}))


def _at_least(state: State, record: Record) -> int:
    """As many standbys as policy wants and the succession can give."""
    return min(state.policy.min_replicas, len(record.succession))
