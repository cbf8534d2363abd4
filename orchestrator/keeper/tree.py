"""A service's processes: found, stopped, let go on, killed. By signals; by the service's own control group too, if it has one."""

import os
import signal
from pathlib import Path
from typing import Final

from orchestrator.keeper import cgroup

PROC: Final = Path("/proc")
ROUNDS: Final = 20
"""A process may fork while its tree is being stopped; after so many rounds with new ones something forks faster than we stop."""

STOPPED: Final = frozenset("TtZX")
"""Process states (proc(5)) in which nothing can be committed: stopped, traced, dead."""


class NotAllowed(PermissionError):
    """The kernel does not let us signal this process."""


def _stat(pid: int, task: str = "") -> tuple[str, int, int] | None:
    """State, parent and start (clock ticks since boot) of a process or thread; None when it is gone."""
    try:
        text = (PROC / str(pid) / task / "stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(b")") + 2 :].split()
    return fields[0].decode(), int(fields[1]), int(fields[19])


def state_of(pid: int) -> str | None:
    """The letter of proc(5) for the process's first thread; None when it is gone."""
    found = _stat(pid)
    return found[0] if found is not None else None


def started(pid: int) -> int | None:
    """When the process began, in clock ticks since boot: with the pid it names exactly one process."""
    found = _stat(pid)
    return found[2] if found is not None and found[0] not in "ZX" else None


def children(pid: int) -> list[int]:
    """Direct children, of every thread."""
    found: list[int] = []
    try:
        for task in os.listdir(PROC / str(pid) / "task"):
            text = (PROC / str(pid) / "task" / task / "children").read_text()
            found += [int(word) for word in text.split()]
    except (FileNotFoundError, ProcessLookupError):
        pass
    return found


class Tree:
    """All processes that descend from a service's main process.

    A service whose children may outlive the main process (PostgreSQL: a backend commits on after a postmaster's SIGKILL) is
    known by its directory too: orphans that were forked since the last look work there, under the same program's name.

    Where it has a control group to itself (cgroup.py), that is frozen before the signals are sent, so that nothing forks past
    them, and killed after them; and it must be empty, too, before the tree counts as empty.
    """

    def __init__(self, pid: int, process_started: int, directory: str = "", program: str = "") -> None:
        self.pid = pid
        self.process_started = process_started
        self._directory = directory
        self._program = program
        self._known: dict[int, int] = {}
        """Every process ever seen in the tree, with its start: orphans stay ours after their parent's death."""
        self._group: cgroup.Group | None = None
        self._killed = False

    def _look(self) -> list[int]:
        """The living members, main process first. New ones are remembered."""
        if started(self.pid) == self.process_started:
            self._known.setdefault(self.pid, self.process_started)
        self._forget_the_dead()  # first of all: a number that was given again has children of its own
        waiting = list(self._known)
        seen = set(waiting)
        while waiting:
            for child in children(waiting.pop()):
                began = started(child)
                if child not in seen and began is not None:
                    seen.add(child)
                    waiting.append(child)
                    self._known[child] = began
        self._forget_the_dead()
        return list(self._known)

    def _forget_the_dead(self) -> None:
        self._known = {pid: began for pid, began in self._known.items() if started(pid) == began}

    def _find_orphans(self) -> None:
        """Once the main process is gone. A look at every process of the host takes about 10 microseconds each."""
        if not self._directory or started(self.pid) == self.process_started:
            return
        for name in os.listdir(PROC):
            if not name.isdigit() or int(name) in self._known:
                continue
            try:
                where = (PROC / name / "cwd").readlink()
                what = (PROC / name / "exe").readlink()
            except OSError:
                continue
            if str(where) == self._directory and what.name.removesuffix(" (deleted)") == self._program:
                began = started(int(name))
                if began is not None:
                    self._known[int(name)] = began

    def notice(self) -> None:
        """Remember who is there now, so that none is missed when the main process dies first."""
        if self._group is not None or started(self.pid) != self.process_started:
            self._look()
            return
        group = cgroup.of_service(self.pid)
        inside = group.processes() if group is not None else set()  # before the tree: what is forked later is in the tree only
        strangers = inside - set(self._look())
        if not any(started(pid) is not None for pid in strangers):
            self._group = group  # for good: whatever else appears in it was forked by a member, or is of the same unit

    def stop(self) -> None:
        """Send SIGSTOP to every member, the main process first, until no new one appears."""
        if self._group is not None:
            self._group.freeze()
        self._find_orphans()
        sent: set[int] = set()
        for _ in range(ROUNDS):
            fresh = [pid for pid in self._look() if pid not in sent]
            if not fresh:
                return
            for pid in fresh:
                _signal(pid, signal.SIGSTOP)
                sent.add(pid)

    def is_stopped(self) -> bool:
        """Every thread of every member is seen stopped, or is in a frozen group, where no signal reaches it but SIGKILL.

        Our own group has to be frozen as a whole: there may be members in it that were never seen.
        """
        group = self._group
        if group is not None and group.is_populated and not group.is_frozen:
            return False
        return all(_all_threads_stopped(pid) or _is_frozen(pid) for pid in self._look())

    def go_on(self) -> None:
        """SIGCONT, children first: whoever waits for them finds them running."""
        for pid in reversed(self._look()):
            _signal(pid, signal.SIGCONT)  # takes back a SIGSTOP that waits for the group's thaw
        if (group := self._group or cgroup.of_service(self.pid)) is not None:  # maybe frozen by our predecessor
            group.thaw()

    def kill(self) -> None:
        """Stop all, then SIGKILL all: none of them sees another one die."""
        self.stop()
        for pid in self._look():
            _signal(pid, signal.SIGKILL)
        if self._group is not None:
            self._group.kill()
        self._killed = True

    def is_empty(self) -> bool:
        if self._look():
            return False
        self._find_orphans()
        return not self._look() and self._group_is_empty()

    def _group_is_empty(self) -> bool:
        group = self._group
        if group is None:
            return True
        if not group.is_populated:
            group.thaw()
            return True
        if self._killed:
            group.kill()
        return False


def _all_threads_stopped(pid: int) -> bool:
    try:
        tasks = os.listdir(PROC / str(pid) / "task")
    except (FileNotFoundError, ProcessLookupError):
        return True
    for task in tasks:
        found = _stat(pid, f"task/{task}")
        if found is not None and found[0] not in STOPPED:
            return False
    return True


def _is_frozen(pid: int) -> bool:
    group = cgroup.of_process(pid)
    return group is not None and group.is_frozen


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
    except PermissionError as error:
        raise NotAllowed(f"signal {number} to process {pid} is not permitted: run the keeper as root or as its user") from error
