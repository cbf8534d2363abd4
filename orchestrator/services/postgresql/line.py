"""A line to a PostgreSQL server: one connection that stays open, repeats nothing, and knows which process is behind it."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any, Final, LiteralString, cast

import psycopg
from psycopg import sql

from orchestrator.keeper.tree import started
from orchestrator.services.postgresql.postmaster import parent_of
from orchestrator.services.postgresql.settings import PostgresqlSettings

SESSION: Final = {
    "search_path": "pg_catalog",  # nobody's function is called in the place of the server's
    "synchronous_commit": "local",  # an administrator's statement never waits for a standby
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_session_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "lc_messages": "C",
    "jit": "off",
}
PREPARE: Final = """
SELECT pg_catalog.set_config(s.name, w.value, false)
FROM ROWS FROM (pg_catalog.unnest(%s::text[]), pg_catalog.unnest(%s::text[])) AS w (name, value)
JOIN pg_catalog.pg_settings s USING (name)
"""
"""Settings that this version does not know are left out by the join."""
CLOSED_WITHIN: Final = 0.2


class ProcessGone(psycopg.OperationalError):
    """The main process behind this connection has ended, or is another one than the connection's server belongs to."""


def local_words(settings: PostgresqlSettings) -> dict[str, str]:
    """Keywords for the instance on this host."""
    words = {
        "host": str(settings.socket_directory) if settings.socket_directory is not None else settings.host,
        "port": str(settings.port),
        "user": settings.user,
        "dbname": settings.database,
        "application_name": "tanist",
    }
    if settings.socket_directory is None:
        words |= dict(settings.connection)
    password = settings.password()
    return words if password is None else {**words, "password": password}


class Line:
    """Connects when it is needed. Every question is the caller's to bound: an abandoned one ends the connection."""

    def __init__(self, settings: PostgresqlSettings) -> None:
        self._settings = settings
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self.pid = 0
        self.started = 0
        self.version = 0
        self.backend = 0
        self._opening = asyncio.Lock()

    @property
    def is_open(self) -> bool:
        return self._connection is not None and not self._connection.closed

    async def open(self) -> None:
        """Raises psycopg.OperationalError."""
        async with self._opening:
            if not self.is_open:
                await self._open()

    async def _open(self) -> None:
        connection = await psycopg.AsyncConnection.connect(**local_words(self._settings), autocommit=True)  # type: ignore[arg-type]
        self._connection = connection
        self.backend = connection.info.backend_pid
        self.version = connection.info.server_version
        pid = parent_of(self.backend)
        began = started(pid) if pid is not None and pid > 1 else None
        if pid is None or began is None:
            self.cut()
            raise ProcessGone(f"the server process {self.backend} has no living main process in sight")
        self.pid, self.started = pid, began
        with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
            await self._guarded(self._execute(PREPARE, (list(SESSION), list(SESSION.values()))))

    async def ask(self, query: str | sql.Composable, parameters: Sequence[Any] | None = None) -> list[tuple[Any, ...]]:
        """All rows. On a connection that broke meanwhile it connects once anew, as long as nothing was sent on the old one."""
        await self.open()
        if started(self.pid) != self.started:
            self.cut()
            raise ProcessGone(f"its main process {self.pid} has ended")
        return await self._guarded(self._execute(query, parameters))

    async def _execute(self, query: str | sql.Composable, parameters: Sequence[Any] | None) -> list[tuple[Any, ...]]:
        assert self._connection is not None
        statement = cast("LiteralString", query)  # every query of this package is a constant, or composed by psycopg.sql
        cursor = await self._connection.execute(statement, parameters)
        return await cursor.fetchall() if cursor.description is not None else []

    async def _guarded(self, work: Any) -> list[tuple[Any, ...]]:
        """psycopg waits politely for a server to cancel; one that is stopped never would. Cutting the socket ends it at once."""
        task = asyncio.ensure_future(work)
        try:
            return cast("list[tuple[Any, ...]]", await asyncio.shield(task))
        except asyncio.CancelledError:
            self.cut()
            await asyncio.wait({task}, timeout=CLOSED_WITHIN)
            if task.done() and not task.cancelled():
                task.exception()
            raise
        except psycopg.OperationalError:
            if self._connection is not None and self._connection.closed:
                self.cut()
            raise

    def cut(self) -> None:
        """End the connection now, whatever is under way on it."""
        connection, self._connection = self._connection, None
        if connection is None or connection.closed:
            return
        with contextlib.suppress(OSError, psycopg.Error):
            with socket.socket(fileno=os.dup(connection.pgconn.socket)) as copy:
                copy.shutdown(socket.SHUT_RDWR)
            if connection.pgconn.transaction_status != psycopg.pq.TransactionStatus.ACTIVE:
                connection.pgconn.finish()

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None and not connection.closed:
            await connection.close()


async def change_settings(line: Line, changes: Mapping[str, str | None]) -> None:
    """ALTER SYSTEM for each, then one reload."""
    for name, value in changes.items():
        if value is None:
            statement = sql.SQL("ALTER SYSTEM RESET {}").format(sql.Identifier(name))
        else:
            statement = sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(name), sql.Literal(value))
        await line.ask(statement)
    await line.ask("SELECT pg_reload_conf()")
