"""`tanist simulate`: whole groups of the real engine and the keeper's core in virtual time, under seeded faults."""

import time
from collections import Counter

import click
from rich.progress import Progress
from rich.table import Table

from orchestrator.cli.context import EXIT_USAGE, console, fail, tell
from orchestrator.domain.spans import in_words
from orchestrator.simulation.campaign import plan, run_seed, run_seeds
from orchestrator.simulation.rules import BY_NAME, RULES
from orchestrator.simulation.schedules import Result

BROKEN_SHOWN = 10


@click.command()
@click.option("--seeds", type=click.IntRange(1), help="Run this many schedules; status 0 only if every promise held.")
@click.option("--first", type=click.IntRange(0), default=0, show_default=True, help="The first seed of them.")
@click.option("--seed", type=click.IntRange(0), help="Replay one schedule, with a transcript.")
@click.option("--without", "rule", metavar="RULE", help="Switch a rule of the protocol off; promises must then break.")
@click.option("--rules", is_flag=True, help="List the rules that can be switched off.")
@click.option("--all", "keep_going", is_flag=True, help="Go on after a broken promise.")
@click.option("--processes", type=click.IntRange(0), default=0, help="By default one per core.")
def simulate(
    seeds: int | None, first: int, seed: int | None, rule: str | None, rules: bool, keep_going: bool, processes: int
) -> None:
    """Search for a schedule of faults that breaks a promise, in virtual time.

    A seed decides everything: the group, its policy, its clocks, the network, and every fault. The promises of the design
    are checked after every event, and after the last fault the group must become whole by itself.
    """
    if rule is not None and rule not in BY_NAME:
        fail(f"no rule {rule!r}; `tanist simulate --rules` lists them", EXIT_USAGE)
    if rules:
        _list_rules()
    elif seed is not None:
        _replay(seed, rule)
    elif seeds is not None:
        _search(first, seeds, rule, keep_going, processes)
    else:
        fail("say --seeds N, --seed S or --rules", EXIT_USAGE)


def _list_rules() -> None:
    table = Table("rule", "number", "says", box=None, pad_edge=False)
    for each in RULES:
        note = f"\n(no schedule is known that breaks without it: {each.unshown})" if each.unshown else ""
        table.add_row(each.name, each.number, each.says + note)
    console.print(table)


def _replay(seed: int, rule: str | None) -> None:
    planned = plan(seed, BY_NAME[rule] if rule else None)
    result = run_seed(seed, rule, trace=True)
    for line in result.transcript:
        tell(line)
    settings = planned.settings
    tell(
        f"seed {seed}: {planned.schedule}; {settings.members} members, {settings.witnesses} witnesses, "
        f"lease {in_words(settings.lease)}, {settings.automation}, {'gate' if settings.gate else 'no gate'}; "
        f"{result.simulated:.1f} s simulated, {result.failovers} failovers, {result.freezes} freezes"
    )
    _say_verdict(result)
    raise SystemExit(0 if result.held else 1)


def _say_verdict(result: Result) -> None:
    tell("every promise held") if result.held else tell(result.broken or "", "bold red")


def _search(first: int, seeds: int, rule: str | None, keep_going: bool, processes: int) -> None:
    began = time.monotonic()
    broken: list[Result] = []
    kinds: Counter[str] = Counter()
    done, simulated = 0, 0.0
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("schedules", total=seeds)
        results = run_seeds(first, seeds, rule, processes=processes)
        for result in results:
            done += 1
            simulated += result.simulated
            progress.update(task, advance=1, description=f"schedules, {len(broken)} broken")
            if not result.held:
                broken.append(result)
                kinds[(result.broken or "").partition(" ")[0]] += 1
                if not keep_going:
                    results.close()
                    break
    _report(first, done, simulated, time.monotonic() - began, rule, broken, kinds)
    raise SystemExit(1 if broken else 0)


def _report(
    first: int, done: int, simulated: float, took: float, rule: str | None, broken: list[Result], kinds: Counter[str]
) -> None:
    off = f" without the rule {rule}" if rule else ""
    tell(f"{done} schedules{off} from seed {first}: {simulated / 3600:.1f} hours simulated in {in_words(took)}")
    if not broken:
        tell("every promise held in every schedule", "bold green")
        if rule is not None and BY_NAME[rule].unshown:
            tell(f"as expected: {BY_NAME[rule].unshown}")
        return
    told = ", ".join(f"{kind} {number} times" for kind, number in kinds.most_common())
    tell(f"broken: {told}", "bold red")
    for result in sorted(broken, key=lambda each: each.seed)[:BROKEN_SHOWN]:
        again = f"tanist simulate --seed {result.seed}" + (f" --without {rule}" if rule else "")
        tell(f"  {result.broken}\n    {again}")
