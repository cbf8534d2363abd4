"""Writes that a failed primary had and its successor has not: where they are kept, and what is known of each file.

One JSON-lines file per divergence, and beside it a manifest: what, from where, complete or not, and what people said of it.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

MANIFEST: Final = ".manifest.json"
ROWS: Final = ".jsonl"
GIVEN_UP: Final = "given-up.json"
"""A person's word that writes which cannot be saved may go; it serves for one rejoin."""

TOLD: Final = ("name", "writes", "complete", "why", "file", "saved_at")


class Unknown(KeyError):
    """No divergence of that name is kept here."""


class Kept:
    """The directory of one group on this host. Every file is its owner's only, and on disk before a method returns."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def make(self) -> None:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _sync(self.directory.parent)

    def rows(self, name: str) -> Path:
        return self.directory / f"{name}{ROWS}"

    def manifests(self) -> list[dict[str, Any]]:
        """All of them, oldest first; one that cannot be read is told as such, never left out."""
        found = []
        for path in sorted(self.directory.glob(f"*{MANIFEST}")) if self.directory.is_dir() else ():
            try:
                said = json.loads(path.read_bytes())
            except (OSError, ValueError) as error:
                said = {"complete": False, "why": f"{path}: {error}", "saved_at": ""}
            found.append({**said, "name": path.name.removesuffix(MANIFEST)})
        return sorted(found, key=lambda each: str(each.get("saved_at", "")))

    def manifest(self, name: str) -> dict[str, Any]:
        """Raises Unknown."""
        for each in self.manifests():
            if each["name"] == name:
                return each
        raise Unknown(name)

    def waiting(self) -> list[dict[str, Any]]:
        """In short, those that somebody should look at: saved, or not saved, and nobody has said that they may go."""
        found = [each for each in self.manifests() if each.get("discarded") is None]
        return [{name: each.get(name) for name in TOLD} for each in found if each.get("writes") or not each.get("complete")]

    def note(self, name: str, manifest: dict[str, Any]) -> None:
        self._write(self.directory / f"{name}{MANIFEST}", {key: each for key, each in manifest.items() if key != "name"})

    @contextmanager
    def writing(self, name: str) -> Iterator[IO[str]]:
        """The file of rows: it has its name only once every line of it is on disk."""
        path = self.rows(name)
        beside = path.with_suffix(".part")
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(path)
        _sync(self.directory)

    # --- people's words ----------------------------------------------------------------------------------------------

    def discard(self, name: str, words: dict[str, Any], *, delete: bool) -> None:
        """Nobody has to look at it any more. Raises Unknown."""
        manifest = self.manifest(name)
        self.note(name, {**manifest, "discarded": {**words, "deleted": delete}})
        if delete:
            self.rows(name).unlink(missing_ok=True)
            _sync(self.directory)

    def give_up(self, words: dict[str, Any]) -> None:
        """What cannot be saved may go, at the next rejoin."""
        self.make()
        self._write(self.directory / GIVEN_UP, words)

    def given_up(self) -> dict[str, Any] | None:
        try:
            found = json.loads((self.directory / GIVEN_UP).read_bytes())
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def used_up(self) -> None:
        (self.directory / GIVEN_UP).unlink(missing_ok=True)
        _sync(self.directory)

    def _write(self, path: Path, content: dict[str, Any]) -> None:
        beside = path.with_suffix(".part")
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as stream:
            json.dump(content, stream, indent=1)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(path)
        _sync(self.directory)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
