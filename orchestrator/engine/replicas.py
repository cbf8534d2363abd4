"""Which standbys must have a write before it is acknowledged; always at least all that could take over (rule 9, P3)."""

from orchestrator.domain.effects import EnsureReplicas, LookNow
from orchestrator.domain.policy import Replication
from orchestrator.domain.positions import bytes_behind
from orchestrator.domain.record import Record
from orchestrator.domain.spans import Span
from orchestrator.domain.topology import NodeName, Pair
from orchestrator.engine import quorum
from orchestrator.engine.quorum import Kept, kept, promised, satisfying
from orchestrator.engine.state import Covered, State
from orchestrator.engine.turn import Turn

NOBODY = Kept(frozenset(), 0)
AGAIN: Span = 30.0
LOOK_AGAIN: Span = 0.25


def cover(turn: Turn, record: Record, waits: Kept) -> bool:
    """Ask the service for a list of standbys; true when every commit waits for them already."""
    state = turn.state
    enough = None if waits.enough >= len(waits.names) else waits.enough
    names = tuple(sorted(waits.names))
    wanted = EnsureReplicas(at_least=_at_least(state, record), epoch=record.epoch, names=names, enough=enough)
    if not wanted.at_least and not _is_synchronous(state):
        return True
    turn.want(wanted, again_every=AGAIN)
    return not _must_wait(state) or turn.is_done(wanted)


def writable(turn: Turn, record: Record, wanted: tuple[Pair, ...]) -> tuple[Pair, ...] | None:
    """As much of the wanted succession as the record may name now; None when it must stay as it is.

    What it will promise must be true of every commit already. Every commit waits for that before it is written, and for what
    the record promised before until the write is decided; what was acknowledged earlier must be where it will be promised to
    be, too.
    """
    state = turn.state
    waits = _waits_for(state, record, wanted)
    covered = cover(turn, record, waits)
    staying = tuple(pair for pair in wanted if record.life_in_succession(pair.name) is not None)
    if not _is_synchronous(state):
        return wanted if covered else staying
    whole = _having_all(turn, wanted) if covered else frozenset()
    ready = tuple(pair for pair in wanted if pair in staying or pair.name in whole)
    for succession in (wanted, ready, staying):
        if follows(state, record, succession) or (covered and _is_seen(state, record, succession, waits, whole)):
            return succession
    return None


def follows(state: State, record: Record, succession: tuple[Pair, ...]) -> bool:
    """The record's promise implies what a record of this succession would promise."""
    return not _is_synchronous(state) or quorum.surely_having(record, succession) >= _kept(state, succession).enough


def _is_seen(state: State, record: Record, succession: tuple[Pair, ...], waits: Kept, whole: frozenset[NodeName]) -> bool:
    """Every commit waits for what the next record promises, and so many are seen to have what was acknowledged before."""
    next_ = _kept(state, succession)
    new = next_.names & whole - promised(record).names
    having = max(len(next_.names & whole), quorum.surely_having(record, succession) + len(new))
    return waits.implies(next_) and having >= next_.enough


def _kept(state: State, succession: tuple[Pair, ...]) -> Kept:
    """What a record of this succession promises under the present policy."""
    return kept(succession, quorum.wished(state.policy, len(succession)))


def _having_all(turn: Turn, pairs: tuple[Pair, ...]) -> frozenset[NodeName]:
    """Those that are seen to have whatever was acknowledged before every commit waited as it does now."""
    covered = turn.state.covered
    if covered is None or covered.floor is None:
        turn.want(LookNow(), again_every=LOOK_AGAIN)
        return frozenset()
    return frozenset(pair.name for pair in pairs if _has(turn.state, pair.name, covered))


def _has(state: State, name: NodeName, covered: Covered) -> bool:
    peer = state.peer(name)
    if covered.floor is None or peer is None or peer.statement is None:
        return False
    position = peer.statement.position
    missing = bytes_behind(position, covered.floor) if position is not None else None
    return missing is not None and missing <= 0


def ready_to_open(turn: Turn, record: Record) -> bool:
    """A service that is about to be made primary must wait for its standbys from the first write on."""
    return not _must_wait(turn.state) or cover(turn, record, _waits_for(turn.state, record, record.succession))


def _must_wait(state: State) -> bool:
    """What the service is told about its standbys counts only once it has been seen to act on it."""
    return _is_synchronous(state) or state.policy.strict


def _is_synchronous(state: State) -> bool:
    return state.policy.replication is not Replication.ASYNCHRONOUS


def _waits_for(state: State, record: Record, wanted: tuple[Pair, ...]) -> Kept:
    """The least list under which each record that may stand, now or next, keeps its promise."""
    if not _is_synchronous(state):
        return NOBODY
    promises = [promised(each) for each in (record, *(pending.write.record for pending in state.pending))]
    if not record.quorum and state.keeper is not None:
        promises.append(kept(state.keeper.counted, 0))
    return satisfying((*promises, _kept(state, wanted)))


def _at_least(state: State, record: Record) -> int:
    """As many standbys as policy wants; unless it is strict, no more than the succession can give."""
    policy = state.policy
    if not policy.strict:
        return 0 if _is_synchronous(state) else min(policy.min_replicas, len(record.succession))
    return max(policy.min_replicas, 1) if _is_synchronous(state) else policy.min_replicas
