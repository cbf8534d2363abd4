"""Fusion: what do all channels together say about one member? One row per diagnosis; the first that matches wins."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from orchestrator.domain.policy import Policy
from orchestrator.domain.spans import Instant, in_words
from orchestrator.domain.topology import NodeName
from orchestrator.domain.verdicts import Diagnosis, Verdict
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
    unresponsive_since: Instant | None = None
    """Local, or told by its own daemon: the process is there and does not answer."""
    restarts_left: int = 0
    """Starts in place that policy still wants before the role is given away."""
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One diagnosis: its code, the sentence for people, and since when it holds in a case."""

    code: Diagnosis
    sentence: str
    since: Callable[[Case], Instant | None]


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
        since=lambda case: case.unresponsive_since,
    ),
)


def judge(case: Case, policy: Policy, now: Instant) -> Verdict:
    """The verdict about the case's subject. It is certain once the row's condition has lasted as long as policy asks."""
    for row in ROWS:
        since = row.since(case)
        if since is None:
            continue
        return Verdict(
            diagnosis=row.code,
            subject=case.subject,
            sentence=row.sentence.format_map({"subject": case.subject, "for": in_words(now - since)}),
            since=since,
            certain_at=since + rule_for(row.code, policy).after,
            evidence=case.evidence,
        )
    return Verdict(
        diagnosis=Diagnosis.HEALTHY,
        subject=case.subject,
        sentence=f"{case.subject} is well",
        evidence=case.evidence,
    )
