"""pgbench (TPC-B) on a group whose primary is changed again and again, as a client without a pooler sees it.

pgbench itself gives up a client that loses its connection. So each client is a pgbench of its own, which is started again at
once, and finds the primary as any libpq client can: several hosts, `target_session_attrs=read-write`. A switchover stops the
old primary, so it costs every client the transaction that it was in; each is counted as failed. Every transaction writes its
number into the history, so that each one that pgbench logged as committed can be looked up afterwards.
"""

import statistics
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, LiteralString

import psycopg

from orchestrator.api.client import NoDaemon, Refused
from orchestrator.domain.spans import Span, WallTime
from orchestrator.lab.group import GROUP, Host, LabGroup
from orchestrator.lab.kinds import LabError
from orchestrator.lab.measure import longest_gap
from orchestrator.lab.postgresql import PostgresqlKind

SCRIPT: Final = """\
\\set n :n + 1
\\set aid random(1, 100000 * :scale)
\\set bid random(1, 1 * :scale)
\\set tid random(1, 10 * :scale)
\\set delta random(-5000, 5000)
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
UPDATE pgbench_tellers SET tbalance = tbalance + :delta WHERE tid = :tid;
UPDATE pgbench_branches SET bbalance = bbalance + :delta WHERE bid = :bid;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime, filler)
  VALUES (:tid, :bid, :aid, :delta, CURRENT_TIMESTAMP, (:session * 1000000000::bigint + :n)::text);
END;
"""
"""pgbench's own TPC-B, with the number of the session and of the transaction in the history's filler."""
IN_A_SESSION: Final = 1_000_000_000
CONNECT_AGAIN: Span = 0.02
WHOLE_WITHIN: Span = 120.0
DONE_WITHIN: Span = 20.0
LATE: Span = 10.0
"""A pgbench that has not ended so long after its time is ended; what it had not written of its log is not known."""
LOOK_EVERY: Span = 0.02
SUMS: Final[LiteralString] = """
SELECT coalesce((SELECT sum(delta) FROM pgbench_history), 0)::bigint, (SELECT sum(bbalance) FROM pgbench_branches)::bigint,
       (SELECT sum(tbalance) FROM pgbench_tellers)::bigint, (SELECT sum(abalance) FROM pgbench_accounts)::bigint
"""


@dataclass(frozen=True, slots=True)
class Commit:
    """One line of pgbench's log."""

    number: int
    at: WallTime
    latency: Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Switched:
    ordered_at: WallTime
    lasted_ms: float
    """From the order until another member says that it serves."""
    primary_before: str
    primary_after: str
    """The same as before when it was refused or rolled back."""
    reason: str = ""


@dataclass(slots=True, kw_only=True)
class Benched:
    replication: str
    lease_ms: int
    members: int
    clients: int
    scale: int
    lasted_s: float
    switchovers: int
    switchovers_not_done: list[str]
    transactions: int
    transactions_per_s: float
    latency_ms: float
    failed_transactions: int
    """Begun, and ended by a lost connection or an error."""
    failed_connections: int
    """Tries to connect while nobody could be written to; each is made again."""
    longest_stall_ms: float
    """The longest time in which no client saw a commit."""
    stall_ms: float
    """Of a switchover, median."""
    stalls_ms: list[float]
    lost_commits: int
    """Logged by pgbench, and not in the history."""
    unheard_commits: int
    """In the history although pgbench did not hear of the commit: among the failed."""
    sums_agree: bool
    """Of deltas, branches, tellers and accounts, on every member."""
    sums: dict[str, list[int]]
    logs_incomplete: int
    errors: dict[str, int] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Client(threading.Thread):
    """One pgbench after the other, until the end."""

    def __init__(self, command: Sequence[str], directory: Path, first: int, step: int, until: WallTime) -> None:
        super().__init__(name=f"pgbench-{first}", daemon=True)
        self._command = tuple(command)
        self._directory = directory
        self._session, self._step = first, step
        self._until = until
        self._pgbench: subprocess.Popen[str] | None = None
        self._ended = False
        self.failed_transactions = 0
        self.failed_connections = 0
        self.incomplete = 0
        self.errors: dict[str, int] = {}

    def run(self) -> None:
        while not self._ended and (left := self._until - time.time()) > 0.5:
            words = [*self._command, "-T", str(max(1, round(left))), "-D", f"session={self._session}"]
            words += ["--log-prefix", str(self._directory / f"{self._session}")]
            self._pgbench = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            self._session += self._step
            try:
                _, said = self._pgbench.communicate(timeout=left + LATE)
            except subprocess.TimeoutExpired:
                self._pgbench.kill()
                _, said = self._pgbench.communicate()
                self.incomplete += 1
            if self._pgbench.returncode:
                self._note(said)

    def _note(self, said: str) -> None:
        begun = "client 0 " in said and "establishing" not in said
        if begun:
            self.failed_transactions += 1
        else:
            self.failed_connections += 1
            time.sleep(CONNECT_AGAIN)
        words = reason(said)
        self.errors[words] = self.errors.get(words, 0) + 1

    def end(self) -> None:
        self._ended = True
        if self._pgbench is not None and self._pgbench.poll() is None:
            self._pgbench.kill()


def reason(said: str) -> str:
    """What was wrong, without what differs from one time to the next."""
    lines = [line for line in said.splitlines() if "error:" in line or "FATAL:" in line]
    telling = next((line for line in reversed(lines) if "FATAL:" in line), lines[-1] if lines else "no reason given")
    for word in ("FATAL:", "failed:", "error:"):
        if word in telling:
            return telling.rpartition(word)[2].strip()
    return telling.strip()


class Pgbench:
    def __init__(self, group: LabGroup, *, clients: int, scale: int) -> None:
        if not isinstance(group.kind, PostgresqlKind):
            raise LabError("pgbench is for PostgreSQL")
        self.group = group
        self.kind = group.kind
        self.clients = clients
        self.scale = scale
        self._program = self.kind.program("pgbench")
        self._directory = group.directory / "pgbench"
        self._directory.mkdir()
        self._script = self._directory / "tpcb.sql"
        self._script.write_text(SCRIPT)

    def prepare(self) -> None:
        primary = self.group.hosts[self.group.wait_whole(WHOLE_WITHIN)]
        words = [self._program, "-i", "-q", "-s", str(self.scale), self._conninfo([primary])]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise LabError(f"pgbench -i failed: {done.stderr[-500:]}")
        self._wait_arrived()

    def run(self, lasts: Span, every: Span) -> Benched:
        self._wait_arrived()
        began = time.time()
        command = [self._program, "-n", "-c", "1", "-f", str(self._script), "-D", f"scale={self.scale}", "-D", "n=0", "-l"]
        command.append(self._conninfo(self.group.members))
        clients = [Client(command, self._directory, number + 1, self.clients, began + lasts) for number in range(self.clients)]
        for client in clients:
            client.start()
        switched: list[Switched] = []
        try:
            while (due := began + (len(switched) + 1) * every) < began + lasts - 1.0:
                self._leave(due)
                switched.append(self._switch())
            self._leave(began + lasts)
            for client in clients:
                client.join(2 * LATE)
        finally:
            for client in clients:
                client.end()
        ended = time.time()
        primary = self._wait_arrived()
        return self._judge(primary, clients, switched, began, min(ended, began + lasts))

    # --- switching ---------------------------------------------------------------------------------------------------

    def _switch(self) -> Switched:
        ordered_at = time.time()
        before = self.group.whole()
        while before is None and time.time() < ordered_at + DONE_WITHIN:
            time.sleep(LOOK_EVERY)
            before = self.group.whole()
        if before is None:
            return Switched(
                ordered_at=ordered_at,
                lasted_ms=0.0,
                primary_before="",
                primary_after="",
                reason=f"not asked for: {self.group.why_not_whole()}",
            )
        epoch = self.group.epoch()
        ordered_at = time.time()
        try:
            self.group.hosts[before].api.post(f"/v1/groups/{GROUP}/switchover", {"by": "lab"})
        except (NoDaemon, Refused) as error:
            return self._switched(ordered_at, before, before, f"refused: {error}")
        while time.time() < ordered_at + DONE_WITHIN:
            if (after := self._serving(epoch)) is not None:
                return self._switched(ordered_at, before, after)
            self.group.note_processes()
            time.sleep(LOOK_EVERY)
        return self._switched(ordered_at, before, before, f"not done within {DONE_WITHIN:.0f} s")

    def _switched(self, ordered_at: WallTime, before: str, after: str, reason: str = "") -> Switched:
        lasted = round((time.time() - ordered_at) * 1000, 1)
        if before == after and not reason:
            reason = "rolled back"
        return Switched(ordered_at=ordered_at, lasted_ms=lasted, primary_before=before, primary_after=after, reason=reason)

    def _serving(self, before: int) -> str | None:
        for host in self.group.members:
            report = self.group.report(host)
            if report is not None and report["epoch"] > before and report["phase"] == "serving":
                return host.name
        return None

    def _leave(self, until: WallTime) -> None:
        while time.time() < until:
            self.group.note_processes()
            time.sleep(min(0.2, max(0.0, until - time.time())))

    def _wait_arrived(self) -> str:
        """The group is whole, and every standby has replayed what the primary has now."""
        deadline = time.time() + WHOLE_WITHIN
        primary = self.group.wait_whole(WHOLE_WITHIN)
        address = self.group.hosts[primary].address
        end = self.kind.end_of_data(address, "")
        while sum(each >= end for each in self.kind.arrived(address, "")) < len(self.group.members) - 1:
            if time.time() > deadline:
                raise LabError(f"not every standby of {primary} has received all of its data within {WHOLE_WITHIN:.0f} s")
            time.sleep(0.1)
        return primary

    def _conninfo(self, hosts: Sequence[Host]) -> str:
        words = f"host={','.join(host.address for host in hosts)} port={self.kind.port} user=postgres dbname=postgres"
        return f"{words} target_session_attrs=read-write connect_timeout=3 tcp_user_timeout=3000"

    # --- judging -----------------------------------------------------------------------------------------------------

    def _judge(
        self, primary: str, clients: Sequence[Client], switched: Sequence[Switched], began: WallTime, ended: WallTime
    ) -> Benched:
        commits = sorted(self._commits(), key=lambda each: each.at)
        moments = [each.at for each in commits]
        there = self._numbers(self.group.hosts[primary])
        logged = {each.number for each in commits}
        done = [each for each in switched if not each.reason]
        ends = [*(each.ordered_at for each in switched[1:]), ended][: len(switched)]
        stalls = [
            round(longest_gap(moments, each.ordered_at, until).lasts * 1000, 1)
            for each, until in zip(switched, ends, strict=True)
            if not each.reason
        ]
        sums = {host.name: self._sums(host) for host in self.group.members}
        errors: dict[str, int] = {}
        for client in clients:
            for words, count in client.errors.items():
                errors[words] = errors.get(words, 0) + count
        settings = self.group.settings
        return Benched(
            replication=settings.replication,
            lease_ms=round(settings.lease * 1000),
            members=settings.members,
            clients=self.clients,
            scale=self.scale,
            lasted_s=round(ended - began, 1),
            switchovers=len(done),
            switchovers_not_done=[each.reason for each in switched if each.reason],
            transactions=len(commits),
            transactions_per_s=round(len(commits) / (ended - began), 1),
            latency_ms=round(statistics.median([each.latency for each in commits] or [0.0]) * 1000, 1),
            failed_transactions=sum(each.failed_transactions for each in clients),
            failed_connections=sum(each.failed_connections for each in clients),
            longest_stall_ms=round(longest_gap(moments, began + 1.0, ended).lasts * 1000, 1),
            stall_ms=statistics.median(stalls or [0.0]),
            stalls_ms=stalls,
            lost_commits=len(logged - there),
            unheard_commits=len(there - logged),
            sums_agree=len({number for each in sums.values() for number in each}) == 1,
            sums=sums,
            logs_incomplete=sum(each.incomplete for each in clients),
            errors=errors,
            versions={"postgresql": self.kind.version(self.group.hosts[primary].address, "")},
        )

    def _commits(self) -> list[Commit]:
        """From every log: `client_id transaction_no time script_no time_epoch time_us`."""
        found = []
        for path in self._directory.iterdir():
            session, _, rest = path.name.partition(".")
            if session.isdigit() and rest:
                found += [_commit(int(session), line.split()) for line in path.read_text().splitlines()]
        return found

    def _numbers(self, host: Host) -> set[int]:
        with self._asked(host) as connection:
            return {int(row[0]) for row in connection.execute("SELECT filler FROM pgbench_history WHERE filler IS NOT NULL")}

    def _sums(self, host: Host) -> list[int]:
        with self._asked(host) as connection:
            row = connection.execute(SUMS).fetchone()
        assert row is not None
        return [int(each) for each in row]

    def _asked(self, host: Host) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(host=host.address, port=self.kind.port, user="postgres", dbname="postgres", autocommit=True)


def _commit(session: int, fields: Sequence[str]) -> Commit:
    """A failed transaction has a word where the latency would be; those are not logged unless asked for."""
    _, number, took, _, seconds, microseconds, *_ = fields
    return Commit(session * IN_A_SESSION + int(number), int(seconds) + int(microseconds) / 1e6, int(took) / 1e6)
