"""Durations and sizes carry their unit, always."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config.units import parse_size, parse_span


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("300ms", 0.3),
        ("1s", 1.0),
        ("1.5s", 1.5),
        ("10m", 600.0),
        ("2h", 7200.0),
        ("1d", 86400.0),
        ("0s", 0.0),
        (" 1 s ", 1.0),
        ("0.5ms", 0.0005),
    ],
)
def test_a_duration_is_read_as_seconds(written: str, seconds: float):
    assert parse_span(written) == seconds


@pytest.mark.parametrize(
    ("written", "number"),
    [("1B", 1), ("512kB", 512 * 1024), ("16MB", 16 * 1024**2), ("1GB", 1024**3), ("2TB", 2 * 1024**4), ("1.5kB", 1536)],
)
def test_a_size_is_read_as_bytes_in_powers_of_1024(written: str, number: int):
    assert parse_size(written) == number


NO_SPAN = [
    "",
    "1",
    "s",
    "1 sec",
    "1S",
    "1M",
    "-1s",
    "+1s",
    "1,5s",
    ".5s",
    "1.s",
    "1e3s",
    "1s 1ms",
    "1s;",
    1,
    1.0,
    True,
    None,
    ["1s"],
]


@pytest.mark.parametrize("written", NO_SPAN, ids=repr)
def test_what_is_no_duration_is_refused_with_an_example(written: object):
    with pytest.raises(ValueError, match="such as 300ms, 1s, 10m or 2h"):
        parse_span(written)


@pytest.mark.parametrize("written", ["", "16", "16mb", "16M", "16MiB", "-1MB", "1 024kB", "MB", 16, True, None], ids=repr)
def test_what_is_no_size_is_refused_with_an_example(written: object):
    with pytest.raises(ValueError, match="such as 512kB, 16MB or 1GB"):
        parse_size(written)


@given(st.integers(0, 10**9))
def test_the_same_span_may_be_written_in_any_unit(milliseconds: int):
    assert parse_span(f"{milliseconds}ms") == pytest.approx(milliseconds / 1000)
    assert parse_span(f"{milliseconds}s") == parse_span(f"{milliseconds}000ms")


@given(st.text(max_size=12))
def test_whatever_is_written_is_a_duration_or_a_value_error(written: str):
    try:
        assert parse_span(written) >= 0
    except ValueError:
        pass
