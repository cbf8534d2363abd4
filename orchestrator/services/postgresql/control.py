"""Starting and stopping. A start always makes a standby: primaries are made by promotion only, under guard (rule 13)."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from orchestrator.domain.spans import Span
from orchestrator.ports import NotConfirmed, RefusedByPeer, Unreachable
from orchestrator.services.postgresql import commands, postmaster
from orchestrator.services.postgresql.files import DataDirectory
from orchestrator.services.postgresql.knock import Door, knock
from orchestrator.services.postgresql.postmaster import Postmaster
from orchestrator.services.postgresql.settings import ControlKind, PostgresqlSettings, programs
from orchestrator.services.starting import CannotStart, run_command

KNOCK_WITHIN: Span = 1.0
LOOK_AGAIN: Span = 0.003
READY: Final = "ready"
STOPPING: Final = "stopping"
LETS_NOBODY_IN: Final = "standby"
"""What the main process writes into its lock file (pidfile.h); the last one stands for good with `hot_standby = off`."""
COMMAND_WITHIN: Span = 60.0
ZOMBIE_WITHIN: Span = 3.0
"""A killed main process stays visible until it has been reaped; a start meanwhile would find its lock file."""
KILLED_WITHIN: Span = 5.0
SHUTDOWN_ORDER: Final = (signal.SIGINT, signal.SIGQUIT)
"""Fast: clients are ended and standbys sent all there is. Immediate: crash recovery at the next start."""


class Control:
    def __init__(self, settings: PostgresqlSettings, files: DataDirectory) -> None:
        self.settings = settings
        self._files = files
        self._log_ends: dict[Path, int] = {}
        self._server: asyncio.subprocess.Process | None = None
        """A server that this daemon started itself: watched only so that its end is collected."""
        self._watch: asyncio.Task[int] | None = None
        self._starter: asyncio.Task[str] | None = None
        """The command that has been told to start it. It waits longer than we do, and is left to."""

    # --- starting ----------------------------------------------------------------------------------------------------

    async def start_standby(self, doing: Callable[[str], None]) -> Postmaster:
        """Start it and wait until it lets clients in. Raises RefusedByPeer, Unreachable when that takes too long."""
        files = self._files
        if files.half_copied.exists():
            raise RefusedByPeer(f"a copy into {files.path} was not finished ({files.half_copied}): it is not started")
        await self.wait_for_the_last_one()
        files.make_standby()
        self._log_ends = files.log_ends()
        began = time.monotonic()
        try:
            await self._begin()
        except (CannotStart, OSError) as error:
            raise RefusedByPeer(f"it cannot be started: {error}") from error
        return await self.wait_until_open(began, doing)

    async def wait_for_the_last_one(self) -> None:
        """A dead main process that nobody has collected holds its lock file, as PostgreSQL sees it.

        The file itself is left alone: by what stands in it PostgreSQL finds children that have outlived their main process.
        """
        deadline = time.monotonic() + ZOMBIE_WITHIN
        while (dead := postmaster.uncollected(self._files.path)) is not None:
            pid, parent = dead
            if self._server is None or self._server.pid != pid:
                postmaster.collect(pid)
            if time.monotonic() > deadline:
                raise RefusedByPeer(
                    f"its last main process {pid} has ended, but its parent {parent} ({postmaster.command_line(parent)[:60]}) "
                    "does not collect it, and PostgreSQL takes it for a running one: restart that parent, or mend it (the first "
                    "process of a container must collect orphans, as with docker run --init)"
                )
            await asyncio.sleep(LOOK_AGAIN)

    async def _begin(self) -> None:
        settings = self.settings
        match settings.control:
            case ControlKind.SYSTEMD:
                with contextlib.suppress(CannotStart):  # a unit that was killed too often is not started for a while
                    await run_command(["systemctl", "reset-failed", str(settings.unit)], within=COMMAND_WITHIN)
                self._command(["systemctl", "start", str(settings.unit)])
            case ControlKind.CLUSTER:
                version, _, name = str(settings.cluster).partition("/")
                self._command(["pg_ctlcluster", version, name, "start"])
            case ControlKind.DIRECT:
                await self._spawn()

    def _command(self, words: list[str]) -> None:
        self._starter = asyncio.ensure_future(run_command(words, within=self.settings.start_within + COMMAND_WITHIN))
        self._starter.add_done_callback(lambda task: task.cancelled() or task.exception())  # whoever waits asks for it

    async def _spawn(self) -> None:
        """Our child, but in a session of its own and without our death: it outlives the daemon."""
        settings = self.settings
        command = [str(programs(settings) / "postgres"), *settings.options, "-p", str(settings.port)]
        if settings.socket_directory is not None:
            command += ["-k", str(settings.socket_directory)]
        for name, value in settings.parameters.items():
            command += ["-c", f"{name}={value}"]
        identity = commands.as_user(settings.run_as)
        log = os.open(settings.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            if identity:
                os.fchown(log, identity["user"], identity["group"])
            self._server = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=commands.environment(),
                umask=0o077,
                start_new_session=True,
                **identity,
            )
        finally:
            os.close(log)
        self._watch = asyncio.ensure_future(self._server.wait())

    async def wait_until_open(self, began: float, doing: Callable[[str], None]) -> Postmaster:
        """Until its lock file says that it is ready and it lets us in; knocking earlier would only fill its log.

        A server that recovers for long is left to it: whoever asks again goes on waiting.
        """
        deadline = began + self.settings.start_within
        words = "its main process is not there yet"
        while time.monotonic() < deadline:
            running = postmaster.find(self._files.path)
            if running is not None and running.status == READY:
                door = await self._door()
                if door is not None and door.lets_in:
                    return running
                words = door.words if door is not None else "it does not listen yet"
            elif running is not None and running.status == LETS_NOBODY_IN:
                raise RefusedByPeer("hot_standby is off: a standby lets nobody in; set hot_standby = on, then restart")
            elif running is not None:
                told = words
                words = "it is still stopping" if running.status == STOPPING else "it replays until its data is consistent"
                if told != words:
                    doing(f"starting: {words}")
            elif self._ended(running, began):
                raise RefusedByPeer(f"it ended while starting: {self._why()}")
            await asyncio.sleep(LOOK_AGAIN)
        within = f"{self.settings.start_within:.0f} s"
        raise Unreachable(f"it has not opened within {within} of its start, and is left to go on: {words} ({self._why()})")

    def _ended(self, running: Postmaster | None, began: float) -> bool:
        if running is not None:
            return False
        if self.settings.control is ControlKind.DIRECT and self._server is not None:
            return self._server.returncode is not None
        if self._starter is not None and not self._starter.done():
            return False
        failed = self._starter is not None and not self._starter.cancelled() and self._starter.exception() is not None
        return failed or time.monotonic() - began > ZOMBIE_WITHIN

    def _why(self) -> str:
        """The server's own reason says more than that of the command that started it."""
        error = None
        if self._starter is not None and self._starter.done() and not self._starter.cancelled():
            error = self._starter.exception()
        return self._files.words_since(self._log_ends, " ".join(str(error or "").split()))

    async def _door(self) -> Door | None:
        try:
            async with asyncio.timeout(KNOCK_WITHIN):
                return await knock(self.settings)
        except (TimeoutError, OSError):
            return None

    # --- stopping ----------------------------------------------------------------------------------------------------

    async def stop(self, *, only_fast: bool = False) -> None:
        """Fast, then immediate. Whatever starts it behind our back from now on gets a standby."""
        running = postmaster.find(self._files.path)
        if running is not None:
            await self._stop(running, only_fast)
        with contextlib.suppress(OSError):
            self._files.make_standby()
        if self.settings.control is ControlKind.SYSTEMD:
            with contextlib.suppress(CannotStart):  # it has ended already: systemd only has to know that this was wanted
                await run_command(["systemctl", "stop", str(self.settings.unit)], within=COMMAND_WITHIN)

    async def _stop(self, running: Postmaster, only_fast: bool) -> None:
        try:
            for number in SHUTDOWN_ORDER[: 1 if only_fast else 2]:
                within = self.settings.stop_within if number == signal.SIGINT else KILLED_WITHIN
                if not postmaster.tell(running, number) or await postmaster.wait_for_end(running, within):
                    return
        except PermissionError as error:
            raise RefusedByPeer(
                f"process {running.pid} cannot be stopped: {error}; run the daemon as root or as its user"
            ) from error
        raise NotConfirmed(f"process {running.pid} has not ended {within:.0f} s after it was told to ({number.name})")
