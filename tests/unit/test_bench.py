"""The bench's own arithmetic: what counts as served, which runs count, what is left to do."""

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.daemon.clock import now
from orchestrator.lab.measure import Write
from tests.bench import trial
from tests.bench.__main__ import Series, chosen
from tests.bench.report import write_report
from tests.bench.results import Results, cell
from tests.bench.trial import Run, failed
from tests.bench.variants import VARIANTS

A, B = "tanist-redis-1s", "sentinel-5s"


class Client:
    def __init__(self, *ago: float) -> None:
        moment = now()
        self.acked = [moment - each for each in ago]


def steps(begin: float, end: float) -> list[float]:
    return [begin - number * 0.01 for number in range(round((begin - end) / 0.01))]


@pytest.mark.parametrize(
    ("ago", "struck", "served"),
    [
        (steps(3.0, 0.0), 2.0, True),
        (steps(3.0, 0.0), 0.5, False),  # the fault is too young to tell
        (steps(3.0, 0.5), 2.0, False),  # nothing lately
        ([*steps(3.0, 1.2), *steps(0.6, 0.0)], 2.0, False),  # a break within
        ([*steps(3.0, 2.2), *steps(1.0, 0.0)], 2.5, False),  # not long enough
        ([], 2.0, False),
    ],
)
def test_served_is_who_has_written_for_a_while_without_a_break(ago: list[float], struck: float, served: bool):
    assert trial._is_served(Client(*ago), now() - struck, 1.5) is served  # type: ignore[arg-type]


def test_the_old_primary_counts_from_the_fault_to_the_mending():
    writes = [Write(0.9, 0.95), Write(1.2, 1.25), Write(2.2, 2.3)]
    assert trial._last(writes, 1.0, 2.0) == pytest.approx(0.25)
    assert trial._last(writes, 1.3, 2.0) == 0.0


def run(system: str, fault: str, outage: float, **more: Any) -> dict[str, Any]:
    made = failed(system, fault, "", 12.0)
    made.outage_ms, made.ended, made.lost_writes, made.settled_ms = outage, "tool", 0, 1000.0
    return made.as_json() | more


def test_a_failure_of_the_bench_counts_nowhere_and_is_done_again(tmp_path: Path):
    results = Results(tmp_path / "out.json", runs=[run(A, "F1", 40.0), failed(A, "F1", "no hosts", 3.0).as_json()])
    assert cell(results.of(A, "F1")) == cell([run(A, "F1", 40.0)])
    assert Series(results, [A, B], ["F1", "F9"], 2).left() == [(A, "F1", 1), (A, "F9", 2), (B, "F1", 2)]  # F9 is Tanist's alone


def test_a_series_goes_on_where_it_stopped(tmp_path: Path):
    results = Results(tmp_path / "out.json", runs=[run(A, "F1", 40.0)])
    results.write()
    again = Results.read(tmp_path / "out.json")
    assert again.runs == results.runs
    series = Series(again, [A], ["F1"], 1)
    assert series.left() == []
    assert series.will_take() == 0


def test_what_only_mending_ended_is_told(tmp_path: Path):
    found = cell([run(B, "F4", 100.0), run(B, "F4", 9000.0, ended="mending", lost_writes=None, settled_ms=None)])
    assert found is not None
    assert (found.unended, found.unknown, found.not_settled, found.worst) == (1, 1, 1, 9000.0)


def test_names_may_be_shortened_to_their_beginning():
    assert chosen("sentinel,tanist-redis-1s", list(VARIANTS), "tools")[:2] == [A, "sentinel-30s"]


def test_the_report_has_every_cell_and_the_failures_apart(tmp_path: Path):
    about = {"client": "c", "settings": {"lease": "1 s"}, "versions": {"redis": "7"}, "hold_s": 5.0, "limit_s": 30.0}
    series = [{"command": "python -m tests.bench", "at": "2026", "machine": {"cores": 2, "kernel": "6", "python": "3"}}]
    runs = [run(A, "F2", 1000.0), run(B, "F2", 6800.0, ended="mending"), failed(B, "F1", "no hosts", 1.0).as_json()]
    results = Results(tmp_path / "out.json", {A: about, B: about}, runs, series)
    results.write()
    write_report(results, tmp_path / "docs")
    text = (tmp_path / "docs" / "results.md").read_text()
    assert "| Tanist, lease 1 s | 1,000 / 1,000 |" in text
    assert "| Sentinel, 5 s | > 6,800 / 6,800 |" in text
    assert "| Sentinel, 5 s | > 6.8 |" in text
    assert "| `sentinel-5s` | F1 | no hosts |" in text
    assert "&gt; 6.8 s" in (tmp_path / "docs" / "redis.svg").read_text()
    assert json.loads((tmp_path / "docs" / "results.json").read_text())["runs"] == runs
    assert set(Run.__dataclass_fields__) == set(runs[0])
