"""The promises under seeded faults; more of the same: `tanist simulate --seeds 10000`."""

import pytest

from orchestrator.simulation.campaign import plan, run_seed, run_seeds
from orchestrator.simulation.directed import DIRECTED
from orchestrator.simulation.rules import BY_NAME, RULES
from orchestrator.simulation.schedules import Result, run

SEEDS = 600
SEEDS_WITHOUT_A_RULE = 400
PROTOCOL_PROMISES = ("P1", "P2", "P3", "P4", "P6", "P8")


@pytest.mark.timeout(600)
def test_every_promise_holds_under_seeded_faults():
    broken = [f"seed {each.seed}: {each.broken}" for each in run_seeds(0, SEEDS) if not each.held]
    assert not broken, "\n".join(broken)


def test_a_seed_replays_exactly():
    first, again = run_seed(17, trace=True), run_seed(17, trace=True)
    assert first == again
    assert len(first.transcript) > 50


def test_every_race_that_is_known_has_its_seeds():
    planned = {plan(seed).schedule for seed in range(SEEDS)}
    assert {each.name for each in DIRECTED} <= planned


def test_every_rule_names_a_schedule_or_says_why_not():
    names = {each.name for each in DIRECTED}
    for rule in RULES:
        assert not rule.shown_by or rule.shown_by in names, rule.name


def _first_broken(rule: str) -> Result | None:
    """The schedule that is known to break goes first; where it no longer does, all are tried."""
    known = BY_NAME[rule].seen_at
    if known is not None and _breaks(result := run_seed(known, rule)):
        return result
    results = run_seeds(0, SEEDS_WITHOUT_A_RULE, rule)
    try:
        return next((result for result in results if _breaks(result)), None)
    finally:
        results.close()


def _breaks(result: Result) -> bool:
    return result.broken is not None and result.broken.startswith(PROTOCOL_PROMISES)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", [rule.name for rule in RULES if not rule.unshown])
def test_without_this_rule_a_promise_breaks(name: str):
    found = _first_broken(name)
    assert found is not None, f"{SEEDS_WITHOUT_A_RULE} schedules without the rule {name}, and every promise held"
    planned = plan(found.seed, BY_NAME[name])
    assert run(found.seed, planned.act, planned.settings).held, "with the rule, the same schedule must hold"


def test_the_rule_is_on_again_after_it_was_switched_off():
    rule = BY_NAME["full-lease-first"]
    run_seed(3, rule.name)
    assert run_seed(19).held
