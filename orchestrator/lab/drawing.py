"""How the laboratory draws what happens, as it happens, and what came of it."""

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

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
