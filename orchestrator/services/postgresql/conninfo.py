"""Connection strings and postgresql.auto.conf: built, read, changed. Text only."""

import re
from collections.abc import Mapping
from typing import Final

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from orchestrator.services.postgresql.settings import PostgresqlSettings

KEEPALIVE: Final = {"keepalives_idle": "2", "keepalives_interval": "2", "keepalives_count": "3", "tcp_user_timeout": "6000"}
"""A dead peer is noticed by the kernel; without this a standby waits for wal_receiver_timeout, a copy for ever."""

_LINE: Final = re.compile(r"^\s*([A-Za-z_][\w.]*)\s*=?\s*('(?:[^'\\]|''|\\.)*'|[^#\s]*)")


def to_member(settings: PostgresqlSettings, host: str, port: int, *, follow: bool, database: str | None = None) -> dict[str, str]:
    """Keywords for a connection to another member, as its standby or as superuser."""
    words = {
        "host": host,
        "port": str(port),
        "user": settings.follows_as if follow else settings.user,
        "application_name": settings.name,
        "connect_timeout": "3",
        **KEEPALIVE,
        **settings.connection,
    }
    password = settings.replication_password() if follow else settings.password()
    if password is not None:
        words["password"] = password
    if database is not None:
        words["dbname"] = database
    return words


def primary_conninfo(settings: PostgresqlSettings, host: str, port: int) -> str:
    return make_conninfo(**to_member(settings, host, port, follow=True))


def upstream(conninfo: str) -> tuple[str, int] | None:
    """Host and port of a `primary_conninfo`; None when it names nobody."""
    try:
        words = conninfo_to_dict(conninfo)
    except ProgrammingError:
        return None
    host = str(words.get("host") or words.get("hostaddr") or "").split(",")[0]
    if not host:
        return None
    port = str(words.get("port") or "5432").split(",")[0]
    return host, int(port) if port.isdigit() else 5432


def quoted(value: str) -> str:
    """As a value in a configuration file."""
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def unquoted(word: str) -> str:
    if not word.startswith("'"):
        return word
    return re.sub(r"\\(.)|''", lambda found: found[1] or "'", word[1:-1])


def read_settings(text: str) -> dict[str, str]:
    """Names and values; the last one counts, as for the server."""
    found = {}
    for line in text.splitlines():
        if match := _LINE.match(line):
            found[match[1].lower()] = unquoted(match[2])
    return found


def change_settings(text: str, changes: Mapping[str, str | None]) -> str:
    """The text with these settings in the place of older ones; None takes one away."""
    kept = []
    for line in text.splitlines():
        match = _LINE.match(line)
        if match is None or match[1].lower() not in changes:
            kept.append(line)
    kept += [f"{name} = {quoted(value)}" for name, value in changes.items() if value is not None]
    return "\n".join(kept) + "\n" if kept else ""
