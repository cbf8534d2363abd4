"""Another member, as whoever follows, rewinds from or copies it must know it. Connections are short and always bounded."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, LiteralString, cast

import psycopg
from psycopg import sql

from orchestrator.domain.spans import Span
from orchestrator.ports import RefusedByPeer, Unreachable
from orchestrator.services.postgresql import conninfo, lsn
from orchestrator.services.postgresql.settings import PostgresqlSettings
from orchestrator.services.postgresql.timelines import Timelines, read_history

ASK_WITHIN: Span = 5.0
CHECKPOINT_WITHIN: Span = 60.0
DUPLICATE = "42710"


@dataclass(frozen=True, slots=True)
class Identity:
    """What it says to whoever wants to follow it."""

    system: str
    timelines: Timelines
    end: int


class Source:
    def __init__(self, settings: PostgresqlSettings, name: str, host: str, port: int) -> None:
        self.settings = settings
        self.name = name
        self.host = host
        self.port = port

    # --- as its standby ----------------------------------------------------------------------------------------------

    async def identify(self) -> Identity:
        """Raises Unreachable, RefusedByPeer."""
        async with self._as_standby(ASK_WITHIN) as connection:
            ((system, timeline, end, *_),) = await _ask(connection, "IDENTIFY_SYSTEM")
            number = int(timeline)
            if number == 1:
                return Identity(_text(system), Timelines(1), lsn.parse(_text(end)))
            ((_, history),) = await _ask(connection, f"TIMELINE_HISTORY {number}")
            return Identity(_text(system), read_history(number, _text(history)), lsn.parse(_text(end)))

    async def ensure_slot(self, slot: str) -> None:
        """A follower whose slot is missing is refused for ever: made before it is named."""
        async with self._as_standby(ASK_WITHIN) as connection:
            try:
                await _ask(connection, f"CREATE_REPLICATION_SLOT {slot} PHYSICAL RESERVE_WAL")
            except psycopg.Error as error:
                if error.sqlstate != DUPLICATE:
                    raise

    # --- as superuser ------------------------------------------------------------------------------------------------

    async def is_primary(self) -> bool:
        async with self._as_superuser(ASK_WITHIN) as connection:
            ((standby,),) = await _ask(connection, "SELECT pg_catalog.pg_is_in_recovery()")
            return not standby

    async def checkpoint_if_its_timeline_is_new(self, timeline: int) -> None:
        """Its control file lags behind a promotion, and pg_rewind before 16 believes the control file."""
        async with self._as_superuser(CHECKPOINT_WITHIN) as connection:
            ((known,),) = await _ask(connection, "SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()")
            if int(known) < timeline:
                await _ask(connection, "CHECKPOINT")

    async def wal_bytes(self, timeline: int, at: int, count: int, segment_bytes: int) -> bytes | None:
        """Bytes of its log; None when it has them no more."""
        path = f"pg_wal/{lsn.segment_name(timeline, at, segment_bytes)}"
        query = "SELECT pg_catalog.pg_read_binary_file(%s, %s, %s, true)"
        async with self._as_superuser(ASK_WITHIN) as connection:
            ((found,),) = await _ask(connection, query, (path, at % segment_bytes, count))
            return bytes(found) if found else None

    async def slots(self) -> dict[str, int]:
        """Its physical slots, each with the oldest byte that it keeps."""
        query = """
            SELECT slot_name, (restart_lsn - '0/0'::pg_lsn)::bigint FROM pg_catalog.pg_replication_slots
            WHERE slot_type = 'physical' AND restart_lsn IS NOT NULL
        """
        async with self._as_superuser(ASK_WITHIN) as connection:
            return {str(name): int(kept) for name, kept in await _ask(connection, query)}

    async def size_and_tablespaces(self) -> tuple[int, tuple[str, ...]]:
        """Bytes of all databases, and where tablespaces lie outside of the data directory."""
        query = """
            SELECT (SELECT sum(pg_catalog.pg_database_size(oid)) FROM pg_catalog.pg_database)::bigint,
                   (SELECT coalesce(array_agg(pg_catalog.pg_tablespace_location(oid)), '{}') FROM pg_catalog.pg_tablespace
                    WHERE pg_catalog.pg_tablespace_location(oid) <> '')
        """
        async with self._as_superuser(ASK_WITHIN) as connection:
            ((size, places),) = await _ask(connection, query)
            return int(size or 0), tuple(places)

    async def wal_size(self) -> int:
        """Bytes of its pg_wal, every file of it."""
        async with self._as_superuser(ASK_WITHIN) as connection:
            ((size,),) = await _ask(connection, "SELECT coalesce(sum(size), 0)::bigint FROM pg_catalog.pg_ls_waldir()")
            return int(size)

    def words(self, *, follow: bool, database: str | None = None) -> dict[str, str]:
        return conninfo.to_member(self.settings, self.host, self.port, follow=follow, database=database)

    # --- connections -------------------------------------------------------------------------------------------------

    def _as_standby(self, within: Span) -> Any:
        return self._connected(within, {**self.words(follow=True), "replication": "true"})

    def _as_superuser(self, within: Span) -> Any:
        return self._connected(within, self.words(follow=False, database=self.settings.database))

    @asynccontextmanager
    async def _connected(self, within: Span, words: dict[str, str]) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        who = f"{self.name} ({self.host}:{self.port}) as {words['user']}"
        connection: psycopg.AsyncConnection[Any] | None = None
        try:
            async with asyncio.timeout(within):
                connection = await psycopg.AsyncConnection.connect(**words, autocommit=True)  # type: ignore[arg-type]
                yield connection
        except TimeoutError:
            raise Unreachable(f"{who} did not answer within {within:.0f} s") from None
        except psycopg.OperationalError as error:
            raise Unreachable(f"{who}: {_one_line(error)}") from error
        except psycopg.Error as error:
            raise RefusedByPeer(f"{who}: {_one_line(error)}") from error
        finally:
            if connection is not None:
                connection.pgconn.finish()


async def _ask(
    connection: psycopg.AsyncConnection[Any], query: str | sql.Composable, parameters: Sequence[Any] | None = None
) -> list[tuple[Any, ...]]:
    cursor = await connection.execute(cast("LiteralString", query), parameters)
    return await cursor.fetchall() if cursor.description is not None else []


def _text(value: Any) -> str:
    """A connection for replication has no character set: its words come as bytes."""
    return bytes(value).decode(errors="replace") if isinstance(value, bytes | memoryview) else str(value)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
