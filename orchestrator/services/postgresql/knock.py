"""Knocking: a fresh connection, as far as it goes without a password. It shows what an old connection hides.

Spoken by hand because libpq tells the reason of a refused connection in the server's language, without its code; and because
a server whose main process is stopped still answers on connections that stand.
"""

import asyncio
import contextlib
import struct
from dataclasses import dataclass
from typing import Final

from orchestrator.services.postgresql.settings import PostgresqlSettings

PROTOCOL: Final = 3 << 16
STARTING_UP: Final = "57P03"
TOO_MANY: Final = "53300"
SHUTTING_DOWN: Final = ("57P01", "57P02")
GOODBYE: Final = b"X\0\0\0\4"
LONGEST: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Door:
    """How it was opened. `code` is PostgreSQL's SQLSTATE when the server said no; empty when it let us in or asked who we are."""

    code: str = ""
    words: str = ""

    @property
    def lets_in(self) -> bool:
        return self.code not in (STARTING_UP, TOO_MANY, *SHUTTING_DOWN)


async def knock(settings: PostgresqlSettings) -> Door:
    """Raises OSError when nobody listens. Not bounded: whoever calls waits as long as he likes."""
    reader, writer = await _open(settings)
    try:
        writer.write(_hello(settings.user, settings.database))
        await writer.drain()
        door, is_inside = await _hear(reader)
        if is_inside:
            writer.write(GOODBYE)  # whoever was asked for a password just goes: the server's log stays quiet
        return door
    except asyncio.IncompleteReadError:
        return Door("", "it hung up without a word")
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _open(settings: PostgresqlSettings) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if settings.socket_directory is not None:
        return await asyncio.open_unix_connection(str(settings.socket_directory / f".s.PGSQL.{settings.port}"))
    return await asyncio.open_connection(settings.host, settings.port)


def _hello(user: str, database: str) -> bytes:
    words = b"".join(each.encode() + b"\0" for each in ("user", user, "database", database, "application_name", "tanist"))
    body = struct.pack("!I", PROTOCOL) + words + b"\0"
    return struct.pack("!I", len(body) + 4) + body


async def _hear(reader: asyncio.StreamReader) -> tuple[Door, bool]:
    """How it was opened, and whether we are in."""
    while True:
        kind, length = struct.unpack("!cI", await reader.readexactly(5))
        body = await reader.readexactly(min(max(length, 4) - 4, LONGEST))
        if kind == b"E":
            said = error_fields(body)
            return Door(said.get("C", "XX000"), said.get("M", "")), False
        if kind == b"Z" or (kind == b"R" and struct.unpack("!I", body[:4])[0] != 0):
            return Door(), kind == b"Z"


def error_fields(body: bytes) -> dict[str, str]:
    """An error's parts by their letter: C the code, M the sentence."""
    parts = (part for part in body.split(b"\0") if part)
    return {chr(part[0]): part[1:].decode(errors="replace") for part in parts}
