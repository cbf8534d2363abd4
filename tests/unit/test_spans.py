"""Instants and spans: holders count less of a lease than everybody who waits for it, and people read spans."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain.spans import FOREVER, NEVER, held_until, in_words, waited_until

instants = st.floats(0, 1e9)
leases = st.floats(0.2, 60)


def test_a_holder_counts_099_of_a_lease():
    assert held_until(100.0, 10.0) == pytest.approx(109.9)


def test_everybody_else_counts_101_of_a_lease():
    assert waited_until(100.0, 10.0) == pytest.approx(110.1)


@given(instants, leases, st.floats(0.99, 1.01), st.floats(0.99, 1.01))
def test_clocks_one_percent_apart_never_let_a_waiter_end_before_the_holder(began: float, lease: float, slow: float, fast: float):
    """Both count from the same true moment, each by its own clock that runs at its own rate."""
    held = held_until(0.0, lease) / min(slow, fast)
    waited = waited_until(0.0, lease) / max(slow, fast)
    assert held <= waited + 1e-9
    assert held_until(began, lease) <= waited_until(began, lease)


@given(instants)
def test_never_is_before_and_forever_after_every_instant(instant: float):
    assert NEVER < instant < FOREVER


@pytest.mark.parametrize(
    ("span", "words"),
    [
        (0.0, "0 ms"),
        (0.0004, "0 ms"),
        (0.04, "40 ms"),
        (0.3, "300 ms"),
        (1.0, "1.0 s"),
        (1.25, "1.2 s"),
        (59.94, "59.9 s"),
        (119.0, "119.0 s"),
        (120.0, "2 min"),
        (200.0, "3 min 20 s"),
        (3599.6, "60 min"),
        (7200.0, "2 h"),
        (7500.0, "2 h 5 min"),
        (90000.0, "25 h"),
        (FOREVER, "without end"),
        (NEVER, "never"),
    ],
)
def test_people_read_a_span_in_the_unit_that_fits(span: float, words: str):
    assert in_words(span) == words
