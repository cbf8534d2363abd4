"""The daemon's own guard: when the right ends and the keeper has not frozen the service, the daemon does (rule 14).

A thread of its own, so that nothing the event loop does can hold it up. It reads the page directly.
"""

import threading
from collections.abc import Callable
from pathlib import Path

from orchestrator.daemon.clock import now
from orchestrator.domain.spans import FOREVER, NEVER, Instant, Span
from orchestrator.keeper.page import Page
from orchestrator.keeper.tree import NotAllowed, Tree

GLANCE_EVERY: Span = 0.05
SHARE_OF_BUDGET = 20
"""The guard steps in when this part of the lease is left: after the keeper, whose budget is at least a tenth of it."""


class Watched:
    """One group whose page is guarded."""

    def __init__(self, group: str, path: Path, lease: Span) -> None:
        self.group = group
        self.path = path
        self.lease = lease
        self.page: Page | None = None
        self.inode = 0


class Guard:
    def __init__(self, froze: Callable[[str], None], log: Callable[[str], None]) -> None:
        self._watched: dict[str, Watched] = {}
        self._froze = froze
        self._log = log
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="guard", daemon=True)

    def watch(self, group: str, path: Path, lease: Span) -> None:
        self._watched[group] = Watched(group, path, lease)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ending.set()
        self._thread.join(1.0)

    def alive_at(self) -> Instant:
        """The keeper's newest sign of life in any page."""
        seen = [each.page.read_hot()[1] for each in self._watched.values() if each.page is not None]
        return max(seen, default=NEVER)

    def right_until(self, group: str) -> Instant:
        """When the right ends, as the page says at this moment; NEVER without a page."""
        page = self.page(group)
        return page.read_hot()[0] if page is not None else NEVER

    def page(self, group: str) -> Page | None:
        watched = self._watched.get(group)
        return watched.page if watched is not None else None

    def _run(self) -> None:
        while not self._ending.is_set():
            wait = GLANCE_EVERY
            for watched in list(self._watched.values()):
                wait = min(wait, self._look_after(watched))
            self._ending.wait(max(wait, 0.0005))

    def _look_after(self, watched: Watched) -> Span:
        """Freeze if it is time; otherwise how long to wait at most."""
        _reopen(watched)
        if watched.page is None:
            return GLANCE_EVERY
        right_until, _, guarded = watched.page.read_hot()
        if not guarded or right_until == FOREVER:
            return GLANCE_EVERY
        due = right_until - watched.lease / SHARE_OF_BUDGET
        rest = due - now()
        if rest > 0:
            return rest
        self._freeze(watched)
        return GLANCE_EVERY

    def _freeze(self, watched: Watched) -> None:
        """Unless it is seen stopped: the page alone may come from a keeper that recorded it, and did not live to do it."""
        assert watched.page is not None
        memory = watched.page.read()
        if memory is None or not memory.pid:
            return
        tree = Tree(memory.pid, memory.process_started)
        if tree.is_stopped():
            return
        began = now()
        try:
            tree.stop()
        except NotAllowed as error:
            self._log(f"{watched.group}: CANNOT FREEZE: {error}")
            return
        took = (now() - began) * 1000
        self._log(f"{watched.group}: the daemon froze the service in {took:.2f} ms: its right has ended, and the keeper is late")
        self._froze(watched.group)


def _reopen(watched: Watched) -> None:
    """A page that was deleted and made anew is another file; one that was only deleted may still be written to."""
    try:
        inode = watched.path.stat().st_ino
        if watched.page is None or inode != watched.inode:
            watched.page, watched.inode = Page(watched.path, create=False), inode
    except (OSError, ValueError):
        pass
