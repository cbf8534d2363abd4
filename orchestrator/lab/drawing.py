"""How the laboratory draws what happens, as it happens, and what came of it."""

from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.lab.pgbench import Benched
from orchestrator.lab.run import Line, Outcome

STYLES = {
    "fault": "bold red",
    "lab": "bold",
    "decision": "bold cyan",
    "event": "green",
    "refusal": "yellow",
    "alarm": "bold red",
}


class Teller:
    """One line per happening, timed from the fault."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __call__(self, line: Line) -> None:
        text = Text(f"{line.at * 1000:+9.0f} ms  ", style="dim")
        text.append(f"{line.who:5} ", style="bold")
        text.append(f"{line.kind:9}" if line.who != "lab" else " " * 9, style=STYLES.get(line.kind, ""))
        text.append(line.text, style=STYLES.get(line.kind, "") if line.who == "lab" else "")
        self._console.print(text, soft_wrap=True)
        if line.kind == "decision":
            for each in line.evidence:
                self._console.print(Text(" " * 28 + each, style="dim"), soft_wrap=True)


def draw_outcome(outcome: Outcome) -> RenderableType:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(justify="right", style="bold")
    table.add_column()
    table.add_row("outage", f"{outcome.outage_ms:.0f} ms", f"longest gap between two writes {outcome.longest_gap_ms:.0f} ms")
    table.add_row("lost writes", str(outcome.lost_writes), f"of {outcome.acknowledged_writes} acknowledged")
    table.add_row("two primaries", f"{outcome.two_primaries_ms:.0f} ms", "tried on every member, every 5 ms")
    table.add_row(
        "primary",
        outcome.primary_after,
        f"was {outcome.primary_before}; epoch {outcome.epoch_before} -> {outcome.epoch_after}",
    )
    table.add_row("all in place", f"{outcome.whole_after_ms / 1000:.1f} s", "after the fault")
    return table


def draw_summary(outcomes: list[Outcome], summary: dict[str, object]) -> RenderableType:
    table = Table("run", "outage", "longest gap", "lost", "two primaries", "epoch", box=None, pad_edge=False)
    for number, each in enumerate(outcomes, 1):
        table.add_row(
            str(number),
            f"{each.outage_ms:.0f} ms",
            f"{each.longest_gap_ms:.0f} ms",
            str(each.lost_writes),
            f"{each.two_primaries_ms:.0f} ms",
            f"{each.epoch_before} -> {each.epoch_after}",
        )
    told = Text(
        f"{summary['fault']} at lease {summary['lease_ms']} ms, {summary['runs']} runs: outage median "
        f"{summary['outage_ms']:.0f} ms, worst {summary['outage_worst_ms']:.0f} ms; two primaries at most "
        f"{summary['two_primaries_ms']:.0f} ms; lost writes {summary['lost_writes_total']} in all",
        style="bold",
    )
    return Group(table, told)


def draw_soak(found: dict[str, Any]) -> RenderableType:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(style="bold")
    faults = ", ".join(f"{name} {count} times" for name, count in sorted(found["faults"].items()))
    table.add_row("rounds", f"{found['rounds']} ({faults}), {found['failovers']} failovers in {found['lasted_s']:.0f} s")
    table.add_row("outage", f"median {found['outage_ms']:.0f} ms, worst {found['outage_worst_ms']:.0f} ms")
    table.add_row("all in place", f"median {found['whole_after_ms'] / 1000:.1f} s after the fault")
    table.add_row("slowest rejoin", f"{found['slowest_rejoin_ms'] / 1000:.1f} s")
    table.add_row("old primaries", ", ".join(f"{how} {count}" for how, count in sorted(found["rejoined"].items())))
    table.add_row("lost writes", f"{found['lost_writes']} of {found['acknowledged_writes']} acknowledged")
    table.add_row("two primaries", f"{found['two_primaries_ms']:.0f} ms")
    table.add_row("left behind", "; ".join(found["leftovers"]) or "nothing")
    for name, sizes in sorted(found["sizes_at_end"].items()):
        begin = found["sizes_at_begin"].get(name, {})
        words = ", ".join(f"{each} {begin.get(each, 0)} -> {size}" for each, size in sizes.items())
        table.add_row(f"sizes, {name}", words)
    return table


def draw_pgbench(found: Benched) -> RenderableType:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(style="bold")
    table.add_row("transactions", f"{found.transactions} in {found.lasted_s:.0f} s, {found.transactions_per_s:.0f} per second")
    table.add_row("switchovers", f"{found.switchovers} done" + "".join(f"; {each}" for each in found.switchovers_not_done))
    failed = f"{found.failed_transactions} of {found.clients} clients; {found.failed_connections} tries to connect failed"
    table.add_row("failed transactions", failed)
    table.add_row("without a commit", f"median {found.stall_ms:.0f} ms per switchover, longest {found.longest_stall_ms:.0f} ms")
    table.add_row("lost commits", f"{found.lost_commits}; {found.unheard_commits} committed unheard, among the failed")
    table.add_row("sums", "of history, branches, tellers and accounts agree on every member" if found.sums_agree else "DIFFER")
    return table
