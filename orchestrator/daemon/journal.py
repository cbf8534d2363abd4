"""The journal: every event and effect, in rotating files; and the history, the sentences that people read."""

import json
import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from orchestrator.domain.effects import Effect, Notice
from orchestrator.domain.events import Event
from orchestrator.domain.plain import to_plain
from orchestrator.domain.spans import Instant, WallTime

SEGMENT_BYTES: Final = 8 * 1024 * 1024
SEGMENTS_KEPT: Final = 4
HISTORY_BYTES: Final = 4 * 1024 * 1024
RECENT_KEPT: Final = 500


class Journal:
    """One group's journal and history below `directory`. A line that was cut short by a crash is skipped when read."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._journal = _Rotating(directory / "journal.jsonl", SEGMENT_BYTES, SEGMENTS_KEPT)
        self._history = _Rotating(directory / "history.jsonl", HISTORY_BYTES, 2)
        self.recent: deque[dict[str, Any]] = deque(self.read_history(), maxlen=RECENT_KEPT)

    def event(self, event: Event) -> None:
        self._journal.write({"event": to_plain(event, Event)})

    def effect(self, effect: Effect, at: Instant) -> None:
        self._journal.write({"at": at, "effect": to_plain(effect, Effect)})

    def entry(self, notice: Notice, wall: WallTime, node: str) -> dict[str, Any]:
        """The notice as the history keeps it; among the recent ones at once, on disk by `keep`."""
        entry = {"wall": wall, "node": node, **to_plain(notice)}
        self.recent.append(entry)
        return entry

    def keep(self, entry: dict[str, Any]) -> None:
        """Flushed at once: the history is what is read after a crash."""
        self._history.write(entry)
        self._history.flush()

    def flush(self) -> None:
        self._journal.flush()

    def close(self) -> None:
        self._journal.close()
        self._history.close()

    def read_history(self) -> Iterator[dict[str, Any]]:
        return read_lines(self._directory / "history.jsonl")


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Every whole line of a file and of its predecessor."""
    for each in (path.with_suffix(".1.jsonl"), path):
        try:
            with open(each, encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    try:
                        yield json.loads(line)
                    except ValueError:
                        continue
        except FileNotFoundError:
            continue


class _Rotating:
    """A file of JSON lines; when it is full it becomes number 1, number 1 becomes 2, and the last is dropped."""

    def __init__(self, path: Path, limit_bytes: int, kept: int) -> None:
        self._path = path
        self._limit = limit_bytes
        self._kept = kept
        self._open()

    def _open(self) -> None:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        self._size = os.fstat(descriptor).st_size
        if self._size and os.pread(descriptor, 1, self._size - 1) != b"\n":
            os.write(descriptor, b"\n")  # a crash cut the last line short: begin a new one
        self._file = os.fdopen(descriptor, "ab", buffering=0)

    def write(self, entry: dict[str, Any]) -> None:
        line = json.dumps(entry, separators=(",", ":")).encode() + b"\n"
        if self._size + len(line) > self._limit:
            self._rotate()
        self._file.write(line)
        self._size += len(line)

    def _rotate(self) -> None:
        """A disk that refuses leaves a file that can still be written to: the present one, or a new one."""
        self._file.close()
        try:
            for number in range(self._kept - 1, 0, -1):
                older = self._numbered(number)
                if older.exists():
                    older.rename(self._numbered(number + 1)) if number + 1 < self._kept else older.unlink()
            self._path.rename(self._numbered(1))
        finally:
            self._open()

    def _numbered(self, number: int) -> Path:
        return self._path.with_suffix(f".{number}.jsonl")

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()
