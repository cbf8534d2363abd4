"""Why a server ended, out of what it wrote to its log: the last fatal line, what led to it, and the hints. Text only."""

import re
from typing import Final

_LINE: Final = re.compile(r"\b(LOG|FATAL|PANIC|ERROR|WARNING|DETAIL|HINT|CONTEXT|STATEMENT|NOTICE|INFO|DEBUG\d?):  (.*)")
_FATAL: Final = ("FATAL", "PANIC")
_REMARK: Final = ("DETAIL", "HINT")
_CAUSE: Final = re.compile(r"could not|cannot|invalid|syntax error|unrecognized|contains? errors?|does not exist")
_OF_A_CLIENT: Final = re.compile(
    r"the database system is|authentication failed|no pg_hba\.conf entry|^(role|database) \"|too many clients|connection slots"
    r"|terminating (connection|walreceiver|background)|connection to client lost|unsupported frontend protocol"
)
"""Fatal for one connection, not for the server."""
CAUSES_KEPT: Final = 2
LINE_KEPT: Final = 300


def last_words(text: str) -> str:
    """In one line, as they were written; empty when nothing fatal was.

    >>> last_words("12:00 [7] LOG:  starting\\n12:00 [7] FATAL:  no room\\n12:00 [7] HINT:  Make some.")
    'FATAL: no room; HINT: Make some.'
    """
    said = _sentences(text)
    ends = [number for number, (kind, words, _) in enumerate(said) if kind in _FATAL and not _OF_A_CLIENT.search(words)]
    if not ends:
        return ""
    before = [each for each in said[: ends[-1]] if each[0] in ("LOG", "ERROR") and _CAUSE.search(each[1])]
    kept = [*before[-CAUSES_KEPT:], said[ends[-1]]]
    return "; ".join("; ".join([words if kind == "LOG" else f"{kind}: {words}", *remarks]) for kind, words, remarks in kept)


def last_line(text: str) -> str:
    """What it was at, where nothing was fatal."""
    said = _sentences(text)
    return said[-1][1] if said else " ".join(text[-LINE_KEPT:].split())


def _sentences(text: str) -> list[tuple[str, str, list[str]]]:
    """Level, words, and the remarks that belong to them."""
    found: list[tuple[str, str, list[str]]] = []
    for line in text.splitlines():
        match = _LINE.search(line)
        if match is None:
            continue
        kind, words = match[1], match[2].strip()
        if kind not in _REMARK:
            found.append((kind, words, []))
        elif found:
            found[-1][2].append(f"{kind}: {words}")
    return found
