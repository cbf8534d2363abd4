"""The main process of the instance in one data directory: found by its lock file, verified, signalled, waited for."""

import asyncio
import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path

from orchestrator.domain.spans import Span
from orchestrator.keeper.tree import children, started

PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Postmaster:
    pid: int
    started: int
    status: str = ""
    """What it last wrote of itself: starting, ready, standby, stopping."""


def find(data_directory: Path) -> Postmaster | None:
    """The living main process; None when there is none. A lock file may be stale, and its number somebody else's by now."""
    try:
        lines = (data_directory / "postmaster.pid").read_text(encoding="utf-8", errors="replace").splitlines()
        pid = abs(int(lines[0]))
    except (OSError, ValueError, IndexError):
        return None
    began = started(pid)
    if began is None or not _works_in(pid, data_directory):
        return None
    return Postmaster(pid, began, lines[7].strip() if len(lines) > 7 else "")


def uncollected(data_directory: Path) -> tuple[int, int] | None:
    """A main process that has ended while its parent has not asked how: its number, and the parent's."""
    try:
        pid = abs(int((data_directory / "postmaster.pid").read_text(encoding="utf-8", errors="replace").split()[0]))
        text = (PROC / str(pid) / "stat").read_bytes()
    except (OSError, ValueError, IndexError):
        return None
    state, parent, *_ = text[text.rindex(b")") + 2 :].split()
    return (pid, int(parent)) if state == b"Z" else None


def collect(pid: int) -> None:
    """Ask how it ended, if it is a child of ours: as the first process of a container the daemon inherits orphans."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _works_in(pid: int, data_directory: Path) -> bool:
    """A server's working directory is its data directory. Not allowed to see it means: another user's, believed."""
    try:
        return (PROC / str(pid) / "cwd").samefile(data_directory)
    except PermissionError:
        return True
    except OSError:
        return False


def parent_of(pid: int) -> int | None:
    """The server process behind a connection tells its main process."""
    try:
        text = (PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    return int(text[text.rindex(b")") + 2 :].split()[1])


def command_lines(pid: int) -> list[str]:
    """What the children call themselves (`postgres: startup recovering 0000...`)."""
    return [words for child in children(pid) if (words := command_line(child))]


def command_line(pid: int) -> str:
    try:
        return (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def tell(postmaster: Postmaster, number: signal.Signals) -> bool:
    """Signal exactly this process; False when it has ended."""
    try:
        descriptor = os.pidfd_open(postmaster.pid)
    except ProcessLookupError:
        return False
    try:
        if started(postmaster.pid) != postmaster.started:
            return False
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


async def wait_for_end(postmaster: Postmaster, within: Span) -> bool:
    """True as soon as it has ended; False when it still runs after `within`."""
    try:
        descriptor = os.pidfd_open(postmaster.pid)
    except ProcessLookupError:
        return True
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, ended.set)
    try:
        if started(postmaster.pid) != postmaster.started:
            return True
        await asyncio.wait_for(ended.wait(), within)
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
    return True
