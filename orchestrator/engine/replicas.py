"""Which standbys must have a write before it is acknowledged; always at least all that could take over (rule 9, P3)."""

from orchestrator.domain.effects import EnsureReplicas, LookNow
from orchestrator.domain.policy import Replication
from orchestrator.domain.positions import bytes_behind
from orchestrator.domain.record import Record
from orchestrator.domain.spans import Span
from orchestrator.domain.topology import NodeName, Pair
from orchestrator.engine.state import Covered, State
from orchestrator.engine.turn import Turn

AGAIN: Span = 30.0
LOOK_AGAIN: Span = 0.25


def cover(turn: Turn, record: Record, new: tuple[Pair, ...]) -> bool:
    """Ask the service for what the succession needs; true when `new` members are covered already, so that they may be counted.

    A newcomer is covered, and then has what was acknowledged before (`behind`), before it is counted and written; a member
    that was dropped stays covered until no promise of its is counted and no record lists it.
    """
    state = turn.state
    names = _names(state, record, new)
    wanted = EnsureReplicas(at_least=_at_least(state, record), epoch=record.epoch, names=names)
    if not wanted.at_least and not _is_synchronous(state):
        return True
    turn.want(wanted, again_every=AGAIN)
    return not _must_wait(state) or turn.is_done(wanted)


def behind(turn: Turn, new: tuple[Pair, ...]) -> tuple[Pair, ...]:
    """Newcomers that may lack what was acknowledged before every write waited for them: they must not be counted yet."""
    state = turn.state
    if not _is_synchronous(state) or not new:
        return ()
    covered = state.covered
    if covered is None or covered.floor is None:
        turn.want(LookNow(), again_every=LOOK_AGAIN)
        return new
    return tuple(pair for pair in new if not _has(state, pair.name, covered))


def _has(state: State, name: NodeName, covered: Covered) -> bool:
    peer = state.peer(name)
    if name not in covered.names or covered.floor is None or peer is None or peer.statement is None:
        return False
    position = peer.statement.position
    missing = bytes_behind(position, covered.floor) if position is not None else None
    return missing is not None and missing <= 0


def ready_to_open(turn: Turn, record: Record) -> bool:
    """A service that is about to be made primary must wait for its standbys from the first write on."""
    return not _must_wait(turn.state) or cover(turn, record, ())


def _must_wait(state: State) -> bool:
    """What the service is told about its standbys counts only once it has been seen to act on it."""
    return _is_synchronous(state) or state.policy.strict


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
    """As many standbys as policy wants; unless it is strict, no more than the succession can give."""
    policy = state.policy
    if not policy.strict:
        return min(policy.min_replicas, len(record.succession))
    return max(policy.min_replicas, 1) if _is_synchronous(state) else policy.min_replicas
