"""Tanist and its peers on the same hosts, with the same faults, the same client and the same watchers.

`python -m tests.bench --tools tanist-redis-1s,sentinel-5s --faults F1,F2 --runs 5 --json out.json --report docs/bench`

A series that is broken off goes on with the same command: cells that have their runs are skipped.
"""

import datetime
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from orchestrator.lab.group import fast_directory
from tests.bench.faults import KINDS
from tests.bench.report import write_report
from tests.bench.results import TRIES, Results, machine
from tests.bench.system import FAULTS, HOSTS, System
from tests.bench.trial import Trial, failed
from tests.bench.variants import VARIANTS
from tests.contract.servers import why_no_zookeeper
from tests.system.hosts import Host, hosts, why_no_hosts

START_TAKES = 15.0
IN_VAIN = 4
"""A tool with which the bench fails so often in a row is left for another time."""


def chosen(words: str, known: list[str], what: str) -> list[str]:
    """Names, or beginnings of names."""
    found: list[str] = []
    for word in filter(None, (each.strip() for each in words.split(","))):
        fitting = [word] if word in known else [name for name in known if name.startswith(f"{word}-")]
        if not fitting:
            raise click.UsageError(f"--{what}: '{word}' is none of {', '.join(known)}")
        found += [name for name in fitting if name not in found]
    return sorted(found, key=known.index)


class Series:
    def __init__(self, results: Results, tools: list[str], faults: list[str], runs: int) -> None:
        self.results, self.tools, self.faults, self.runs = results, tools, faults, runs

    def faults_of(self, tool: str) -> list[str]:
        return [fault for fault in self.faults if fault in VARIANTS[tool].system.faults]

    def left(self) -> list[tuple[str, str, int]]:
        cells = [
            (tool, fault, self.results.missing(tool, fault, self.runs)) for tool in self.tools for fault in self.faults_of(tool)
        ]
        return [each for each in cells if each[2]]

    def will_take(self) -> float:
        left = self.left()
        runs = sum((self.results.took(tool, fault) or VARIANTS[tool].takes(fault)) * count for tool, fault, count in left)
        return runs + START_TAKES * len({tool for tool, _, _ in left})

    def play(self) -> None:
        with hosts(*HOSTS) as on:
            for tool in self.tools:
                cells = [(fault, count) for each, fault, count in self.left() if each == tool]
                if cells:
                    self._play_tool(tool, cells, on)

    def _play_tool(self, tool: str, cells: list[tuple[str, int]], on: dict[str, Host]) -> None:
        """One failure of the bench costs one run; the system is made anew after it, and whenever it did not settle by itself."""
        queue = [(fault, TRIES) for fault, count in cells for _ in range(count)]
        in_vain = 0
        while queue and in_vain < IN_VAIN:
            began = time.monotonic()
            try:
                with made(tool, on) as system:
                    while queue:
                        began = time.monotonic()
                        settled = self._play_one(system, tool, queue[0][0])
                        queue.pop(0)
                        in_vain = 0
                        if not settled:
                            break
            except Exception as error:  # whatever it is, the next cell is measured
                if not queue:
                    traceback.print_exc()
                    return
                fault, tries = queue.pop(0)
                in_vain += 1
                self._keep(tool, failed(tool, fault, f"{type(error).__name__}: {error}", time.monotonic() - began).as_json())
                if os.environ.get("TANIST_BENCH_TRACE"):
                    traceback.print_exc()
                if tries > 1:
                    queue.insert(0, (fault, tries - 1))

    def _play_one(self, system: System, tool: str, fault: str) -> bool:
        """False when it has to be made anew."""
        run = Trial(system, tool, fault).play()
        about = {"says": VARIANTS[tool].says, "service": VARIANTS[tool].service, "tool": system.tool, "client": system.client_is}
        about |= {"settings": system.settings(), "hold_s": system.hold, "limit_s": system.limit}
        if run.settled_ms is not None:
            about["versions"] = system.versions()
        self.results.systems[tool] = self.results.systems.get(tool, {}) | about
        self._keep(tool, run.as_json())
        return run.settled_ms is not None

    def _keep(self, tool: str, run: dict[str, object]) -> None:
        self.results.runs.append(run)
        self.results.write()
        if run["failed"]:
            click.echo(f"{tool:28} {run['fault']:10} the bench failed: {run['failed']}")
            return
        words = [
            f"outage {run['outage_ms']:8.0f} ms" + ("" if run["ended"] == "tool" else f" (ended by {run['ended']})"),
            f"two primaries {run['two_primaries_ms']:.0f} ms ({run['two_primaries_before_mending_ms']:.0f} before mending)",
            f"lost {run['lost_writes']}",
            f"old primary wrote for {run['old_primary_wrote_ms']:.0f} ms",
            "settled" if run["settled_ms"] is not None else "NOT settled",
            f"took {run['lasted_s']:.0f} s",
        ]
        click.echo(f"{tool:28} {run['fault']:10} {', '.join(words)}")


@contextmanager
def made(tool: str, on: dict[str, Host]) -> Iterator[System]:
    directory = Path(tempfile.mkdtemp(prefix="tanist-bench-", dir=fast_directory()))
    directory.chmod(0o711)
    system = VARIANTS[tool].made(on, directory)
    try:
        system.start()
        yield system
    finally:
        system.stop()
        if not os.environ.get("TANIST_LAB_KEEP"):
            shutil.rmtree(directory, ignore_errors=True)


@click.command(help=__doc__)
@click.option("--tools", default=",".join(VARIANTS), help="Names, or their beginnings; all by default.")
@click.option("--faults", default=",".join(FAULTS), help="All by default.")
@click.option("--runs", default=5, show_default=True, help="Of each cell.")
@click.option("--json", "path", type=click.Path(path_type=Path, dir_okay=False), default="bench.json", show_default=True)
@click.option("--report", type=click.Path(path_type=Path, file_okay=False), help="Write the tables and the pictures there.")
@click.option("--plan", is_flag=True, help="Only tell what would be done, and how long it would take.")
def main(tools: str, faults: str, runs: int, path: Path, report: Path | None, plan: bool) -> None:
    results = Results.read(path)
    series = Series(results, chosen(tools, list(VARIANTS), "tools"), chosen(faults, list(KINDS), "faults"), runs)
    left = series.left()
    for tool, fault, count in left if plan else []:
        click.echo(f"{tool:28} {fault:10} {count} runs")
    click.echo(f"{sum(count for _, _, count in left)} runs to do, about {series.will_take() / 60:.0f} minutes")
    if plan:
        return
    if left:
        if reason := why_no_hosts() or why_no_zookeeper():
            raise click.ClickException(reason)
        command = shlex.join(["python", "-m", "tests.bench", *sys.argv[1:]])
        at = datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes")
        results.series.append({"command": command, "at": at, "machine": machine()})
        series.play()
    if report is not None and results.runs:
        write_report(results, report)
        click.echo(f"the report is in {report}")
    if bad := series.left():
        raise click.ClickException(f"cells without their runs: {', '.join(f'{tool} {fault}' for tool, fault, _ in bad)}")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main()
