"""The keeper's pure core for one group: who has promised, until when this node may serve, what must stop.

Time is an argument and the answer is a list of acts; the process around it (`process.py`) writes the memory to the page
and then performs them. The simulator runs this very class. Each rule of the design's section 5 that lives here is one
small method that names its number, so that it can be read, and switched off by a test that must then fail.
"""

from dataclasses import dataclass
from typing import Final, TypeAlias

from orchestrator.domain import commands
from orchestrator.domain.observations import Health, Hold, KeeperView, PeerView, Release, Statement
from orchestrator.domain.positions import Position
from orchestrator.domain.record import Cause, Record
from orchestrator.domain.spans import FOREVER, NEVER, Instant, Span, held_until, in_words, waited_until
from orchestrator.domain.topology import Life, NodeName, Pair
from orchestrator.keeper.clocks import ClockWatch
from orchestrator.keeper.memory import ANYBODY, Counted, Memory
from probes.interconnected.wire import Section
from probes.interconnected.words import encode

SILENT_BEATS: Final = 3
"""Beats in a row that must be missing before a peer counts as silent (rule 9): one may be lost, two are suspicious."""

SENT_KEPT: Final = 256
"""Own beats whose sending times are remembered: 25 leases' worth to one peer, longer than any promise matters."""


LIVES_KEPT: Final = 8
"""Past lives of each peer that are known as such: a beat of one of them, held up for long, is not believed."""


@dataclass(frozen=True, slots=True)
class Send:
    peer: NodeName
    section: Section


@dataclass(frozen=True, slots=True)
class Freeze:
    """Stop every process of the service; report `frozen`."""


@dataclass(frozen=True, slots=True)
class Thaw:
    """Let every process go on, then report `thawed` with a clock read after it."""


@dataclass(frozen=True, slots=True)
class Kill:
    """Stop, cut off and kill every process of the service; report `gone` when the tree is seen empty."""


@dataclass(frozen=True, slots=True)
class EndConnections:
    """Reset the clients' connections that stand, once the gate is shut: nobody will answer them here any more."""


Act: TypeAlias = Send | Freeze | Thaw | Kill | EndConnections


@dataclass(slots=True)
class Peer:
    """What is known of one peer; all of it may be lost without harm."""

    name: NodeName
    life: Life = 0
    past_lives: tuple[Life, ...] = ()
    number: int = 0
    echoed: int = 0
    """The newest of our numbers that it has been heard to know."""
    heard_at: Instant = NEVER
    silent: bool = True
    silent_since: Instant = NEVER
    version: int = -1
    epoch: int = 0
    release: Release | None = None
    exited: bool = False
    granted_until: Instant = NEVER
    """Until when its present life has promised to us, counted or not."""
    words: bytes = b""
    words_number: int = 0
    """Of the beat that brought them."""
    clock: ClockWatch | None = None
    slow_clock: ClockWatch | None = None
    """By what comes over slow paths, which would spoil the other one."""


@dataclass(frozen=True, slots=True)
class ClaimBegun:
    """Answer to BeginClaim: nothing is promised to anybody any more."""

    version: int


@dataclass(frozen=True, slots=True)
class Declined:
    """A command that was not obeyed, and why."""

    command: str
    reason: str


Answer: TypeAlias = ClaimBegun | Declined | None


class Core:
    """The rules for one group on one node."""

    def __init__(
        self,
        *,
        me: NodeName,
        group: int,
        memory: Memory,
        peers: tuple[NodeName, ...],
        beat_every: Span,
        budget: Span,
        now: Instant,
        warm: bool = False,
    ) -> None:
        """`warm`: a standby here serves nothing."""
        self.me = me
        self.group = group
        self.memory = memory
        self.peers = {name: Peer(name, silent_since=now) for name in peers}
        self.beat_every = beat_every
        self.budget = budget
        self.warm = warm
        self.next_beat_at = now
        self.words = b""
        self.dead = False
        self.killing = False
        self.wants_write = False
        """Promises are late or void: only a write to the mediator keeps, or restores, the right."""
        self.stopped = False
        self.changed = True
        """Something that the daemon waits for has changed since it was last told."""
        self.words_changed = False
        """Only words have changed: told at leisure."""
        self._sent: dict[int, Instant] = {}
        self._asked_at = NEVER
        self._beaten_at = now
        self._number = 0
        self._acts: list[Act] = []
        for name, (life, number) in memory.heard.items():
            if name in self.peers:
                self.peers[name].life, self.peers[name].number = life, number
                self.peers[name].past_lives = tuple(memory.left.get(name, ()))
        self._served_nobody = self._serves_nobody()  # whoever is connected was told by the predecessor

    # --- what comes in -------------------------------------------------------------------------------------------

    def start(self, now: Instant) -> list[Act]:
        """The keeper begins, or begins again with the memory of its predecessor."""
        if self.memory.frozen_since is not None and not self.memory.exited:
            self._acts.append(Freeze())  # the predecessor may have died between recording and doing
        return self._settled(now)

    def tick(self, now: Instant) -> list[Act]:
        """Time has passed: beats that are due, silence, the end of rights."""
        if now >= self.next_beat_at:
            self.next_beat_at = max(self.next_beat_at + self.beat_every, now + self.beat_every / 2)
            self._beaten_at = now
            self._beat_all(now)
        for peer in self.peers.values():
            self._notice_silence(peer, now)
        return self._settled(now)

    def heard(self, now: Instant, sender: NodeName, section: Section, *, slow: bool = False) -> list[Act]:
        """An authentic section of a beat has arrived, on a path that may be slow: some beats take up to a beat longer there."""
        peer = self.peers.get(sender)
        if peer is None or not self._believed(peer, section, now):
            return self._settled(now)
        self._note_heard(peer, section, now)
        self._watch_clock(peer, section, now, slow)
        self._learn_epoch(section.epoch, section.version, section.incarnation)
        self._count_promise(peer, section, now)
        if section.asking:
            granted = self._promise(peer, section, now)
            self._send(peer, now, granted=granted, answer=True, slow=slow)
        return self._settled(now)

    def obey(self, now: Instant, command: commands.Command) -> tuple[Answer, list[Act]]:
        """Do what the daemon asks, as far as the rules allow."""
        answer: Answer = None
        match command:
            case commands.Saw(record):
                self._see(record, now)
            case commands.Prepare(pairs, lease):
                answer = self._prepare(pairs, lease, now)
            case commands.Wrote(record, began_at):
                self._wrote(record, began_at, now)
            case commands.Arm(epoch):
                answer = self._arm(epoch, now)
            case commands.BeginClaim(version, no_promise_after):
                answer = self._begin_claim(version, no_promise_after, now)
            case commands.Found():
                answer = self._found(command)
            case commands.Opened(epoch):
                self._opened(epoch)
            case commands.Demoted():
                self._demoted()
            case commands.GiveUp(position, target):
                answer = self._give_up(now, position, target)
            case commands.Froze():
                self._froze(now)
            case commands.KillService():
                self._kill()
            case commands.Say(statement, urgent):
                self._say(statement, urgent, now)
        self.changed = self.changed or not isinstance(command, commands.Say)
        return answer, self._settled(now)

    def frozen(self, now: Instant) -> list[Act]:
        """Every thread of the service has been seen stopped."""
        self.stopped = True
        self.changed = True
        return self._settled(now)

    def thawed(self, now: Instant) -> list[Act]:
        """The service runs again; `now` was read after it was let go (rule 16: the clock is read again)."""
        self.memory.frozen_since = None
        self.stopped = False
        self.changed = True
        return self._settled(now)

    def main_exited(self, now: Instant) -> list[Act]:
        """The service's main process has ended; its children may still commit (rule 17)."""
        if self.memory.pid:
            self._kill()
        return self._settled(now)

    def gone(self, now: Instant) -> list[Act]:
        """The service's process tree has been seen empty."""
        self.killing = False
        self.stopped = False
        memory = self.memory
        memory.pid = memory.process_started = 0
        memory.exited = True
        memory.readable = False
        memory.hold = Hold.NONE
        memory.writable_epoch = 0
        memory.frozen_since = None
        memory.superseded = False
        self.changed = True
        return self._settled(now)

    # --- what goes out -------------------------------------------------------------------------------------------

    @property
    def gate_until(self) -> Instant:
        """Until when the kernel may let clients through: NEVER when they are shut out (rule 15)."""
        return NEVER if self.warm and self.memory.hold is Hold.NONE else self.members_until

    @property
    def members_until(self) -> Instant:
        """Until when it may let other members through, which copy from a standby that serves nothing, too."""
        memory = self.memory
        if memory.frozen_since is not None or self.killing:
            return NEVER
        if memory.hold is Hold.NONE:
            return self._beaten_at + memory.lease if memory.readable else NEVER
        return memory.right_until

    @property
    def addresses_until(self) -> Instant:
        """Until when this host may have the group's addresses: as long as its gate is open, and for a primary's clients."""
        return NEVER if self.memory.hold is Hold.NONE else self.gate_until

    def why_refused(self, now: Instant) -> str:
        """Why clients are shut out, for people; empty while they are let in."""
        memory, me = self.memory, self.me
        if now < self.gate_until:
            return ""
        if self.killing:
            why = f"the service on {me} is being ended"
        elif memory.hold is not Hold.NONE:
            why = f"{me} has no right to serve at this moment"
        elif not memory.pid:
            why = f"no service is known to run on {me}"
        elif memory.readable:
            why = f"{me} is a warm standby" if self.warm else f"the keeper of {me} stood still"
        elif memory.stranger:
            why = f"the service on {me} has taken another one's place, and its data has not been compared yet"
        else:
            why = f"the service on {me} runs as a primary without the right to"
        elsewhere = memory.primary is not None and memory.primary.name != me
        return f"{why}; the primary is {memory.primary.name}" if elsewhere and memory.primary else why

    def sent_at(self, number: int) -> Instant | None:
        """When the own beat of this number was sent, if it asked for a promise and is not long ago."""
        return self._sent.get(number)

    def wake_at(self) -> Instant:
        """When `tick` must be called at the latest."""
        memory = self.memory
        wake = self.next_beat_at
        if memory.hold is not Hold.NONE and memory.frozen_since is None and not self.killing:
            wake = min(wake, memory.right_until - self.budget)
        wake = min(wake, self._releases_at())
        if not self.wants_write and self._needs_write():
            wake = min(wake, self._write_fresh_until())
        return wake

    def view(self) -> KeeperView:
        """What the daemon may know. Statements are left out: they travel as they came."""
        memory = self.memory
        return KeeperView(
            life=memory.life,
            epoch=memory.epoch,
            version=memory.version,
            seen_version=memory.seen_version,
            incarnation=memory.incarnation,
            hold=memory.hold,
            right_epoch=memory.right_epoch,
            right_until=memory.right_until,
            wants_write=self.wants_write,
            counted=tuple(counted.pair for counted in memory.counted),
            promised_to=memory.promised_to,
            promised_until=memory.promised_until,
            claim=memory.claim,
            release=memory.release,
            frozen_since=memory.frozen_since,
            budget=self.budget,
            pid=memory.pid,
            process_started=memory.process_started,
            main_exited=memory.exited,
            stranger=memory.stranger,
            readable=memory.readable,
            peers=tuple(
                PeerView(
                    name=peer.name,
                    life=peer.life,
                    silent_since=peer.silent_since if peer.silent else None,
                    release=peer.release,
                    exited=peer.exited,
                )
                for peer in self.peers.values()
            ),
        )

    def _say(self, statement: Statement, urgent: bool, now: Instant) -> None:
        self.dead = statement.health is Health.DEAD
        self.words = encode(statement)
        if urgent:
            self._beat_all(now, urgent=True)

    # --- hearing -------------------------------------------------------------------------------------------------

    def _believed(self, peer: Peer, section: Section, now: Instant) -> bool:
        """Fresh, from the sender's present life, and said to this life (rules 4 and 7)."""
        if section.echo_life != self.memory.life:
            self._introduce(peer, section, now)
            return False
        if section.life != peer.life:
            if section.life in peer.past_lives or (peer.life and section.echo_number <= peer.echoed):
                return False  # a beat of an earlier life, held up on its way, answers an older beat of ours
            self._begin_life(peer, section.life)
        self._note_words(peer, section)
        return not section.number <= peer.number

    def _introduce(self, peer: Peer, section: Section, now: Instant) -> None:
        """The sender does not know our life yet: tell it, and believe nothing until it says it back."""
        if section.answer:
            return
        introduction = self._section(peer, now)
        introduction.answer = True
        introduction.echo_life = section.life
        introduction.echo_number = section.number
        self._acts.append(Send(peer.name, introduction))

    def _begin_life(self, peer: Peer, life: Life) -> None:
        if peer.life:
            peer.past_lives = (*peer.past_lives, peer.life)[-LIVES_KEPT:]
            self.memory.left[peer.name] = peer.past_lives
        peer.life = life
        peer.number = peer.words_number = 0
        peer.words = b""
        peer.granted_until = NEVER
        peer.release = None
        peer.clock = peer.slow_clock = None
        peer.version = -1
        self.changed = True

    def _note_heard(self, peer: Peer, section: Section, now: Instant) -> None:
        peer.number = section.number
        peer.echoed = max(peer.echoed, section.echo_number)
        self.memory.heard[peer.name] = (peer.life, section.number)
        peer.heard_at = now
        if peer.silent:
            peer.silent = False
            self.changed = True
        peer.version = max(peer.version, section.version)
        peer.epoch = section.epoch
        if section.release != peer.release or section.exited != peer.exited:
            peer.release, peer.exited = section.release, section.exited
            self.changed = True

    def _note_words(self, peer: Peer, section: Section) -> None:
        """Even those of a beat that a path without words was first to bring."""
        if section.wordless or section.number <= peer.words_number:
            return
        peer.words_number = section.number
        if section.words != peer.words:
            peer.words = section.words
            self.words_changed = True
            self.changed = self.changed or section.urgent

    def _notice_silence(self, peer: Peer, now: Instant) -> None:
        if not peer.silent and now - peer.heard_at > (SILENT_BEATS + 0.5) * self.beat_every:
            peer.silent = True
            peer.silent_since = peer.heard_at
            self.changed = True

    def _watch_clock(self, peer: Peer, section: Section, now: Instant, slow: bool) -> None:
        """Rule 5: when the peer's clock has run ahead, ours stood still, and nothing that it measured can be trusted.

        What comes over a slow path is judged by what the others have shown, too, but shows nothing about them: beside its
        readings the first beat over a path that works again would look as if our clock had stood still.
        """
        if peer.clock is None or peer.slow_clock is None:
            peer.clock, peer.slow_clock = ClockWatch(), ClockWatch()
        theirs, lease = section.number / 1e6, self.memory.lease
        if slow:
            ahead = peer.clock.ran_ahead(theirs, now, lease)
            if not peer.slow_clock.stood_still(theirs, now, lease, slack=self.beat_every) and not ahead:
                return
        elif not peer.clock.stood_still(theirs, now, lease):
            return
        self._void(now)
        for other in self.peers.values():
            other.clock = other.slow_clock = None

    def _void(self, now: Instant) -> None:
        """Right and promises are void: only a new write gives the right back."""
        self.memory.write_until = NEVER
        for counted in self.memory.counted:
            counted.until = NEVER
        for peer in self.peers.values():
            peer.granted_until = NEVER
        self._sent.clear()
        self.changed = True

    def _learn_epoch(self, epoch: int, version: int, incarnation: int) -> None:
        """Rule 6: never act below the highest epoch known; rule 11: a newer version ends a claim."""
        memory = self.memory
        if incarnation != memory.incarnation and memory.incarnation != 0:
            return
        if epoch > memory.epoch:
            memory.epoch = epoch
            self.changed = True
        if version > memory.version and memory.incarnation != 0:
            memory.version = version
            self.changed = True
        self._end_claim()

    def _end_claim(self) -> None:
        """Rule 11: only a newer version ends a claim; a dead daemon does not."""
        memory = self.memory
        if memory.claim is not None and memory.version > memory.claim:
            memory.claim = None
            self.changed = True

    # --- promising -----------------------------------------------------------------------------------------------

    def _promise(self, peer: Peer, section: Section, now: Instant) -> bool:
        """Give the asker our word for one lease, unless a claim of our own is out or a newer epoch is known."""
        memory = self.memory
        if memory.claim is not None or section.epoch < memory.epoch:
            return False
        if memory.hold is not Hold.NONE and memory.right_epoch >= section.epoch:
            return False
        lease = max(memory.wait_lease, section.lease_us / 1e6)
        until = waited_until(now, lease)
        if memory.promised_to == ANYBODY and memory.promised_until > until:
            until = memory.promised_until
        memory.promised_to, memory.promised_life, memory.promised_until = peer.name, peer.life, until
        return True

    def _promise_runs(self, now: Instant) -> bool:
        return self.memory.promised_until > now

    def _begin_claim(self, version: int, no_promise_after: Instant | None, now: Instant) -> Answer:
        """Rule 11, in one step: the own promise has run out or a release is usable; from now on nothing is promised."""
        memory = self.memory
        if memory.version > version:
            return Declined("claim", f"version {memory.version} of the record is known, newer than {version}")
        if memory.hold is not Hold.NONE:
            return Declined("claim", "this node's service may still be committing")
        if self._usable_release(version) is None and self._promise_runs(now):
            rest = in_words(memory.promised_until - now)
            return Declined("claim", f"the promise to {memory.promised_to} runs for another {rest}")
        if no_promise_after is not None and self._has_promised_since(no_promise_after):
            return Declined("claim", "another promise has been given since the others were asked where their data ends")
        memory.promised_to, memory.promised_until = None, NEVER
        memory.claim = version
        return ClaimBegun(version)

    def _has_promised_since(self, end: Instant) -> bool:
        """With everybody's promises again the primary may have acknowledged more than what the others had told by then."""
        return self.memory.promised_until != end

    def _usable_release(self, version: int) -> Release | None:
        """Rule 20: from the very primary of the record, for exactly this version, and not meant for another."""
        primary = self.memory.primary
        peer = self.peers.get(primary.name) if primary else None
        if primary is None or peer is None or peer.life != primary.life:
            return None
        release = peer.release
        if release is None or release.version != version or release.epoch != self.memory.epoch:
            return None
        return release if release.target in (None, self.me) else None

    # --- holding -------------------------------------------------------------------------------------------------

    def _count_promise(self, peer: Peer, section: Section, now: Instant) -> None:
        """Rule 7: a promise counts from the sending of the beat that it answers, and only from the counted pair."""
        sent_at = self._sent.get(section.echo_number)
        if not section.granted or sent_at is None or section.epoch != self.memory.right_epoch:
            return
        lease = min(self.memory.lease, section.lease_us / 1e6)
        peer.granted_until = max(peer.granted_until, held_until(sent_at, lease))
        for counted in self.memory.counted:
            if counted.pair == Pair(peer.name, section.life):
                counted.until = max(counted.until, peer.granted_until)

    def _right(self, now: Instant) -> Instant:
        """Rule 8: the later of the oldest counted promise and the own last write."""
        memory = self.memory
        if not self._may_have_right(now):
            return NEVER
        promised = min((counted.until for counted in memory.counted), default=FOREVER)
        return max(promised, memory.write_until)

    def _may_have_right(self, now: Instant) -> bool:
        memory = self.memory
        if memory.primary != Pair(self.me, memory.life) or memory.right_epoch != memory.epoch:
            return False
        return memory.written and memory.release is None and not self._promise_runs(now)

    def _write_wanted(self, now: Instant) -> bool:
        """Rule 9: renew when promises are late, but not while the last write is younger than a third of the lease."""
        return self._needs_write() and now >= self._write_fresh_until()

    def _needs_write(self) -> bool:
        memory = self.memory
        if memory.hold is Hold.NONE or self.killing or memory.superseded:
            return False
        return memory.frozen_since is not None or not memory.written or self._promises_late()

    def _write_fresh_until(self) -> Instant:
        return self.memory.write_until - held_until(0.0, self.memory.lease) * 2 / 3

    def _promises_late(self) -> bool:
        """The oldest counted promise answers a beat that is more than three beats old."""
        memory = self.memory
        late = held_until(self._asked_at, memory.lease) - (SILENT_BEATS + 0.5) * self.beat_every
        return any(counted.until < late for counted in memory.counted)

    def _asking(self) -> bool:
        """Rules 16 and 25: promises are asked for only while the service runs, lives, and may serve."""
        memory = self.memory
        if memory.hold is Hold.NONE or memory.frozen_since is not None or memory.release is not None:
            return False
        return memory.written and not self.killing and not self.dead and not memory.superseded

    # --- the record ----------------------------------------------------------------------------------------------

    def _see(self, record: Record, now: Instant) -> None:
        """Take over a record that is not older than what is known (rule 23)."""
        memory = self.memory
        if self._is_older(record):
            return
        newer = record.version > memory.seen_version or record.incarnation != memory.incarnation
        if record.incarnation != memory.incarnation:
            memory.claim = None  # it was for another line of records, and can never be applied to this one
        memory.incarnation = record.incarnation
        memory.version = memory.seen_version = record.version
        memory.epoch = max(memory.epoch, record.epoch)
        memory.primary = record.primary
        if newer:
            memory.lease = memory.wait_lease = record.lease
        if memory.promised_to == ANYBODY:
            memory.promised_until = max(memory.promised_until, waited_until(memory.began_at, memory.wait_lease))
        self._end_claim()
        if newer:
            self._confirm_succession(record)
            if memory.release is not None and record.primary == Pair(self.me, memory.life):
                self._move_release(record.version)

    def _is_older(self, record: Record) -> bool:
        """Rule 23: older than one seen or heard, or of another incarnation without an epoch above all known.

        An adoption that names the very primary of the present epoch is a new line of records for the same right.
        """
        memory = self.memory
        if memory.incarnation not in (0, record.incarnation):
            same = record.cause is Cause.ADOPTION and record.epoch == memory.epoch and record.primary == memory.primary
            return record.epoch <= memory.epoch and not same
        return record.version < memory.version or record.epoch < memory.epoch

    def _wrote(self, record: Record, began_at: Instant, now: Instant) -> None:
        """An own write is known to be applied: it gives the right for 0.99 L from its beginning (rules 6, 8b, 10)."""
        memory = self.memory
        if self._is_older(record):
            return
        self._see(record, now)
        if record.primary != Pair(self.me, memory.life):
            return
        if memory.release is not None:
            if not self._ends_release(began_at):
                return
            memory.release = None
        memory.written = True
        memory.write_until = max(memory.write_until, held_until(began_at, memory.lease))
        memory.right_epoch = record.epoch

    def _arm(self, epoch: int, now: Instant) -> Answer:
        """Rule 13: guard and gate stand before anything makes the service writable."""
        memory = self.memory
        if memory.hold is not Hold.NONE:
            return None
        if not memory.pid:
            return Declined("arm", "the service's process is not known: nothing could be frozen")
        if memory.right_epoch != epoch or now >= self._right(now) - 2 * self.budget:
            return Declined("arm", f"no right in epoch {epoch} that lasts long enough to promote in")
        memory.hold = Hold.PROMOTING
        memory.stranger = False
        memory.readable = False
        memory.writable_epoch = epoch
        self._beat_all(now)
        return None

    def _ends_release(self, began_at: Instant) -> bool:
        """Rule 18: only a write sent after the release gives the right back."""
        return began_at > self.memory.released_at

    def _move_release(self, version: int) -> None:
        """Rule 18: an own earlier write moved the version, so the release is said again for the new one."""
        memory = self.memory
        if memory.release is not None and memory.release.version != version:
            release = memory.release
            memory.release = Release(epoch=release.epoch, version=version, position=release.position, target=release.target)

    def _prepare(self, pairs: tuple[Pair, ...], lease: Span, now: Instant) -> Answer:
        """Rule 9: counted, then written. Rule 2: of two leases that may be in force a holder uses the smaller.

        Only a member that has promised already is counted, so that counting it does not end the right at once.
        """
        memory = self.memory
        memory.lease = min(memory.lease, lease)
        unpromised = []
        for pair in pairs:
            known = next((counted for counted in memory.counted if counted.pair == pair), None)
            peer = self.peers.get(pair.name)
            if known is not None:
                known.prepared_at = None if known.prepared_at is None else memory.version
            elif peer is None or peer.life != pair.life or now >= peer.granted_until - 2 * self.budget:
                unpromised.append(pair.name)
            else:
                memory.counted.append(Counted(pair, peer.granted_until, prepared_at=memory.version))
        return Declined("prepare", f"no promise yet from {', '.join(unpromised)}") if unpromised else None

    def _confirm_succession(self, record: Record) -> None:
        """Rule 9: the counted are the confirmed and every pair of an add that is not yet decided."""
        memory = self.memory
        if record.primary != Pair(self.me, memory.life):
            memory.counted = []
            return
        kept = []
        for counted in memory.counted:
            pending = counted.prepared_at is not None and counted.prepared_at >= record.version
            if counted.pair in record.succession:
                counted.prepared_at = None
            if pending or counted.pair in record.succession:
                kept.append(counted)
        known = [counted.pair for counted in kept]
        kept += [Counted(pair) for pair in record.succession if pair not in known]
        memory.counted = kept

    # --- letting go ----------------------------------------------------------------------------------------------

    def _give_up(self, now: Instant, position: Position | None, target: NodeName | None) -> Answer:
        """Rules 17 and 18: a release is recorded before it is sent, and only when nothing here can commit any more."""
        memory = self.memory
        if memory.primary != Pair(self.me, memory.life):
            return Declined("release", "this node does not hold the record")
        if not self._harmless():
            return Declined("release", "the service is not yet seen stopped, gone or demoted")
        memory.release = Release(epoch=memory.epoch, version=memory.version, position=position, target=target)
        memory.released_at = now
        if memory.frozen_since is not None:
            self._acts.append(EndConnections())
        self._beat_all(now)
        return None

    def _harmless(self) -> bool:
        """Rule 17: nothing of the service can commit: it is gone, demoted, or every thread is seen stopped."""
        memory = self.memory
        return memory.hold is Hold.NONE or (memory.frozen_since is not None and self.stopped)

    # --- the service ---------------------------------------------------------------------------------------------

    def _found(self, found: commands.Found) -> Answer:
        """The service's main process; one that is writable without a right is frozen at once (rule 15).

        Only the first process that a life ever sees may be writable when it is found. One that has taken the place of
        another is a stranger: it may have come back without its data, and is never let into the right of the one before. It
        stays one until it has been seen as a standby, or is armed by a right of its own.
        """
        memory = self.memory
        another = (memory.pid, memory.process_started) != (found.pid, found.process_started)
        if another and memory.hold is not Hold.NONE:
            return Declined("found", f"process {memory.pid} holds the right; process {found.pid} is a stranger")
        memory.stranger = (memory.stranger or (memory.watched and (another or memory.exited))) and not found.readable
        if another:
            memory.pid, memory.process_started = found.pid, found.process_started
            memory.exited = False
        memory.watched = True
        if found.writable_epoch and memory.hold is Hold.NONE:
            if memory.stranger:
                memory.readable = False
                return Declined("found", f"process {found.pid} runs as primary, and has taken another one's place")
            memory.hold = Hold.SERVING
            memory.writable_epoch = found.writable_epoch
            memory.right_epoch = max(memory.right_epoch, found.writable_epoch)
        memory.readable = found.readable and memory.hold is Hold.NONE
        return None

    def _opened(self, epoch: int) -> None:
        memory = self.memory
        if memory.hold is Hold.PROMOTING and memory.right_epoch == epoch:
            memory.hold = Hold.SERVING

    def _demoted(self) -> None:
        """The service has said that it is a standby: nothing is left to guard."""
        memory = self.memory
        if memory.frozen_since is None and not self.killing:
            if memory.hold is not Hold.NONE:
                self._acts.append(EndConnections())
            memory.hold = Hold.NONE
            memory.writable_epoch = 0

    def _froze(self, now: Instant) -> None:
        """The daemon stopped the service in our stead (rule 14): see it stopped, and thaw it by our own rules."""
        memory = self.memory
        if memory.hold is not Hold.NONE and memory.frozen_since is None:
            memory.frozen_since = now
            self._acts.append(Freeze())

    def _kill(self) -> None:
        if not self.killing:
            self.killing = True
            self.changed = True
            self._acts += [EndConnections(), Kill()]

    # --- enforcement ---------------------------------------------------------------------------------------------

    def _settled(self, now: Instant) -> list[Act]:
        """Last step of every input: publish the right, and enforce its end."""
        before = self.memory.right_until
        self.memory.right_until = self._right(now)
        if (before > now) != (self.memory.right_until > now):
            self.changed = True
        self._enforce_supersession()
        self._enforce_end(now)
        self._thaw(now)
        self._release_when_frozen_long(now)
        self._turn_clients_away()
        wanted = self._write_wanted(now)
        if wanted is not self.wants_write:
            self.wants_write = wanted
            self.changed = True
        acts, self._acts = self._acts, []
        return acts

    def _turn_clients_away(self) -> None:
        """Once, when it comes about: a gate that stays shut lets no new ones in."""
        before, self._served_nobody = self._served_nobody, self._serves_nobody()
        if self._served_nobody and not before:
            self._acts.append(EndConnections())

    def _serves_nobody(self) -> bool:
        """The service runs, another member is primary, and nothing may be read here: whoever is connected waits in vain."""
        memory = self.memory
        elsewhere = memory.primary is not None and memory.primary.name != self.me
        reads = memory.readable and not self.warm
        return bool(memory.pid) and memory.hold is Hold.NONE and elsewhere and not reads

    def _enforce_supersession(self) -> None:
        """Rule 22: a newer epoch is known while the service of an older one could commit: it is killed, not thawed."""
        memory = self.memory
        if memory.hold is not Hold.NONE and memory.epoch > memory.writable_epoch and not self.killing:
            memory.superseded = True
            self._kill()

    def _enforce_end(self, now: Instant) -> None:
        """Rule 14: the freeze begins one budget before the right ends; an unfinished promotion is killed (rule 13)."""
        memory = self.memory
        if memory.hold is Hold.NONE or memory.frozen_since is not None or self.killing:
            return
        if now < memory.right_until - self.budget:
            return
        if memory.hold is Hold.PROMOTING:
            self._kill()
            return
        memory.frozen_since = now
        self.changed = True
        self._acts.append(Freeze())

    def _thaw(self, now: Instant) -> None:
        if self._may_thaw(now):
            self._acts.append(Thaw())
            self.stopped = False

    def _may_thaw(self, now: Instant) -> bool:
        """Rule 16, on one fresh clock read. The right itself already excludes releases, promises and newer epochs."""
        memory = self.memory
        if memory.frozen_since is None or not self.stopped or self.killing or memory.superseded:
            return False
        return memory.writable_epoch == memory.right_epoch and now < memory.right_until - 2 * self.budget

    def _release_when_frozen_long(self, now: Instant) -> None:
        """Rule 19: a lease after the freeze, when nothing renewed the right, it is given up."""
        if now >= self._releases_at():
            self._give_up(now, None, None)
            self.changed = True

    def _releases_at(self) -> Instant:
        memory = self.memory
        if memory.frozen_since is None or memory.release is not None or not self.stopped or self.killing:
            return FOREVER
        mine = memory.primary == Pair(self.me, memory.life)
        return waited_until(memory.frozen_since, memory.wait_lease) if mine else FOREVER

    # --- sending -------------------------------------------------------------------------------------------------

    def _beat_all(self, now: Instant, *, urgent: bool = False) -> None:
        for peer in self.peers.values():
            self._send(peer, now, urgent=urgent)

    def _send(
        self, peer: Peer, now: Instant, *, granted: bool = False, answer: bool = False, urgent: bool = False, slow: bool = False
    ) -> None:
        section = self._section(peer, now)
        section.urgent = urgent
        section.slow = slow
        section.granted = granted
        section.answer = answer
        section.asking = not answer and self._asking()
        if section.asking:
            self._sent[section.number] = self._asked_at = now
            if len(self._sent) > SENT_KEPT:
                del self._sent[next(iter(self._sent))]
        self._acts.append(Send(peer.name, section))

    def _section(self, peer: Peer, now: Instant) -> Section:
        memory = self.memory
        self._number = max(self._number + 1, int(now * 1e6))
        return Section(
            group=self.group,
            life=memory.life,
            number=self._number,
            echo_life=peer.life,
            echo_number=peer.number,
            epoch=memory.epoch,
            version=memory.version,
            incarnation=memory.incarnation,
            lease_us=round((memory.lease if self._asking() else memory.wait_lease) * 1e6),
            exited=memory.exited,
            release=memory.release,
            words=self.words,
        )
