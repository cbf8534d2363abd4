"""The one door through which decisions go: `step(state, event)`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from orchestrator.domain.effects import Effect
from orchestrator.domain.events import Event
from orchestrator.domain.spans import Instant
from orchestrator.engine import writes
from orchestrator.engine.absorb import absorb
from orchestrator.engine.alarming import alarm
from orchestrator.engine.claiming import claiming, promoting
from orchestrator.engine.diagnosing import verdict_on_primary
from orchestrator.engine.following import joining, standby
from orchestrator.engine.handing_over import handing_over
from orchestrator.engine.informing import inform, lead_clients, watch_record
from orchestrator.engine.letting_go import letting_go
from orchestrator.engine.serving import serving
from orchestrator.engine.starting import starting
from orchestrator.engine.state import Phase, State
from orchestrator.engine.turn import Turn

MOST_PHASES_PER_STEP: Final = 6
"""A step follows its own changes of phase, so that nothing waits for the next event; more than this would be a circle."""


@dataclass(frozen=True, slots=True)
class Step:
    state: State
    effects: tuple[Effect, ...]
    wake_at: Instant
    """When the engine wants a `Ticked` if nothing happens before."""


def step(state: State, event: Event) -> Step:
    """Advance by one event: no clock, no I/O, no randomness, no logging."""
    turn = Turn(absorb(state, event))
    turn.change(verdict=verdict_on_primary(turn.state))
    if turn.state.verdict is not None:
        turn.wake(turn.state.verdict.certain_at)
    writes.report_applied(turn)
    alarm(turn)
    _move(turn)
    inform(turn)
    watch_record(turn)
    lead_clients(turn)
    _wake_for_undecided_writes(turn)
    turn.change(wake_at=turn.wake_at)
    return Step(turn.state, tuple(turn.effects), turn.wake_at)


def _move(turn: Turn) -> None:
    for _ in range(MOST_PHASES_PER_STEP):
        phase = turn.state.phase
        DECIDE[phase](turn)
        if turn.state.phase is phase:
            return
        turn.change(verdict=verdict_on_primary(turn.state))


def _wake_for_undecided_writes(turn: Turn) -> None:
    """A write in flight that the shell lost (it must not) would block every other: it counts as unknown after its deadline."""
    state = turn.state
    overdue = [each for each in state.pending if each.in_flight and state.now > each.asked_at + 2 * each.write.within]
    if overdue:
        pending = tuple(replace(each, in_flight=False) if each in overdue else each for each in state.pending)
        turn.change(pending=pending)
    for each in state.pending:
        if each.in_flight:
            turn.wake(each.asked_at + 2 * each.write.within)


def witness(turn: Turn) -> None:
    """A witness observes, and leads the clients on its host."""


DECIDE: Final[Mapping[Phase, Callable[[Turn], None]]] = {
    Phase.STARTING: starting,
    Phase.WITNESS: witness,
    Phase.JOINING: joining,
    Phase.STANDBY: standby,
    Phase.CLAIMING: claiming,
    Phase.PROMOTING: promoting,
    Phase.SERVING: serving,
    Phase.HANDING_OVER: handing_over,
    Phase.LETTING_GO: letting_go,
}
