"""Counters and histograms of one group, for `/metrics`. Gauges are read from the state when they are asked for."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram

from orchestrator.domain.effects import Notice, NoticeKind
from orchestrator.domain.events import WriteOutcome
from orchestrator.domain.spans import Span
from orchestrator.engine.state import Phase, State

PHASE_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
WRITE_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
LASTING: Final = frozenset({Phase.SERVING, Phase.STANDBY, Phase.WITNESS})
"""Phases that are meant to last: how long they did says nothing."""


class MeterSet:
    """The metrics themselves, registered once per daemon."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.phases = Histogram(
            "tanist_phase_seconds",
            "Time spent in a passing phase (claiming, promoting, handing over ...)",
            ["group", "phase"],
            buckets=PHASE_BUCKETS,
            registry=registry,
        )
        self.writes = Histogram(
            "tanist_record_write_seconds",
            "Time until a write of the mediator's record was answered",
            ["group", "outcome"],
            buckets=WRITE_BUCKETS,
            registry=registry,
        )
        self.notices = Counter(
            "tanist_notices",
            "Decisions, refusals, alarms and events, by their code",
            ["group", "kind", "code"],
            registry=registry,
        )
        self.served = Counter("tanist_promotions", "Times that this node began to serve", ["group"], registry=registry)


class Meters:
    """One group's share of them."""

    def __init__(self, meters: MeterSet, group: str) -> None:
        self._set = meters
        self._group = group
        meters.served.labels(group)

    def saw_step(self, before: State, after: State) -> None:
        if before.phase is after.phase:
            return
        if before.phase not in LASTING:
            self._set.phases.labels(self._group, before.phase).observe(max(0.0, after.now - before.phase_since))

    def saw_notice(self, notice: Notice) -> None:
        self._set.notices.labels(self._group, notice.kind, notice.code).inc()
        if notice.kind is NoticeKind.EVENT and notice.code == "serving":
            self._set.served.labels(self._group).inc()

    def saw_write(self, outcome: WriteOutcome, took: Span) -> None:
        self._set.writes.labels(self._group, outcome).observe(took)
