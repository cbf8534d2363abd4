"""Many failovers in a row on one group: after each, everybody must be back in place without a person's help."""

import os
import random
import signal
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from orchestrator.daemon.clock import now
from orchestrator.domain.spans import Instant, Span
from orchestrator.keeper.tree import children, state_of
from orchestrator.lab.clients import Watchers, Writers
from orchestrator.lab.faults import FAULTS, Fault
from orchestrator.lab.group import GROUP, WITNESS, Host, LabGroup
from orchestrator.lab.kinds import LabError
from orchestrator.lab.measure import longest_gap, two_primaries
from orchestrator.lab.run import WRITE_EVERY, Story, Told
from orchestrator.services.divergence import Kept

DEFAULT_FAULTS: Final = ("F1", "F2", "F4")
"""Kill, power loss, hang."""
WHOLE_WITHIN: Span = 120.0
"""For one round: several leases, a recovery after a crash, a rewind and a copy fit into it many times."""
TIDY_WITHIN: Span = 30.0
"""What is kept up every few seconds may need this long after the last round."""
LOOK_EVERY: Span = 0.05
CALM: Final = (0.3, 1.5)
"""Seconds between a whole group and the next fault, drawn: faults should strike at different moments of the upkeep."""
SECOND_AFTER: Final = (0.0, 3.0)
"""Seconds after a new primary serves, drawn: a second fault strikes while the first one's victim rejoins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    number: int
    fault: str
    second: str
    """A fault that struck before the group was whole again, and whom; empty when there was none."""
    outage_ms: float
    whole_after_ms: float
    """From the (last) fault until every member was in its place and data arrived at every standby."""
    rejoined: dict[str, str]
    """How each victim came back: followed, rewound, copied."""
    primary_before: str
    primary_after: str
    failovers: int
    acknowledged_writes: int
    lost_writes: int
    saved_writes: int
    """Writes that an old primary saved before it rejoined; -1 where the service saves none."""
    two_primaries_ms: float


class NotWhole(LabError):
    """A round did not end as it must; `transcript` tells what happened."""

    def __init__(self, reason: str, transcript: Sequence[str]) -> None:
        super().__init__(reason)
        self.transcript = tuple(transcript)


@dataclass(slots=True, kw_only=True)
class Soaked:
    service: str
    replication: str
    lease_ms: int
    members: int
    seed: int
    rounds: list[Round] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    sizes_at_begin: dict[str, dict[str, int]] = field(default_factory=dict)
    sizes_at_end: dict[str, dict[str, int]] = field(default_factory=dict)
    lost_later: int = 0
    """Writes that were there after their round, and were not at the end."""
    lasted_s: float = 0.0
    failure: str = ""

    def as_json(self) -> dict[str, Any]:
        rounds = self.rounds
        outages = [each.outage_ms for each in rounds] or [0.0]
        slowest = max(rounds, key=lambda each: each.whole_after_ms, default=None)
        return {
            "service": self.service,
            "replication": self.replication,
            "lease_ms": self.lease_ms,
            "members": self.members,
            "seed": self.seed,
            "rounds": len(rounds),
            "failovers": sum(each.failovers for each in rounds),
            "faults": dict(Counter(each.fault for each in rounds)),
            "rejoined": dict(Counter(how for each in rounds for how in each.rejoined.values())),
            "outage_ms": statistics.median(outages),
            "outage_worst_ms": max(outages),
            "whole_after_ms": statistics.median([each.whole_after_ms for each in rounds] or [0.0]),
            "slowest_rejoin_ms": slowest.whole_after_ms if slowest else 0.0,
            "slowest_rejoin": asdict(slowest) if slowest else None,
            "acknowledged_writes": sum(each.acknowledged_writes for each in rounds),
            "lost_writes": sum(each.lost_writes for each in rounds) + self.lost_later,
            "saved_writes": sum(max(0, each.saved_writes) for each in rounds),
            "two_primaries_ms": round(sum(each.two_primaries_ms for each in rounds), 1),
            "leftovers": self.leftovers,
            "sizes_at_begin": self.sizes_at_begin,
            "sizes_at_end": self.sizes_at_end,
            "lasted_s": round(self.lasted_s, 1),
            "failure": self.failure,
            "each": [asdict(each) for each in rounds],
        }


class Soak:
    def __init__(
        self, group: LabGroup, tell: Told, *, faults: Sequence[str], seed: int, overlap: float = 0.0, hold_back: Span = 0.0
    ) -> None:
        """`overlap`: the share of rounds in which a second fault strikes before the group is whole again.

        `hold_back`: how long before each fault the primary sends nothing any more, so that its last writes are lost.
        """
        self.group = group
        self._tell = tell
        self._faults = tuple(faults)
        self._overlap = overlap
        self._hold_back = hold_back
        self._random = random.Random(seed)
        settings = group.settings
        self.found = Soaked(
            service=group.kind.name,
            replication=settings.replication,
            lease_ms=round(settings.lease * 1000),
            members=settings.members,
            seed=seed,
        )
        self._saved: set[int] = set()
        self._there: list[int] = []
        """Numbers of acknowledged writes that were there after their round."""

    def run(self, count: int) -> Soaked:
        """Raises NotWhole; `found` then holds what was seen up to there."""
        began = now()
        primary = self.wait_whole(WHOLE_WITHIN)
        source = self._source
        kind = self.group.kind
        places = [(host.name, (host.address, kind.port), source) for host in self.group.members]
        writers = Writers(kind.connection, self.group.client_file, source, WRITE_EVERY, self.group.settings.writers)
        watchers = Watchers(kind.connection, places)
        watchers.start()
        writers.start()
        try:
            self.found.sizes_at_begin = self._sizes()
            for number in range(1, count + 1):
                primary = self._round(number, primary, writers, watchers)
        except LabError as error:
            self.found.failure = str(error)
            raise
        finally:
            writers.stop()
            watchers.stop()
            self.found.lasted_s = now() - began
        self.found.lost_later = len(kind.lost(self.group.hosts[primary].address, source, self._there))
        self.found.leftovers = self.leftovers(TIDY_WITHIN)
        self.found.sizes_at_end = self._sizes()
        return self.found

    @property
    def _source(self) -> str:
        return self.group.hosts[WITNESS].address

    # --- one round ---------------------------------------------------------------------------------------------------

    def _round(self, number: int, primary: str, writers: Writers, watchers: Watchers) -> str:
        name = self._random.choice(self._faults)
        calm = self._random.uniform(*CALM)
        second = self._draw_second()
        before = self.group.epoch()
        writers.take()
        time.sleep(calm)
        story = Story(self.group, self._tell)
        story.begin()
        fault = self._fault(name, primary)
        held = self._hold(primary)
        struck_at = now()
        story.say(f"round {number}: {name}: {fault.says} ({primary})")
        fault.inject()
        victims, told = {primary}, ""
        try:
            serving = self._wait_moved(story, before)
            if second is not None:
                told, victim = self._strike_again(story, *second, primary, serving)
                victims.add(victim)
            self._leave(story, struck_at + fault.lasts)
        finally:
            fault.mend()
            for pid in held:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        last_at = now() if told else struck_at
        primary_after = self.wait_whole(WHOLE_WITHIN, story)
        whole_at = now()
        accepted = watchers.take()
        acked, numbers = writers.take()
        story.catch_up()
        lost = set(self.group.kind.lost(self.group.hosts[primary_after].address, self._source, numbers))
        self._there += [each for each in numbers if each not in lost]
        saved = self._newly_saved(story, primary_after, lost)
        found = Round(
            number=number,
            fault=name,
            second=told,
            outage_ms=round(longest_gap(acked, struck_at, whole_at).lasts * 1000, 1),
            whole_after_ms=round((whole_at - last_at) * 1000, 1),
            rejoined={victim: self._how_back(story, victim) for victim in sorted(victims - {primary_after})},
            primary_before=primary,
            primary_after=primary_after,
            failovers=self.group.epoch() - before,
            acknowledged_writes=len(numbers),
            lost_writes=len(lost),
            saved_writes=saved,
            two_primaries_ms=round(two_primaries(accepted) * 1000, 1),
        )
        self.found.rounds.append(found)
        self._judge(found, story)
        story.say(_in_words(found), kind="lab")
        return primary_after

    def _hold(self, primary: str) -> list[int]:
        """The primary goes on acknowledging what it does not send."""
        main_pid = self.group.hosts[primary].service_pid()
        held = self.group.kind.senders(main_pid) if self._hold_back and main_pid is not None else []
        for pid in held:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(self._hold_back)
        return held

    def _newly_saved(self, story: Story, primary: str, lost: set[int]) -> int:
        """What was acknowledged and lost is saved by whoever had it, and nothing that is there is called lost."""
        kind = self.group.kind
        found: set[int] = set()
        for host in self.group.members:
            saved = kind.saved(Kept(self.group.directory / "state" / host.name / GROUP / "divergence"))
            if saved is None:
                return -1
            found |= saved
        new, self._saved = found - self._saved, found
        if missed := lost - found:
            raise self._not_whole(story, f"{len(missed)} acknowledged writes are lost and were not saved: {sorted(missed)[:5]}")
        if there := new - set(kind.lost(self.group.hosts[primary].address, self._source, sorted(new))):
            raise self._not_whole(story, f"{len(there)} writes are there and were saved as lost: {sorted(there)[:5]}")
        return len(new)

    def _fault(self, name: str, victim: str) -> Fault:
        fault = FAULTS[name](self.group, self.group.hosts[victim])
        if reason := fault.why_not():
            raise LabError(f"{name} cannot be tried here: {reason}")
        return fault

    def _draw_second(self) -> tuple[str, float, bool] | None:
        """Drawn before the round begins, so that a seed's faults do not depend on the machine's speed."""
        drawn = (self._random.choice(self._faults), self._random.uniform(*SECOND_AFTER), self._random.random() < 0.5)
        return drawn if self._random.random() < self._overlap else None

    def _wait_moved(self, story: Story, before: int) -> str:
        """Who serves a newer epoch: what hangs is let go on only after that."""
        deadline = now() + WHOLE_WITHIN
        while (serving := self._serving(before)) is None:
            story.catch_up()
            self.group.note_processes()
            if now() > deadline:
                raise self._not_whole(story, f"nobody serves a newer epoch than {before}")
            time.sleep(LOOK_EVERY)
        return serving

    def _strike_again(self, story: Story, name: str, after: Span, at_victim: bool, first: str, serving: str) -> tuple[str, str]:
        """Before the first victim is back: at the new primary, or at the first victim in the midst of its rejoin."""
        host = self.group.hosts[first if at_victim else serving]
        if host.daemon is not None and host.daemon.popen.poll() is not None:  # a power loss: it comes back first
            self.group.start_daemon(host)
        self._leave(story, now() + after)
        if host.service_pid() is None:
            name = "F2"
        fault = self._fault(name, host.name)
        told = f"{name} on {host.name} {after:.1f} s after {serving} had begun to serve"
        story.say(f"second fault: {told}")
        began = now()
        with suppress(ProcessLookupError):
            fault.inject()
        self._leave(story, began + fault.lasts)
        fault.mend()
        return told, host.name

    def _serving(self, before: int) -> str | None:
        for host in self.group.members:
            report = self.group.report(host)
            if report is not None and report["epoch"] > before and report["phase"] == "serving":
                return host.name
        return None

    def _leave(self, story: Story, until: Instant) -> None:
        while now() < until:
            story.catch_up()
            self.group.note_processes()
            time.sleep(min(LOOK_EVERY, max(0.0, until - now())))

    def wait_whole(self, within: Span, story: Story | None = None) -> str:
        """Everybody is in place by their own words, and what is written now arrives at every standby. Raises NotWhole."""
        deadline = now() + within
        mark: tuple[str, int] | None = None
        while True:
            if story is not None:
                story.catch_up()
            primary = self.group.whole()
            if primary is None:
                mark, reason = None, self.group.why_not_whole()
            else:
                reason, mark = self._why_not_arriving(primary, mark)
                if not reason:
                    return primary
            if now() > deadline:
                raise self._not_whole(story, reason)
            time.sleep(LOOK_EVERY)

    def _why_not_arriving(self, primary: str, mark: tuple[str, int] | None) -> tuple[str, tuple[str, int] | None]:
        kind, address = self.group.kind, self.group.hosts[primary].address
        try:
            if mark is None or mark[0] != primary:
                mark = (primary, kind.end_of_data(address, self._source))
            arrived = kind.arrived(address, self._source)
        except Exception as error:  # of the service's own library: it may fall just now
            return f"{primary} does not tell who follows it: {error}", None
        there = [each for each in arrived if each >= mark[1]]
        if len(there) == len(self.group.members) - 1:
            return "", mark
        return f"data arrives at {len(there)} of {len(self.group.members) - 1} standbys of {primary}", mark

    def _not_whole(self, story: Story | None, reason: str) -> NotWhole:
        lines = [f"{line.at * 1000:+.0f} ms {line.who}: {line.text}" for line in story.lines] if story is not None else []
        return NotWhole(f"{reason}; the files are in {self.group.directory}", lines)

    def _how_back(self, story: Story, victim: str) -> str:
        """The history tells what was done to the data; nothing told means that it could simply follow."""
        told = [line.text for line in story.lines if line.who == victim]
        if any(text.startswith("copied anew") for text in told):
            return "copied"
        return "rewound" if any(text.startswith("rewound") for text in told) else "followed"

    def _judge(self, found: Round, story: Story) -> None:
        if found.two_primaries_ms:
            raise self._not_whole(story, f"TWO PRIMARIES for {found.two_primaries_ms:.0f} ms in round {found.number}")
        if found.lost_writes and self.group.settings.replication != "asynchronous":
            how = self.group.settings.replication
            raise self._not_whole(story, f"{found.lost_writes} acknowledged writes lost in round {found.number}, {how}")

    # --- what is left behind -----------------------------------------------------------------------------------------

    def leftovers(self, within: Span) -> list[str]:
        """What should not be there for good; upkeep gets its time."""
        deadline = now() + within
        while (found := list(self._look_for_leftovers())) and now() < deadline:
            time.sleep(0.5)
        return found

    def _look_for_leftovers(self) -> Iterator[str]:
        self.group.note_processes()
        names = [host.name for host in self.group.members]
        for host in self.group.members:
            for words in self.group.kind.leftovers(host.directory, host.address, host.name, names):
                yield f"{host.name}: {words}"
        yield from self._strange_processes()

    def _strange_processes(self) -> Iterator[str]:
        """Whoever works in a member's directory, or names it, and descends from nothing that should run; and every zombie."""
        wanted: set[int] = set()
        for host in self.group.hosts.values():
            roots = [host.daemon.pid if host.daemon else None, host.keeper_pid(self.group.run), host.service_pid()]
            for pid in roots:
                if pid is not None:
                    wanted |= {pid, *_descendants(pid)}
        for pid in sorted(wanted):
            if state_of(pid) == "Z":
                yield f"process {pid} has ended and is not collected"
        for pid in _processes_of(self.group.directory):
            if pid not in wanted and pid != os.getpid() and state_of(pid) not in (None, "Z"):
                yield f"process {pid} belongs to nobody: {_command(pid)}"

    def _sizes(self) -> dict[str, dict[str, int]]:
        found = {}
        for host in self.group.members:
            found[host.name] = {**self.group.kind.sizes(host.directory), **self._sizes_of_daemon(host)}
        return found

    def _sizes_of_daemon(self, host: Host) -> dict[str, int]:
        state = self.group.directory / "state" / host.name / GROUP
        found = {"state": sum(path.stat().st_size for path in state.glob("*") if path.is_file())}
        for name, pid in (("daemon", host.daemon.pid if host.daemon else None), ("keeper", host.keeper_pid(self.group.run))):
            with suppress(OSError):
                found[f"{name}_descriptors"] = len(os.listdir(f"/proc/{pid}/fd"))
                found[f"{name}_memory"] = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return found


def _descendants(pid: int) -> Iterator[int]:
    for child in children(pid):
        yield child
        yield from _descendants(child)


def _processes_of(directory: Path) -> Iterator[int]:
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        with suppress(OSError):
            where = str((Path("/proc") / name / "cwd").readlink())
            if where.startswith(str(directory)) or str(directory) in _command(int(name)):
                yield int(name)


def _command(pid: int) -> str:
    try:
        return (Path("/proc") / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def _in_words(found: Round) -> str:
    back = ", ".join(f"{victim} {how}" for victim, how in found.rejoined.items()) or "the same primary again"
    return (
        f"whole after {found.whole_after_ms / 1000:.1f} s, outage {found.outage_ms:.0f} ms, {found.primary_after} is primary, "
        f"{back}, {found.lost_writes} of {found.acknowledged_writes} writes lost"
        + (f", {found.saved_writes} saved" if found.saved_writes > 0 else "")
    )
