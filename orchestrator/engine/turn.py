"""One step in the making: the state so far, the effects wanted, the instants at which to look again.

A `Turn` lives for one call of `step` and never leaves it; what comes out is frozen.
"""

from dataclasses import replace
from typing import Any

from orchestrator.domain.effects import Effect, EnsureClients, EnsureReplicas, EnsureService, Notice, NoticeKind
from orchestrator.domain.spans import FOREVER, Instant, Span
from orchestrator.domain.verdicts import Refusal
from orchestrator.engine.state import Phase, State, frozen_mapping

LANES = (EnsureService, EnsureReplicas, EnsureClients)
"""Effects of which a newer wish replaces the older: what was asked or done before it says nothing any more."""

FORGET_AFTER: Span = 60.0
"""An effect that nobody has wanted for this long may be asked for at once again."""


class Turn:
    def __init__(self, state: State) -> None:
        self.state = state
        self.effects: list[Effect] = []
        self._wakes: list[Instant] = []

    @property
    def now(self) -> Instant:
        return self.state.now

    def change(self, **changes: Any) -> None:
        self.state = replace(self.state, **changes)

    def wake(self, at: Instant | None) -> None:
        """Look again at this instant at the latest, if it is still to come."""
        if at is not None and self.now < at < FOREVER:
            self._wakes.append(at)

    @property
    def wake_at(self) -> Instant:
        return min(self._wakes, default=FOREVER)

    def emit(self, effect: Effect) -> None:
        """Ask for this, once, now."""
        self.effects.append(effect)

    def want(self, effect: Effect, again_every: Span) -> bool:
        """Ask for this end state, unless it was asked for a short while ago; again and again until it is seen.

        True when it was asked for just now.
        """
        asked = self.state.asked
        last = asked.get(effect)
        if last is not None and self.now < last + again_every:
            self.wake(last + again_every)
            return False
        lane = type(effect) if isinstance(effect, LANES) else None
        kept = {each: at for each, at in asked.items() if at > self.now - FORGET_AFTER and type(each) is not lane}
        kept[effect] = self.now
        done = frozenset(each for each in self.state.done if each != effect and type(each) is not lane)
        failures = {each: reason for each, reason in self.state.failures.items() if each != effect}
        self.change(asked=frozen_mapping(kept), done=done, failures=frozen_mapping(failures))
        self.effects.append(effect)
        self.wake(self.now + again_every)
        return True

    def forget(self, kind: type[Effect]) -> None:
        """Whatever was asked of this kind says nothing any more: ask again when it is wanted next."""
        asked = {each: at for each, at in self.state.asked.items() if not isinstance(each, kind)}
        done = frozenset(each for each in self.state.done if not isinstance(each, kind))
        self.change(asked=frozen_mapping(asked), done=done)

    def is_done(self, effect: Effect) -> bool:
        return effect in self.state.done

    def refuse(self, act: str, gate: str, reason: str, until: Instant | None = None, *, alarm: bool = False) -> None:
        """Keep why `act` is not done (P7); told to the history when the gate is another one than before."""
        self.wake(until)
        before = self.state.refusals.get(act)
        since = before.since if before is not None and before.gate == gate else self.now
        refusal = Refusal(act=act, gate=gate, reason=reason, since=since, until=until)
        self.change(refusals=frozen_mapping({**self.state.refusals, act: refusal}))
        if before is None or before.gate != gate:
            kind = NoticeKind.ALARM if alarm else NoticeKind.REFUSAL
            self.notice(kind, f"{act}: {gate}", f"{act} refused: {reason}")

    def allow(self, act: str) -> None:
        """Nothing stands against `act` any more, or nobody wants it."""
        if act in self.state.refusals:
            rest = {each: refusal for each, refusal in self.state.refusals.items() if each != act}
            self.change(refusals=frozen_mapping(rest))

    def notice(self, kind: NoticeKind, code: str, text: str, evidence: tuple[str, ...] = ()) -> None:
        self.effects.append(Notice(kind=kind, code=code, text=text, epoch=self.state.epoch, evidence=evidence))

    def enter(self, phase: Phase, because: str, evidence: tuple[str, ...] = ()) -> None:
        """Go over to another phase, and say why."""
        if phase is self.state.phase:
            return
        was = self.state.phase
        self.change(phase=phase, phase_since=self.now, refusals=frozen_mapping())
        self.notice(NoticeKind.DECISION, f"{was} -> {phase}", because, evidence)

    def draw(self) -> int:
        """A number that no other write of this or any other daemon uses."""
        self.change(drawn=self.state.drawn + 1)
        return (self.state.run << 24 | self.state.drawn) & 0x7FFF_FFFF_FFFF_FFFF
