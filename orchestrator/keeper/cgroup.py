"""A service's own control group (cgroup v2): frozen and killed as a whole by the kernel, whatever it forks meanwhile.

Only a systemd service's own, such as `postgresql@15-main.service`. The groups of sessions, containers and of the host itself
are shared with others, and ours is shared with the daemon: a service that was started by it has none of its own.
"""

import contextlib
import functools
import os
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")
SUFFIX: Final = ".service"


@functools.cache
def mount() -> Path | None:
    """Where the hierarchy of version 2 is mounted; None where there is none."""
    for line in (PROC / "self" / "mountinfo").read_text().splitlines():
        place, _, kind = line.partition(" - ")
        if kind.startswith("cgroup2 ") and place.split()[3] == "/":
            return Path(place.split()[4])
    return None


def path_of(pid: int | str) -> str | None:
    """A process's group, from the hierarchy's root; None when the process is gone."""
    try:
        lines = (PROC / str(pid) / "cgroup").read_text().splitlines()
    except OSError:
        return None
    return next((line[3:] for line in lines if line.startswith("0::/")), None)


class Group:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._inode = directory.stat().st_ino

    def processes(self) -> set[int]:
        """Of the group, and of all groups within it."""
        found: set[int] = set()
        for place, _, _ in os.walk(self.directory):
            with contextlib.suppress(OSError):  # removed meanwhile
                found.update(int(word) for word in (Path(place) / "cgroup.procs").read_text().split())
        return found

    def freeze(self) -> None:
        self._write("cgroup.freeze", "1")

    def thaw(self) -> None:
        """An emptied group too: what is started in it next would never run."""
        self._write("cgroup.freeze", "0")

    def kill(self) -> None:
        self._write("cgroup.kill", "1")

    @property
    def is_frozen(self) -> bool:
        return self._events().get("frozen") == "1"

    @property
    def is_populated(self) -> bool:
        return self._events().get("populated") == "1"

    def _events(self) -> dict[str, str]:
        """Nothing when it has been removed, or removed and made anew: then it is empty."""
        try:
            if self.directory.stat().st_ino != self._inode:
                return {}
            return dict(line.split() for line in (self.directory / "cgroup.events").read_text().splitlines())
        except OSError:
            return {}

    def _write(self, name: str, value: str) -> None:
        """Without the permission nothing happens, and the signals alone have to do."""
        with contextlib.suppress(OSError):
            if self.directory.stat().st_ino == self._inode:
                (self.directory / name).write_text(value)


def of_process(pid: int) -> Group | None:
    """The group in which it runs, whoever else does."""
    root, path = mount(), path_of(pid)
    if root is None or path is None or path == "/":  # the root cannot be frozen
        return None
    try:
        return Group(root / path.lstrip("/"))
    except OSError:
        return None


def of_service(pid: int) -> Group | None:
    """The group of the systemd service whose main process this is; None where it has none that is not ours as well."""
    path, ours = path_of(pid), path_of("self")
    if path is None or ours is None or not path.endswith(SUFFIX) or f"{ours}/".startswith(f"{path}/"):
        return None
    found = of_process(pid)
    usable = found is not None and all(os.access(found.directory / name, os.W_OK) for name in ("cgroup.freeze", "cgroup.kill"))
    return found if usable else None
