"""The PostgreSQL adapter: looks, and brings the instance to a wanted role, read back."""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import psycopg

from orchestrator.domain.effects import EnsureReplicas, EnsureService, WantedRole
from orchestrator.domain.observations import Abstained, Answered, Outcome, Refused, Role, ServiceView, Silent
from orchestrator.domain.spans import Span
from orchestrator.domain.topology import Member, NodeName
from orchestrator.domain.verdicts import Diagnosis, Finding
from orchestrator.ports import NotConfirmed, RefusedByPeer, Unreachable
from orchestrator.services.postgresql import copying, findings, hindrances, postmaster, slots, synchronous, timelines
from orchestrator.services.postgresql.conninfo import primary_conninfo
from orchestrator.services.postgresql.control import Control
from orchestrator.services.postgresql.files import ControlData, DataDirectory, NoData
from orchestrator.services.postgresql.knock import TOO_MANY, Door, knock
from orchestrator.services.postgresql.line import Line, ProcessGone, change_settings, local_words
from orchestrator.services.postgresql.probing import Errand
from orchestrator.services.postgresql.rescuing import rescuer
from orchestrator.services.postgresql.rewinding import Fitness, Fitter
from orchestrator.services.postgresql.settings import PostgresqlSettings
from orchestrator.services.postgresql.source import Identity, Source
from orchestrator.services.postgresql.synchronous import Synchronous, SynchronousMode
from orchestrator.services.postgresql.view import Viewer
from orchestrator.services.starting import CannotStart, run_command

ACT_WITHIN: Span = 10.0
CHECK_WITHIN: Span = 5.0
CHECKPOINT_WITHIN: Span = 3.0
"""Shorter than a switchover may take: one that lasts longer is given up with nothing touched, and most of it is written then."""
ARMED_WITHIN: Span = 2.0
"""A server that had to be started for a promotion is a new process: the keeper has to be told of it first."""
PROMOTE_WITHIN: Span = 20.0
POLL: Span = 0.002
PROMOTE_AGAIN: Span = 0.25
"""A promotion's signal may come while the startup process sleeps between two tries to reach the dead primary."""
CAUGHT_UP_WITHIN: Span = 30.0
RETRY: Final = "100ms"
ERRANDS_EVERY: Span = 1.0
"""More often where a look may take less than that: what an errand shows is seen as soon as policy wants it to be."""
WAL_WORTH_A_COPY: Final = 256 << 20
"""Bytes of the source's pg_wal up to which a rewind is never slow enough to ask whether a copy would be less."""
STALL_SLACK: Span = 0.5
"""A look that came back this share of its deadline late was late because we were."""

WRITE: Final = "SELECT pg_logical_emit_message(true, 'tanist', '')"
"""A transaction of a few bytes that changes nothing anybody sees, and whose commit waits for the disk."""
DISK_FULL: Final = "53100"
FULL_BELOW: Final = 1 << 20
"""Bytes: a table may grow by half as many at once, and a segment of WAL is many times as long."""
WORDS: Final = 160
"""Letters of a server's own sentence that are told: they travel in every beat."""
READ_ONLY: Final = "25006"
CANNOT_WRITE: Final = ("58", "XX")
"""Classes of errors that are the server's own and no client's: the system's (input and output), internal ones."""
STALE_SENDERS: Final = """
SELECT application_name, pg_terminate_backend(pid) FROM pg_stat_replication
WHERE flush_lsn IS NULL OR (flush_lsn < pg_current_wal_flush_lsn() AND reply_time < clock_timestamp() - interval '1 second')
"""
WAITS: Final = """
SELECT coalesce((SELECT wait_event IN ('RecoveryRetrieveRetryInterval', 'RecoveryWalStream', 'RecoveryWalAll')
                 FROM pg_stat_activity WHERE backend_type = 'startup'), true)
"""


@dataclass(frozen=True, slots=True)
class Held:
    """Where the data ended when the server was stopped for a switchover."""

    view: ServiceView


class PostgresqlService:
    def __init__(
        self,
        settings: PostgresqlSettings,
        members: tuple[Member, ...],
        armed: Callable[[int, int, int], bool],
    ) -> None:
        self.settings = settings
        self._members = {member.name: member for member in members}
        self._armed = armed
        self.files = DataDirectory(settings)
        self.control = Control(settings, self.files)
        self._fitter = Fitter(self.files, self.control)
        self._rescuer = rescuer(self.files, self.control, settings.divergence_directory)
        self._looker = Line(settings)
        self._actor = Line(settings)
        self._writer = Line(settings)
        self._viewer = Viewer(self._looker, self.files)
        self._actors_viewer = Viewer(self._actor, self.files)
        self._commit = Errand(Finding(Diagnosis.STALLED_STORAGE, "a commit to disk does not come back"), self._write)
        self._fresh = Errand(
            Finding(Diagnosis.NOT_ACCEPTING, "old connections are answered, but its main process answers no new one"), self._knock
        )
        self._space = Errand(Finding(Diagnosis.STALLED_STORAGE, "the file system does not answer"), self._ask_for_space)
        self._load: Finding | None = None
        self._load_at = float("-inf")
        self._held: Held | None = None
        self._obeyed_epoch = 0
        self._tries = {Fitness.REWIND: 0, Fitness.COPY: 0}
        self.doing = ""
        """What is under way that takes time, for people: `copying from db1: 34 % of 1200 MB`."""
        self.progress: Callable[[str], None] = lambda words: None
        """Told of every change of `doing`."""
        self.rejoined: Callable[[str, str], None] = lambda how, words: None
        """Told, for the history, that the data here was changed so that it can follow: `rewound` or `copied`, and why."""
        self.alarmed: Callable[[str, str], None] = lambda code, words: None
        """Told what people must look at: diverged writes that were saved, or could not be."""

    async def why_not_start(self) -> str:
        return await hindrances.why_not_start(self.settings)

    def cure(self, reason: str) -> str:
        return hindrances.cure(reason, self.settings)

    async def close(self) -> None:
        for errand in (self._commit, self._fresh, self._space):
            await errand.stop()
        for line in (self._looker, self._actor, self._writer):
            await line.close()

    def _do(self, words: str) -> None:
        self.doing = words
        self.progress(words)

    # --- looking -----------------------------------------------------------------------------------------------------

    async def look(self, within: Span) -> Outcome:
        began = time.monotonic()
        answered: ServiceView | None = None
        after = 0.0
        try:
            async with asyncio.timeout(within):
                answered = await self._look_once_more()
                if answered.link_up:  # right after a start the link may not stand yet
                    self._tries = {Fitness.REWIND: 0, Fitness.COPY: 0}
                after = time.monotonic() - began
                found = await self._tend_errands(answered, min(ERRANDS_EVERY, within))
        except TimeoutError:
            if time.monotonic() - began > within * (1 + STALL_SLACK):
                return Abstained("this daemon was stalled while it waited")
            found = self._commit.late or self._fresh.late or self._space.late
            if answered is None or found is None:
                self._looker.cut()
                return Silent(within)
        except psycopg.Error as error:
            self._looker.cut()
            return await self._why_not(error, max(within - (time.monotonic() - began), within / 4))
        except OSError as error:
            self._looker.cut()
            return Abstained(str(error))
        return Answered(answered, after, found)

    async def _look_once_more(self) -> ServiceView:
        """A connection may have been ended since the last look (a restart, an administrator): the second one is a new one."""
        was_open = self._looker.is_open
        try:
            return await self._viewer.look()
        except ProcessGone:
            raise
        except psycopg.OperationalError:
            if not was_open or self._looker.is_open:
                raise
        return await self._viewer.look()

    async def _tend_errands(self, view: ServiceView, every: Span) -> Finding | None:
        """What was found first of all that keeps it from its work, else what is worth telling."""
        if not self._actor.is_open and not self.doing:
            with contextlib.suppress(psycopg.Error):
                await self._actor.open()  # kept open: when clients have taken all others, acts still have theirs
        errands = [self._commit, self._fresh, self._space]
        if view.role is not Role.PRIMARY:
            await self._commit.stop()
            self._writer.cut()
            errands.remove(self._commit)
        one_is_late = any(errand.late for errand in errands)
        for errand in errands:  # all at once, and at once when one is late: which of them explains the others?
            errand.send(0.0 if one_is_late else every)
        found = [await errand.result() for errand in errands]
        found.append(await self._ask_for_load(view.role, every))
        told = [each for each in found if each is not None]
        return next((each for each in told if each.cannot_work), told[0] if told else None)

    async def _write(self) -> Finding | None:
        try:
            await self._writer.ask(WRITE)
        except psycopg.Error as error:
            code = error.sqlstate or ""
            if code == DISK_FULL:
                return Finding(Diagnosis.DISK_FULL, _in_short(error))
            if code == READ_ONLY:
                return Finding(Diagnosis.READ_ONLY, _in_short(error))
            if code.startswith(CANNOT_WRITE):
                return Finding(Diagnosis.WRITES_FAIL, _in_short(error))
        return None  # a connection that ended or could not be had: the look itself tells why

    async def _knock(self) -> Finding | None:
        """Silence counts, and a server that says that it lets nobody in; one that is full is busy, not dead."""
        with contextlib.suppress(OSError):
            return _behind(await knock(self.settings))
        return None

    async def _ask_for_space(self) -> Finding | None:
        """Asked of the file system: the server tells only once a client's write has failed, or stops for lack of WAL."""
        for path in (self.files.path, self.files.path / "pg_wal"):
            free = await asyncio.to_thread(_free_bytes, path)
            if free is not None and free < FULL_BELOW:
                return Finding(Diagnosis.DISK_FULL, f"no room is left in {path}")
        return None

    async def _ask_for_load(self, role: Role, every: Span) -> Finding | None:
        if time.monotonic() >= self._load_at + every:
            self._load_at = time.monotonic()
            self._load = await self._viewer.load(role)
        return self._load

    async def _why_not(self, error: psycopg.Error, within: Span) -> Outcome:
        """The connection failed. Who refused, and why? The code is asked for by hand: sentences come in many languages."""
        await self._commit.stop()
        if self.doing and not isinstance(error, ProcessGone):
            return Refused(self.doing)
        running = postmaster.find(self.files.path)
        try:
            async with asyncio.timeout(within):
                door = await knock(self.settings)
        except TimeoutError:
            return Silent(within, "a fresh connection is not answered")
        except OSError as reason:
            return self._not_listening(reason, running)
        if isinstance(error, ProcessGone) and running is None:
            return Refused(str(error), gone=True)
        return self._refused(door, error)

    def _not_listening(self, reason: OSError, running: postmaster.Postmaster | None) -> Outcome:
        if self.doing:
            return Refused(self.doing)
        if running is not None:
            words = f"process {running.pid} ({running.status or 'no status'}) runs, but does not listen"
            return Refused(f"{words}: {reason}", finding=Finding(Diagnosis.NOT_ACCEPTING, words))
        if self._held is not None:
            position = self._held.view.position
            return Refused(f"stopped cleanly for a switchover, at {position.history} {position.offset}", gone=True)
        if not self.files.exists:
            return Refused(f"{self.files.path} holds no database", gone=True)
        if isinstance(reason, FileNotFoundError | ConnectionRefusedError):
            return Refused(f"nobody listens at {local_words(self.settings)['host']}, port {self.settings.port}", gone=True)
        return Refused(str(reason), gone=True)

    def _refused(self, door: Door, error: psycopg.Error) -> Outcome:
        if door.code == TOO_MANY or error.sqlstate == TOO_MANY:
            words = "all connections are taken, Tanist's own among them"
            return Abstained(f"{words}: overload is not death ({door.words})", Finding(Diagnosis.OVERLOADED, words))
        if door.code:
            return Refused(self.doing or door.words or door.code, finding=None if self.doing else _behind(door))
        return Refused(_one_line(error))

    # --- acting ------------------------------------------------------------------------------------------------------

    async def ensure(self, wanted: EnsureService) -> ServiceView:
        if wanted.epoch < self._obeyed_epoch:
            raise RefusedByPeer(f"epoch {wanted.epoch} is older than epoch {self._obeyed_epoch}, which was obeyed already")
        if wanted.epoch > self._obeyed_epoch:
            self._tries = {Fitness.REWIND: 0, Fitness.COPY: 0}  # another primary: what failed with the one before says little
        self._obeyed_epoch = wanted.epoch
        try:
            match wanted.role:
                case WantedRole.PRIMARY:
                    return await self._be_primary(wanted.epoch)
                case WantedRole.HELD:
                    return await self._hold()
                case WantedRole.STANDBY:
                    return await self._be_standby(wanted.upstream)
        except TimeoutError:
            self._actor.cut()
            raise Unreachable("PostgreSQL did not answer in time") from None
        except (psycopg.OperationalError, OSError) as error:
            self._actor.cut()
            raise Unreachable(f"PostgreSQL: {_one_line(error)}") from error
        except (psycopg.Error, NoData, CannotStart) as error:
            raise RefusedByPeer(f"PostgreSQL: {_one_line(error)}") from error
        finally:
            self._do("")

    # --- primary -----------------------------------------------------------------------------------------------------

    async def _be_primary(self, epoch: int) -> ServiceView:
        """Rule 13: guard and gate stand first; the page is asked here once more, next to the act itself."""
        began_here = postmaster.find(self.files.path) is None
        if began_here:  # after HELD: never started as a primary, always promoted under guard
            await self._start(None)
        async with asyncio.timeout(ACT_WITHIN):
            await self._alive()
            pid, began = self._actor.pid, self._actor.started
            await self._until_armed(epoch, pid, began, ARMED_WITHIN if began_here else 0.0)
            standby = await self._is_standby()
        if standby:
            await self._promote()
        self._held = None
        async with asyncio.timeout(ACT_WITHIN):
            view = await self._actors_viewer.look()
        if view.role is not Role.PRIMARY or view.pid != pid:
            raise NotConfirmed(f"PostgreSQL was told, but it does not say that it is primary: it says {view.role}")
        return view

    async def _alive(self) -> None:
        """On a connection that lives: the process at its other end is the one that is armed."""
        try:
            await self._actor.ask("SELECT 1")
        except psycopg.OperationalError:
            self._actor.cut()
            await self._actor.ask("SELECT 1")

    async def _until_armed(self, epoch: int, pid: int, began: int, within: Span) -> None:
        deadline = time.monotonic() + within
        while not self._armed(epoch, pid, began):
            if time.monotonic() >= deadline:
                raise RefusedByPeer(f"the keeper is not armed for epoch {epoch} and process {pid}: nothing would end this right")
            await asyncio.sleep(POLL)

    async def _is_standby(self) -> bool:
        ((standby,),) = await self._actor.ask("SELECT pg_is_in_recovery()")
        return bool(standby)

    async def _promote(self) -> None:
        """pg_promote(true) polls every 100 ms; asking ourselves shows the first instant at which it accepts a write."""
        async with asyncio.timeout(PROMOTE_WITHIN):
            told_at = float("-inf")
            while True:
                if time.monotonic() > told_at + PROMOTE_AGAIN:
                    await self._actor.ask("SELECT pg_promote(false)")
                    told_at = time.monotonic()
                await asyncio.sleep(POLL)
                try:
                    if not await self._is_standby():
                        return
                except psycopg.errors.ObjectNotInPrerequisiteState:
                    continue  # pg_promote a second time, and it was none any more

    # --- holding -----------------------------------------------------------------------------------------------------

    async def _hold(self) -> ServiceView:
        """A clean stop: the standbys have been sent all of it before the process ends, and where it ended is known exactly."""
        running = postmaster.find(self.files.path)
        if running is None:
            return self._hold_of_stopped(await self.files.control())
        async with asyncio.timeout(CHECKPOINT_WITHIN):
            await self._alive()
            if await self._is_standby():
                raise RefusedByPeer("it is a standby: there are no writes to hold")
            self._do("checkpoint before the switchover")
            await self._actor.ask("CHECKPOINT")  # while clients write on: the one at the stop is short then
            await self._actor.ask(STALE_SENDERS)  # a stop waits for every standby that is connected, even a hung one
        self._do("stopping for a switchover")
        await self._end_connections()
        await self.control.stop(only_fast=True)
        return self._hold_of_stopped(await self.files.control(), fresh=True)

    def _hold_of_stopped(self, control: ControlData, *, fresh: bool = False) -> ServiceView:
        if self._held is not None and not fresh:
            return self._held.view
        if control.state != "shut down":
            raise NotConfirmed(f"it was not shut down cleanly as a primary: {control.state}")
        own = self.files.timelines(control.timeline)
        view = ServiceView(
            role=Role.PRIMARY,
            position=timelines.position(control.system, own, self.files.end_of_shutdown(control)),
            pid=0,
            process_started=0,
            writes_held=True,
            durable=True,
        )
        self._held = Held(view)
        return view

    async def _end_connections(self) -> None:
        """Ours go first: a fast stop would only have to end them."""
        await self._commit.stop()
        for line in (self._actor, self._writer):
            await line.close()

    # --- standby -----------------------------------------------------------------------------------------------------

    async def _be_standby(self, upstream: NodeName | None) -> ServiceView:
        await self._stop_a_primary()
        source = self._source(upstream) if upstream is not None else None
        if source is not None:
            await self._fit(source)
        if postmaster.find(self.files.path) is None:
            await self._start(source)
        elif not self._actor.is_open:
            await self.control.wait_until_open(time.monotonic(), self._do)
        async with asyncio.timeout(ACT_WITHIN):
            await self._alive()
            await self._point_at(source)
        if source is None:
            await self._until_replayed()
        self._held = None
        return await self._read_back_standby(source)

    async def _stop_a_primary(self) -> None:
        """A running primary is stopped, and comes back as a standby. One that does not let us in yet is waited for."""
        if postmaster.find(self.files.path) is None:
            return
        await self.control.wait_until_open(time.monotonic(), self._do)
        async with asyncio.timeout(ACT_WITHIN):
            await self._alive()
            if await self._is_standby():
                return
        self._do("stopping the primary")
        await self._end_connections()
        await self.control.stop()

    async def _fit(self, source: Source) -> None:
        """Rewind or copy when what is here cannot follow; each a bounded number of times, and then a person is asked."""
        theirs = await source.identify()
        fitness, running = await self._fitness(source, theirs)
        if fitness is Fitness.FITS:
            return
        if running:
            if not await source.is_primary():
                raise RefusedByPeer(f"{self._fitter.reason}; {source.name} is a standby itself, so nothing is rewound to it")
            self._do("stopping, to be rewound")
            await self._end_connections()
            await self.control.stop()
        if self._rescuer is not None and self.files.exists and not self.files.half_copied.exists():
            await self._rescuer.rescue(source, theirs, self._obeyed_epoch, self._fitter.reason, self._do, self.alarmed)
        if fitness is Fitness.REWIND and await self._is_copied_instead(source):
            return
        if fitness is Fitness.REWIND and self._tries[Fitness.REWIND] < self.settings.rewinds:
            self._tries[Fitness.REWIND] += 1
            try:
                await self._fitter.rewind(source, theirs, self._do)
                self.rejoined("rewound", f"rewound to {source.name}: {self._fitter.reason}")
                return
            except (CannotStart, NoData) as error:
                self._fitter.reason = f"the rewind failed: {_one_line(error)}"
                self.progress(f"{self._fitter.reason}; a new copy is the last resort")
        await self._copy(source)

    async def _is_copied_instead(self, source: Source) -> bool:
        """pg_rewind copies all of the source's pg_wal: beside a small database that is most of what it fetches.

        Only where the old data stays until the copy is complete; when that fails, a rewind is still possible.
        """
        wal, (size, _) = await source.wal_size(), await source.size_and_tablespaces()
        if wal <= max(size, WAL_WORTH_A_COPY) or copying.is_in_place(self.files):
            return False
        diverged = self._fitter.reason
        self._fitter.reason = (
            f"{diverged}; a rewind would copy all {wal >> 20} MB of its pg_wal, the database has {size >> 20} MB"
        )
        try:
            await self._copy(source)
        except (CannotStart, RefusedByPeer) as error:
            self.progress(f"the copy failed, it is rewound: {_one_line(error)}")
            self._fitter.reason = diverged
            return False
        return True

    async def _fitness(self, source: Source, theirs: Identity) -> tuple[Fitness, bool]:
        if self.files.half_copied.exists():
            return Fitness.COPY, postmaster.find(self.files.path) is not None
        if postmaster.find(self.files.path) is None:
            return await self._fitter.of_stopped(source, theirs), False
        async with asyncio.timeout(ACT_WITHIN):
            view = await self._actors_viewer.look()
        viewer = self._actors_viewer
        streams = view.link_up and view.upstream == (source.host, source.port)
        end = view.position.offset
        return await self._fitter.of_running(viewer.system, viewer.timelines, end, source, theirs, streams=streams), True

    async def _copy(self, source: Source) -> None:
        if self._tries[Fitness.COPY] >= self.settings.copies:
            raise RefusedByPeer(
                f"{self._tries[Fitness.COPY]} base backups in a row have not made a standby of it ({self._fitter.reason}): "
                "a person has to look; a restart of the daemon tries again"
            )
        if not await source.is_primary():
            raise RefusedByPeer(f"{source.name} is not a primary: nothing is copied from a standby")
        self._tries[Fitness.COPY] += 1
        slot = slots.slot_name(self.settings.name) if self.settings.slots else None
        if slot is not None:
            await source.ensure_slot(slot)
        reason = self._fitter.reason or "there was no whole database here"
        await copying.copy(self.files, source, self._do, slot=slot)
        self.rejoined("copied", f"copied anew from {source.name}: {reason}")

    def _source(self, name: NodeName) -> Source:
        member = self._members[name]
        return Source(self.settings, name, member.address, member.port)

    def _follow_settings(self, source: Source | None) -> dict[str, str | None]:
        slot = slots.slot_name(self.settings.name) if self.settings.slots and source is not None else ""
        return {
            "primary_conninfo": primary_conninfo(self.settings, source.host, source.port) if source is not None else "",
            "primary_slot_name": slot,
            "recovery_target_timeline": "latest",
            "wal_retrieve_retry_interval": RETRY,
        }

    async def _start(self, source: Source | None) -> None:
        if not self.files.exists:
            raise RefusedByPeer(f"{self.files.path} holds no database; it is copied as soon as there is a primary to copy")
        if source is not None and self.settings.slots:
            await source.ensure_slot(slots.slot_name(self.settings.name))
        changes = self._follow_settings(source)
        if self.files.version().recovery_may_sync_at_once:
            changes["recovery_init_sync_method"] = "syncfs"
        self.files.change_settings(changes)
        self._do("starting")
        await self.control.start_standby(self._do)

    async def _point_at(self, source: Source | None) -> None:
        """From 13 on a reload is enough: no restart, and what was received stays."""
        wanted = self._follow_settings(source)
        names = list(wanted)
        found = await self._actor.ask("SELECT name, setting FROM pg_settings WHERE name = ANY (%s)", (names,))
        now = {str(name): str(setting) for name, setting in found}
        changes: dict[str, str | None] = {
            name: value
            for name, value in wanted.items()
            if now.get(name) != value and name not in ("recovery_target_timeline", "wal_retrieve_retry_interval")
        }
        if now.get("wal_retrieve_retry_interval") not in ("100", RETRY):
            changes["wal_retrieve_retry_interval"] = RETRY
        if not changes:
            return
        if source is not None and self.settings.slots:
            # the name may be the same as before, and the new primary still have none of that name
            await source.ensure_slot(slots.slot_name(self.settings.name))
        await change_settings(self._actor, changes)

    async def _until_replayed(self) -> None:
        """Where the data ends is known when all that is here has been replayed."""
        deadline = time.monotonic() + CAUGHT_UP_WITHIN
        while time.monotonic() < deadline:
            async with asyncio.timeout(ACT_WITHIN):
                ((waits,),) = await self._actor.ask(WAITS)
            if waits:
                return
            self._do("replaying its log")
            await asyncio.sleep(POLL)

    async def _read_back_standby(self, source: Source | None) -> ServiceView:
        wanted = (source.host, source.port) if source is not None else None
        view = None
        async with asyncio.timeout(ACT_WITHIN):
            while view is None or (view.role is Role.STANDBY and view.upstream != wanted):
                view = await self._actors_viewer.look()  # a session reads a changed setting a moment after the reload
                await asyncio.sleep(POLL)
        if view.role is not Role.STANDBY:
            raise NotConfirmed(f"PostgreSQL was told, but it does not follow: it says {view.role}, upstream {view.upstream}")
        if view.link_up:
            self._tries = {Fitness.REWIND: 0, Fitness.COPY: 0}
        return view

    # --- what a group needs besides ----------------------------------------------------------------------------------

    async def ensure_replicas(self, wanted: EnsureReplicas) -> None:
        """Every named standby must have a commit, or any so many of them. With too few, every commit waits."""
        absent = synchronous.absent(wanted.at_least - len(wanted.names))
        names = (*wanted.names, *absent)
        if wanted.enough is None or absent:
            await self.ensure_synchronous(Synchronous(names=names, at_least=len(names)))
        else:
            await self.ensure_synchronous(Synchronous(names=names, at_least=wanted.enough, mode=SynchronousMode.ANY))

    async def tend(self, primary: NodeName | None) -> None:
        await self.tend_slots(primary)

    async def ensure_synchronous(self, wanted: Synchronous) -> None:
        """Raises Unreachable, RefusedByPeer, NotConfirmed when some process has not been seen to act on the new list."""
        try:
            async with asyncio.timeout(ACT_WITHIN):
                await self._alive()
                await synchronous.ensure(self._actor, wanted, standby=await self._is_standby())
        except (TimeoutError, psycopg.OperationalError, OSError) as error:
            self._actor.cut()
            raise Unreachable(f"PostgreSQL: {_one_line(error)}") from error
        except psycopg.Error as error:
            raise RefusedByPeer(f"PostgreSQL: {_one_line(error)}") from error

    async def tend_slots(self, primary: NodeName | None) -> list[str]:
        """Keep a slot for every other member; what was changed. `primary` is whom this member follows, None on the primary."""
        if not self.settings.slots:
            return []
        others = [name for name in self._members if name != self.settings.name]
        try:
            elsewhere = await self._source(primary).slots() if primary is not None else None
            async with asyncio.timeout(ACT_WITHIN):
                await self._alive()
                standby = await self._is_standby()
                if standby and elsewhere is None:
                    elsewhere = {}
                return await slots.tend(self._actor, self.settings.name, others, elsewhere if standby else None)
        except (TimeoutError, psycopg.OperationalError, OSError) as error:
            self._actor.cut()
            raise Unreachable(f"PostgreSQL: {_one_line(error)}") from error
        except psycopg.Error as error:
            raise RefusedByPeer(f"PostgreSQL: {_one_line(error)}") from error

    async def create(self, source: NodeName | None) -> None:
        """Make this member's data: a new database for the group's first, a base backup of `source` for the others.

        It is not started. Raises RefusedByPeer, Unreachable.
        """
        if self.files.exists:
            raise RefusedByPeer(f"{self.files.path} holds a database already")
        try:
            if source is None:
                await copying.make_first(self.files, tuple(self._members.values()), self._do)
                return
            await self._copy(self._source(source))
            self.files.change_settings(self._follow_settings(self._source(source)))
        except CannotStart as error:
            raise RefusedByPeer(_one_line(error)) from error
        finally:
            self._do("")

    # --- checking ----------------------------------------------------------------------------------------------------

    async def check(self) -> tuple[str, ...]:
        """Settings that would hurt in a failover, each with its cure."""
        try:
            async with asyncio.timeout(CHECK_WITHIN):
                facts = await findings.gather(self._actor)
        except (TimeoutError, psycopg.Error, OSError) as error:
            where = self.settings.socket_directory or self.settings.host
            return (f"PostgreSQL at {where}, port {self.settings.port}, cannot be asked: {_one_line(error)}",)
        reached = await self._reach(name for name in self._members if name != self.settings.name)
        started = tuple(findings.debian_start(self.settings, await self._unit()))
        facts = replace(facts, reached=reached, starts_behind_our_back=started)
        return tuple(findings.findings(facts, self.settings, tuple(self._members.values())))

    async def _reach(self, names: Iterable[NodeName]) -> dict[NodeName, str]:
        async def of(name: NodeName) -> tuple[NodeName, str]:
            try:
                await self._source(name).identify()
            except (Unreachable, RefusedByPeer) as error:
                return name, str(error)
            return name, ""

        return dict(await asyncio.gather(*(of(name) for name in names)))

    async def _unit(self) -> dict[str, str]:
        unit = self.settings.unit
        if unit is None and self.settings.cluster is not None:
            unit = f"postgresql@{self.settings.cluster.replace('/', '-')}.service"
        if unit is None:
            return {}
        try:
            said = await run_command(["systemctl", "show", "-p", "UnitFileState,Restart", unit], within=CHECK_WITHIN)
        except CannotStart:
            return {}
        return dict(line.split("=", 1) for line in said.splitlines() if "=" in line)


def _behind(door: Door) -> Finding | None:
    """What a refusal at the door means for clients."""
    if door.lets_in:
        return None
    return Finding(Diagnosis.OVERLOADED if door.code == TOO_MANY else Diagnosis.NOT_ACCEPTING, door.words[:WORDS])


def _free_bytes(path: Path) -> int | None:
    """What a process without privileges may still write; None where the file system does not tell."""
    try:
        found = os.statvfs(path)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize if found.f_blocks else None


def _in_short(error: BaseException) -> str:
    return _one_line(error)[:WORDS]


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
