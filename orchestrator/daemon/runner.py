"""One group on this node: events go into the engine, its effects go out. Nothing is decided here."""

import asyncio
import secrets
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tenacity

from orchestrator import tasks
from orchestrator.daemon.clock import now, wall
from orchestrator.daemon.disk import DiskThread
from orchestrator.daemon.journal import Journal
from orchestrator.daemon.keeper_link import KeeperLink
from orchestrator.daemon.lanes import Lane
from orchestrator.daemon.meters import Meters
from orchestrator.daemon.remembering import remember
from orchestrator.domain import effects, events
from orchestrator.domain.observations import KeeperView, Outcome, ServiceView
from orchestrator.domain.policy import Policy
from orchestrator.domain.positions import bytes_behind
from orchestrator.domain.record import Control, Record, Snapshot
from orchestrator.domain.spans import FOREVER, Instant, Span, WallTime
from orchestrator.domain.topology import NodeName
from orchestrator.engine.adopting import adopted
from orchestrator.engine.informing import following
from orchestrator.engine.state import Phase, State
from orchestrator.engine.step import step
from orchestrator.keeper.talk import NotObeyed, Seen
from orchestrator.ports import ClientConfig, Conflict, Mediator, NotConfirmed, RefusedByPeer, Service, Unreachable
from probes.interconnected.words import decode
from probes.local import LocalProbe
from probes.mediated import READ_WITHIN, MediatedProbe

TEND_EVERY: Span = 5.0
DIVERGENCE_EVERY: Span = 10.0
"""People settle divergences in the files, with or without a daemon."""

SPEAK_TRIES = 3
"""How often a person's word is checked and written again when somebody else wrote in between."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seams:
    """What a group's runner works with."""

    mediator: Mediator
    keeper: KeeperLink
    journal: Journal
    disk: DiskThread
    history_path: Path
    right_until: Callable[[], Instant]
    """The right's end as the keeper's page says at this moment: the engine is told only of what changes its mind."""
    service: Service | None
    clients: tuple[ClientConfig, ...]
    divergences: Callable[[], list[dict[str, Any]]] | None = None
    """Reads from the disk which divergences wait for somebody; None where none can be."""
    log: Callable[[str], None]
    broken: Callable[[BaseException], None]
    """The engine has failed: the daemon ends, and whoever supervises it starts it anew."""


class GroupRunner:
    """Owns the state. Everything runs in the event loop, one event at a time."""

    def __init__(self, state: State, seams: Seams, meters: Meters) -> None:
        self.state = state
        self.meters = meters
        self._seams = seams
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._service_lane: Lane[effects.EnsureService] = Lane(self._ensure_service)
        self._replicas_lane: Lane[effects.EnsureReplicas] = Lane(self._ensure_replicas)
        self._client_lanes = [Lane(self._ensurer(client)) for client in seams.clients]
        self._changed: list[Callable[[], None]] = []
        self.diverged: tuple[dict[str, Any], ...] = ()
        """Divergences that somebody should look at."""
        self._diverged_anew = asyncio.Event()
        self.local = self._local_probe() if seams.service is not None else None
        self.mediated = MediatedProbe(seams.mediator, state.group.name, report=self._mediator_read, lost=self._mediator_lost)

    def _local_probe(self) -> LocalProbe:
        service, policy = self._seams.service, self.state.policy
        assert service is not None
        return LocalProbe(
            service.look, every=policy.look_every, within=policy.timing.unresponsive.after / 2, clock=now, report=self._looked
        )

    @property
    def right_until(self) -> Instant:
        return self._seams.right_until()

    @property
    def name(self) -> str:
        return self.state.group.name

    # --- life --------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._spawn(self.mediated.run())
        if self.local is not None:
            self._spawn(self.local.run())
            self._spawn(self._tend())
        if self._seams.divergences is not None:
            self._spawn(self._watch_divergence(self._seams.divergences))
        self._tick()

    async def stop(self) -> None:
        """Nothing is let go of: keeper and service go on as they are."""
        if self._timer is not None:
            self._timer.cancel()
        await tasks.end(self._tasks)
        await self._service_lane.stop()
        await self._replicas_lane.stop()
        for lane in self._client_lanes:
            await lane.stop()
        if self._seams.service is not None:
            await self._seams.service.close()

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        told = "".join(traceback.format_exception(error))
        self._seams.log(f"{self.name}: internal error, the daemon ends (the keeper holds on): {told}")
        self._seams.broken(error)

    # --- the door ----------------------------------------------------------------------------------------------------

    def feed(self, event: events.Event) -> None:
        journal, disk = self._seams.journal, self._seams.disk
        disk.put_at_leisure(lambda: journal.event(event))
        before = self.state
        try:
            result = step(self.state, event)
        except Exception as error:
            disk.put_at_leisure(journal.flush)
            self._fail(error)
            return
        self.state = result.state
        self.meters.saw_step(before, result.state)
        for effect in sorted(result.effects, key=_is_for_people):
            self._note(effect)
            self._carry_out(effect)
        self._wake(result.wake_at)
        for changed in self._changed:
            changed()

    def _note(self, effect: effects.Effect) -> None:
        journal, at = self._seams.journal, self.state.now
        self._seams.disk.put_at_leisure(lambda: journal.effect(effect, at))

    def _wake(self, at: Instant) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if at != FOREVER:
            self._timer = asyncio.get_running_loop().call_later(max(0.0, at - now()), self._tick)

    def _tick(self) -> None:
        self.feed(events.Ticked(at=now(), wall=wall()))

    # --- effects -----------------------------------------------------------------------------------------------------

    def _carry_out(self, effect: effects.Effect) -> None:
        match effect:
            case effects.TellKeeper(command=command):
                self._seams.keeper.order(self.name, command)
            case effects.WriteRecord():
                self._spawn(self._write_record(effect))
            case effects.WriteControl():
                self._spawn(self._write_control(effect))
            case effects.ReadMediator():
                self.mediated.read_now()
            case effects.LookNow():
                if self.local is not None:
                    self.local.look_now()
            case effects.EnsureService():
                self._service_lane.put(effect)
            case effects.EnsureReplicas():
                self._replicas_lane.put(effect)
            case effects.EnsureClients():
                for lane in self._client_lanes:
                    lane.put(effect)
            case effects.Remember(history=history):
                path = self._seams.history_path
                self._seams.disk.put_until_done(f"history of {self.name}", lambda: remember(path, history))
            case effects.Notice():
                self._tell(effect)

    def _tell(self, notice: effects.Notice) -> None:
        journal, moment, me = self._seams.journal, wall(), self.state.me
        self.meters.saw_notice(notice)
        entry = journal.entry(notice, moment, me)
        self._seams.disk.put(lambda: journal.keep(entry))
        evidence = f" [{'; '.join(notice.evidence)}]" if notice.evidence else ""
        self._seams.log(f"{self.name}: {notice.kind}: {notice.text}{evidence}")

    def happened(self, code: str, text: str) -> None:
        """What an adapter did on the way to the state that was asked of it, for the history."""
        self._tell(effects.Notice(kind=effects.NoticeKind.EVENT, code=code, text=text, epoch=self.state.epoch))

    def alarmed(self, code: str, text: str) -> None:
        """What an adapter saw that people must look at."""
        self._diverged_anew.set()
        self._tell(effects.Notice(kind=effects.NoticeKind.ALARM, code=code, text=text, epoch=self.state.epoch))

    def _done(self, effect: effects.Effect, view: ServiceView | None = None) -> None:
        self.feed(events.EffectDone(at=now(), wall=wall(), effect=effect, view=view))

    def _failed(self, effect: effects.Effect, reason: str) -> None:
        self._seams.log(f"{self.name}: not done: {_in_short(effect)}: {reason}")
        self.feed(events.EffectFailed(at=now(), wall=wall(), effect=effect, reason=reason))

    # --- service and clients -----------------------------------------------------------------------------------------

    async def _ensure_service(self, effect: effects.EnsureService) -> None:
        service = self._seams.service
        assert service is not None
        try:
            view = await service.ensure(effect)
        except (Unreachable, RefusedByPeer, NotConfirmed) as error:
            self._failed(effect, str(error))
        else:
            self._done(effect, view)
        if self.local is not None:
            self.local.look_now()

    async def _tend(self) -> None:
        """Upkeep that no decision waits for; what fails is said once, until it fails otherwise."""
        service, told = self._seams.service, ""
        assert service is not None
        while True:
            await asyncio.sleep(TEND_EVERY)
            primary = following(self.state)
            if primary is None and self.state.phase is not Phase.SERVING:
                continue
            try:
                await service.tend(primary)
            except (Unreachable, RefusedByPeer, NotConfirmed) as error:
                if str(error) != told:
                    self._seams.log(f"{self.name}: upkeep: {error}")
                told = str(error)
            else:
                told = ""

    async def _watch_divergence(self, read: Callable[[], list[dict[str, Any]]]) -> None:
        while True:
            with suppress(OSError):
                self.diverged = tuple(await asyncio.to_thread(read))
            with suppress(TimeoutError):
                await asyncio.wait_for(self._diverged_anew.wait(), DIVERGENCE_EVERY)
            self._diverged_anew.clear()

    async def _ensure_replicas(self, effect: effects.EnsureReplicas) -> None:
        service = self._seams.service
        assert service is not None
        try:
            await service.ensure_replicas(effect)
        except (Unreachable, RefusedByPeer, NotConfirmed) as error:
            self._failed(effect, str(error))
        else:
            self._done(effect)

    def _ensurer(self, client: ClientConfig) -> Callable[[effects.EnsureClients], Any]:
        async def ensure(effect: effects.EnsureClients) -> None:
            """A client that is not led right is tried again soon; a newer wish comes first."""
            attempts = tenacity.AsyncRetrying(
                retry=tenacity.retry_if_exception_type(NotConfirmed),
                wait=tenacity.wait_exponential(0.1, max=2.0),
                stop=tenacity.stop_after_delay(5.0),
                reraise=True,
            )
            try:
                async for attempt in attempts:
                    with attempt:
                        changed = await client.ensure(effect)
            except (NotConfirmed, RefusedByPeer) as error:
                self._failed(effect, str(error))
            else:
                if changed:
                    notice = effects.Notice(
                        kind=effects.NoticeKind.EVENT,
                        code="clients",
                        text=f"clients of {client} are led to {effect.primary}",
                        epoch=effect.epoch,
                    )
                    self._tell(notice)
                self._done(effect)

        return ensure

    # --- the mediator ------------------------------------------------------------------------------------------------

    async def _write_record(self, effect: effects.WriteRecord) -> None:
        began_at = now()
        written = await self._seams.mediator.write_record(self.name, effect)
        self.meters.saw_write(written.outcome, now() - began_at)
        self.feed(
            events.RecordWritten(
                at=now(), wall=wall(), began_at=began_at, write=effect, outcome=written.outcome, reason=written.reason
            )
        )
        if written.outcome is not events.WriteOutcome.APPLIED:
            self.mediated.read_now()

    async def _write_control(self, effect: effects.WriteControl) -> None:
        try:
            await self._seams.mediator.write_control(self.name, effect.control, effect.expected, effect.within)
        except (Unreachable, RefusedByPeer, Conflict):
            self.mediated.read_now()
        else:
            self._done(effect)

    def _mediator_read(self, snapshot: Snapshot) -> None:
        if self.state.mediated.lost_since is not None:
            self._seams.log(f"{self.name}: the mediator answers again")
        self.feed(events.MediatorRead(at=now(), wall=wall(), snapshot=snapshot))

    def _mediator_lost(self, reason: str) -> None:
        if self.state.mediated.lost_since is None:
            self._seams.log(f"{self.name}: the mediator is lost: {reason}")
        self.feed(events.MediatorLost(at=now(), wall=wall(), reason=reason))

    # --- looks, keeper -----------------------------------------------------------------------------------------------

    def _looked(self, began_at: Instant, outcome: Outcome) -> None:
        self.feed(events.Looked(at=now(), wall=wall(), began_at=began_at, outcome=outcome))

    def keeper_seen(self, seen: Seen) -> None:
        said = {words.peer: decode(words.text.encode()) for words in seen.words}
        peers = tuple(replace(peer, statement=said.get(peer.name)) for peer in seen.view.peers)
        self._keeper(replace(seen.view, peers=peers))

    def keeper_lost(self) -> None:
        self._keeper(None)

    def _keeper(self, view: KeeperView | None) -> None:
        self.feed(events.KeeperSeen(at=now(), wall=wall(), view=view))

    def keeper_declined(self, message: NotObeyed) -> None:
        self._failed(effects.TellKeeper(message.command), message.reason)

    # --- people ------------------------------------------------------------------------------------------------------

    async def speak(self, say: Callable[[Control, Record | None, WallTime], Control]) -> Control:
        """Carry a person's word to the mediator, checked against what stands there now, not against what we remember.

        Raises words.Void when it does not apply, Unreachable when the mediator cannot be asked.
        """
        for attempt in range(SPEAK_TRIES):
            snapshot = await self._seams.mediator.read(self.name, READ_WITHIN)
            said = say(snapshot.control, snapshot.record, wall())
            wanted = replace(said, version=snapshot.control.version + 1)
            try:
                await self._seams.mediator.write_control(self.name, wanted, snapshot.control.version, READ_WITHIN)
            except Conflict:
                if attempt + 1 == SPEAK_TRIES:
                    raise
                continue
            self.mediated.read_now()
            return wanted
        raise AssertionError("not reached")

    async def adopt(self, primary: NodeName, by: str, epoch_above: int) -> Record:
        """Begin a new line of records by a person's word. Raises words.Void, Unreachable."""
        mediator = self._seams.mediator
        try:
            found = (await mediator.read(self.name, READ_WITHIN)).record
        except RefusedByPeer:
            found = None  # what stands there cannot be acted upon: that is what adoption is for
        record = adopted(self.state, found, primary, by=by, epoch_above=epoch_above, draw=lambda: secrets.randbits(62))
        await mediator.adopt(self.name, record, READ_WITHIN)
        self.mediated.read_now()
        return record

    def recent(self, count: int) -> list[dict[str, Any]]:
        """The newest sentences of the history, oldest first."""
        known = list(self._seams.journal.recent)
        return known[len(known) - min(count, len(known)) :]

    def lag_bytes(self) -> int | None:
        """Bytes that the local copy lacks of what the primary was last heard to have."""
        view, primary = self.state.local.view, self.state.primary
        peer = self.state.heard(primary) if primary is not None else None
        if view is None or peer is None or peer.statement is None or peer.statement.position is None:
            return None
        behind = bytes_behind(view.position, peer.statement.position)
        return None if behind is None else max(0, behind)

    def use_policy(self, policy: Policy) -> None:
        if self.local is not None:
            self.local.every = policy.look_every
            self.local.within = policy.timing.unresponsive.after / 2
        self.feed(events.PolicyChanged(at=now(), wall=wall(), policy=policy))

    def on_change(self, changed: Callable[[], None]) -> None:
        self._changed.append(changed)


def _is_for_people(effect: effects.Effect) -> bool:
    """Sentences come after acts: nobody's writes wait for a log line."""
    return isinstance(effect, effects.Notice | effects.Remember)


def _in_short(effect: effects.Effect) -> str:
    match effect:
        case effects.EnsureService(role=role, epoch=epoch, upstream=upstream):
            return f"service {role} in epoch {epoch}" + (f", following {upstream}" if upstream else "")
        case effects.EnsureClients(primary=primary, epoch=epoch):
            return f"clients to {primary} in epoch {epoch}"
        case effects.EnsureReplicas(at_least=at_least):
            return f"at least {at_least} standbys"
        case effects.TellKeeper(command=command):
            return f"keeper: {type(command).__name__}"
        case _:
            return type(effect).__name__
