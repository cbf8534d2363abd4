"""One fault in a running group: before, the fault, after, and the figures."""

import json
import os
import platform
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from orchestrator import __version__
from orchestrator.daemon.clock import now
from orchestrator.domain.spans import NEVER, Instant, Span, in_words
from orchestrator.lab.clients import Watchers, Writers
from orchestrator.lab.faults import FAULTS, Fault, MediatorLost
from orchestrator.lab.group import GROUP, WITNESS, LabGroup
from orchestrator.lab.kinds import LabError
from orchestrator.lab.measure import Write, longest_gap, outage, two_primaries

CALM: Span = 0.6
"""How long the group is watched, whole and untroubled, before the fault."""

AFTER: Span = 0.6
"""How long the client is watched after the group can be written to again."""

RECOVER_WITHIN: Span = 30.0
WHOLE_WITHIN: Span = 60.0
WRITE_EVERY: Final = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Something that happened, in seconds from the fault."""

    at: Span
    who: str
    text: str
    kind: str = "event"
    evidence: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True)
class Outcome:
    service: str
    fault: str
    lease_ms: int
    members: int
    replication: str
    writers: int
    outage_ms: float
    """The longest gap when the role moved; else 0 when gaps as long were seen before the fault too."""
    longest_gap_ms: float
    """Between two acknowledged writes, from the fault on, whatever its cause."""
    lost_writes: int
    acknowledged_writes: int
    two_primaries_ms: float
    failovers: int
    epoch_before: int
    epoch_after: int
    primary_before: str
    primary_after: str
    detected_ms: float | None
    """From the fault until the primary's own daemon told what is wrong with its service, policy's time included."""
    diagnosis: str
    whole_after_ms: float
    """From the fault until every member was back in its place."""
    versions: dict[str, str]
    why: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Burned:
    """What a machine whose every core burns did to a group in which nothing was wrong."""

    service: str
    lease_ms: int
    members: int
    lasted_s: float
    busy_loops: int
    cores: int
    failovers: int
    freezes: int
    longest_gap_ms: float
    """Between two acknowledged writes, load of the machine included."""
    acknowledged_writes: int
    lost_writes: int
    two_primaries_ms: float
    versions: dict[str, str]


Told = Callable[[Line], None]


class Story:
    """Follows every daemon's history and tells what is new, timed from the fault."""

    def __init__(self, group: LabGroup, tell: Told) -> None:
        self._group = group
        self._tell = tell
        self._read_to: dict[str, int] = {}
        self.began_wall = time.time()
        self.began_at = now()
        self.lines: list[Line] = []
        self.catch_up(silently=True)

    def begin(self) -> None:
        """The fault is now."""
        self.catch_up(silently=True)
        self.began_wall, self.began_at = time.time(), now()

    def say(self, text: str, kind: str = "fault") -> None:
        self._keep(Line(at=now() - self.began_at, who="lab", text=text, kind=kind))

    def catch_up(self, *, silently: bool = False) -> None:
        fresh: list[Line] = []
        for host in self._group.hosts.values():
            entries = self._fresh_entries(host.name)
            fresh += [] if silently else [self._line(host.name, entry) for entry in entries]
        for line in sorted(fresh, key=lambda each: each.at):
            self._keep(line)

    def _fresh_entries(self, name: str) -> list[dict[str, Any]]:
        """Whole lines that were added since the last time."""
        path = self._group.directory / "state" / name / GROUP / "history.jsonl"
        try:
            with open(path, "rb") as stream:
                stream.seek(self._read_to.get(name, 0))
                data = stream.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._read_to[name] = self._read_to.get(name, 0) + len(whole)
        return [json.loads(line) for line in whole.splitlines()]

    def _line(self, who: str, entry: dict[str, Any]) -> Line:
        return Line(
            at=entry["wall"] - self.began_wall,
            who=who,
            text=entry["text"],
            kind=entry["kind"],
            evidence=tuple(entry.get("evidence", ())),
        )

    def _keep(self, line: Line) -> None:
        self.lines.append(line)
        self._tell(line)


class Bench:
    """A whole group with its client and its watchers, in which one fault after the other is tried."""

    def __init__(self, group: LabGroup, tell: Told) -> None:
        self.group = group
        self._tell = tell
        self.client: Writers | None = None
        self.watchers: Watchers | None = None

    # --- one fault ---------------------------------------------------------------------------------------------------

    def try_fault(self, name: str, mediator_lost_for: Span = 60.0) -> Outcome:
        primary = self.group.wait_whole(WHOLE_WITHIN)
        fault = self._make(name, primary, mediator_lost_for)
        if reason := fault.why_not_this_group() or fault.why_not():
            raise LabError(f"{name} cannot be tried here: {reason}")
        before = self.group.epoch()
        self._start_clients()
        try:
            return self._play(name, fault, primary, before)
        finally:
            self._stop_clients()

    def _make(self, name: str, primary: str, mediator_lost_for: Span) -> Fault:
        host = self.group.hosts[primary]
        kind = FAULTS[name]
        return MediatorLost(self.group, host, mediator_lost_for) if kind is MediatorLost else kind(self.group, host)

    def _play(self, name: str, fault: Fault, primary: str, epoch_before: int) -> Outcome:
        client = self.client
        assert client is not None
        calm_from = self._wait_calm(client)
        story = Story(self.group, self._tell)
        story.begin()
        story.say(f"{name}: {fault.says} ({primary})")
        struck_at = now()
        fault.inject()
        try:
            self._watch(story, client, fault, struck_at)
        finally:
            fault.mend()
        if fault.lasts:
            story.say("mended", kind="lab")
        primary_after = self._wait_whole(story)
        whole_at = now()
        self._keep_on(story, client, AFTER)
        ended_at = now()
        accepted = self._stop_clients()
        story.catch_up()
        lasted, gap = outage(client.acked, calm_from, struck_at, ended_at, WRITE_EVERY)
        epoch_after = self.group.epoch()
        alarm = next((line for line in story.lines if (line.who, line.kind) == (primary, "alarm")), None)
        return Outcome(
            service=self.group.kind.name,
            fault=name,
            lease_ms=round(self.group.settings.lease * 1000),
            members=self.group.settings.members,
            replication=self.group.settings.replication,
            writers=self.group.settings.writers,
            outage_ms=round((gap.lasts if epoch_after > epoch_before else lasted) * 1000, 1),
            longest_gap_ms=round(gap.lasts * 1000, 1),
            lost_writes=self._lost(client, primary_after),
            acknowledged_writes=len(client.acked),
            two_primaries_ms=round(two_primaries(accepted) * 1000, 1),
            failovers=epoch_after - epoch_before,
            epoch_before=epoch_before,
            epoch_after=epoch_after,
            primary_before=primary,
            primary_after=primary_after,
            detected_ms=round(alarm.at * 1000, 1) if alarm is not None else None,
            diagnosis=alarm.text if alarm is not None else "",
            whole_after_ms=round((whole_at - struck_at) * 1000, 1),
            versions=self._versions(primary_after),
            why=[f"{line.at * 1000:+.0f} ms {line.who}: {line.text}" for line in story.lines],
        )

    def _wait_calm(self, client: Writers) -> Instant:
        """The client has been writing for a while; returns since when."""
        deadline = now() + RECOVER_WITHIN
        while client.newest == NEVER:
            if now() > deadline:
                raise LabError(f"the client cannot write although the group is whole: {client.errors}")
            time.sleep(0.01)
        began = now()
        time.sleep(CALM)
        return began

    def _watch(self, story: Story, client: Writers, fault: Fault, struck_at: Instant) -> None:
        """As long as the fault lasts, and until the client writes again if the role should move."""
        deadline = struck_at + max(RECOVER_WITHIN, fault.lasts + RECOVER_WITHIN)
        epoch = self._epoch_of_file() if fault.moves_the_role else None
        while now() < struck_at + fault.lasts or not self._is_over(client, epoch, struck_at):
            story.catch_up()
            if now() > deadline:
                raise LabError(f"nobody can be written to {RECOVER_WITHIN:.0f} s after the fault: {client.errors}")
            time.sleep(0.02)

    def _epoch_of_file(self) -> int:
        return int(self.group.client_file.read_text().split()[2])

    def _is_over(self, client: Writers, epoch: int | None, struck_at: Instant) -> bool:
        if epoch is not None and self._epoch_of_file() == epoch and now() < struck_at + RECOVER_WITHIN / 2:
            return False
        return now() - client.newest < 0.1 and client.newest > struck_at

    def _wait_whole(self, story: Story) -> str:
        deadline = now() + WHOLE_WITHIN
        while (primary := self.group.whole()) is None:
            story.catch_up()
            if now() > deadline:
                raise LabError(f"the group is not whole again: {self.group.why_not_whole()}")
            time.sleep(0.05)
        return primary

    def _keep_on(self, story: Story, client: Writers, span: Span) -> None:
        ends = now() + span
        while now() < ends:
            story.catch_up()
            time.sleep(0.05)

    # --- a burning machine -------------------------------------------------------------------------------------------

    def burn(self, lasts: Span) -> Burned:
        """Busy loops at ordinary priority, twice as many as cores; nothing else is wrong, so nothing should happen."""
        primary = self.group.wait_whole(WHOLE_WITHIN)
        before, freezes = self.group.epoch(), self._freezes()
        self._start_clients()
        client = self.client
        assert client is not None
        self._wait_calm(client)
        story = Story(self.group, self._tell)
        loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 1))]
        began = now()
        try:
            story.begin()
            story.say(f"{len(loops)} busy loops for {in_words(lasts)} ({primary} is primary)")
            self._keep_on(story, client, lasts)
        finally:
            for loop in loops:
                loop.kill()
                loop.wait()
        ended = now()
        accepted = self._stop_clients()
        primary_after = self._wait_whole(story)
        return Burned(
            service=self.group.kind.name,
            lease_ms=round(self.group.settings.lease * 1000),
            members=self.group.settings.members,
            lasted_s=round(ended - began, 1),
            busy_loops=len(loops),
            cores=os.cpu_count() or 1,
            failovers=self.group.epoch() - before,
            freezes=self._freezes() - freezes,
            longest_gap_ms=round(longest_gap(client.acked, began, ended).lasts * 1000, 1),
            acknowledged_writes=len(client.acked),
            lost_writes=self._lost(client, primary_after),
            two_primaries_ms=round(two_primaries(accepted) * 1000, 1),
            versions=self._versions(primary_after),
        )

    def _freezes(self) -> int:
        """Of all keepers since their start."""
        total = 0.0
        for host in self.group.members:
            for line in host.api.text("/metrics").splitlines():
                if line.startswith("tanist_freezes_total{"):
                    total += float(line.rpartition(" ")[2])
        return round(total)

    # --- clients -----------------------------------------------------------------------------------------------------

    def _start_clients(self) -> None:
        source = self.group.hosts[WITNESS].address
        kind, members = self.group.kind, self.group.members
        self.client = Writers(kind.connection, self.group.client_file, source, WRITE_EVERY, self.group.settings.writers)
        outside = [(host.name, (host.address, kind.port), source) for host in members]
        inside = [(host.name, (host.address, kind.port), host.address) for host in members]
        self.watchers = Watchers(kind.connection, outside + inside)
        self.watchers.start()
        self.client.start()

    def _stop_clients(self) -> dict[str, list[Write]]:
        """What the watchers got accepted, by member."""
        if self.client is not None:
            self.client.stop()
        return self.watchers.stop() if self.watchers is not None else {}

    def _lost(self, client: Writers, primary: str) -> int:
        """Acknowledged writes that the primary does not have."""
        host, witness = self.group.hosts[primary], self.group.hosts[WITNESS]
        return self.group.kind.take_lost(host.address, witness.address, client.numbers)

    # --- facts -------------------------------------------------------------------------------------------------------

    def _versions(self, primary: str) -> dict[str, str]:
        kind, host, witness = self.group.kind, self.group.hosts[primary], self.group.hosts[WITNESS]
        return {
            "tanist": __version__,
            kind.name: kind.version(host.address, witness.address),
            "mediator": self.group.settings.mediator or f"sqlite {sqlite3.sqlite_version}",
            "python": platform.python_version(),
            "kernel": platform.release(),
        }


def summary(outcomes: list[Outcome]) -> dict[str, Any]:
    """Median and worst over all runs of one fault."""
    outages = [each.outage_ms for each in outcomes]
    first = outcomes[0]
    return {
        "service": first.service,
        "fault": first.fault,
        "lease_ms": first.lease_ms,
        "members": first.members,
        "replication": first.replication,
        "writers": first.writers,
        "runs": len(outcomes),
        "outage_ms": statistics.median(outages),
        "outage_worst_ms": max(outages),
        "longest_gap_ms": statistics.median(each.longest_gap_ms for each in outcomes),
        "longest_gap_worst_ms": max(each.longest_gap_ms for each in outcomes),
        "lost_writes": max(each.lost_writes for each in outcomes),
        "lost_writes_total": sum(each.lost_writes for each in outcomes),
        "two_primaries_ms": max(each.two_primaries_ms for each in outcomes),
        "failovers": sum(each.failovers for each in outcomes),
        "epoch_before": first.epoch_before,
        "epoch_after": outcomes[-1].epoch_after,
        "versions": first.versions,
        "each": [each.as_json() for each in outcomes],
    }
