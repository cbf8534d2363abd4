"""One run: a settled system, a client that writes, a fault, and what came of it."""

import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import psycopg
import redis

from orchestrator.daemon.clock import now
from orchestrator.domain.spans import NEVER, Instant, Span
from orchestrator.lab.clients import RecordingClient, Watchers
from orchestrator.lab.measure import Write, outage, two_primaries
from tests.bench.clients import Connect
from tests.bench.faults import KINDS
from tests.bench.system import WRITE_EVERY, BenchError, System, wait_until_settled
from tests.system.spread_group import MEMBERS

CALM: Span = 1.0
STEADY: Span = 1.5
"""A client that has written for so long without a break is served again."""

BREAK: Span = 0.25
SETTLED_WITHIN: Span = 90.0
BACK_WITHIN: Span = 60.0


@dataclass(slots=True, kw_only=True)
class Run:
    system: str
    fault: str
    outage_ms: float
    """From the last acknowledged write before to the first after; 0 when the role stayed and gaps as long were seen before."""
    ended: str
    """What ended the outage: the tool; "mending" of the fault; nothing, and then the outage is what was waited."""
    two_primaries_ms: float
    """By any path, to the end of the run, so also while an old primary that came back was not yet told of its successor."""
    two_primaries_before_mending_ms: float
    lost_writes: int | None
    """None when nobody could be asked at the end."""
    acknowledged_writes: int
    old_primary_wrote_ms: float
    """How long after the fault the old primary still acknowledged somebody's write, from inside its host too, until the
    fault was mended. It means something where another member took over, or should have."""
    moved: bool
    settled_ms: float | None
    """From the fault until every member was in its place; None when that did not come by itself."""
    lasted_s: float
    """The whole run, settling before included."""
    errors: dict[str, int]
    failed: str = ""
    """Why the bench failed; then nothing else here counts."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def failed(system: str, fault: str, reason: str, lasted: Span) -> Run:
    return Run(
        system=system,
        fault=fault,
        outage_ms=0.0,
        ended="",
        two_primaries_ms=0.0,
        two_primaries_before_mending_ms=0.0,
        lost_writes=None,
        acknowledged_writes=0,
        old_primary_wrote_ms=0.0,
        moved=False,
        settled_ms=None,
        lasted_s=round(lasted, 1),
        errors={},
        failed=reason,
    )


class Trial:
    def __init__(self, system: System, name: str, fault: str) -> None:
        self.system, self.name, self.fault_name = system, name, fault

    def play(self) -> Run:
        """Raises BenchError when nothing was measured."""
        began = time.monotonic()
        if not wait_until_settled(self.system, SETTLED_WITHIN):
            raise BenchError(f"not settled before the fault: {self.system.why_not_settled()}")
        primary = self.system.primary()
        fault = KINDS[self.fault_name](self.system, primary)
        watchers = self._watchers()
        client = self.system.make_client()
        watchers.start()
        try:
            client.start()
            calm_from = self._wait_calm(client)
            struck_at = now()
            try:
                fault.inject()
                in_time = self._wait_served(client, struck_at, struck_at + fault.lasts, self.system.limit)
            finally:
                mended_at = now()
                self._collect()
                fault.mend()
            ended = "tool" if in_time else "mending" if self._wait_served(client, now(), now(), self.system.limit) else "nothing"
            watched_until = now()
            settled = wait_until_settled(self.system, BACK_WITHIN, holds=1.0)
            settled_at = now()
        finally:
            client.stop()
            accepted = watchers.stop()
        lasted, gap = outage(client.acked, calm_from, struck_at, watched_until, WRITE_EVERY)
        before_mending = {name: [each for each in writes if each.acked_at < mended_at] for name, writes in accepted.items()}
        after = self.system.primary() if settled else None
        moved = after is not None and after != primary
        return Run(
            system=self.name,
            fault=self.fault_name,
            outage_ms=round((gap.lasts if moved or ended != "tool" else lasted) * 1000, 1),
            ended=ended,
            two_primaries_ms=round(two_primaries(accepted) * 1000, 1),
            two_primaries_before_mending_ms=round(two_primaries(before_mending) * 1000, 1),
            lost_writes=self._lost(client, after),
            acknowledged_writes=len(client.acked),
            old_primary_wrote_ms=round(_last(accepted.get(primary, []), struck_at, mended_at) * 1000, 1),
            moved=moved,
            settled_ms=round((settled_at - struck_at) * 1000, 1) if settled else None,
            lasted_s=round(time.monotonic() - began, 1),
            errors=dict(client.errors),
        )

    def _collect(self) -> None:
        """PostgreSQL and pg_autoctl take a zombie for one of them that still runs."""
        for name in MEMBERS:
            for process in self.system.on[name].processes:
                process.poll()

    def _watchers(self) -> Watchers:
        """From outside and from inside each member's host."""
        on, port = self.system.on, self.system.kind.port
        connect: Any = Connect.on(self.system.watching, [self.system.client, *(on[name] for name in MEMBERS)])
        outside = [(name, (on[name].address, port), self.system.client.address) for name in MEMBERS]
        inside = [(name, (on[name].address, port), on[name].address) for name in MEMBERS]
        return Watchers(connect, outside + inside)

    @staticmethod
    def _wait_calm(client: RecordingClient) -> Instant:
        """Writing without a break; returns since when."""
        deadline = now() + 20.0
        while not client.acked or not _is_served(client, NEVER, CALM):
            if now() > deadline:
                raise BenchError(f"the client cannot write steadily although the system is settled: {client.errors}")
            time.sleep(0.02)
        return now() - CALM

    def _wait_served(self, client: RecordingClient, struck_at: Instant, at_least: Instant, limit: Span) -> bool:
        """Until the client is served again, and the fault has lasted; not for ever."""
        deadline = max(struck_at + limit, at_least + STEADY)
        while now() < at_least or not _is_served(client, struck_at, STEADY):
            if now() > deadline:
                return False
            time.sleep(0.02)
        return True

    def _lost(self, client: RecordingClient, primary: str | None) -> int | None:
        """Where no primary was agreed on: what is missing where this client writes now."""
        host = self.system.client
        where = self.system.on[primary].address if primary is not None else client._target[0] if client._target else None
        if where is None:
            return None
        try:
            return host.inside(lambda: self.system.kind.take_lost(where, host.address, client.numbers))
        except (OSError, psycopg.Error, redis.RedisError):
            if primary is not None:
                raise
            return None


def _is_served(client: RecordingClient, since: Instant, steady: Span) -> bool:
    """It has written for so long, all of it after `since`, without a break."""
    moment = now()
    begin = moment - steady
    if begin < since:
        return False
    recent: list[Instant] = []
    for acked in reversed(client.acked):
        recent.append(acked)
        if acked < begin:
            break
    edges = [moment, *recent]
    return edges[-1] < begin and all(later - earlier < BREAK for later, earlier in pairwise(edges))


def _last(writes: list[Write], since: Instant, until: Instant) -> Span:
    """How long after `since` the node certainly still accepted."""
    found = [write.acked_at for write in writes if since < write.sent_at and write.acked_at < until]
    return max(found, default=since) - since
