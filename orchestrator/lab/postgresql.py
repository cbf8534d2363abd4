"""PostgreSQL in the laboratory: real servers below its directory, under the user `postgres` when it is run by root."""

import contextlib
import json
import os
import pwd
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, LiteralString

import psycopg

from orchestrator.daemon.clock import now
from orchestrator.domain.spans import Instant
from orchestrator.keeper.tree import children, started
from orchestrator.lab.clients import ANSWER_WITHIN, Connection, Failed
from orchestrator.lab.kinds import Kind, LabError
from orchestrator.lab.measure import Write
from orchestrator.services.divergence import Kept
from orchestrator.services.postgresql.postmaster import command_line
from orchestrator.services.postgresql.slots import slot_name

END_WITHIN: Final = 3.0
RUN_AS: Final = "postgres"
DEBIAN_PROGRAMS: Final = Path("/usr/lib/postgresql")
SETTINGS: Final = """\
listen_addresses = '{address}'
port = {port}
unix_socket_directories = '{sockets}'
shared_buffers = 16MB
dynamic_shared_memory_type = mmap
wal_level = replica
wal_log_hints = on
max_wal_senders = 10
max_replication_slots = 10
max_wal_size = 256MB
wal_keep_size = 256MB
hot_standby = on
wal_receiver_status_interval = 1s
wal_retrieve_retry_interval = 100ms
log_line_prefix = '%m [%p] '
"""
ACCESS: Final = """\
local all all trust
host all all 127.0.0.0/8 trust
host replication all 127.0.0.0/8 trust
"""
SLOT_KEEPS_AT_MOST: Final = 64 << 20
"""Four segments; the log is kept in segments, and a standby's slots move every few seconds."""
TABLE: Final = "CREATE TABLE lab (k text PRIMARY KEY, v text NOT NULL);\n"


class PostgresConnection(Connection):
    """Protocol 3.0, with trust for authentication and one simple query per write (PostgreSQL manual, chapter 55)."""

    def _log_in(self) -> None:
        words = b"user\0postgres\0database\0postgres\0application_name\0lab\0\0"
        self._socket.sendall(struct.pack("!ii", 8 + len(words), 196608) + words)
        self._until_ready(now() + ANSWER_WITHIN)

    def write(self, key: str, value: str) -> Write:
        sent_at = now()
        query = f"INSERT INTO lab VALUES ('{key}', '{value}') ON CONFLICT (k) DO UPDATE SET v = excluded.v".encode() + b"\0"
        try:
            self._socket.sendall(b"Q" + struct.pack("!i", 4 + len(query)) + query)
            self._until_ready(sent_at + ANSWER_WITHIN)
        except OSError as error:
            raise Failed(str(error)) from error
        return Write(sent_at, now())

    def _until_ready(self, until: Instant) -> None:
        """Reads messages up to ReadyForQuery; an ErrorResponse among them is the failure."""
        waiting, refused = b"", ""
        while True:
            part = self._receive(until)
            if not part:
                raise Failed(refused or "connection closed")
            waiting += part
            while len(waiting) >= 5 and len(waiting) > (size := struct.unpack_from("!i", waiting, 1)[0]):
                kind, body, waiting = waiting[:1], waiting[5 : 1 + size], waiting[1 + size :]
                if kind == b"E":
                    refused = _error(body)
                elif kind == b"Z":
                    if refused:
                        raise Failed(refused)
                    return


def _error(body: bytes) -> str:
    """As the watcher wants it: a server that answers "no" keeps its connection, so the word begins with a dash."""
    fields = {part[:1]: part[1:].decode(errors="replace") for part in body.split(b"\0") if part}
    fatal = fields.get(b"S") in ("FATAL", "PANIC")
    return ("" if fatal else "-") + fields.get(b"M", "an error without words")


class PostgresqlKind(Kind):
    name = "postgresql"
    says = "PostgreSQL"
    port = 5432
    connection = PostgresConnection

    def __init__(self, replication: str = "asynchronous", below: str = "") -> None:
        """`below` is where in a host's directory its data lies: on a file system of its own, perhaps."""
        self.replication = replication
        self._below = below
        self._programs = _newest_programs()
        self._run_as = RUN_AS if os.geteuid() == 0 else None
        self._model: Path | None = None

    def require(self) -> None:
        if reason := self.missing():
            raise LabError(reason)

    def missing(self) -> str:
        """What stands against running it here; empty when nothing does."""
        if self._programs is None:
            return "PostgreSQL's servers are not there; Debian: apt-get install postgresql"
        if self._run_as is not None:
            try:
                pwd.getpwnam(self._run_as)
            except KeyError:
                return f"PostgreSQL does not run as root, and there is no user {self._run_as}"
        return ""

    def program(self, name: str) -> str:
        """The path of one of PostgreSQL's programs."""
        path = self._programs / name if self._programs is not None else Path(name)
        if not path.is_file():
            raise LabError(f"{name} is not there; Debian: apt-get install postgresql")
        return str(path)

    def prepare(self, directory: Path) -> None:
        """One cluster is made; every member begins with a copy of it."""
        assert self._programs is not None
        directory.chmod(0o711)
        model = self._model = directory / "model"
        self._own(directory, model)
        self._run([self._programs / "initdb", "-D", model, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"])
        (model / "pg_hba.conf").write_text(ACCESS)
        self._run([self._programs / "postgres", "--single", "-D", model, "postgres"], text=TABLE)

    def prepare_host(self, directory: Path, address: str) -> None:
        assert self._model is not None
        directory.chmod(0o711)
        data, sockets = self._data(directory), directory / "sockets"
        self._own(directory, sockets)
        if self._run_as is not None and self._below:
            shutil.chown(data.parent, self._run_as, self._run_as)
        shutil.copytree(self._model, data, symlinks=True)
        with open(data / "postgresql.conf", "a", encoding="utf-8") as stream:
            stream.write(SETTINGS.format(address=address, port=self.port, sockets=sockets))
        if self._run_as is not None:
            account = pwd.getpwnam(self._run_as)
            for path in (data, *data.rglob("*")):
                os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)

    def _data(self, directory: Path) -> Path:
        return directory / self._below / "data"

    def _own(self, directory: Path, made: Path) -> None:
        made.mkdir(mode=0o700)
        if self._run_as is not None:
            shutil.chown(made, self._run_as, self._run_as)

    def _run(self, command: Sequence[str | Path], text: str | None = None) -> None:
        done = subprocess.run(
            [str(word) for word in command],
            input=text,
            capture_output=True,
            text=True,
            user=self._run_as,
            group=self._run_as,
            cwd="/",
            check=False,
        )
        if done.returncode != 0:
            raise LabError(f"{command[0]} failed: {(done.stderr or done.stdout).strip()[-500:]}")

    def group_section(self) -> dict[str, Any]:
        section: dict[str, Any] = {"port": self.port, "bin_directory": str(self._programs)}
        if self._run_as is not None:
            section["run_as"] = self._run_as
        return {"postgresql": section, "replication": self.replication}

    def member_section(self, directory: Path) -> dict[str, Any]:
        return {"postgresql": {"data_directory": str(self._data(directory)), "socket_directory": str(directory / "sockets")}}

    def pid_file(self, directory: Path) -> Path:
        return self._data(directory) / "postmaster.pid"

    def end(self, pid: int) -> None:
        """An immediate shutdown takes the children and the shared memory along; SIGKILL would leave both."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGQUIT)
            os.kill(pid, signal.SIGCONT)
        deadline = time.monotonic() + END_WITHIN
        while started(pid) is not None and time.monotonic() < deadline:
            time.sleep(0.01)
        super().end(pid)

    def _asked(self, address: str) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(
            host=address, port=self.port, user="postgres", dbname="postgres", autocommit=True, connect_timeout=5
        )

    def lost(self, address: str, source: str, numbers: Sequence[int]) -> list[int]:
        keys = [f"client:{number}" for number in numbers]
        with self._asked(address) as connection:
            rows = connection.execute("SELECT k FROM lab WHERE k = ANY (%s) AND v = substr(k, 8)", (keys,)).fetchall()
        found = {row[0] for row in rows}
        return [number for number, key in zip(numbers, keys, strict=True) if key not in found]

    def take_lost(self, address: str, source: str, numbers: Sequence[int]) -> int:
        lost = self.lost(address, source, numbers)
        with self._asked(address) as connection:
            connection.execute("TRUNCATE lab")
        return len(lost)

    def senders(self, main_pid: int) -> list[int]:
        return [pid for pid in children(main_pid) if command_line(pid).startswith("postgres: walsender")]

    def saved(self, kept: Kept) -> set[int] | None:
        found = set()
        for manifest in kept.manifests():
            with kept.rows(manifest["name"]).open(encoding="utf-8") as stream:
                for line in map(json.loads, stream):
                    if (
                        line["kind"] == "row"
                        and line["new"]
                        and line["table"][1] == "lab"
                        and line["key"]["k"].startswith("client:")
                    ):
                        found.add(int(line["new"]["v"]))
        return found

    def end_of_data(self, address: str, source: str) -> int:
        with self._asked(address) as connection:
            return _number(connection, "SELECT (pg_current_wal_flush_lsn() - '0/0')::bigint")

    def arrived(self, address: str, source: str) -> list[int]:
        query = "SELECT coalesce(replay_lsn - '0/0', 0)::bigint FROM pg_stat_replication WHERE state = 'streaming'"
        with self._asked(address) as connection:
            return [int(row[0]) for row in connection.execute(query)]

    def leftovers(self, directory: Path, address: str, me: str, members: Sequence[str]) -> list[str]:
        return [*self._strange_slots(address, me, members), *self._strange_files(directory, address)]

    def _strange_slots(self, address: str, me: str, members: Sequence[str]) -> list[str]:
        """Each member keeps one slot for each of the others, and nothing else; none that has been left behind."""
        query = """
            SELECT slot_name, coalesce(wal_status, ''), (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
                   ELSE pg_current_wal_flush_lsn() END - restart_lsn)::bigint FROM pg_replication_slots
        """
        with self._asked(address) as connection:
            rows = connection.execute(query).fetchall()
        wanted = {slot_name(name) for name in members if name != me}
        found = [f"slot {name}, which nobody needs" for name, _, _ in rows if name not in wanted]
        found += [f"slot {name} is missing" for name in sorted(wanted - {row[0] for row in rows})]
        for name, status, kept in rows:
            if name in wanted and (status != "reserved" or kept is None or kept > SLOT_KEEPS_AT_MOST):
                found.append(f"slot {name} is {status} and keeps {(kept or 0) >> 20} MB of WAL")
        return found

    def _strange_files(self, directory: Path, address: str) -> list[str]:
        data = directory / "data"
        with self._asked(address) as connection:
            is_standby = _number(connection, "SELECT pg_is_in_recovery()::int") == 1
        found = [f"{each.relative_to(directory)}" for each in sorted(directory.glob("**/*.tanist*"))]
        unwanted = ["promote", "fallback_promote", "recovery.signal", "backup_label", "tablespace_map", "pg_wal/xlogtemp.*"]
        unwanted += ["pg_wal/RECOVERY*", "pg_replslot/*.tmp", "pg_replslot/*/*.tmp", "global/*.tmp", "core*"]
        found += [f"data/{each.relative_to(data)}" for pattern in unwanted for each in sorted(data.glob(pattern))]
        if not is_standby and (data / "standby.signal").exists():
            found.append("data/standby.signal on a primary")
        return [f"file {each}" for each in found]

    def sizes(self, directory: Path) -> dict[str, int]:
        files = [path for path in (directory / "data" / "pg_wal").iterdir() if path.is_file()]
        return {
            "pg_wal": sum(path.stat().st_size for path in files),
            "history_files": sum(path.suffix == ".history" for path in files),
            "data_log": (directory / "data.log").stat().st_size if (directory / "data.log").exists() else 0,
        }

    def version(self, address: str, source: str) -> str:
        with self._asked(address) as connection:
            row = connection.execute("SHOW server_version").fetchone()
        return str(row[0]).split()[0] if row is not None else "unknown"


def _number(connection: psycopg.Connection[tuple[Any, ...]], query: LiteralString) -> int:
    row = connection.execute(query).fetchone()
    assert row is not None
    return int(row[0])


def _newest_programs() -> Path | None:
    """Whoever puts a server on PATH means that one (Debian puts none there); else the newest of Debian's."""
    if (chosen := shutil.which("postgres")) is not None:
        return Path(chosen).resolve().parent  # a link to one program alone is not where the others are
    found = [each.parent for each in DEBIAN_PROGRAMS.glob("*/bin/postgres") if each.parent.parent.name.isdigit()]
    return max(found, key=lambda path: int(path.parent.name), default=None)
