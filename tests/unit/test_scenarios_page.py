"""The page of scenarios names tests, schedules and faults that exist."""

import re
from pathlib import Path

import pytest

from orchestrator.simulation.directed import DIRECTED

TESTS = Path(__file__).parent.parent
PAGE = (TESTS.parent / "docs" / "reference" / "scenarios.md").read_text()
NAMED = sorted(set(re.findall(r"`([a-z]+/test_\w+\.py)::(test_\w+)`", PAGE)))
FAULTS = sorted(set(re.findall(r"faults? ((?:`\w+`(?:, | with | and )?)+)", PAGE)))


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_every_named_test_exists(file: str, name: str):
    assert re.search(rf"^(async )?def {name}\(", (TESTS / file).read_text(), re.MULTILINE)


def test_every_named_schedule_exists():
    named = set(re.findall(r"schedule `([^`]+)`", PAGE))
    assert len(named) > 8
    assert named <= {each.name for each in DIRECTED}


def test_every_named_fault_exists():
    text = (TESTS / "system" / "random_faults.py").read_text()
    named = {name for group in FAULTS for name in re.findall(r"`(\w+)`", group)}
    assert len(named) > 8
    assert [name for name in sorted(named) if f"class {name}(" not in text] == []


def test_every_scenario_says_what_happens_and_where():
    for line in PAGE.splitlines():
        if line.startswith("| ") and not line.startswith(("| scenario", "|---")):
            scenario, _, shown = (cell.strip() for cell in line.strip("|").split("|"))
            assert scenario
            assert shown or "No counterpart" in line, line
