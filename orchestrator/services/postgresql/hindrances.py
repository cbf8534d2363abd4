"""What keeps a stopped server from being started, and us from being let into a running one: each with its cure."""

import os
import pwd
import re
import shutil
from pathlib import Path
from typing import Final

from orchestrator.domain.spans import Span
from orchestrator.services.postgresql import commands
from orchestrator.services.postgresql.lastwords import last_words
from orchestrator.services.postgresql.settings import ControlKind, PostgresqlSettings, debian_place, programs
from orchestrator.services.starting import CannotStart

READ_WITHIN: Span = 10.0

_LOCKED_OUT: Final = (
    (
        r"Peer authentication failed",
        "the daemon runs as {me}, and pg_hba.conf takes only the system's user {user} for the role {user}: above its other local "
        "lines add: local {database} {user} peer map=tanist; to pg_ident.conf add: tanist {me} {user} and: tanist {user} {user}; "
        "then SELECT pg_reload_conf()",
    ),
    (r"no pg_hba.conf entry", "to pg_hba.conf add: local {database} {user} {method}; then SELECT pg_reload_conf()"),
    (r'role "[^"]*" does not exist', 'as a superuser: CREATE ROLE "{user}" LOGIN SUPERUSER; or set postgresql.user'),
    (r'role "[^"]*" is not permitted to log in', 'as a superuser: ALTER ROLE "{user}" LOGIN'),
    (r'database "[^"]*" does not exist', 'as a superuser: CREATE DATABASE "{database}"; or set postgresql.database'),
    (r"no password supplied", "set postgresql.password_file"),
    (
        r"password authentication failed",
        "postgresql.password_file must hold its password; as a superuser: ALTER ROLE \"{user}\" PASSWORD '...'",
    ),
    (
        r"is not accepting connections",
        "hot_standby may be off: write hot_standby = on where the server reads its settings; then restart",
    ),
)


def cure(reason: str, settings: PostgresqlSettings) -> str:
    """What lets the daemon in, where it was refused for this reason; empty when nothing is known."""
    for pattern, words in _LOCKED_OUT:
        if re.search(pattern, reason):
            method = (
                "scram-sha-256" if settings.password_file is not None else f"peer map=tanist (tanist {_me()} in pg_ident.conf)"
            )
            return words.format(me=_me(), user=settings.user, database=settings.database, method=method)
    return ""


def _me() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


async def why_not_start(settings: PostgresqlSettings) -> str:
    """Looked for in the order in which a start would trip over them. A member without data is copied, so that is none."""
    return _no_user(settings) or _no_starter(settings) or await _no_programs(settings)


def _no_user(settings: PostgresqlSettings) -> str:
    if settings.run_as is not None:
        try:
            pwd.getpwnam(settings.run_as)
        except KeyError:
            return f"there is no user {settings.run_as} on this host: correct postgresql.run_as"
    elif settings.control is ControlKind.DIRECT and os.geteuid() == 0:
        return "a server does not run as root: set postgresql.run_as, such as postgres"
    if not settings.data_directory.is_dir():
        return ""
    owner = settings.data_directory.stat().st_uid
    name = settings.run_as or _me()
    if settings.control is ControlKind.DIRECT and owner != pwd.getpwnam(name).pw_uid:
        return f"{settings.data_directory} does not belong to {name}: chown -R {name} {settings.data_directory}"
    return ""


def _no_starter(settings: PostgresqlSettings) -> str:
    program = {ControlKind.SYSTEMD: "systemctl", ControlKind.CLUSTER: "pg_ctlcluster"}.get(settings.control)
    if program is not None and shutil.which(program) is None:
        return f"control is {settings.control}, and there is no {program} here"
    place = debian_place(settings) if settings.control is ControlKind.CLUSTER else None
    if place is None:
        return ""
    if not (place / "postgresql.conf").is_file():
        return f"there is no {place}/postgresql.conf: pg_lsclusters shows the clusters there are; correct postgresql.cluster"
    if _start_conf(place) == "disabled":
        return f"{place}/start.conf says disabled, and pg_ctlcluster refuses; write there: manual"
    return ""


def _start_conf(place: Path) -> str:
    try:
        lines = (place / "start.conf").read_text().splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")), "")


async def _no_programs(settings: PostgresqlSettings) -> str:
    try:
        server = programs(settings) / "postgres"
    except OSError as error:
        return str(error)
    if not server.is_file():
        return f"there is no {server}: install it, or set postgresql.bin_directory"
    if not (settings.data_directory / "PG_VERSION").is_file():
        return ""
    command: list[str | Path] = [server, *settings.options, "-C", "data_directory"]
    try:
        await commands.run(command, within=READ_WITHIN, user=settings.run_as)  # reads its configuration, and starts nothing
    except CannotStart as error:
        return f"its configuration is refused: {last_words(str(error)) or error}"
    return ""
