"""Before anything here is overwritten: the writes that the new primary has not are saved. No rejoin goes on without that."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.domain.spans import Span
from orchestrator.domain.topology import NodeName
from orchestrator.ports import RefusedByPeer
from orchestrator.services.divergence import Kept
from orchestrator.services.postgresql import commands, lsn
from orchestrator.services.postgresql.control import Control
from orchestrator.services.postgresql.extracting import Job, job_as_text
from orchestrator.services.postgresql.files import DataDirectory, NoData
from orchestrator.services.postgresql.rewinding import COMPARED_BYTES
from orchestrator.services.postgresql.settings import programs
from orchestrator.services.postgresql.source import Identity, Source
from orchestrator.services.postgresql.timelines import ENDLESS, shared
from orchestrator.services.starting import CannotStart

SILENT_WITHIN: Span = 1800.0
"""Sorting what a hundred million rows have left behind says nothing for a while."""
AGAIN_AFTER: Span = 2.0
AGAIN_AT_LEAST_EVERY: Span = 60.0
"""A rescue that failed is tried again ever more seldom: each try opens the old data."""
FAILED = "failed: "

Told = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class Failed:
    primary: tuple[NodeName, int]
    why: str
    name: str
    """Of what was saved all the same; empty when nothing was."""
    wait: Span
    again_at: float


class Rescuer:
    def __init__(self, files: DataDirectory, control: Control, kept: Kept) -> None:
        self._files = files
        self._control = control
        self.kept = kept
        self._failed: Failed | None = None
        self._told = ""
        self._name = ""
        """Of the divergence at hand."""

    async def rescue(
        self, source: Source, theirs: Identity, epoch: int, reason: str, doing: Callable[[str], None], alarmed: Told
    ) -> None:
        """The server is stopped. Raises RefusedByPeer, when what is here cannot be saved and nobody has given it up."""
        failed = self._failed
        if failed is not None and failed.primary == (source.name, epoch) and time.monotonic() < failed.again_at:
            self._refuse_or_give_up(source, epoch, failed.why, alarmed, failed.name)
            return
        self._name = ""
        try:
            is_new = await self._rescue(source, theirs, epoch, reason, doing)
            manifest = self._manifest()
            if manifest is not None and not _is_settled(manifest):
                raise CannotStart(f"not all could be saved: {manifest['why']}")
        except (CannotStart, NoData, OSError) as error:
            wait = min(failed.wait * 2, AGAIN_AT_LEAST_EVERY) if failed is not None else AGAIN_AFTER
            why = " ".join(str(error).split())
            self._failed = Failed((source.name, epoch), why, self._name, wait, time.monotonic() + wait)
            self._refuse_or_give_up(source, epoch, why, alarmed, self._name)
            return
        self._failed = None
        if manifest is not None and is_new:
            show = f"tanist divergence show {self._name}"
            alarmed("diverged", f"{manifest['writes']} diverged writes saved in {manifest['file']}: {show}")

    def _manifest(self) -> dict[str, Any] | None:
        return next((each for each in self.kept.manifests() if each["name"] == self._name), None)

    async def _rescue(self, source: Source, theirs: Identity, epoch: int, reason: str, doing: Callable[[str], None]) -> bool:
        """False when that was done before an interrupted rewind or copy, or a person has given these writes up."""
        files, settings = self._files, self._files.settings
        control = await files.control()
        own = files.timelines(control.timeline)
        common = shared(own, theirs.timelines)
        if common is None:
            raise CannotStart(f"nothing tells where the history here and {source.name}'s part: {reason}")
        timeline, fork = common.timeline, common.upto
        if fork == ENDLESS:
            timeline, fork = own.number, own.fork
            mine = files.wal_bytes(timeline, fork, COMPARED_BYTES, control.segment_bytes) if fork else None
            other = await source.wal_bytes(timeline, fork, COMPARED_BYTES, control.segment_bytes) if mine is not None else None
            if mine is None or other is None:
                raise CannotStart(f"nothing tells where the history here and {source.name}'s part: {reason}")
            if mine == other:
                return False  # the source's own timeline, followed here: a half-way rewind or copy, and nothing was written here
        name = f"{control.system}-tl{own.number}-{timeline}-{lsn.written(fork).replace('/', '-')}"
        self._name = name
        known = self._manifest()
        if known is not None and _is_settled(known) and (known.get("given_up") or self.kept.rows(name).exists()):
            return False
        await self._control.wait_for_the_last_one()
        files.make_standby()
        job = Job(
            name=name,
            directory=str(self.kept.directory),
            data=str(files.path),
            programs=str(programs(settings)),
            options=settings.options,
            parameters=dict(settings.parameters),
            run_as=settings.run_as,
            user=settings.user,
            database=settings.database,
            source=source.name,
            source_words=source.words(follow=False),
            system=control.system,
            number=own.number,
            past=own.past,
            new_timeline=theirs.timelines.number,
            timeline=timeline,
            fork=fork,
            reached=max(control.checkpoint + 1, control.recovery_end),
            segment_bytes=control.segment_bytes,
            node=settings.name,
            epoch=epoch,
            reason=reason,
        )
        await self._run(job, doing)
        return True

    async def _run(self, job: Job, doing: Callable[[str], None]) -> None:
        last = ""

        def heard(line: str) -> None:
            nonlocal last
            last = line
            doing(f"saving diverged writes: {line}")

        doing("saving diverged writes")
        try:
            await commands.run(
                [sys.executable, "-m", "orchestrator.services.postgresql.extracting"],
                within=SILENT_WITHIN,
                text=job_as_text(job),
                heard=heard,
            )
        except CannotStart as error:
            raise CannotStart(last.removeprefix(FAILED) if last.startswith(FAILED) else str(error)) from None

    def _refuse_or_give_up(self, source: Source, epoch: int, why: str, alarmed: Told, name: str = "") -> None:
        word = self.kept.given_up()
        if word is None:
            words = (
                f"the diverged writes here cannot be saved, so nothing is overwritten: {why}; `tanist divergence give-up` says "
                "that they may go"
            )
            if words != self._told:
                self._told = words
                alarmed("rescue-failed", words)
            raise RefusedByPeer(words)
        self._note_given_up(source, epoch, why, word, name or f"given-up-{int(time.time())}")
        self._failed = None
        alarmed("given-up", f"diverged writes were given up by {word.get('by')} ({word.get('reason')}): {why}")

    def _note_given_up(self, source: Source, epoch: int, why: str, word: dict[str, Any], name: str) -> None:
        """Kept with the name of whoever said it, before the word is used up."""
        known = next((each for each in self.kept.manifests() if each["name"] == name), {})
        rows = {"file": str(self.kept.rows(name)) if self.kept.rows(name).exists() else None}
        said = {"engine": "postgresql", "node": self._files.settings.name, "from": source.name, "epoch": epoch, "writes": 0}
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self.kept.make()
        self.kept.note(name, {**said, "saved_at": moment, **rows, **known, "complete": False, "why": why, "given_up": word})
        self.kept.used_up()


def _is_settled(manifest: dict[str, Any]) -> bool:
    return bool(manifest.get("complete") or manifest.get("given_up"))


def rescuer(files: DataDirectory, control: Control, directory: Path | None) -> Rescuer | None:
    return Rescuer(files, control, Kept(directory)) if directory is not None else None
