"""What a member has lived through, on disk: one small file per group, replaced whole."""

import json
import os
from pathlib import Path

from orchestrator.domain.effects import History
from orchestrator.domain.plain import Unreadable, from_plain, to_plain


class BadHistory(RuntimeError):
    """The file is there and cannot be read: acting as if nothing had happened would be wrong."""


def recall(path: Path) -> History:
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return History()
    try:
        return from_plain(History, json.loads(text))
    except (Unreadable, ValueError) as error:
        raise BadHistory(f"{path}: {error}; move it away to begin without a history") from None


def remember(path: Path, history: History) -> None:
    """On disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".new")
    with open(beside, "w", encoding="utf-8") as stream:
        json.dump(to_plain(history), stream)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(beside, path)
