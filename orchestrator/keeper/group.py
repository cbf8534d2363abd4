"""One group on this node: the pure core, and the hands that carry out its acts on page, processes, gate and addresses."""

import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from orchestrator.domain import commands
from orchestrator.domain.observations import Hold
from orchestrator.domain.spans import NEVER, Instant, Span
from orchestrator.keeper import core, memory
from orchestrator.keeper.addresshand import AddressHand
from orchestrator.keeper.core import Core
from orchestrator.keeper.gate import Gate, table_name
from orchestrator.keeper.gatehand import GateHand, State
from orchestrator.keeper.page import Page
from orchestrator.keeper.setup import GroupSetup, KeeperSetup
from orchestrator.keeper.tree import NotAllowed, Tree
from probes.interconnected.wire import Section, digest

SPIN_FOR: Span = 0.002
"""How long the freeze is watched without leaving the loop; measured freezes of 26 processes take 0.25 to 0.65 ms."""

WATCH_AGAIN: Span = 0.001
"""How often a freeze or a kill that takes longer is looked at again, at first."""

WATCH_SHARE: Final = 20
WATCH_SELDOM: Span = 0.1
"""One that lasts is looked at after another twentieth of its time: a process that waits for a stalled disk neither stops nor
dies before the disk comes back, and looking at it takes time from everybody else."""

SURE_AGAIN: Span = 1.0
"""How often the gate is set anew and the process tree is noted, whether or not anything changed."""

REFUSED_AGAIN: Span = 60.0
"""How often the same reason why clients are refused is told."""

LONGEST_SHARE: Final = 4
"""The freeze budget never exceeds this part of the lease (rule 14)."""

FORGET_AFTER: Span = 600.0
"""The longest freeze or wake-up counts for the budget for this long."""


OFF: Final = "off"


def guarded_mark(setup: KeeperSetup, group: str) -> Path:
    """Stands on disk once a gate has been laid for the group, until it is dismantled."""
    return Path(setup.state_directory) / f"{group}.guarded"


def now() -> Instant:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class GroupKeeper:
    """Carries out what the core wants: the page is written first, always."""

    def __init__(
        self,
        setup: KeeperSetup,
        group: GroupSetup,
        send: Callable[[str, Section], None],
        say: Callable[[str], None],
        wake: Callable[[], None],
    ) -> None:
        """`wake` makes the loop call `hear_hands` soon; it may be called from another thread."""
        self.setup = setup
        self.group = group
        self._send = send
        self._say = say
        self._wake = wake
        self.page = Page(setup.page_path(group.name), create=True)
        known = self.page.read()
        self.page.begin()
        self.core = Core(
            me=setup.node,
            group=digest(group.name),
            memory=known if known is not None else self._new_life(),
            peers=group.peers,
            beat_every=group.beat_every,
            budget=group.lease / 10,
            now=now(),
            warm=group.warm,
        )
        self.page.write(self.core.memory)
        self.gate: GateHand | None = None
        self.addresses: AddressHand | None = None
        self._pidfd = -1
        self.watch_number = 0
        """Grows with every process that is watched: a descriptor's number alone may come again for another one."""
        self._tree: Tree | None = None
        self._freezing = False
        self._dying = False
        self._acting_since = NEVER
        self._sure_at = NEVER
        self._looked_at = NEVER
        self._longest: tuple[Span, Instant] = (0.0, NEVER)
        self.freezes = 0
        self.last_freeze: Span = 0.0
        self._refused_because = ""
        self._told_at: dict[str, Instant] = {}

    def _new_life(self) -> memory.Memory:
        """Rule 4: the life is on disk before its first beat, so that it is never had twice."""
        life = secrets.randbits(62) | 1
        directory = Path(self.setup.state_directory)
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory / f"{self.group.name}.lives", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, f"{life}\n".encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self._say(f"{self.group.name}: no memory of this boot was found: life {life} begins, as one that has just promised")
        return memory.begin_life(life, now(), self.group.lease, 0)

    def use(self, group: GroupSetup) -> None:
        """A new configuration."""
        self.group = group
        self.core.beat_every = group.beat_every
        self.core.warm = group.warm
        if self.addresses is not None:
            self.addresses.change(group.addresses)

    # --- the loop's questions ----------------------------------------------------------------------------------------

    @property
    def pidfd(self) -> int:
        """Readable when the service's main process ends; -1 while none is watched."""
        return self._pidfd

    def wake_at(self) -> Instant:
        wake = min(self.core.wake_at(), self._sure_at + SURE_AGAIN)
        return min(wake, self._looked_at + self._watch_again()) if self._freezing or self._dying else wake

    def _watch_again(self) -> Span:
        return min(max(WATCH_AGAIN, (now() - self._acting_since) / WATCH_SHARE), WATCH_SELDOM)

    @property
    def gate_words(self) -> str:
        gate = self.gate
        if gate is None:
            return OFF
        if gate.state is State.STANDS:
            return "open" if self.core.gate_until > now() else "closed"
        return gate.why_refused or gate.state.value

    @property
    def remarks(self) -> list[str]:
        """What people should know about this group's enforcement."""
        if self.gate is None or self.gate.state is not State.REFUSED:
            return []
        return [f"{self.group.name}: no kernel gate: {self.gate.why_refused}"]

    # --- what comes in -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        memory = self.core.memory
        if memory.pid and not self._watch(memory.pid, memory.process_started):
            self._tree = self._new_tree(memory.pid, memory.process_started)
            self._do(self.core.main_exited(now()))
        if guarded_mark(self.setup, self.group.name).exists():
            self._begin_gate()
            self._begin_addresses()
        self._do(self.core.start(now()))

    def tick(self) -> None:
        moment = now()
        self._notice_lateness(moment - self.core.wake_at())
        self._look_on()
        self._do(self.core.tick(now()))
        if now() >= self._sure_at + SURE_AGAIN:
            self._make_sure()

    def hear(self, sender: str, section: Section, *, slow: bool = False) -> None:
        self._do(self.core.heard(now(), sender, section, slow=slow))

    def obey(self, command: commands.Command) -> core.Answer:
        if isinstance(command, commands.Found) and (reason := self._why_not_watch(command)):
            return core.Declined("found", reason)
        if isinstance(command, commands.Arm) and self.gate is not None and self.gate.state is State.LAYING:
            return core.Declined("arm", "the gate is being laid")
        answer, acts = self.core.obey(now(), command)
        self._do(acts)
        return answer

    def _why_not_watch(self, found: commands.Found) -> str:
        """Whoever holds the right, or is being ended, is watched to its end before anybody else is."""
        memory = self.core.memory
        another = (found.pid, found.process_started) != (memory.pid, memory.process_started)
        if another and (memory.hold is not Hold.NONE or self.core.killing):
            return f"process {memory.pid} is held, or being ended; process {found.pid} is a stranger"
        if not self._watch(found.pid, found.process_started):
            return f"process {found.pid} has ended already, or is another one by now"
        return ""

    def main_exited(self) -> None:
        self._unwatch()
        self._say(f"{self.group.name}: the service's main process {self.core.memory.pid} has ended")
        self._do(self.core.main_exited(now()))

    # --- carrying out ------------------------------------------------------------------------------------------------

    def _do(self, acts: list[core.Act]) -> None:
        """Rule 4: record, then act. Acts that report back (a thaw, a kill) may bring new ones, until all is settled."""
        waiting = acts
        while True:
            self._record()
            self._sync_gate()
            self._sync_addresses()
            if not waiting:
                return
            act, waiting = waiting[0], waiting[1:]
            waiting = waiting + self._carry_out(act)

    def _record(self) -> None:
        self.page.write(self.core.memory)
        guarded = self.core.memory.hold is not Hold.NONE and not self.core.killing
        self.page.write_hot(self.core.memory.right_until, now(), guarded=guarded)

    def _carry_out(self, act: core.Act) -> list[core.Act]:
        match act:
            case core.Send(peer, section):
                self._send(peer, section)
            case core.Freeze():
                return self._freeze()
            case core.Thaw():
                return self._thaw()
            case core.Kill():
                return self._kill()
            case core.EndConnections() if self.gate is not None:
                self.gate.end_connections()
        return []

    def _freeze(self) -> list[core.Act]:
        tree = self._tree
        began = now()
        if tree is None:
            return self.core.frozen(now())
        try:
            tree.stop()
        except NotAllowed as error:
            self._say(f"{self.group.name}: CANNOT FREEZE: {error}")
        while not tree.is_stopped():
            if now() > began + SPIN_FOR:
                self._freezing, self._acting_since = True, began
                return []
        return self._frozen(began)

    def _stop_again(self, tree: Tree) -> None:
        """Not stopped yet, or let go on by somebody in between."""
        try:
            tree.stop()
        except NotAllowed:
            pass  # it was said when the freeze began

    def _frozen(self, began: Instant) -> list[core.Act]:
        self._freezing = False
        self.freezes += 1
        self.last_freeze = now() - began
        self._note_longest(self.last_freeze)
        self._say(f"{self.group.name}: service frozen in {self.last_freeze * 1000:.2f} ms: its right has ended")
        return self.core.frozen(now())

    def _thaw(self) -> list[core.Act]:
        """Rule 16: the guard stands (the page says so), then SIGCONT, then the clock is read again, and the gate last."""
        if now() >= self.core.memory.right_until - self.core.budget:
            return self.core.frozen(now())  # this process stood still since it decided to let it go on
        if self._tree is not None:
            self._tree.go_on()
        self._say(f"{self.group.name}: service thawed: the right is there again")
        return self.core.thawed(now())

    def _kill(self) -> list[core.Act]:
        """Rule 22: stopped first, killed while stopped, never let go on in between."""
        self._freezing = False
        tree = self._tree
        if tree is None or tree.is_empty():
            return self._gone()
        try:
            tree.kill()
        except NotAllowed as error:
            self._say(f"{self.group.name}: CANNOT KILL: {error}")
        self._dying, self._acting_since = True, now()
        return []

    def _gone(self) -> list[core.Act]:
        self._dying = False
        self._unwatch()
        self._tree = None
        self._say(f"{self.group.name}: no process of the service is left")
        return self.core.gone(now())

    def _look_on(self) -> None:
        """A freeze or a kill that took longer than a moment is watched to its end."""
        tree = self._tree
        self._looked_at = now()
        if self._dying and (tree is None or tree.is_empty()):
            self._do(self._gone())
        elif self._freezing:
            if tree is None or tree.is_stopped():
                self._do(self._frozen(self.core.memory.frozen_since or now()))
            else:
                self._stop_again(tree)
        elif self.core.stopped and not self._dying and tree is not None and not tree.is_stopped():
            self._say(f"{self.group.name}: SOMEBODY ELSE let the frozen service go on (SIGCONT): it is frozen again")
            self._do(self._freeze())

    # --- the service's processes -------------------------------------------------------------------------------------

    def _watch(self, pid: int, process_started: int) -> bool:
        """False when that very process does not run: then it is not watched, and must not be relied upon."""
        watched = (self._tree.pid, self._tree.process_started) if self._tree is not None else None
        if self._pidfd >= 0 and watched == (pid, process_started):
            return True
        if not pid:
            return False
        tree = self._new_tree(pid, process_started)
        try:
            descriptor = os.pidfd_open(pid)
        except (OSError, OverflowError):
            return False
        tree.notice()
        if tree.is_empty():  # the number was given to another process meanwhile
            os.close(descriptor)
            return False
        self._unwatch()
        self._tree, self._pidfd = tree, descriptor
        self.watch_number += 1
        return True

    def _new_tree(self, pid: int, process_started: int) -> Tree:
        return Tree(pid, process_started, self.group.directory, self.group.program)

    def _unwatch(self) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    # --- the kernel --------------------------------------------------------------------------------------------------

    def hear_hands(self) -> None:
        """The gate's thread, or the addresses', has learnt something."""
        gate, addresses = self.gate, self.addresses
        if gate is not None:
            while gate.news:
                self._say(f"{self.group.name}: {gate.news.popleft()}")
            self.core.changed = True
        while addresses is not None and addresses.news:
            self._say(f"{self.group.name}: {addresses.news.popleft()}")

    def _sync_gate(self) -> None:
        """The gate is laid when the group is known to be Tanist's (a record was seen), and follows the right."""
        if self.gate is not None:
            self.gate.open_until(self.core.gate_until, self.core.members_until)
        elif self.core.memory.seen_version >= 0:
            self._begin_gate()

    def _begin_gate(self) -> None:
        group = self.group
        if group.gate == OFF or not group.gate_port:
            return
        table = table_name(self.setup.cluster, self.setup.node, group.name)
        gate = Gate(table, group.gate_port, group.gate_addresses, group.member_addresses)
        self.gate = GateHand(gate, guarded_mark(self.setup, group.name), now, self._wake)
        self.gate.start(self.core.gate_until, self.core.members_until)

    def _sync_addresses(self) -> None:
        """Like the gate: nobody's addresses are touched before the group is known to be Tanist's."""
        if self.addresses is not None:
            self.addresses.hold_until(self.core.addresses_until)
        elif self.core.memory.seen_version >= 0:
            self._begin_addresses()

    def _begin_addresses(self) -> None:
        group = self.group
        if group.addresses:
            self.addresses = AddressHand(group.addresses, group.lease, now, self._wake, group.name)
            self.addresses.hold_until(self.core.addresses_until)
            self.addresses.start()

    def _make_sure(self) -> None:
        """Once a second: whatever somebody else did to gate or processes is noticed."""
        self._sure_at = now()
        if self._tree is not None and not self._dying:
            self._tree.notice()
        if self.gate is not None:
            self.gate.make_sure()
            self._tell_why_refused(self.gate)
        if self.addresses is not None:
            self.addresses.make_sure()

    def _tell_why_refused(self, gate: GateHand) -> None:
        """When the reason is another one than a second ago, and was not said within the last minute."""
        why = self.core.why_refused(now()) if gate.state is State.STANDS else ""
        before, self._refused_because = self._refused_because, why
        if why and why != before and now() > self._told_at.get(why, NEVER) + REFUSED_AGAIN:
            self._told_at[why] = now()
            self._say(f"{self.group.name}: clients are refused: {why}")

    # --- the budget --------------------------------------------------------------------------------------------------

    def _notice_lateness(self, late: Span) -> None:
        if 0 < late < self.group.lease:
            self._note_longest(late)

    def _note_longest(self, took: Span) -> None:
        """Rule 14: twice the longest freeze or wake-up, at least a tenth and at most a quarter of the lease."""
        longest, at = self._longest
        if took > longest or now() > at + FORGET_AFTER:
            self._longest = (took, now())
            wanted = max(self.group.lease / 10, 2 * took)
            self.core.budget = min(wanted, self.group.lease / LONGEST_SHARE)

    @property
    def longest(self) -> Span:
        return self._longest[0]
