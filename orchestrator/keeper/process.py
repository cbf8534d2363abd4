"""The keeper's process: one loop over sockets, process descriptors and deadlines, for all groups of one node."""

import contextlib
import ctypes
import fcntl
import gc
import os
import select
import signal
import socket
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

from orchestrator.domain.plain import Unreadable
from orchestrator.domain.spans import NEVER, Instant, Span
from orchestrator.keeper.core import Declined
from orchestrator.keeper.group import GroupKeeper, now
from orchestrator.keeper.line import SerialLine
from orchestrator.keeper.links import Links
from orchestrator.keeper.setup import PRIORITY, GroupSetup, read_setup
from orchestrator.keeper.talk import (
    LARGEST_BYTES,
    Count,
    FromKeeper,
    NotObeyed,
    Order,
    Reconfigure,
    Seen,
    Tally,
    Words,
    decode_from_daemon,
    encode_to_daemon,
)
from probes.interconnected.wire import Section, digest

SWITCH_EVERY: Span = 0.0005
"""A gate's thread that has something to do gets its turn so soon; Python's own 5 ms are a stranger's first five writes."""

TALLY_EVERY: Span = 1.0
AT_LEISURE: Span = 0.5
"""How long news that nobody waits for (a position that grew) may be kept back, in leases."""

STACK_BYTES: Final = 256 * 1024
"""Of a thread: the usual 8 MiB would be locked in memory whole."""

MCL_CURRENT, MCL_FUTURE = 1, 2
RIGHTS_FROM: Final = "root or CAP_SYS_NICE and CAP_IPC_LOCK"


class AlreadyRunning(RuntimeError):
    """Another keeper of this node holds the lock."""


def log(text: str) -> None:
    moment = time.time()
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(moment))
    with contextlib.suppress(OSError):  # a full disk must not end what holds the right
        print(f"{stamp}.{int(moment % 1 * 1000):03d}Z keeper: {text}", file=sys.stderr, flush=True)


class KeeperProcess:
    def __init__(self, setup_path: Path) -> None:
        self.setup_path = setup_path
        self.setup = read_setup(setup_path)
        self.remarks: list[str] = []
        self._lock = _take_lock(self.setup.run / "keeper.lock")
        self.links = Links(self.setup)
        self.groups: dict[str, GroupKeeper] = {}
        self._by_digest: dict[int, GroupKeeper] = {}
        self._told_at: dict[str, Instant] = {}
        self._listener = _listen(self.setup.socket_path)
        self._daemon: socket.socket | None = None
        self._poll = select.epoll()
        self._woken = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._pidfds: dict[int, tuple[GroupKeeper, int]] = {}
        self._lines: dict[int, SerialLine] = {}
        self._tally_at = NEVER
        self._ending = False

    # --- life --------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        self._rise()
        for group in self.setup.groups:
            self._take_up(group)
        self._poll.register(self._listener.fileno(), select.EPOLLIN)
        self._poll.register(self._woken, select.EPOLLIN)
        for path in self.links.paths:
            self._poll.register(path.fileno(), select.EPOLLIN)
        for line in self.links.lines:
            line.start(self._wake)
        log(f"node {self.setup.node} of {self.setup.cluster}: keeps {', '.join(self.groups) or 'no group'}")
        gc.collect()
        gc.freeze()
        gc.disable()
        while not self._ending:
            self._turn()

    def end(self, *_: object) -> None:
        """Let go of nothing: page, gate and service stay as they are for whoever comes next."""
        self._ending = True

    def _rise(self) -> None:
        """Real-time priority and locked memory, where permitted; where not, say so. Threads that begin later have both."""
        threading.stack_size(STACK_BYTES)
        sys.setswitchinterval(SWITCH_EVERY)
        if not self.setup.realtime:
            self.remarks.append("real-time priority is switched off by configuration")
            return
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
        except OSError as error:
            self.remarks.append(f"no real-time priority ({error.strerror}): wake-ups may be late; it takes {RIGHTS_FROM}")
        if ctypes.CDLL(None, use_errno=True).mlockall(MCL_CURRENT | MCL_FUTURE) != 0:
            reason = os.strerror(ctypes.get_errno())
            self.remarks.append(f"memory is not locked ({reason}): it may be paged out; it takes {RIGHTS_FROM}")
        for remark in self.remarks:
            log(remark)

    def _take_up(self, group: GroupSetup) -> None:
        keeper = GroupKeeper(self.setup, group, lambda peer, section: self.links.post(peer, section), log, self._wake)
        self.groups[group.name] = keeper
        self._by_digest[digest(group.name)] = keeper
        keeper.start()

    # --- the loop ----------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        self.links.flush()
        self._sync_pidfds()
        self._sync_lines()
        self._tell_news()
        wake = min((keeper.wake_at() for keeper in self.groups.values()), default=now() + TALLY_EVERY)
        wake = min(wake, self._tally_at + TALLY_EVERY, self.links.wake_at())
        for descriptor, _ in self._poll.poll(max(0.0, wake - now())):
            self._serve(descriptor)
        moment = now()
        for keeper in self.groups.values():
            if keeper.wake_at() <= moment:
                keeper.tick()
        if moment >= self._tally_at + TALLY_EVERY:
            self._tally_at = moment
            self._tell(self._tally())

    def _wake(self) -> None:
        os.eventfd_write(self._woken, 1)

    def _serve(self, descriptor: int) -> None:
        if descriptor == self._woken:
            os.eventfd_read(self._woken)
            for keeper in self.groups.values():
                keeper.hear_hands()
        elif descriptor == self._listener.fileno():
            self._accept()
        elif self._daemon is not None and descriptor == self._daemon.fileno():
            self._hear_daemon()
        elif descriptor in self._pidfds:
            keeper, _ = self._pidfds.pop(descriptor)
            self._poll.unregister(descriptor)
            keeper.main_exited()
        elif descriptor in self._lines:
            self._hear_line(descriptor)
        elif self.links.is_path(descriptor):
            self._hear_peers(descriptor)
        # else an earlier event of this very turn closed it: the old daemon spoke its last as the new one came

    def _sync_pidfds(self) -> None:
        """The kernel forgets a descriptor when it is closed, and its number may name another process at once."""
        wanted = {keeper.pidfd: (keeper, keeper.watch_number) for keeper in self.groups.values() if keeper.pidfd >= 0}
        for descriptor, watched in wanted.items():
            if self._pidfds.get(descriptor) != watched:
                self._poll.register(descriptor, select.EPOLLIN)
        self._pidfds = wanted

    # --- peers -------------------------------------------------------------------------------------------------------

    def _hear_peers(self, descriptor: int) -> None:
        for sender, section in self.links.receive(descriptor):
            keeper = self._by_digest.get(section.group)
            if keeper is not None:
                self._hear_section(keeper, sender, section)
        self.links.flush()

    def _hear_section(self, keeper: GroupKeeper, sender: str, section: Section, *, slow: bool = False) -> None:
        if section.granted and (slow or not section.slow):
            self.links.note_round_trip(keeper.core.sent_at(section.echo_number), now())
        keeper.hear(sender, section, slow=slow)

    # --- serial lines ------------------------------------------------------------------------------------------------

    def _hear_line(self, descriptor: int) -> None:
        line = self._lines[descriptor]
        for sender, section in self.links.receive_line(line):
            keeper = self._by_digest.get(section.group)
            if keeper is not None:
                self._hear_section(keeper, sender, section, slow=True)
        self.links.flush()

    def _sync_lines(self) -> None:
        """Devices come and go; as with processes, a closed descriptor's number may soon name another file."""
        for descriptor, line in list(self._lines.items()):
            if line.fileno() != descriptor:
                self._poll.unregister(descriptor)
                del self._lines[descriptor]
                line.open_again()
        for line in self.links.lines:
            line.notice()
            if line.fileno() >= 0 and line.fileno() not in self._lines:
                self._poll.register(line.fileno(), select.EPOLLIN)
                self._lines[line.fileno()] = line
            while line.news:
                log(line.news.popleft())

    # --- the daemon --------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        """One daemon at a time: a new one replaces the old, which its host lock has seen dead."""
        connection, _ = self._listener.accept()
        connection.setblocking(False)
        self._drop_daemon()
        self._daemon = connection
        self._poll.register(connection.fileno(), select.EPOLLIN)
        for keeper in self.groups.values():
            keeper.core.changed = True
        self._tally_at = NEVER

    def _drop_daemon(self) -> None:
        if self._daemon is not None:
            self._poll.unregister(self._daemon.fileno())
            self._daemon.close()
            self._daemon = None

    def _hear_daemon(self) -> None:
        daemon = self._daemon
        assert daemon is not None
        try:
            data = daemon.recv(LARGEST_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            log("the daemon has gone: holding on without it")
            self._drop_daemon()
            return
        try:
            message = decode_from_daemon(data)
        except (Unreadable, ValueError, RecursionError) as error:
            log(f"the daemon said something that cannot be read, ignored: {error}")
            return
        match message:
            case Order(group=name, command=command):
                keeper = self.groups.get(name)
                if keeper is not None:
                    answer = keeper.obey(command)
                    if isinstance(answer, Declined):
                        self._tell(NotObeyed(group=name, command=command, reason=answer.reason))
            case Reconfigure():
                self._reconfigure()

    def _reconfigure(self) -> None:
        """New groups are taken up; lease and beats of known ones change. Paths need a restart, which costs nothing."""
        self.setup = read_setup(self.setup_path)
        for line in self.links.lines:
            line.waiting.beat_every = self.setup.beat_every(line.peer)
        for group in self.setup.groups:
            keeper = self.groups.get(group.name)
            if keeper is None:
                self._take_up(group)
            else:
                keeper.use(group)

    def _tell(self, message: FromKeeper) -> bool:
        """False when the daemon does not read, and so has not heard it."""
        if self._daemon is None:
            return False
        try:
            self._daemon.send(encode_to_daemon(message))
        except BlockingIOError:
            return False
        except OSError:
            self._drop_daemon()
            return False
        return True

    def _tell_news(self) -> None:
        if self._daemon is None:
            return
        moment = now()
        for name, keeper in self.groups.items():
            core = keeper.core
            leisure = core.words_changed and moment >= self._told_at.get(name, NEVER) + AT_LEISURE * core.memory.lease
            if core.changed or leisure:
                core.changed = core.words_changed = False
                self._told_at[name] = moment
                core.changed = not self._tell(self._seen(name, keeper)) and self._daemon is not None

    def _seen(self, name: str, keeper: GroupKeeper) -> Seen:
        view = keeper.core.view()
        peers = tuple(replace(peer, paths=self.links.views(peer.name)) for peer in view.peers)
        words = tuple(Words(peer=peer.name, text=peer.words.decode(errors="replace")) for peer in keeper.core.peers.values())
        return Seen(group=name, view=replace(view, gate=keeper.gate_words, peers=peers), words=words)

    def _tally(self) -> Tally:
        counts = [Count(name=name, label=label, value=value) for (name, label), value in self.links.counts.items()]
        for name, keeper in self.groups.items():
            counts.append(Count(name="freezes", label=name, value=keeper.freezes))
            counts.append(Count(name="last_freeze_seconds", label=name, value=keeper.last_freeze))
            counts.append(Count(name="longest_delay_seconds", label=name, value=keeper.longest))
            counts.append(Count(name="freeze_budget_seconds", label=name, value=keeper.core.budget))
        counts += [Count(name="line_up", label=f"{line.peer}|{line}", value=float(not line.trouble)) for line in self.links.lines]
        remarks = [*self.remarks, *(line.remark for line in self.links.lines if line.trouble)]
        remarks += [remark for keeper in self.groups.values() for remark in keeper.remarks]
        return Tally(at=now(), counts=tuple(counts), remarks=tuple(remarks))


def _take_lock(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise AlreadyRunning(f"another keeper of this node runs (it holds {path})") from None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor


def _listen(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen(4)
    return listener


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m orchestrator.keeper SETUP.json", file=sys.stderr)
        return 2
    try:
        keeper = KeeperProcess(Path(arguments[0]))
    except (AlreadyRunning, OSError, Unreadable, ValueError) as error:
        log(f"cannot start: {error}")
        return 1
    signal.signal(signal.SIGTERM, keeper.end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keeper.run()
    log("ends; page, gate and service stay as they are")
    return 0
