"""The lab's clients: one that writes as an application would, and a watcher per member that tries to write there always.

They speak just enough of each service's protocol to write one value, so that they cost little and measure closely.
"""

import contextlib
import errno
import multiprocessing
import os
import select
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any, Final

from orchestrator.daemon.clock import now
from orchestrator.domain.spans import NEVER, Instant, Span
from orchestrator.lab.measure import Write

ANSWER_WITHIN: Span = 0.1
CONNECT_AGAIN: Span = 0.002


class Failed(Exception):
    """The write was not acknowledged: refused, or no answer in time."""


class Connection(ABC):
    """One connection to one server."""

    def __init__(self, address: tuple[str, int], source: str, give_up: Callable[[], bool] = lambda: False) -> None:
        self.address = address
        self._give_up = give_up
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setblocking(False)
        try:
            self._socket.bind((source, 0))
            self._connect(now() + ANSWER_WITHIN)
            self._log_in()
        except OSError as error:
            self._socket.close()
            raise Failed(os.strerror(error.errno or 0)) from error
        except Failed:
            self._socket.close()
            raise

    def _connect(self, until: Instant) -> None:
        problem = self._socket.connect_ex(self.address)
        if problem == errno.EINPROGRESS:
            while not select.select([], [self._socket], [], 0.01)[1]:
                if now() > until or self._give_up():
                    raise Failed("no answer to connecting")
            problem = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if problem:
            raise OSError(problem, os.strerror(problem))

    def close(self) -> None:
        self._socket.close()

    def _log_in(self) -> None:
        """Whatever the service wants to hear before it can be written to."""

    @abstractmethod
    def write(self, key: str, value: str) -> Write:
        """Raises Failed when it is not acknowledged."""

    def _receive(self, until: Instant) -> bytes:
        """Some bytes; none when the server has closed the connection."""
        while not select.select([self._socket], [], [], 0.01)[0]:
            if now() > until or self._give_up():
                raise Failed("no answer")
        return self._socket.recv(65536)


class RedisConnection(Connection):
    """RESP2."""

    def write(self, key: str, value: str) -> Write:
        sent_at = now()
        request = f"*3\r\n$3\r\nSET\r\n${len(key)}\r\n{key}\r\n${len(value)}\r\n{value}\r\n"
        answer = b""
        try:
            self._socket.sendall(request.encode())
            while not answer.endswith(b"\r\n"):
                part = self._receive(sent_at + ANSWER_WITHIN)
                if not part:
                    break
                answer += part
        except OSError as error:
            raise Failed(str(error)) from error
        if answer != b"+OK\r\n":
            raise Failed(answer.decode(errors="replace").strip() or "connection closed")
        return Write(sent_at, now())


class _Thread:
    def __init__(self, name: str) -> None:
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ending.set()
        self._thread.join(2.0)

    def _run(self) -> None:
        raise NotImplementedError


class RecordingClient(_Thread):
    """Writes a new key every few milliseconds to whomever the client configuration names, and keeps what was acknowledged."""

    def __init__(self, connect: type[Connection], config: Path, source: str, every: Span, first: int = 1, step: int = 1) -> None:
        """Numbers its writes `first`, `first + step` and so on."""
        super().__init__(f"client-{first}")
        self._connect = connect
        self.every = every
        self.acked: list[Instant] = []
        self.numbers: list[int] = []
        self.errors: dict[str, int] = {}
        self._config = config
        self._source = source
        self._known: tuple[str, int] | None = None
        self._target: tuple[str, int] | None = None
        self._stamp = -1
        self._step = step
        self._number = first - step
        self._connection: Connection | None = None

    def _leads_to(self) -> tuple[str, int] | None:
        """Where the configuration says that the primary is."""
        try:
            stamp = self._config.stat().st_mtime_ns
            if stamp != self._stamp:
                host, port = self._config.read_text().split()[:2]
                self._known, self._stamp = (host, int(port)), stamp
        except (OSError, ValueError):
            pass
        return self._known

    def _is_elsewhere(self) -> bool:
        """The configuration has changed since this address was chosen."""
        return self._leads_to() != self._target

    def _run(self) -> None:
        while not self._ending.is_set():
            began = now()
            try:
                self._write()
            except Failed as error:
                self._drop()
                self.errors[str(error)] = self.errors.get(str(error), 0) + 1
                time.sleep(CONNECT_AGAIN)
                continue
            time.sleep(max(0.0, began + self.every - now()))
        self._drop()

    def _write(self) -> None:
        if self._is_elsewhere():
            self._drop()
        if self._connection is None:
            self._target = self._leads_to()
            if self._target is None:
                raise Failed("no configuration yet")
            self._connection = self._connect(self._target, self._source, self._is_elsewhere)
        self._number += self._step
        write = self._connection.write(f"client:{self._number}", str(self._number))
        self.acked.append(write.acked_at)
        self.numbers.append(self._number)

    def _drop(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.close()
            self._connection = None


class Writers:
    """Clients that write side by side; seen together as one."""

    def __init__(self, connect: type[Connection], config: Path, source: str, every: Span, count: int) -> None:
        self._clients = [RecordingClient(connect, config, source, every, first + 1, count) for first in range(count)]

    def start(self) -> None:
        for each in self._clients:
            each.start()

    def stop(self) -> None:
        for each in self._clients:
            each.stop()

    @property
    def acked(self) -> list[Instant]:
        """When each write was acknowledged, in order of time."""
        if len(self._clients) == 1:
            return self._clients[0].acked
        return sorted(moment for each in self._clients for moment in list(each.acked))

    @property
    def newest(self) -> Instant:
        """When the newest write was acknowledged."""
        return max((each.acked[-1] for each in self._clients if each.acked), default=NEVER)

    @property
    def numbers(self) -> list[int]:
        """Of the acknowledged writes."""
        return [number for each in self._clients for number in list(each.numbers)]

    def take(self) -> tuple[list[Instant], list[int]]:
        """When writes were acknowledged since the last time, in order, and their numbers; the clients go on."""
        acked: list[Instant] = []
        numbers: list[int] = []
        for each in self._clients:
            count = len(each.numbers)
            acked += each.acked[:count]
            numbers += each.numbers[:count]
            del each.acked[:count], each.numbers[:count]
        return sorted(acked), numbers

    @property
    def errors(self) -> dict[str, int]:
        found: Counter[str] = Counter()
        for each in self._clients:
            found.update(each.errors)
        return dict(found)


WATCH_EVERY: Final = 0.005


class Watcher(_Thread):
    """Tries to write on one member all the time, whoever should be primary: proof that two never accept."""

    def __init__(self, connect: type[Connection], member: str, address: tuple[str, int], source: str) -> None:
        super().__init__(f"watcher-{member}")
        self._connect = connect
        self.member = member
        self.writes: deque[Write] = deque()
        self._address = address
        self._source = source

    def _run(self) -> None:
        connection: Connection | None = None
        number = 0
        while not self._ending.is_set():
            try:
                if connection is None:
                    connection = self._connect(self._address, self._source)
                number += 1
                self.writes.append(connection.write(f"watcher:{self.member}", str(number)))
            except Failed as error:
                if connection is not None and not str(error).startswith("-"):
                    connection.close()
                    connection = None
            time.sleep(WATCH_EVERY)
        if connection is not None:
            connection.close()


class Watchers:
    """All watchers, in a process of their own, so that they do not disturb the client whose outage is measured."""

    def __init__(self, connect: type[Connection], places: list[tuple[str, tuple[str, int], str]]) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_watch, args=(connect, places, theirs), daemon=True)
        self._found: dict[str, list[Write]] | None = None

    def start(self) -> None:
        """Returns when all of them are at work."""
        self._process.start()
        self._ours.recv()

    def take(self) -> dict[str, list[Write]]:
        """Every write that any watcher got acknowledged since the last time, by member; they go on."""
        self._ours.send("take")
        found: dict[str, list[Write]] = self._ours.recv()
        return found

    def stop(self) -> dict[str, list[Write]]:
        """Every write that any watcher got acknowledged, by member; those that were taken before are not among them."""
        if self._found is None:
            self._ours.send("end")
            self._found = self._ours.recv()
            self._process.join(5.0)
        return self._found


def _watch(connect: type[Connection], places: list[tuple[str, tuple[str, int], str]], control: "Pipe[Any, Any]") -> None:
    watchers = [Watcher(connect, *place) for place in places]
    for each in watchers:
        each.start()
    control.send("at work")
    while control.recv() == "take":
        control.send(_taken(watchers))
    for each in watchers:
        each.stop()
    control.send(_taken(watchers))


def _taken(watchers: list[Watcher]) -> dict[str, list[Write]]:
    accepted: dict[str, list[Write]] = {}
    for each in watchers:
        writes = accepted.setdefault(each.member, [])
        while each.writes:
            writes.append(each.writes.popleft())
    return accepted
