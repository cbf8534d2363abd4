"""Making data fit to follow a primary: nothing to do, pg_rewind, or as the last resort a new copy. Bounded, never a loop."""

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

from psycopg.conninfo import make_conninfo

from orchestrator.domain.spans import Span
from orchestrator.ports import RefusedByPeer
from orchestrator.services.postgresql import commands, lsn
from orchestrator.services.postgresql.control import Control
from orchestrator.services.postgresql.files import ControlData, DataDirectory, NoData
from orchestrator.services.postgresql.settings import programs
from orchestrator.services.postgresql.source import Identity, Source
from orchestrator.services.postgresql.timelines import ENDLESS, Relation, Timelines, relate, shared
from orchestrator.services.starting import CannotStart

RECOVER_WITHIN: Span = 600.0
SILENT_WITHIN: Span = 60.0
COMPARED_BYTES = 64
"""The first record after a promotion carries its microsecond: two promotions that chose one number differ there."""


class Fitness(StrEnum):
    FITS = "fits"
    """It may follow as it is."""
    REWIND = "rewind"
    COPY = "copy"


class Fitter:
    def __init__(self, files: DataDirectory, control: Control) -> None:
        self._files = files
        self._control = control
        self.reason = ""
        """Why the last answer was not `fits`."""

    # --- comparing ---------------------------------------------------------------------------------------------------

    async def of_running(
        self, system: str, own: Timelines, end: int, source: Source, theirs: Identity, *, streams: bool
    ) -> Fitness:
        """A running standby tells its position itself; while it streams from the source it cannot be ahead of it.

        Raises RefusedByPeer, Unreachable.
        """
        self._same_database(system, source, theirs)
        relation = relate(own, end, theirs.timelines, theirs.end)
        if relation in (Relation.DIVERGED, Relation.FOREIGN):
            return self._diverged(own, end, source, theirs)
        if own.number == theirs.timelines.number and not await self._same_bytes(own, end, source, theirs, lsn.WAL_SEGMENT):
            return self._unlike(own, source)
        if relation is Relation.AHEAD and not streams:
            theirs = await source.identify()  # what was heard of it may be older than what was seen here
            if relate(own, end, theirs.timelines, theirs.end) is not Relation.FOLLOWS:
                self._ahead(source, theirs)
        return self._fits()

    async def of_stopped(self, source: Source, theirs: Identity) -> Fitness:
        """Where the data of a stopped server ends only its log tells; it is read without starting anything."""
        try:
            control = await self._files.control()
        except NoData as error:
            self.reason = str(error)
            return Fitness.COPY
        self._same_database(control.system, source, theirs)
        own = self._files.timelines(control.timeline)
        common = shared(own, theirs.timelines)
        if common is None:
            return self._diverged(own, control.checkpoint, source, theirs)
        if common.upto == ENDLESS:
            # a crash leaves the end unknown; a promotion before its first checkpoint stands in the recovery's end alone
            known = max(control.checkpoint, control.recovery_end)
            end = self._files.end_of_shutdown(control) if control.state == "shut down" else known
            if not await self._same_bytes(own, end, source, theirs, control.segment_bytes):
                return self._unlike(own, source)
            if await self._goes_on(own.number, theirs.end):
                self._ahead(source, theirs)
            return self._fits()
        if own.number != common.timeline:  # it was promoted away: the record of that alone is more than the source has
            return self._diverged(own, control.checkpoint, source, theirs)
        if control.checkpoint < common.upto and not await self._goes_on(own.number, common.upto):
            return self._fits()
        return self._diverged(own, control.checkpoint, source, theirs)

    async def _goes_on(self, timeline: int, start: int) -> bool:
        try:
            return await self._files.has_records_from(timeline, start)
        except NoData as error:
            self.reason = str(error)
            return True

    def _fits(self) -> Fitness:
        self.reason = ""
        return Fitness.FITS

    def _diverged(self, own: Timelines, end: int, source: Source, theirs: Identity) -> Fitness:
        common = shared(own, theirs.timelines)
        here = f"timeline {own.number} at {lsn.written(end)}"
        if common is None:
            self.reason = f"{here} has no history in common with {source.name}'s timeline {theirs.timelines.number}"
            return Fitness.COPY
        self.reason = (
            f"{here} goes on past {lsn.written(common.upto)}, where {source.name}'s timeline {theirs.timelines.number} left "
            f"timeline {common.timeline}"
        )
        return Fitness.REWIND

    def _ahead(self, source: Source, theirs: Identity) -> None:
        """Nothing has parted yet, but the source would have to promise bytes that it does not have."""
        raise RefusedByPeer(
            f"the log here holds more than {source.name} has on the same timeline {theirs.timelines.number} (up to "
            f"{lsn.written(theirs.end)}): it cannot be followed before it has gone past that, or has begun a timeline of its own"
        )

    def _unlike(self, own: Timelines, source: Source) -> Fitness:
        self.reason = f"timeline {own.number} is another one than {source.name}'s of the same number"
        return Fitness.COPY  # pg_rewind takes equal numbers for equal histories

    def _same_database(self, system: str, source: Source, theirs: Identity) -> None:
        if system != theirs.system:
            raise RefusedByPeer(
                f"{source.name} holds another database (system identifier {theirs.system}, here {system}): nothing is "
                f"overwritten; move {self._files.path} away to have it copied"
            )

    async def _same_bytes(self, own: Timelines, end: int, source: Source, theirs: Identity, segment_bytes: int) -> bool:
        """Both sides of one timeline number must hold the same log: where it began, and at the end of what both have."""
        both = min(end, theirs.end)
        for place in {own.fork, max(own.fork, both - COMPARED_BYTES)} - {0}:
            count = min(COMPARED_BYTES, both - place)
            mine = self._files.wal_bytes(own.number, place, count, segment_bytes) if count > 0 else None
            if mine is None:
                continue
            other = await source.wal_bytes(own.number, place, len(mine), segment_bytes)
            if other is not None and other != mine[: len(other)]:
                return False
        return True

    # --- rewinding ---------------------------------------------------------------------------------------------------

    async def rewind(self, source: Source, theirs: Identity, doing: Callable[[str], None]) -> None:
        """The server is stopped. Raises CannotStart with pg_rewind's words: the data must then be copied."""
        if not await source.is_primary():
            raise RefusedByPeer(f"{source.name} is not a primary: nothing is rewound to a standby")
        files, settings = self._files, self._files.settings
        control = await files.control()
        if not (control.wal_log_hints or control.checksums):
            raise CannotStart("pg_rewind needs wal_log_hints or data checksums, and this data has neither")
        version = files.version()
        await self._settle(control, doing, version.rewind_needs_checkpoint)
        if version.rewind_needs_checkpoint:
            await source.checkpoint_if_its_timeline_is_new(theirs.timelines.number)
        own = files.own_files()
        words = source.words(follow=False, database=settings.database)
        password = words.pop("password", None)
        command: list[str | Path] = [
            programs(settings) / "pg_rewind",
            "-D",
            files.path,
            "--source-server",
            make_conninfo(**words),
        ]
        command += ["--progress", "--no-ensure-shutdown", "--no-sync"]
        files.begin_change(f"pg_rewind from {source.name}")
        try:
            doing(f"rewinding to {source.name}")
            await commands.run(
                command,
                within=SILENT_WITHIN,
                user=settings.run_as,
                env={} if password is None else {"PGPASSWORD": password},
                heard=lambda line: doing(f"rewinding to {source.name}: {line}"),
            )
        finally:
            # it copies the source's configuration too; put back also after a failure, which may have come half-way
            files.put_back(own)
            files.make_standby()
        await files.sync()
        files.end_change()

    async def _settle(self, control: ControlData, doing: Callable[[str], None], needs_checkpoint: bool) -> None:
        """pg_rewind wants a clean shutdown. Recovery runs where no client can reach it.

        A primary that failed before the checkpoint of its promotion was done, and that has been started as a standby since,
        was shut down cleanly with a last checkpoint on an older timeline: recovery as a primary writes one on its own.
        """
        files, settings = self._files, self._files.settings
        if not control.is_clean:
            doing("recovering after a crash, before the rewind")
            await self._control.wait_for_the_last_one()
            if control.was_standby:
                await self._control.start_standby(doing)
                await self._control.stop()
                control = await files.control()
        if control.is_clean and (control.checkpoint_timeline == control.timeline or not needs_checkpoint):
            return
        doing("recovering to the end of its log, before the rewind")
        (files.path / "standby.signal").unlink(missing_ok=True)  # the single-user server refuses to be a standby
        command: list[str | Path] = [programs(settings) / "postgres", "--single", "-F", *settings.options]
        command += ["-c", "archive_mode=off", "-c", "shared_preload_libraries=", "-c", "synchronous_standby_names=", "template1"]
        try:
            await commands.run(command, within=RECOVER_WITHIN, user=settings.run_as)
        finally:
            files.make_standby()
