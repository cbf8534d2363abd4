"""One daemon per node, on the right node, with keys that only it can read."""

import fcntl
import json
import os
import secrets
import stat
from pathlib import Path

from orchestrator.domain.topology import NodeName


class CannotStart(RuntimeError):
    """The daemon must not start; says why and what would cure it."""


class HostLock:
    """Held as long as the daemon lives, whatever kills it: the kernel lets go of it."""

    def __init__(self, run: Path) -> None:
        path = run / "daemon.lock"
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = path.read_text().strip() or "unknown"
            os.close(self._descriptor)
            raise CannotStart(f"another daemon of this node runs already (process {holder}, it holds {path})") from None
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, f"{os.getpid()}\n".encode())

    def release(self) -> None:
        os.close(self._descriptor)


def make_directories(run: Path, state: Path) -> None:
    for directory in (run, state):
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o750)
        except OSError as error:
            raise CannotStart(f"{directory} cannot be made: {error.strerror}") from error
        if not os.access(directory, os.W_OK | os.X_OK):
            raise CannotStart(f"{directory} is not writable for user {os.geteuid()}")


def check_identity(state: Path, cluster: str, node: NodeName) -> str:
    """A state directory belongs to one node of one cluster for good: a copied disk must not speak in another's name.

    Returns the directory's own random number, by which the mediator tells two hosts of one name apart.
    """
    path = state / "identity.json"
    try:
        found = json.loads(path.read_text())
        known, number = (found["cluster"], found["node"]), str(found["number"])
    except FileNotFoundError:
        number = secrets.token_hex(8)
        _write_whole(path, json.dumps({"cluster": cluster, "node": node, "number": number}) + "\n")
        return number
    except (ValueError, KeyError, TypeError) as error:
        raise CannotStart(f"{path} cannot be read ({error!r}); expected cluster, node and number") from None
    if known != (cluster, node):
        raise CannotStart(
            f"{path} says that this state belongs to node {known[1]!r} of cluster {known[0]!r}, but this "
            f"daemon is {node!r} of {cluster!r}: is this a copied disk, or the wrong --node?"
        )
    return number


def _write_whole(path: Path, text: str) -> None:
    """A crash in between leaves no file, rather than a part of one."""
    beside = path.with_suffix(".new")
    with open(beside, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(beside, path)


def check_key(path: Path) -> None:
    """The key signs beats: whoever reads it can end a group's rights."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise CannotStart(f"key_file {path}: {error.strerror}; `tanist key {path}` makes one") from error
    if mode & (stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP):
        raise CannotStart(
            f"key_file {path} has mode {stat.S_IMODE(mode):04o}, so others may read or change it; chmod 0600 {path}"
        )
