"""Gauges and keeper counters, read from the engine's state at the moment they are asked for."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from orchestrator.daemon.clock import now
from orchestrator.daemon.node import Node
from orchestrator.daemon.runner import GroupRunner
from orchestrator.domain.observations import Hold
from orchestrator.domain.spans import FOREVER, NEVER
from orchestrator.engine.state import Phase

PATH_COUNTS = {
    "beats_sent": "Beats sent",
    "beats_unsendable": "Beats that this host could not send (no route, no buffer, no time on a serial line)",
    "beats_heard": "Beats that arrived and were believed",
    "beats_lost": "Beats that a peer sent and that did not arrive",
}


class StateCollector(Collector):
    def __init__(self, node: Node) -> None:
        self._node = node

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        yield from self._of_groups()
        yield from self._of_paths()
        yield from self._of_keeper()

    # --- groups ------------------------------------------------------------------------------------------------------

    def _of_groups(self) -> Iterator[GaugeMetricFamily]:
        role = GaugeMetricFamily("tanist_role", "1 for the role that this node has now", labels=["group", "role"])
        epoch = GaugeMetricFamily("tanist_epoch", "Highest epoch known", labels=["group"])
        left = GaugeMetricFamily(
            "tanist_lease_left_seconds", "Time that the right to serve still lasts; +Inf without a succession", labels=["group"]
        )
        frozen = GaugeMetricFamily("tanist_frozen", "1 while the service is frozen", labels=["group"])
        paused = GaugeMetricFamily("tanist_paused", "1 while a person has paused automation", labels=["group"])
        waiting = GaugeMetricFamily("tanist_proposal_open", "1 while a decision waits for a person", labels=["group"])
        lost = GaugeMetricFamily("tanist_mediator_lost", "1 while the mediator does not answer", labels=["group"])
        succession = GaugeMetricFamily("tanist_succession_members", "Members ready to take over", labels=["group"])
        promise = GaugeMetricFamily(
            "tanist_promise_age_seconds", "Since when this node's own promise to the primary was given", labels=["group"]
        )
        lag = GaugeMetricFamily("tanist_lag_bytes", "Bytes that this member lacks of the primary's data", labels=["group"])
        finding = GaugeMetricFamily(
            "tanist_finding_seconds",
            "For how long this has been wrong with the service here, by its code",
            labels=["group", "code"],
        )
        diverged = GaugeMetricFamily(
            "tanist_diverged_writes", "Writes of a lost history that are saved here and nobody has settled", labels=["group"]
        )
        unsaved = GaugeMetricFamily(
            "tanist_divergences_incomplete", "Divergences here whose writes were not all saved", labels=["group"]
        )
        for name, runner in self._node.groups.items():
            diverged.add_metric([name], sum(each["writes"] or 0 for each in runner.diverged))
            unsaved.add_metric([name], sum(not each["complete"] for each in runner.diverged))
            state, keeper = runner.state, runner.state.keeper
            if state.local.finding is not None:
                finding.add_metric([name, state.local.finding.code], max(0.0, now() - state.local.found_since))
            for each in ("primary", "standby", "witness", "other"):
                role.add_metric([name, each], 1.0 if _role(runner) == each else 0.0)
            epoch.add_metric([name], state.epoch)
            paused.add_metric([name], state.control.paused is not None)
            waiting.add_metric([name], state.control.proposal is not None)
            lost.add_metric([name], state.mediated.lost_since is not None)
            succession.add_metric([name], len(state.record.succession) if state.record is not None else 0)
            if keeper is None:
                continue
            frozen.add_metric([name], keeper.frozen_since is not None)
            if keeper.hold is not Hold.NONE:
                rest = float("inf") if runner.right_until == FOREVER else max(0.0, runner.right_until - now())
                left.add_metric([name], rest)
            if keeper.promised_to is not None and keeper.promised_until != NEVER:
                given_at = keeper.promised_until - 1.01 * (state.record.lease if state.record else state.policy.lease)
                promise.add_metric([name], max(0.0, now() - given_at))
            behind = runner.lag_bytes()
            if behind is not None:
                lag.add_metric([name], behind)
        yield from (role, epoch, left, frozen, paused, waiting, lost, succession, promise, lag, finding, diverged, unsaved)

    # --- paths -------------------------------------------------------------------------------------------------------

    def _of_paths(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        trip = GaugeMetricFamily(
            "tanist_path_round_trip_seconds", "Smoothed round trip of beats to a peer on one path", labels=["peer", "path"]
        )
        loss = GaugeMetricFamily(
            "tanist_path_loss_ratio", "Share of the last 64 beats of a peer that did not arrive", labels=["peer", "path"]
        )
        seen = set()
        for runner in self._node.groups.values():
            for peer in runner.state.keeper.peers if runner.state.keeper is not None else ():
                for path in peer.paths:
                    if (peer.name, path.path) in seen:
                        continue
                    seen.add((peer.name, path.path))
                    loss.add_metric([peer.name, path.path], path.lost)
                    if path.round_trip is not None:
                        trip.add_metric([peer.name, path.path], path.round_trip)
        yield trip
        yield loss
        tally = self._node.keeper.tally
        if tally is None:
            return
        for name, text in PATH_COUNTS.items():
            family = CounterMetricFamily(f"tanist_{name}", text, labels=["peer", "path"])
            for count in tally.counts:
                if count.name == name:
                    family.add_metric(count.label.split("|", 1), count.value)
            yield family
        line = GaugeMetricFamily("tanist_line_up", "1 while the serial line's device can be used", labels=["peer", "path"])
        for count in tally.counts:
            if count.name == "line_up":
                line.add_metric(count.label.split("|", 1), count.value)
        yield line
        refused = CounterMetricFamily("tanist_beats_refused", "Datagrams that were not believed, by reason", labels=["reason"])
        for count in tally.counts:
            if count.name == "beats_refused":
                refused.add_metric([count.label], count.value)
        yield refused

    # --- the keeper --------------------------------------------------------------------------------------------------

    def _of_keeper(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        keeper = self._node.keeper
        up = GaugeMetricFamily("tanist_keeper_up", "1 while the daemon has its keeper")
        up.add_metric([], keeper.connected)
        yield up
        if keeper.tally is None:
            return
        for name, kind, text in (
            ("freezes", CounterMetricFamily, "Times that the service was frozen"),
            ("last_freeze_seconds", GaugeMetricFamily, "How long the last freeze took"),
            ("longest_delay_seconds", GaugeMetricFamily, "Longest freeze or late wake-up of the last ten minutes"),
            ("freeze_budget_seconds", GaugeMetricFamily, "How long before its end a right is given up"),
        ):
            family = kind(f"tanist_{name}", text, labels=["group"])
            for count in keeper.tally.counts:
                if count.name == name:
                    family.add_metric([count.label], count.value)
            yield family


def _role(runner: GroupRunner) -> str:
    phase = runner.state.phase
    if phase in (Phase.SERVING, Phase.HANDING_OVER):
        return "primary"
    return phase if phase in (Phase.STANDBY, Phase.WITNESS) else "other"
