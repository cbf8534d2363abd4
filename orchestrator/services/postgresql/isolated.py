"""A stopped server's data, opened for reading where nobody else gets in. Its log stays as it is, byte for byte."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psycopg

from orchestrator.domain.spans import Span
from orchestrator.services.postgresql import commands, lsn
from orchestrator.services.starting import CannotStart, dying_with

OPEN_WITHIN: Span = 3600.0
"""Replaying its own log may take as long as recovery after a crash does."""
STOPPED_WITHIN: Span = 60.0
LOOK_AGAIN: Span = 0.05
TELL_EVERY: Span = 5.0
LOG_TOLD: Final = 600

SETTINGS: Final = {
    "listen_addresses": "",
    "port": "5432",
    "archive_mode": "off",
    "primary_conninfo": "",
    "primary_slot_name": "",
    "restore_command": "",
    "archive_cleanup_command": "",
    "recovery_end_command": "",
    "recovery_target_timeline": "current",
    "hot_standby": "on",
    "ssl": "off",
    "logging_collector": "off",
    "log_destination": "stderr",
    "log_min_messages": "warning",
    "log_statement": "none",
    "external_pid_file": "",
    "synchronous_standby_names": "",
    # a restartpoint would take away what the rewind needs
    "wal_keep_size": "1000GB",
    "max_slot_wal_keep_size": "-1",
}
"""A standby of nobody replays what is here and writes no log of its own, where a primary would begin with a checkpoint."""

READING: Final = {
    "search_path": "pg_catalog",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "xmloption": "content",
    "lc_monetary": "C",
    "default_transaction_read_only": "on",
    "statement_timeout": "0",
    "lock_timeout": "60s",
    "idle_in_transaction_session_timeout": "0",
    "jit": "off",
}
"""Values are kept as text: the same value must read the same on every member."""

REPLAYED: Final = """
SELECT pg_last_wal_replay_lsn()::text, coalesce((SELECT wait_event IN ('RecoveryRetrieveRetryInterval', 'RecoveryWalStream',
    'RecoveryWalAll') FROM pg_stat_activity WHERE backend_type = 'startup'), true)
"""


class Isolated:
    def __init__(self, directory: Path, user: str) -> None:
        self._directory = directory
        self._user = user

    def connect(self, database: str) -> psycopg.Connection[Any]:
        return reading({"host": str(self._directory), "port": "5432", "user": self._user, "dbname": database})


def reading(words: Mapping[str, str]) -> psycopg.Connection[Any]:
    options = " ".join(f"-c {name}={value.replace(' ', chr(92) + ' ')}" for name, value in READING.items())
    return psycopg.connect(**{**words, "options": options, "client_encoding": "UTF8"}, autocommit=True)  # type: ignore[arg-type]


@contextmanager
def opened(
    programs: Path,
    options: Sequence[str],
    parameters: Mapping[str, str],
    *,
    run_as: str | None,
    user: str,
    database: str,
    upto: int,
    tell: Callable[[str], None],
) -> Iterator[Isolated]:
    """Until everything up to `upto` has been replayed. Raises CannotStart.

    `standby.signal` stands already. The server ends with this process, whatever becomes of it.
    """
    identity = commands.as_user(run_as)
    place = Path(tempfile.mkdtemp(prefix="tanist-"))
    try:
        (place / "hba").write_text("local all all trust\n")
        (place / "ident").write_text("")
        if identity:
            found = pwd.getpwnam(str(run_as))
            for each in (place, place / "hba", place / "ident"):
                os.chown(each, found.pw_uid, found.pw_gid)
        settings = {
            **parameters,
            **SETTINGS,
            "unix_socket_directories": str(place),
            "hba_file": str(place / "hba"),
            "ident_file": str(place / "ident"),
        }
        command = [str(programs / "postgres"), *options]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        log = place / "log"
        with log.open("wb") as stream:
            server = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                cwd="/",
                env=commands.environment(),
                umask=0o077,
                start_new_session=True,
                preexec_fn=dying_with(os.getpid()),
                **identity,
            )
        try:
            made = Isolated(place, user)
            _wait(made, server, log, database, upto, tell)
            yield made
        finally:
            _stop(server)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _wait(
    made: Isolated, server: "subprocess.Popen[bytes]", log: Path, database: str, upto: int, tell: Callable[[str], None]
) -> None:
    deadline, told_at, reason = time.monotonic() + OPEN_WITHIN, time.monotonic(), "it does not let anybody in"
    connection: psycopg.Connection[Any] | None = None
    try:
        while time.monotonic() < deadline:
            if server.poll() is not None:
                raise CannotStart(f"the old data cannot be opened for reading: {_end_of(log)}")
            try:
                connection = connection or made.connect(database)
                ((at, waits),) = connection.execute(REPLAYED).fetchall()
                if waits and lsn.parse(at or "0/0") >= upto:
                    return
                reason = f"its log is replayed up to {at} only, and goes on to {lsn.written(upto)}"
            except psycopg.Error as error:
                connection, reason = None, " ".join(str(error).split())
            if time.monotonic() > told_at + TELL_EVERY:
                told_at = time.monotonic()
                tell(f"replaying the old data: {reason}")
            time.sleep(LOOK_AGAIN)
    finally:
        if connection is not None:
            connection.close()
    raise CannotStart(f"the old data has not opened within {OPEN_WITHIN:.0f} s: {reason}")


def _stop(server: "subprocess.Popen[bytes]") -> None:
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        if server.poll() is not None:
            return
        server.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(STOPPED_WITHIN)


def _end_of(log: Path) -> str:
    return " ".join(log.read_text(errors="replace").split())[-LOG_TOLD:] or "it gave no reason"
