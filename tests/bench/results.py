"""The file of results: written after every run, so that a series that was broken off goes on where it stopped."""

import json
import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

TRIES = 2
"""Runs that failed in the bench are tried again, so often in one series."""


@dataclass
class Results:
    path: Path
    systems: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs: list[dict[str, Any]] = field(default_factory=list)
    series: list[dict[str, Any]] = field(default_factory=list)
    """Each command that added to the file, and when."""

    @classmethod
    def read(cls, path: Path) -> "Results":
        if not path.exists():
            return cls(path)
        found = json.loads(path.read_text())
        return cls(path, found["systems"], found["runs"], found["series"])

    def write(self) -> None:
        text = json.dumps({"systems": self.systems, "series": self.series, "runs": self.runs}, indent=1) + "\n"
        beside = self.path.with_suffix(".tmp")
        beside.write_text(text)
        os.replace(beside, self.path)

    def of(self, system: str, fault: str) -> list[dict[str, Any]]:
        """Those that count."""
        return [run for run in self.runs if (run["system"], run["fault"]) == (system, fault) and not run["failed"]]

    def failures(self) -> list[dict[str, Any]]:
        return [run for run in self.runs if run["failed"]]

    def missing(self, system: str, fault: str, wanted: int) -> int:
        return max(0, wanted - len(self.of(system, fault)))

    def took(self, system: str, fault: str) -> float | None:
        """Seconds that a run of this cell takes, when there was one."""
        found = [run["lasted_s"] for run in self.of(system, fault)]
        return median(found) if found else None


@dataclass(frozen=True)
class Cell:
    """All runs of one system with one fault, as figures."""

    runs: int
    outage: float
    worst: float
    unended: int
    """Runs in which only the mending of the fault ended the outage, or nothing did."""
    two_primaries: float
    two_primaries_during: float
    """Before the fault was mended."""
    lost: int
    unknown: int
    """Runs after which nobody could be asked what was lost."""
    not_settled: int
    old_primary_wrote: float


def cell(runs: Iterable[dict[str, Any]]) -> Cell | None:
    found = list(runs)
    if not found:
        return None
    outages = [run["outage_ms"] for run in found]
    return Cell(
        runs=len(found),
        outage=median(outages),
        worst=max(outages),
        unended=sum(run["ended"] != "tool" for run in found),
        two_primaries=max(run["two_primaries_ms"] for run in found),
        two_primaries_during=max(run["two_primaries_before_mending_ms"] for run in found),
        lost=sum(run["lost_writes"] or 0 for run in found),
        unknown=sum(run["lost_writes"] is None for run in found),
        not_settled=sum(run["settled_ms"] is None for run in found),
        old_primary_wrote=max(run["old_primary_wrote_ms"] for run in found),
    )


def machine() -> dict[str, Any]:
    return {"cores": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version()}
