"""Durations and sizes with their units, as operators write them."""

import re
from typing import Annotated, Final

from pydantic import BeforeValidator

_SPAN: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
_SPAN_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(B|kB|MB|GB|TB)")
_SIZE_UNITS: Final = {"B": 1, "kB": 1024, "MB": 1024**2, "GB": 1024**3, "TB": 1024**4}


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


Span = Annotated[float, BeforeValidator(parse_span, json_schema_input_type=str)]
Size = Annotated[int, BeforeValidator(parse_size, json_schema_input_type=str)]
