"""Phase LETTING_GO: the service here has failed; make sure that it is dead, then release the right to the others."""

from orchestrator.domain import commands
from orchestrator.domain.effects import TellKeeper
from orchestrator.domain.observations import Hold
from orchestrator.domain.spans import Span
from orchestrator.engine.state import Phase
from orchestrator.engine.turn import Turn

KILL_AGAIN: Span = 1.0
RELEASE_AGAIN: Span = 0.1
LEASES_TO_WAIT = 5
"""Leases that the others have to take over before the service is started again here."""
SHORTEST_WAIT: Span = 3.0


def letting_go(turn: Turn) -> None:
    state = turn.state
    record, keeper = state.record, state.keeper
    if record is None or keeper is None:
        return
    if record.primary.name != state.me:
        turn.enter(Phase.JOINING, f"{record.primary.name} is primary in epoch {record.epoch}")
        return
    if keeper.hold is not Hold.NONE:
        turn.want(TellKeeper(commands.KillService()), again_every=KILL_AGAIN)
        return
    if keeper.release is None:
        turn.want(TellKeeper(commands.GiveUp(None, None)), again_every=RELEASE_AGAIN)
    give_up_at = state.phase_since + max(LEASES_TO_WAIT * record.lease, SHORTEST_WAIT)
    turn.wake(give_up_at)
    if state.now >= give_up_at and not any(pending.in_flight for pending in state.pending):
        turn.enter(Phase.STARTING, "nobody has taken over: starting the service again here")
