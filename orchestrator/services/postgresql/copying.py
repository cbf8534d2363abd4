"""Copies of a whole instance: initdb for a group's first member, pg_basebackup with progress for all others."""

import contextlib
import ipaddress
import os
import pwd
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from psycopg.conninfo import make_conninfo

from orchestrator.domain.spans import Span
from orchestrator.domain.topology import Member
from orchestrator.ports import RefusedByPeer
from orchestrator.services.postgresql import commands
from orchestrator.services.postgresql.conninfo import quoted
from orchestrator.services.postgresql.files import DataDirectory
from orchestrator.services.postgresql.settings import PostgresqlSettings, programs
from orchestrator.services.postgresql.source import Source
from orchestrator.services.postgresql.versions import of_text
from orchestrator.services.starting import CannotStart

SILENT_WITHIN: Span = 120.0
MAKE_WITHIN: Span = 120.0
ROOM: Final = 1.1
_PROGRESS: Final = re.compile(r"(\d+)/(\d+) kB \((\d+)%\)")

RECOMMENDED: Final[Mapping[str, str]] = {
    "wal_level": "replica",
    "wal_log_hints": "on",
    "hot_standby": "on",
    "max_wal_senders": "16",
    "max_replication_slots": "16",
    "max_wal_size": "1GB",
    "wal_keep_size": "1GB",
    "max_slot_wal_keep_size": "4GB",
    "wal_retrieve_retry_interval": "100ms",
    "superuser_reserved_connections": "8",
    "password_encryption": "scram-sha-256",
}
"""What a member made by Tanist begins with; `tanist check` says the same of those made by others."""


async def copy(files: DataDirectory, source: Source, doing: Callable[[str], None], *, slot: str | None) -> None:
    """A new copy in the place of what is there. The old data goes only when the new copy is complete.

    Raises CannotStart, RefusedByPeer, Unreachable.
    """
    size, places = await source.size_and_tablespaces()
    if places:
        raise RefusedByPeer(
            f"{source.name} has tablespaces outside of its data directory ({', '.join(places)}): copy this member by hand"
        )
    if (files.path / "pg_wal").is_symlink():
        raise RefusedByPeer(f"{files.path}/pg_wal is a link to another file system: copy this member by hand")
    in_place = is_in_place(files)
    broken = files.half_copied.exists()
    _check_room(files, size, empties=in_place or broken)
    files.begin_change(f"base backup from {source.name}")
    own = files.own_files()
    if in_place or broken:
        _empty(files.path)
    target = files.path if in_place else files.path.with_name(f"{files.path.name}.tanist-new")
    if not in_place:
        files.remove(target)
        _make_directory(target, files.settings)
    try:
        await _base_backup(files.settings, source, target, doing, slot)
    except BaseException:
        if not in_place:
            files.remove(target)
            if not broken:
                files.end_change()
        raise
    await files.sync(target)
    if not in_place:
        _swap(files, target)
    files.put_back(own)
    files.make_standby()
    files.end_change()


def is_in_place(files: DataDirectory) -> bool:
    """The old data has to go before the copy begins: its directory cannot be put in the place of another."""
    return files.path.is_mount() or files.path.is_symlink()


def _check_room(files: DataDirectory, size: int, *, empties: bool) -> None:
    free = shutil.disk_usage(files.path.parent).free
    if empties and files.path.is_dir():
        free += sum(each.stat().st_blocks * 512 for each in files.path.rglob("*") if each.is_file() and not each.is_symlink())
    if free < size * ROOM:
        raise RefusedByPeer(
            f"a copy takes {size >> 20} MB and {files.path.parent} has {free >> 20} MB free beside the old data: make room, "
            f"or empty {files.path} to say that its data may go"
        )


def _empty(path: Path) -> None:
    if not path.is_dir():
        return
    for each in path.iterdir():
        if each.is_dir() and not each.is_symlink():
            shutil.rmtree(each)
        else:
            each.unlink()


def _make_directory(path: Path, settings: PostgresqlSettings) -> None:
    path.mkdir(mode=0o700, parents=True)
    if settings.run_as is not None and os.geteuid() == 0:
        user = pwd.getpwnam(settings.run_as)
        os.chown(path, user.pw_uid, user.pw_gid)


def _swap(files: DataDirectory, made: Path) -> None:
    old = files.path.with_name(f"{files.path.name}.tanist-old")
    files.remove(old)
    if files.path.exists():
        files.path.rename(old)
    made.rename(files.path)
    files.remove(old)


async def _base_backup(
    settings: PostgresqlSettings, source: Source, target: Path, doing: Callable[[str], None], slot: str | None
) -> None:
    words = source.words(follow=True)
    password = words.pop("password", None)
    command: list[str | Path] = [programs(settings) / "pg_basebackup", "-D", target, "-d", make_conninfo(**words)]
    command += ["-X", "stream", "-c", "fast", "--progress", "--no-password", "--no-sync"]
    if slot is not None:
        command += ["-S", slot]
    if settings.max_rate is not None:
        command += ["--max-rate", f"{max(32, settings.max_rate // 1024)}k"]

    def heard(line: str) -> None:
        if found := _PROGRESS.search(line):
            doing(f"copying from {source.name}: {found[3]} % of {int(found[2]) >> 10} MB")

    doing(f"copying from {source.name}")
    env = {} if password is None else {"PGPASSWORD": password}
    await commands.run(command, within=SILENT_WITHIN, user=settings.run_as, env=env, heard=heard)


# --- a group's first member ------------------------------------------------------------------------------------------


async def make_first(files: DataDirectory, members: tuple[Member, ...], doing: Callable[[str], None]) -> None:
    """initdb, settings fit for failovers, the role that standbys follow as. Never run as a server; it starts as a standby."""
    settings = files.settings
    if files.path.exists() and any(files.path.iterdir()):
        raise RefusedByPeer(f"{files.path} is not empty: nothing is overwritten")
    if settings.configuration.parent != files.path:
        raise RefusedByPeer(
            f"its configuration lies in {settings.configuration.parent}, which initdb does not make: make the group's first "
            "member with pg_createcluster, or whatever made that"
        )
    doing("making a new database")
    try:
        if not files.path.exists():
            _make_directory(files.path, settings)
        binary = programs(settings)
        version = of_text(await commands.run([binary / "postgres", "-V"], within=MAKE_WITHIN, user=settings.run_as))
        command: list[str | Path] = [binary / "initdb", "-D", files.path, "-U", settings.user, "-E", "UTF8", "--no-instructions"]
        command += ["--auth-host=scram-sha-256"]
        if not version.checksums_by_default:
            command += ["--data-checksums"]
        with _password_in_a_file(settings) as given:
            await commands.run([*command, *given], within=MAKE_WITHIN, user=settings.run_as)
        _write_settings(files, members)
        await _make_roles(files)
    except CannotStart as error:
        raise RefusedByPeer(f"{files.path} could not be made: {error}") from error
    files.make_standby()


@contextlib.contextmanager
def _password_in_a_file(settings: PostgresqlSettings) -> Iterator[list[str]]:
    """initdb reads the superuser's password from a file of the server's user, or asks for none."""
    password = settings.password()
    if password is None:
        yield ["--auth-local=trust"]  # the socket's directory says who may come; the system's users are the only ones here
        return
    path = settings.data_directory.with_name(f"{settings.data_directory.name}.tanist-password")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as stream:
            if settings.run_as is not None and os.geteuid() == 0:
                user = pwd.getpwnam(settings.run_as)
                os.fchown(stream.fileno(), user.pw_uid, user.pw_gid)
            stream.write(password + "\n")
        yield ["--auth-local=scram-sha-256", "--pwfile", str(path)]
    finally:
        path.unlink(missing_ok=True)


def _write_settings(files: DataDirectory, members: tuple[Member, ...]) -> None:
    settings = files.settings
    addresses = settings.host if ipaddress.ip_address(settings.host).is_loopback else f"localhost,{settings.host}"
    wanted = {**RECOMMENDED, "port": str(settings.port), "listen_addresses": addresses}
    if settings.socket_directory is not None:
        wanted["unix_socket_directories"] = str(settings.socket_directory)
    path = files.path / "postgresql.conf"
    lines = "".join(f"{name} = {quoted(value)}\n" for name, value in wanted.items())
    files.write(path.name, path.read_text() + "\n# written by Tanist when it made this member\n" + lines)
    path = files.path / "pg_hba.conf"
    # before initdb's own lines: the first one that fits counts
    files.write(path.name, "# the members\n" + "".join(hba_lines(settings, members)) + "\n" + path.read_text())


def hba_lines(settings: PostgresqlSettings, members: tuple[Member, ...]) -> list[str]:
    """What lets every member follow, rewind from and compare with every other."""
    method = "scram-sha-256" if settings.replication_password() is not None or settings.password() is not None else "trust"
    lines = []
    for address in dict.fromkeys(member.address for member in members):
        bits = 128 if ":" in address else 32
        lines.append(f"host replication {settings.follows_as} {address}/{bits} {method}\n")
        lines.append(f"host {settings.database} {settings.user} {address}/{bits} {method}\n")
    return lines


async def _make_roles(files: DataDirectory) -> None:
    settings = files.settings
    if settings.follows_as == settings.user:
        return
    password = settings.replication_password()
    literal = "NULL" if password is None else "'" + password.replace("'", "''") + "'"
    statement = f'CREATE ROLE "{settings.follows_as}" LOGIN REPLICATION PASSWORD {literal}\n'
    command: list[str | Path] = [programs(settings) / "postgres", "--single", "-j", "-D", files.path, settings.database]
    said = await commands.run(command, within=MAKE_WITHIN, user=settings.run_as, text=statement + "\n")
    if "ERROR:" in said:
        raise CannotStart(said)
