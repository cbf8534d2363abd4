"""Tables in Markdown and a picture of each service, from the file of results."""

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.bench.faults import KINDS
from tests.bench.picture import Bar, draw
from tests.bench.results import Cell, Results, cell
from tests.bench.system import FAULTS
from tests.bench.variants import VARIANTS

SERVICES = {"redis": "Redis", "postgresql": "PostgreSQL"}
DRAWN = ("F1", "F2", "F3", "F4", "F5")
NONE = "–"


def write_report(results: Results, into: Path) -> None:
    into.mkdir(parents=True, exist_ok=True)
    if results.path.resolve() != (into / "results.json").resolve():
        shutil.copyfile(results.path, into / "results.json")
    parts = [_head(results)]
    for service, says in SERVICES.items():
        tools = [tool for tool in VARIANTS if VARIANTS[tool].service == service and tool in results.systems]
        if tools:
            (into / f"{service}.svg").write_text(_picture(results, tools, says))
            parts += [f"## {says}\n\n![Outages of {says}, by fault and tool]({service}.svg)\n", *_tables(results, tools)]
    parts += [_settings(results), _failures(results)]
    (into / "results.md").write_text("\n".join(part for part in parts if part))


def cells(results: Results, tool: str) -> dict[str, Cell]:
    found = {fault: cell(results.of(tool, fault)) for fault in FAULTS}
    return {fault: each for fault, each in found.items() if each is not None}


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def milliseconds(value: float) -> str:
    return f"{value:,.0f}"


def _head(results: Results) -> str:
    counts = sorted({one.runs for tool in results.systems for one in cells(results, tool).values()})
    runs = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    machine = results.series[-1]["machine"]
    commands = "".join(f"- `{each['command']}` ({each['at']})\n" for each in results.series)
    faults = "".join(f"- **{fault}**: {KINDS[fault].says}\n" for fault in FAULTS)
    return (
        "# Bench: results\n\n"
        "Written by `python -m tests.bench --report`; [how it is measured](README.md) is told elsewhere. "
        f"{runs} runs of each cell on {machine['cores']} cores, Linux {machine['kernel']}, Python {machine['python']}.\n\n"
        f"{commands}\n{faults}"
    )


def _tables(results: Results, tools: Sequence[str]) -> list[str]:
    known = {tool: cells(results, tool) for tool in tools}
    faults = [fault for fault in FAULTS if any(fault in known[tool] for tool in tools)]

    def rows(say: Any, among: Sequence[str] = tools) -> list[list[str]]:
        return [
            [VARIANTS[tool].says, *(say(known[tool][fault], fault) if fault in known[tool] else NONE for fault in faults)]
            for tool in among
        ]

    head = ["", *faults]
    parts = [
        "### Outage, median / worst\n\nMilliseconds from the last acknowledged write before the fault to the first after. "
        "`>`: in some run nobody could be written to until the fault was mended, or not even then; "
        "the figure then holds the wait of the bench.\n\n" + table(head, rows(lambda each, fault: _outage(each)))
    ]
    if first := next((tool for tool in tools if tool.startswith("tanist")), None):
        peers = [tool for tool in tools if tool != first]
        ratio = lambda each, fault: _ratio(each, known[first].get(fault))  # noqa: E731 (one of three ways to fill a table)
        says = f"### Outage, as a multiple of {VARIANTS[first].says}\n\nMedians. {NONE}: no outage there to compare with.\n\n"
        parts.append(says + table(head, rows(ratio, peers)))
    parts.append(
        "### Two primaries, worst run\n\nMilliseconds in which two members accepted writes: while the fault lasted / in all, "
        "with the time after it was mended.\n\n" + table(head, rows(lambda each, fault: _two(each)))
    )
    parts.append(
        "### Acknowledged writes lost, all runs together\n\n`?`: after some run nobody could be asked. Where members did "
        "not agree on a primary within a minute, what counts is what the client's server has.\n\n"
        + table(head, rows(lambda each, fault: f"{each.lost:,}{'?' * bool(each.unknown)}"))
    )
    if "F3" in faults:
        wrote = [
            [VARIANTS[tool].says, milliseconds(known[tool]["F3"].old_primary_wrote), _share(known[tool].values())]
            for tool in tools
            if "F3" in known[tool]
        ]
        parts.append(
            "### Inside\n\nFor how many ms an isolated primary (F3) acknowledged writes from inside its own host, worst run; "
            "and how many runs of all faults did not end with every member in its place within a minute of mending.\n\n"
            + table(["", "isolated primary wrote for", "not settled"], wrote)
        )
    return parts


def _outage(each: Cell) -> str:
    more = "> " if each.unended else ""
    return f"{more}{milliseconds(each.outage)} / {milliseconds(each.worst)}"


def _ratio(each: Cell, base: Cell | None) -> str:
    if base is None or base.outage <= 0:
        return NONE
    return f"{'> ' if each.unended else ''}{each.outage / base.outage:.1f}"


def _two(each: Cell) -> str:
    return f"{milliseconds(each.two_primaries_during)} / {milliseconds(each.two_primaries)}"


def _share(found: Iterable[Cell]) -> str:
    every = list(found)
    return f"{sum(each.not_settled for each in every)} of {sum(each.runs for each in every)}"


def _settings(results: Results) -> str:
    rows = []
    for tool in (each for each in VARIANTS if each in results.systems):
        about = results.systems[tool]
        settings = ", ".join(f"{key} {value}" for key, value in about["settings"].items())
        versions = ", ".join(f"{key} {value}" for key, value in about.get("versions", {}).items())
        rows.append([f"`{tool}`", about["client"], settings, versions, f"{about['hold_s']:.0f} s, {about['limit_s']:.0f} s"])
    head = ["name", "client", "settings", "versions", "F3, F7, F8, F10 last; waited at most"]
    return "## What was measured\n\n" + table(head, rows)


def _failures(results: Results) -> str:
    """Of the bench: no figure above holds them."""
    rows = [
        [f"`{run['system']}`", run["fault"], run["failed"].split("\n")[0][:160].replace("|", "/")] for run in results.failures()
    ]
    return "## Runs that failed in the bench\n\nThey count nowhere.\n\n" + table(["", "fault", "why"], rows) if rows else ""


def _picture(results: Results, tools: Sequence[str], says: str) -> str:
    known = {tool: cells(results, tool) for tool in tools}
    panels = {}
    for fault in DRAWN:
        bars = [
            Bar(VARIANTS[tool].says, each.outage, each.worst, bool(each.unended), tool.startswith("tanist"))
            for tool in tools
            if (each := known[tool].get(fault)) is not None
        ]
        if bars:
            panels[f"{fault}: {KINDS[fault].says}"] = bars
    return draw(f"{says}: outage seen by the client, median and worst", panels)
