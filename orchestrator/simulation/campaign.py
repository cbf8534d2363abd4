"""Many schedules at once: which schedule a seed stands for, run on every core, with a rule switched off if wanted."""

import multiprocessing
import os
from collections.abc import Callable, Generator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Final

from orchestrator.domain.policy import Automation
from orchestrator.simulation.directed import DIRECTED
from orchestrator.simulation.rules import BY_NAME, Rule, without
from orchestrator.simulation.schedules import Result, random_trouble, run, settings_for
from orchestrator.simulation.settings import Settings
from orchestrator.simulation.world import World

RANDOM: Final = "random trouble"
DIRECTED_EVERY: Final = 4
"""Every fourth seed goes straight for one race; the others meet random trouble."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one seed stands for."""

    schedule: str
    act: Callable[[World], None]
    settings: Settings


def plan(seed: int, rule: Rule | None = None) -> Plan:
    """With a rule off, the schedule in which that rule is the last defence comes every second time."""
    settings = settings_for(seed)
    chosen = None
    if rule is not None and rule.shown_by:
        chosen = next(each for each in DIRECTED if each.name == rule.shown_by) if seed % 2 else None
    elif rule is None and seed % DIRECTED_EVERY == DIRECTED_EVERY - 1:
        chosen = DIRECTED[seed // DIRECTED_EVERY % len(DIRECTED)]
    if chosen is not None:
        settings = replace(settings, **dict(chosen.settings))
        settings = replace(settings, automation=Automation(settings.automation))
    if rule is not None and rule.gate is not None:
        settings = replace(settings, gate=rule.gate)
    if rule is not None and rule.synchronous is not None:
        settings = replace(settings, synchronous=rule.synchronous)
    if rule is not None and rule.quorum:
        settings = replace(settings, synchronous=True, quorum=1, members=max(3, settings.members))
    if chosen is None:
        return Plan(schedule=RANDOM, act=random_trouble, settings=settings)
    return Plan(schedule=chosen.name, act=chosen.run, settings=settings)


def run_seed(seed: int, without_rule: str | None = None, *, trace: bool = False) -> Result:
    rule = BY_NAME[without_rule] if without_rule is not None else None
    planned = plan(seed, rule)
    with without(rule) if rule is not None else nullcontext():
        return run(seed, planned.act, planned.settings, trace=trace)


def _job(job: tuple[int, str | None]) -> Result:
    result = run_seed(*job)
    return result if not result.held else replace(result, transcript=())


def run_seeds(first: int, number: int, without_rule: str | None = None, *, processes: int = 0) -> Generator[Result]:
    """Results as they come, not in order. Closing the iterator ends the processes."""
    jobs = [(seed, without_rule) for seed in range(first, first + number)]
    wanted = processes or len(os.sched_getaffinity(0))
    with multiprocessing.get_context("spawn").Pool(min(wanted, number)) as pool:
        yield from pool.imap_unordered(_job, jobs, chunksize=max(1, min(8, number // (4 * wanted))))
