"""The data directory: what its files say of a server that does not run, and the few that Tanist writes."""

import asyncio
import contextlib
import ctypes
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from orchestrator.services.postgresql import commands, conninfo, lsn, ownfiles
from orchestrator.services.postgresql.lastwords import last_line, last_words
from orchestrator.services.postgresql.settings import DEBIAN_LOGS, ControlKind, PostgresqlSettings, debian_place, programs
from orchestrator.services.postgresql.timelines import BadHistory, Timelines, history_file, read_history
from orchestrator.services.postgresql.versions import Version, of_text
from orchestrator.services.starting import CannotStart

LEFTOVERS: Final = ("promote", "recovery.signal", "fallback_promote")
CONTROL_WITHIN: Final = 10.0
SMALL_READ: Final = 64
LOG_KEPT: Final = 1 << 16
"""As much of the log's end is read for a reason."""


def _sync_file_system(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if library.syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(descriptor)


def _text(path: Path) -> str:
    """Byte for byte: the ends of its lines are the member's own, too."""
    return path.read_bytes().decode(errors="surrogateescape")


def _end_of(path: Path, begin: int) -> str:
    """What was written from there on; from the beginning, where the file has become another one meanwhile."""
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            stream.seek(max(begin if begin <= size else 0, size - LOG_KEPT))
            return stream.read().decode(errors="replace")
    except OSError:
        return ""


class NoData(RuntimeError):
    """There is no data directory to work with; says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlData:
    """What pg_controldata says."""

    system: str
    state: str
    checkpoint: int
    timeline: int
    """The newer of the last checkpoint's and the one up to which recovery must come."""
    checkpoint_timeline: int
    """Lags after a promotion, until its checkpoint is done: minutes, on a busy server."""
    recovery_end: int
    segment_bytes: int
    page_bytes: int
    wal_log_hints: bool
    checksums: bool

    @property
    def is_clean(self) -> bool:
        return self.state in ("shut down", "shut down in recovery")

    @property
    def was_standby(self) -> bool:
        return self.state in ("shut down in recovery", "in archive recovery")


def read_control(text: str) -> ControlData:
    """Raises NoData when a line is missing."""
    said = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}
    try:
        return ControlData(
            system=said["Database system identifier"],
            state=said["Database cluster state"],
            checkpoint=lsn.parse(said["Latest checkpoint location"]),
            timeline=max(int(said["Latest checkpoint's TimeLineID"]), int(said["Min recovery ending loc's timeline"])),
            checkpoint_timeline=int(said["Latest checkpoint's TimeLineID"]),
            recovery_end=lsn.parse(said["Minimum recovery ending location"]),
            segment_bytes=int(said["Bytes per WAL segment"]),
            page_bytes=int(said["WAL block size"]),
            wal_log_hints=said["wal_log_hints setting"] == "on",
            checksums=said["Data page checksum version"] != "0",
        )
    except (KeyError, ValueError) as error:
        raise NoData(f"pg_controldata does not tell {error}") from None


class DataDirectory:
    def __init__(self, settings: PostgresqlSettings) -> None:
        self.settings = settings
        self.path = settings.data_directory

    # --- reading -----------------------------------------------------------------------------------------------------

    @property
    def exists(self) -> bool:
        return (self.path / "PG_VERSION").is_file()

    @property
    def half_copied(self) -> Path:
        """Stands beside the data while a rewind or copy changes it: what was left behind by a killed one must not be started."""
        return self.path.with_name(f"{self.path.name}.tanist-unfinished")

    def version(self) -> Version:
        return of_text((self.path / "PG_VERSION").read_text())

    async def control(self) -> ControlData:
        """Raises NoData."""
        if not self.exists:
            raise NoData(f"{self.path} holds no database")
        command: list[str | Path] = [programs(self.settings) / "pg_controldata", "-D", self.path]
        try:
            said = await commands.run(command, within=CONTROL_WITHIN, user=self.settings.run_as)
        except CannotStart as error:
            raise NoData(str(error)) from error
        return read_control(said)

    def timelines(self, number: int) -> Timelines:
        """With its ancestors, as far as its history file is here; timeline 1 has none."""
        try:
            return read_history(number, (self.path / "pg_wal" / history_file(number)).read_text())
        except (OSError, BadHistory):
            return Timelines(number)

    def wal_bytes(self, timeline: int, at: int, count: int, segment_bytes: int) -> bytes | None:
        """Bytes of the log within one segment; None when that segment is not here any more."""
        path = self.path / "pg_wal" / lsn.segment_name(timeline, at, segment_bytes)
        try:
            with path.open("rb") as segment:
                segment.seek(at % segment_bytes)
                return segment.read(min(count, segment_bytes - at % segment_bytes)) or None
        except OSError:
            return None

    def end_of_shutdown(self, control: ControlData) -> int:
        """Where the record of the last checkpoint ends: after a clean shutdown of a primary that is the end of its data."""
        head = self.wal_bytes(control.timeline, control.checkpoint, 4, control.segment_bytes)
        length = int.from_bytes(head or b"", "little")
        if not lsn.RECORD_HEADER <= length <= control.page_bytes:
            raise NoData(f"no checkpoint record at {lsn.written(control.checkpoint)}")
        return lsn.end_of_record(control.checkpoint, length, control.page_bytes, control.segment_bytes)

    async def has_records_from(self, timeline: int, start: int) -> bool:
        """Whether the log on `timeline` goes on at or after `start`. Raises NoData when it cannot be read."""
        command: list[str | Path] = [programs(self.settings) / "pg_waldump", "-p", self.path / "pg_wal", "-t", str(timeline)]
        command += ["-s", lsn.written(start), "-n", "1", "-q"]
        try:
            await commands.run(command, within=CONTROL_WITHIN, user=self.settings.run_as)
        except CannotStart as error:
            words = str(error)
            # nothing valid there, or the segment was never begun: recycled files carry older addresses
            if re.search(
                r"could not find a valid record|could not find file|could not locate WAL file|could not open file", words
            ):
                return False
            raise NoData(words) from error
        return True

    # --- writing -----------------------------------------------------------------------------------------------------

    def write(self, name: str, text: str) -> None:
        """At once or not at all, as the server's user, readable for him only."""
        path = self.path / name
        temporary = path.with_name(f"{path.name}.tanist")
        owner = self.path.stat()
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
            if os.geteuid() == 0:
                os.fchown(stream.fileno(), owner.st_uid, owner.st_gid)
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)

    def change_settings(self, changes: Mapping[str, str | None]) -> None:
        """As ALTER SYSTEM would, while the server does not run."""
        path = self.path / "postgresql.auto.conf"
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        after = conninfo.change_settings(before, changes)
        if after != before:
            self.write(path.name, after)

    def make_standby(self) -> None:
        """Whoever starts it from now on, it comes up as a standby."""
        if not (self.path / "standby.signal").exists():
            self.write("standby.signal", "")
        for name in LEFTOVERS:
            (self.path / name).unlink(missing_ok=True)

    def own_files(self) -> dict[Path, str | Path]:
        """Its own configuration, as text or as the link that it is: pg_rewind and pg_basebackup bring the source's."""
        found = ownfiles.find(self.path, self.settings.configuration)
        return {path.relative_to(self.path): path.readlink() if path.is_symlink() else _text(path) for path in found}

    def put_back(self, own: Mapping[Path, str | Path]) -> None:
        owner = self.path.stat()
        for name, content in own.items():
            path = self.path / name
            for missing in reversed([each for each in path.parents if not each.exists()]):
                missing.mkdir(mode=0o700)
                if os.geteuid() == 0:
                    os.chown(missing, owner.st_uid, owner.st_gid)
            if isinstance(content, str):
                self.write(str(name), content)
            elif not path.is_symlink() or path.readlink() != content:
                path.unlink(missing_ok=True)
                path.symlink_to(content)

    async def sync(self, path: Path | None = None) -> None:
        """Everything on its disk, in one call: PostgreSQL's programs would wait for each of a thousand files."""
        await asyncio.to_thread(_sync_file_system, path or self.path)

    def begin_change(self, words: str) -> None:
        self.half_copied.write_text(words + "\n")

    def end_change(self) -> None:
        self.half_copied.unlink(missing_ok=True)

    # --- the server's log --------------------------------------------------------------------------------------------

    def log_ends(self) -> dict[Path, int]:
        """How long each file is now that the server may write its reasons to: only what comes after is the next start's."""
        return {path: path.stat().st_size if path.is_file() else 0 for path in self._logs()}

    def words_since(self, ends: Mapping[Path, int], otherwise: str = "") -> str:
        """Why it ended, by what it wrote since then; when it gave no reason, the last it said, or where to look."""
        logs = self._logs()
        said = [_end_of(path, ends.get(path, 0)) for path in logs]
        for words in (*map(last_words, said), otherwise, *map(last_line, said)):
            if words:
                return words
        return f"it gave no reason in {' or '.join(str(path) for path in logs) or f'its log: journalctl -u {self.settings.unit}'}"

    def _logs(self) -> list[Path]:
        """Where its own collector writes; where its first words go, before that has begun."""
        found = []
        with contextlib.suppress(OSError):
            for line in (self.path / "current_logfiles").read_text().splitlines():
                kind, _, name = line.partition(" ")
                if kind == "stderr":
                    found.append(self.path / name)
        place = debian_place(self.settings)
        if self.settings.control is ControlKind.DIRECT:
            found.append(self.settings.log)
        elif place is None:
            return found
        elif (place / "log").exists():
            found.append((place / "log").resolve())
        else:
            found.append(DEBIAN_LOGS / f"postgresql-{place.parent.name}-{place.name}.log")
        return found

    def remove(self, path: Path) -> None:
        shutil.rmtree(path, ignore_errors=True)
