"""Record and control as the mediator keeps them: JSON with a format number."""

import json
from dataclasses import replace
from typing import Final, TypeVar

from orchestrator.domain.plain import Unreadable, from_plain, to_plain
from orchestrator.domain.record import Control, Record
from orchestrator.domain.spans import FOREVER
from orchestrator.ports import RefusedByPeer

T = TypeVar("T", Record, Control)

FORMAT: Final = 2
"""2 since there are quorums: who does not know them must not claim a record that promises no more than one."""


def encode(value: Record | Control) -> bytes:
    oldest = 2 if isinstance(value, Record) and value.quorum else 1
    return json.dumps({"format": oldest, **to_plain(value)}, separators=(",", ":")).encode()


def decode_record(data: bytes, version: int, where: str) -> Record:
    """The record at this version of the mediator's. Raises RefusedByPeer for what must not be acted upon."""
    record = _decode(data, Record, where)
    if record.version != version:
        raise RefusedByPeer(
            f"{where} says version {record.version}, but the mediator counts version {version}: somebody else has "
            "written it; restore it by `tanist adopt`"
        )
    if not 0 < record.lease < FOREVER:
        raise RefusedByPeer(f"{where}: lease: read {record.lease}, expected a span of time")
    return record


def decode_control(data: bytes, version: int, where: str) -> Control:
    return replace(_decode(data, Control, where), version=version)


def _decode(data: bytes, kind: type[T], where: str) -> T:
    try:
        plain = json.loads(data)
    except ValueError as error:
        raise RefusedByPeer(f"{where} is not JSON ({error}): read {data[:60]!r}") from None
    written_by = plain.get("format") if isinstance(plain, dict) else None
    if type(written_by) is not int or written_by < 1:
        raise RefusedByPeer(f"{where} has no format number: read {data[:60]!r}")
    if written_by > FORMAT:
        raise RefusedByPeer(
            f"{where} was written in format {written_by} by a newer Tanist; this one reads up to format {FORMAT}: "
            "upgrade this node"
        )
    try:
        return from_plain(kind, plain)
    except Unreadable as error:
        raise RefusedByPeer(f"{where}: {error}") from None
