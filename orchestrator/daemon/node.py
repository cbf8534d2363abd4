"""The daemon of one node: every group's runner, the keeper's link, the guard and the mediator session, kept running."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry

from orchestrator.daemon.clock import now
from orchestrator.daemon.disk import DiskThread
from orchestrator.daemon.guard import Guard
from orchestrator.daemon.keeper_link import KeeperLink
from orchestrator.daemon.runner import GroupRunner
from orchestrator.daemon.supervision import HostLock
from orchestrator.domain.spans import Instant
from orchestrator.domain.topology import GroupName, NodeName
from orchestrator.keeper.setup import KeeperSetup
from orchestrator.keeper.talk import NotObeyed, Seen
from orchestrator.ports import Mediator


def log(text: str) -> None:
    """One line for systemd's journal, or whoever reads standard error."""
    moment = datetime.now(UTC)
    with contextlib.suppress(OSError):  # a full disk must not end the daemon
        print(f"{moment:%Y-%m-%d %H:%M:%S}.{moment.microsecond // 1000:03d}Z tanist: {text}", file=sys.stderr, flush=True)


class Node:
    def __init__(self, name: NodeName, cluster: str, setup: KeeperSetup, lock: HostLock) -> None:
        self.name = name
        self.cluster = cluster
        self.setup = setup
        self.lock = lock
        self.started_at: Instant = now()
        self.registry = CollectorRegistry()
        self.disk = DiskThread(log)
        self.groups: dict[GroupName, GroupRunner] = {}
        self.mediator: Mediator | None = None
        self.guard = Guard(self._guard_froze, log)
        self.keeper = KeeperLink(
            setup,
            heard=self._heard,
            declined=self._declined,
            lost=self._keeper_lost,
            alive_at=self.guard.alive_at,
            log=log,
        )
        self.reload: Callable[[], None] | None = None
        self._ending = asyncio.Event()
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    # --- running -----------------------------------------------------------------------------------------------------

    async def run(self, serve: Callable[["Node"], Awaitable[None]]) -> int:
        """Until a signal or an internal error; the exit status. `serve` is the API's coroutine."""
        loop = self._loop = asyncio.get_running_loop()
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(each, self._ending.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        assert self.mediator is not None
        for group in self.setup.groups:
            if group.gate_port:
                self.guard.watch(group.name, self.setup.page_path(group.name), group.lease)
        self.guard.start()
        await self.keeper.start()
        await self.mediator.start()
        for runner in self.groups.values():
            runner.start()
        log(f"node {self.name} of {self.cluster}: {', '.join(self.groups) or 'no group'}")
        api = asyncio.ensure_future(serve(self))
        ending = asyncio.ensure_future(self._ending.wait())
        await asyncio.wait((api, ending), return_when=asyncio.FIRST_COMPLETED)
        if api.done() and not self._ending.is_set():
            self._failure = api.exception() or RuntimeError("the API has ended")
            log(f"the API has failed: {self._failure}")
        await self._end(api)
        return 70 if self._failure is not None else 0

    async def _end(self, api: asyncio.Future[None]) -> None:
        api.cancel()
        for runner in self.groups.values():
            await runner.stop()
        if self.mediator is not None:
            await self.mediator.stop()
        await self.keeper.stop()
        self.guard.stop()
        await asyncio.gather(api, return_exceptions=True)
        self.disk.stop()
        log("ends; the keeper holds on, and the service goes on as it is")

    def broken(self, error: BaseException) -> None:
        self._failure = error
        self._ending.set()

    def _reload(self) -> None:
        if self.reload is not None:
            self.reload()

    # --- the keeper --------------------------------------------------------------------------------------------------

    def _heard(self, seen: Seen) -> None:
        if (runner := self.groups.get(seen.group)) is not None:
            runner.keeper_seen(seen)

    def _declined(self, message: NotObeyed) -> None:
        if (runner := self.groups.get(message.group)) is not None:
            runner.keeper_declined(message)

    def _keeper_lost(self) -> None:
        for runner in self.groups.values():
            runner.keeper_lost()

    def _guard_froze(self, group: GroupName) -> None:
        """From the guard's thread: the keeper must know, because only it lets the service go on."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self.keeper.daemon_froze, group)
