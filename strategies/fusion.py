"""Fusion: what do all channels together say about one member? One row per diagnosis; the first that matches wins."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from orchestrator.domain.policy import Policy
from orchestrator.domain.spans import Instant, Span, in_words
from orchestrator.domain.topology import NodeName
from orchestrator.domain.verdicts import Diagnosis, Finding, Verdict
from strategies.timing import rule_for


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Everything seen of one member, per channel. Instants say since when; None: it is not so."""

    subject: NodeName
    silent_since: Instant | None = None
    """Interconnected: its beats are missing on every path."""
    released_since: Instant | None = None
    """Its keeper has given the right up."""
    dead_since: Instant | None = None
    """Local, or told by its own daemon: the service's process is gone."""
    finding: Finding | None = None
    """Local, or told by its own daemon: what is wrong with a service whose process is there, or was before it ended."""
    found_since: Instant | None = None
    restarts_left: int = 0
    """Starts in place that policy still wants before the role is given away."""
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One diagnosis: its code, the sentence for people, and since when it holds in a case."""

    code: Diagnosis
    sentence: str
    since: Callable[[Case], Instant | None]


def _found(code: Diagnosis) -> Callable[[Case], Instant | None]:
    return lambda case: case.found_since if case.finding is not None and case.finding.code is code else None


ROWS: Final = (
    Row(
        code=Diagnosis.RELEASED,
        sentence="{subject} has given up the right to serve",
        since=lambda case: case.released_since,
    ),
    Row(
        code=Diagnosis.HOST_DOWN,
        sentence="{subject} has not been heard for {for}",
        since=lambda case: case.silent_since,
    ),
    Row(
        code=Diagnosis.PROCESS_DOWN,
        sentence="the service's process on {subject} has been gone for {for}",
        since=lambda case: None if case.restarts_left else case.dead_since,
    ),
    Row(
        code=Diagnosis.UNRESPONSIVE,
        sentence="the service on {subject} has not answered for {for}",
        since=_found(Diagnosis.UNRESPONSIVE),
    ),
    Row(
        code=Diagnosis.STALLED_STORAGE,
        sentence="the storage of {subject} has been stalled for {for}",
        since=_found(Diagnosis.STALLED_STORAGE),
    ),
    Row(
        code=Diagnosis.DISK_FULL,
        sentence="the disk of {subject} has been full for {for}",
        since=_found(Diagnosis.DISK_FULL),
    ),
    Row(
        code=Diagnosis.WRITES_FAIL,
        sentence="writes on {subject} have failed for {for}",
        since=_found(Diagnosis.WRITES_FAIL),
    ),
    Row(
        code=Diagnosis.NOT_ACCEPTING,
        sentence="the service on {subject} has let nobody in for {for}",
        since=_found(Diagnosis.NOT_ACCEPTING),
    ),
    Row(
        code=Diagnosis.READ_ONLY,
        sentence="the service on {subject} has been read-only for {for}",
        since=_found(Diagnosis.READ_ONLY),
    ),
    Row(
        code=Diagnosis.OVERLOADED,
        sentence="the service on {subject} has been overloaded for {for}",
        since=_found(Diagnosis.OVERLOADED),
    ),
)


def judge(case: Case, policy: Policy, now: Instant) -> Verdict:
    """The verdict about the case's subject. It is certain once the row's condition has lasted as long as policy asks."""
    for row in ROWS:
        since = row.since(case)
        if since is None:
            continue
        rule = rule_for(row.code, policy)
        return Verdict(
            diagnosis=row.code,
            subject=case.subject,
            sentence=_sentence(row, case, now - since),
            since=since,
            certain_at=since + rule.after if rule is not None else None,
            evidence=case.evidence,
        )
    return Verdict(
        diagnosis=Diagnosis.HEALTHY,
        subject=case.subject,
        sentence=f"{case.subject} is well",
        evidence=case.evidence,
    )


def _sentence(row: Row, case: Case, lasts: Span) -> str:
    """With what was seen; behind a release or a death, with what had kept the service from its work before."""
    sentence = row.sentence.format_map({"subject": case.subject, "for": in_words(lasts)})
    finding = case.finding
    if finding is None:
        return sentence
    if finding.code is row.code:
        seen = finding.words
    else:
        seen = str(finding) if finding.cannot_work and row.code is not Diagnosis.HOST_DOWN else ""
    return f"{sentence}: {seen}" if seen else sentence
