"""A member's own file system, which can be stalled or filled without touching any other: ext4 in a file, on a loop device.

Stalled means frozen (FIFREEZE, as `fsfreeze` and storage snapshots do it): reads go on, and whoever writes waits in the kernel,
uninterruptibly, until it is thawed. A device mapper's suspend would do the same a layer below, but is not everywhere; stopping
the server's writing processes would not: PostgreSQL's backends write and sync their commits themselves.
"""

import contextlib
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Final

from orchestrator.domain.spans import Span
from orchestrator.lab.kinds import LabError

SIZE: Final = 1 << 30
"""The file is sparse: it takes what is written."""
BLOCK: Final = 4096
UNMOUNT_WITHIN: Span = 3.0
PROGRAMS: Final = ("mkfs.ext4", "mount", "umount", "fsfreeze")
PATH: Final = "/usr/sbin:/sbin:/usr/bin:/bin"
HOLD_FROZEN: Final = 'fsfreeze --freeze "$1" && echo frozen && read _; fsfreeze --unfreeze "$1"'
"""Thaws when told to, and when whoever told it to freeze has died."""


def why_impossible() -> str:
    """Why no file system of its own can be made here; empty when it can."""
    if os.geteuid() != 0:
        return "mounting a file system takes root"
    missing = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (Debian: apt-get install e2fsprogs mount util-linux)"
    return "" if Path("/dev/loop-control").exists() else "this kernel has no loop devices"


class Disk:
    def __init__(self, image: Path, at: Path) -> None:
        self._image = image
        self.at = at
        self._ballast = at / "ballast"
        self._frozen: subprocess.Popen[bytes] | None = None

    def make(self) -> None:
        if reason := why_impossible():
            raise LabError(f"a member with a disk of its own cannot be made here: {reason}")
        self.at.mkdir()
        with open(self._image, "wb") as stream:
            stream.truncate(SIZE)
        _run("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=1", str(self._image))
        _run("mount", "-o", "loop,noatime", str(self._image), str(self.at))
        (self.at / "lost+found").rmdir()

    def freeze(self) -> None:
        command = ["sh", "-c", HOLD_FROZEN, "sh", str(self.at)]
        self._frozen = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={"PATH": PATH}, start_new_session=True
        )
        assert self._frozen.stdout is not None
        if self._frozen.stdout.readline() != b"frozen\n":
            self.thaw()
            raise LabError(f"{self.at} could not be frozen")

    def thaw(self) -> None:
        holder, self._frozen = self._frozen, None
        if holder is not None:
            holder.communicate()

    def fill(self) -> None:
        """To the last block: as a database's disk is full, for all who write there."""
        descriptor = os.open(self._ballast, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            while True:
                found = os.statvfs(self.at)
                free = found.f_bavail * found.f_frsize
                if free < BLOCK:
                    return
                try:
                    os.posix_fallocate(descriptor, os.fstat(descriptor).st_size, max(BLOCK, free - free % BLOCK - 64 * BLOCK))
                except OSError:
                    return
        finally:
            os.close(descriptor)

    def make_room(self) -> None:
        self._ballast.unlink(missing_ok=True)

    def end(self) -> None:
        """Whoever still uses it has been killed, and ends as soon as it is thawed."""
        self.thaw()
        deadline = time.monotonic() + UNMOUNT_WITHIN
        while self.at.is_mount():
            try:
                _run("umount", *(["--lazy"] if time.monotonic() > deadline else []), str(self.at))
            except LabError:
                time.sleep(0.05)
        with contextlib.suppress(OSError):
            self._image.unlink()


def _run(*command: str) -> None:
    done = subprocess.run(command, env={"PATH": PATH}, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"{command[0]} failed: {done.stderr.strip()}")
