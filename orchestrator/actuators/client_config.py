"""Rewrites a client configuration for the present primary: render, compare, replace, reload, read back, or roll back."""

import asyncio
import difflib
import os
import shlex
from dataclasses import dataclass
from pathlib import Path

import jinja2

from orchestrator.domain.effects import EnsureClients
from orchestrator.domain.spans import Span
from orchestrator.domain.topology import Group, NodeName
from orchestrator.ports import NotConfirmed, RefusedByPeer
from orchestrator.services.starting import CannotStart, run_command


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientFile:
    """One file that leads clients, and how they are told that it changed."""

    template: Path
    path: Path
    reload: str | None = None
    """Run by a shell after a change; it must end within `reload_within`, with status 0."""
    reload_within: Span = 10.0
    check: str | None = None
    """Run before the file is put in place, with the new file's path in place of `{}`; status 0 lets it pass."""
    mode: int = 0o644


class ClientFileActuator:
    """Brings one file to say who is primary. A newer epoch is never undone by an older one."""

    def __init__(self, file: ClientFile, group: Group) -> None:
        self.file = file
        self._group = group
        self._obeyed_epoch = 0
        self._unconfirmed = False
        """The last reload failed or is unknown: reload again even if the file is as wanted."""
        environment = jinja2.Environment(
            undefined=jinja2.StrictUndefined, keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True
        )
        try:
            self._template = environment.from_string(file.template.read_text(encoding="utf-8"))
        except OSError as error:
            raise RefusedByPeer(f"template {file.template}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise RefusedByPeer(f"template {file.template}: not UTF-8 text at byte {error.start}") from error
        except jinja2.TemplateSyntaxError as error:
            raise RefusedByPeer(f"template {file.template}, line {error.lineno}: {error.message}") from error

    def __str__(self) -> str:
        return str(self.file.path)

    # --- the port's calls --------------------------------------------------------------------------------------------

    async def ensure(self, wanted: EnsureClients) -> bool:
        if wanted.epoch < self._obeyed_epoch:
            raise RefusedByPeer(
                f"{self.file.path} leads to the primary of epoch {self._obeyed_epoch}; epoch {wanted.epoch} is older"
            )
        self._obeyed_epoch = wanted.epoch
        text = self.render(wanted.primary, wanted.epoch).encode()
        if self.file.check is None and self.file.reload is None:
            return await asyncio.to_thread(self._write_if_different, text)
        before = await asyncio.to_thread(self._read)
        if before == text and not self._unconfirmed:
            return False
        await self._check(text)
        await asyncio.to_thread(self._write_if_different, text)
        try:
            await self._reload()
        except NotConfirmed:
            await self._roll_back(before)
            raise
        self._unconfirmed = False
        return True

    async def would_change(self, wanted: EnsureClients) -> str:
        before = (await asyncio.to_thread(self._read) or b"").decode(errors="replace")
        after = self.render(wanted.primary, wanted.epoch)
        path = str(self.file.path)
        return "".join(difflib.unified_diff(before.splitlines(True), after.splitlines(True), path, path))

    def render(self, primary: NodeName, epoch: int) -> str:
        """What the file should say. The template knows `primary`, `standbys`, `members`, `group` and `epoch`."""
        members = self._group.members
        chosen = self._group.member(primary)
        if chosen is None:
            raise RefusedByPeer(f"{primary} is no member of {self._group.name}")
        try:
            return self._template.render(
                primary=chosen,
                standbys=[member for member in members if member.name != primary],
                members=members,
                group=self._group.name,
                epoch=epoch,
            )
        except Exception as error:  # a template is the operator's program: it may fail in any way
            told = error.message if isinstance(error, jinja2.TemplateError) else f"{type(error).__name__}: {error}"
            raise RefusedByPeer(f"template {self.file.template}{_line_of(error)}: {told}") from error

    # --- the file ----------------------------------------------------------------------------------------------------

    def _read(self) -> bytes | None:
        try:
            return self.file.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise NotConfirmed(f"{self.file.path} cannot be read: {error.strerror}") from error

    def _write_if_different(self, text: bytes) -> bool:
        """Replaced and read back; False when it said so already."""
        if self._read() == text:
            return False
        self._replace(text)
        if self._read() != text:
            raise NotConfirmed(f"{self.file.path} was written, but reads differently: somebody else writes it too")
        return True

    def _beside(self) -> Path:
        return self.file.path.with_name(f".{self.file.path.name}.tanist")

    def _write_beside(self, text: bytes) -> Path:
        """A whole new file next to the old one, on disk before it takes its place: power may fail at any moment."""
        beside = self._beside()
        try:
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, self.file.mode)
            with os.fdopen(descriptor, "wb") as stream:
                os.fchmod(stream.fileno(), self.file.mode)
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise NotConfirmed(f"{self.file.path} could not be written: {beside}: {error.strerror}") from error
        return beside

    def _replace(self, text: bytes) -> None:
        beside = self._write_beside(text)
        try:
            os.replace(beside, self.file.path)
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise NotConfirmed(f"{self.file.path} could not be written: {error.strerror}") from error

    async def _check(self, text: bytes) -> None:
        if self.file.check is None:
            return
        beside = await asyncio.to_thread(self._write_beside, text)
        try:
            await self._run(self.file.check.replace("{}", shlex.quote(str(beside))))
        except CannotStart as error:
            beside.unlink(missing_ok=True)
            raise NotConfirmed(f"the new {self.file.path} did not pass its check: {error}") from error

    async def _reload(self) -> None:
        if self.file.reload is None:
            return
        try:
            await self._run(self.file.reload)
        except CannotStart as error:
            self._unconfirmed = True
            raise NotConfirmed(f"{self.file.path} was written, but its reload failed: {error}") from error

    async def _roll_back(self, before: bytes | None) -> None:
        """What stood before stands again, and is reloaded too, so that file and clients agree."""
        if before is None:
            await asyncio.to_thread(self.file.path.unlink, True)
            return
        await asyncio.to_thread(self._replace, before)
        if self.file.reload is not None:
            try:
                await self._run(self.file.reload)
            except CannotStart:
                pass  # the failure that is reported is the first one

    async def _run(self, command: str) -> None:
        await run_command(["/bin/sh", "-c", command], within=self.file.reload_within)


def _line_of(error: BaseException) -> str:
    """Where in the template it failed: jinja2 puts the template's own lines into the traceback."""
    trace, line = error.__traceback__, 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return f", line {line}" if line else ""
