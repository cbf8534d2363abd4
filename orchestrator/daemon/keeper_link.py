"""The daemon's end of the keeper: started when there is none, spoken to, watched, and started again."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orchestrator import tasks
from orchestrator.daemon.clock import now
from orchestrator.domain.commands import Command, Froze
from orchestrator.domain.plain import Unreadable
from orchestrator.domain.spans import NEVER, Instant, Span
from orchestrator.keeper.setup import PRIORITY, KeeperSetup, write_setup
from orchestrator.keeper.talk import (
    LARGEST_BYTES,
    FromKeeper,
    NotObeyed,
    Order,
    Reconfigure,
    Seen,
    Tally,
    decode_from_keeper,
    encode_to_keeper,
)
from orchestrator.keeper.tree import state_of

CONNECT_AGAIN: Span = 0.005
START_AGAIN: Span = 1.0
"""A keeper that does not come up is started again no more often than this."""

HUNG_SHARE = 0.35
"""A keeper that has not run for this share of the shortest lease is taken for hung, killed, and replaced."""

STARVED_SHARE = 1.0
"""One that could run and gets no core (state R) is waited for so long: another process would get none either, and has to start
first. A virtual machine whose host takes one core away shows this."""


def is_hung(silent_for: Span, lease: Span, state: str | None) -> bool:
    """`state` as in proc(5)."""
    return silent_for > (STARVED_SHARE if state == "R" else HUNG_SHARE) * lease


class KeeperLink:
    def __init__(
        self,
        setup: KeeperSetup,
        heard: Callable[[Seen], None],
        declined: Callable[[NotObeyed], None],
        lost: Callable[[], None],
        alive_at: Callable[[], Instant],
        log: Callable[[str], None],
    ) -> None:
        self.setup = setup
        self.tally: Tally | None = None
        self.starts = 0
        self._heard = heard
        self._declined = declined
        self._lost = lost
        self._alive_at = alive_at
        self._log = log
        self._socket: socket.socket | None = None
        self._closed = asyncio.Event()
        self._started_at = NEVER
        self._task: asyncio.Task[None] | None = None
        self._children: set[int] = set()
        self.froze: set[str] = set()
        """Groups that the daemon's own guard has frozen, and of which no keeper knows yet."""

    def daemon_froze(self, group: str) -> None:
        """The guard has frozen this group's service; told now, or to the next keeper."""
        if self._socket is None:
            self.froze.add(group)
        else:
            self.order(group, Froze())

    @property
    def connected(self) -> bool:
        return self._socket is not None

    async def start(self) -> None:
        write_setup(self.setup, self._setup_path)
        self._task = asyncio.create_task(self._stay_connected())

    async def stop(self) -> None:
        """The keeper stays: it holds the right without us."""
        if self._task is not None:
            await tasks.end([self._task])
        self._disconnect()

    @property
    def _setup_path(self) -> Path:
        return self.setup.run / "keeper.json"

    def reconfigure(self, setup: KeeperSetup) -> None:
        self.setup = setup
        write_setup(setup, self._setup_path)
        self._send(encode_to_keeper(Reconfigure()))

    def order(self, group: str, command: Command) -> None:
        """Lost when there is no keeper: whoever needs it obeyed sees that it was not, and asks again."""
        self._send(encode_to_keeper(Order(group=group, command=command)))

    def _send(self, data: bytes) -> None:
        if self._socket is None:
            return
        try:
            self._socket.send(data)
        except OSError as error:
            self._log(f"the keeper cannot be told: {error}")
            self._disconnect()

    # --- connecting --------------------------------------------------------------------------------------------------

    async def _stay_connected(self) -> None:
        while True:
            if self._try_connect():
                self._closed.clear()
                await self._watch_until_closed()
                self._lost()
            else:
                self._start_if_none()
                await asyncio.sleep(CONNECT_AGAIN)

    def _try_connect(self) -> bool:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        try:
            connection.connect(str(self.setup.socket_path))
        except OSError:
            connection.close()
            return False
        connection.setblocking(False)
        self._socket = connection
        asyncio.get_running_loop().add_reader(connection.fileno(), self._read)
        self._send(encode_to_keeper(Reconfigure()))  # it may run since before our configuration was changed
        frozen, self.froze = self.froze, set()
        for group in frozen:
            self.order(group, Froze())
        return True

    def _disconnect(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None
        self._closed.set()

    async def _watch_until_closed(self) -> None:
        """A keeper that hangs keeps its socket open: its sign of life in the page tells.

        It is looked at twice before it is believed: after a pause of the whole machine the keeper may just not have had its
        turn yet.
        """
        lease = min((group.lease for group in self.setup.groups), default=1.0)
        patience = HUNG_SHARE * lease
        suspected = NEVER
        while True:
            try:
                async with asyncio.timeout(patience / 4):
                    await self._closed.wait()
                return
            except TimeoutError:
                pass
            alive_at = self._alive_at()
            hung = alive_at != NEVER and now() - alive_at > patience and now() - self._started_at > patience
            if hung and suspected == alive_at:
                self._end_hung(now() - alive_at, lease)
            suspected = alive_at if hung else NEVER

    def _end_hung(self, silent_for: Span, lease: Span) -> None:
        pid = self._keeper_pid()
        if pid is None or not is_hung(silent_for, lease, state_of(pid)):
            return
        self._log(f"the keeper (process {pid}) has not run for {silent_for * 1000:.0f} ms: it is killed and replaced")
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def _keeper_pid(self) -> int | None:
        try:
            return int((self.setup.run / "keeper.lock").read_text())
        except (OSError, ValueError):
            return None

    def _start_if_none(self) -> None:
        """Detached from us in every way: it lives on when the daemon dies, is stopped, or is upgraded."""
        if now() < self._started_at + START_AGAIN:
            return
        self._started_at = now()
        self._reap()
        self.starts += 1
        log_path = self.setup.run / "keeper.log"
        descriptor = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        command = [sys.executable, "-m", "orchestrator.keeper", str(self._setup_path)]
        try:
            pid = spawn(command, descriptor, realtime=self.setup.realtime)
        finally:
            os.close(descriptor)
        self._children.add(pid)
        self._log(f"started a keeper (process {pid}); it writes to {log_path}")

    def _reap(self) -> None:
        """Keepers that ended leave no zombie; the present one is nobody's to wait for."""
        for pid in list(self._children):
            try:
                ended, _ = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                ended = pid
            if ended:
                self._children.discard(pid)

    # --- hearing -----------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        """All that waits is read before any of it is acted on: of a group only the newest view counts."""
        connection = self._socket
        waiting: list[FromKeeper] = []
        while connection is not None:
            try:
                data = connection.recv(LARGEST_BYTES)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self._log("the keeper has gone")
                self._disconnect()
                if now() > self._started_at + START_AGAIN:  # one that dies at once is not started without end
                    self._started_at = NEVER
                break
            try:
                waiting.append(decode_from_keeper(data))
            except (Unreadable, ValueError) as error:
                self._log(f"the keeper said something that cannot be read, ignored: {error}")
        newest = {message.group: message for message in waiting if isinstance(message, Seen)}
        for message in waiting:
            if not isinstance(message, Seen) or newest[message.group] is message:
                self._dispatch(message)

    def _dispatch(self, message: FromKeeper) -> None:
        match message:
            case Seen():
                self._heard(message)
            case NotObeyed():
                self._declined(message)
            case Tally():
                self.tally = message


def spawn(command: list[str], output: int, *, realtime: bool) -> int:
    """Real-time from its first instruction, where permitted: among busy clients its start alone can take a short lease."""
    if realtime:
        with contextlib.suppress(PermissionError):
            return _spawn_as(command, output, scheduler=(os.SCHED_FIFO, os.sched_param(PRIORITY)))
    return _spawn_as(command, output)


def _spawn_as(command: list[str], output: int, **attributes: Any) -> int:
    return os.posix_spawn(
        command[0],
        command,
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, output, 1),
            (os.POSIX_SPAWN_DUP2, output, 2),
        ],
        setsid=True,
        **attributes,
    )
