"""Durations and sizes with their units, as operators write them."""

import re
from typing import Annotated, Final

from pydantic import BeforeValidator

from orchestrator.domain.policy import Window

_SPAN: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
_SPAN_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(B|kB|MB|GB|TB)")
_SIZE_UNITS: Final = {"B": 1, "kB": 1024, "MB": 1024**2, "GB": 1024**3, "TB": 1024**4}

_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_WINDOW: Final = re.compile(r"([A-Z][a-z]{2}(?:,[A-Z][a-z]{2})* +)?(\d\d):(\d\d)-(\d\d):(\d\d) UTC")


def parse_span(value: object) -> float:
    """Seconds.

    >>> parse_span("300ms"), parse_span("1.5s"), parse_span("10m")
    (0.3, 1.5, 600.0)
    """
    if isinstance(value, str) and (found := _SPAN.fullmatch(value.strip())):
        return round(float(found[1]) * _SPAN_UNITS[found[2]], 6)
    raise ValueError("expected a duration with its unit, such as 300ms, 1s, 10m or 2h")


def parse_size(value: object) -> int:
    """Bytes; kB, MB, GB and TB are powers of 1024, as in PostgreSQL.

    >>> parse_size("16MB")
    16777216
    """
    if isinstance(value, str) and (found := _SIZE.fullmatch(value.strip())):
        return int(float(found[1]) * _SIZE_UNITS[found[2]])
    raise ValueError("expected a size with its unit, such as 512kB, 16MB or 1GB")


def parse_window(value: object) -> Window:
    """Days of the week and a time of day, UTC; without days every day.

    >>> parse_window("Sat,Sun 23:30-00:30 UTC")
    Window(days=(5, 6), begins=1410, ends=30)
    """
    if isinstance(value, Window):
        return value
    found = _WINDOW.fullmatch(value.strip()) if isinstance(value, str) else None
    if found:
        hour, minute, end_hour, end_minute = map(int, found.group(2, 3, 4, 5))
        days = found[1].strip().split(",") if found[1] else _DAYS
        begins, ends = hour * 60 + minute, end_hour * 60 + end_minute
        if {*days} <= {*_DAYS} and max(hour, end_hour) < 24 and max(minute, end_minute) < 60 and begins != ends:
            return Window(days=tuple(sorted(map(_DAYS.index, {*days}))), begins=begins, ends=ends)
    raise ValueError(
        'expected days and a time of day in UTC, such as "Sun 03:00-04:00 UTC", "Sat,Sun 23:30-00:30 UTC" or "03:00-04:00 UTC"'
    )


Span = Annotated[float, BeforeValidator(parse_span, json_schema_input_type=str)]
Size = Annotated[int, BeforeValidator(parse_size, json_schema_input_type=str)]
TimeWindow = Annotated[Window, BeforeValidator(parse_window, json_schema_input_type=str)]
