"""Real Redis servers, started and ended by the tests, and a small client that speaks to them from a chosen address."""

import contextlib
import itertools
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from orchestrator.domain.topology import Member
from orchestrator.keeper.gate import ADMIN_SOURCE
from orchestrator.services.redis.settings import RedisSettings

PROGRAM = "redis-server"
ADDRESS = "127.0.0.1"
WITHIN = 10.0


def why_no_redis() -> str:
    return "" if shutil.which(PROGRAM) else f"{PROGRAM} is not installed (Debian: apt-get install redis-server)"


def free_port(address: str = ADDRESS) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
    return port


def wait_for(condition: Callable[[], object], within: float = WITHIN, why: Callable[[], object] = lambda: "") -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"it did not come to be within {within} s {why()}"
        time.sleep(0.01)


def state_of(pid: int) -> str:
    """The process's letter (proc(5)); empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def is_alive(pid: int) -> bool:
    return state_of(pid) not in ("", "Z", "X")


def ask(end: tuple[str, int], *words: str, source: str = ADMIN_SOURCE, within: float = 1.0) -> str:
    """One command, one answer: the text of a status, a number, a string, or an error with its `-`. Raises OSError."""
    with socket.create_connection(end, timeout=within, source_address=(source, 0)) as link:
        return say(link, *words)


def say(link: socket.socket, *words: str) -> str:
    parts = [f"*{len(words)}\r\n"] + [f"${len(word.encode())}\r\n{word}\r\n" for word in words]
    link.sendall("".join(parts).encode())
    with link.makefile("rb") as stream:
        return _read(stream)


def _read(stream: BinaryIO) -> str:
    """One answer (RESP2); several texts become lines."""
    head = stream.readline()
    if not head.endswith(b"\r\n"):
        raise ConnectionError("closed by the server")
    kind, rest = head[:1], head[1:-2].decode()
    if kind == b"*":
        return "\n".join(_read(stream) for _ in range(int(rest)))
    if kind == b"$":
        return "" if rest == "-1" else stream.read(int(rest) + 2)[:-2].decode()
    return f"-{rest}" if kind == b"-" else rest


def facts(end: tuple[str, int], section: str) -> dict[str, str]:
    lines = ask(end, "INFO", section).splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


@dataclass
class RedisServer:
    """One server process, in the foreground, so that its number is ours."""

    directory: Path
    port: int = field(default_factory=free_port)
    words: list[str] = field(default_factory=list)
    """Further words of its command line."""
    process: subprocess.Popen[bytes] | None = None
    address: str = ADDRESS

    @property
    def end(self) -> tuple[str, int]:
        return self.address, self.port

    @property
    def config(self) -> Path:
        return self.directory / "redis.conf"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def write_config(self, *lines: str) -> Path:
        """For a server that is started by somebody else."""
        self.directory.mkdir(exist_ok=True)
        plain = [f"port {self.port}", f"bind {self.address}", "protected-mode no", f"dir {self.directory}", 'save ""']
        plain += [f"pidfile {self.directory}/redis.pid", f"logfile {self.directory}/redis.log", "repl-diskless-sync-delay 0"]
        self.config.write_text("\n".join([*plain, "repl-backlog-size 64mb", *lines]) + "\n")
        return self.config

    def start(self, *words: str) -> "RedisServer":
        if not self.config.exists():
            self.write_config()
        self.process = subprocess.Popen(
            [PROGRAM, str(self.config), *self.words, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for(self.listens, why=self.log)
        return self

    def listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(self.end, timeout=0.5, source_address=(ADMIN_SOURCE, 0)):
            return True
        return False

    def log(self) -> str:
        with contextlib.suppress(OSError):
            return (self.directory / "redis.log").read_text()[-2000:]
        return ""

    def ask(self, *words: str, **more: object) -> str:
        return ask(self.end, *words, **more)  # type: ignore[arg-type]

    def role(self) -> str:
        return facts(self.end, "replication")["role"]

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(WITHIN)
            self.process = None

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)
        wait_for(lambda: state_of(self.pid) == "T")

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def end_started_by_others(self) -> None:
        """A server that a daemon under test has started from our configuration."""
        with contextlib.suppress(OSError, ValueError):
            pid = int((self.directory / "redis.pid").read_text())
            if PROGRAM.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
                wait_for(lambda: not is_alive(pid))

    def member(self, name: str) -> Member:
        return Member(name=name, address=self.address, port=self.port)

    def settings(self, **more: object) -> RedisSettings:
        return RedisSettings(host=self.address, port=self.port, **more)  # type: ignore[arg-type]


class Servers:
    """Makes servers and ends them all."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.made: list[RedisServer] = []

    def make(self, name: str, *words: str) -> RedisServer:
        server = RedisServer(self.directory / name, words=list(words))
        server.directory.mkdir()
        self.made.append(server)
        return server

    def start(self, name: str, *words: str) -> RedisServer:
        return self.make(name, *words).start()


@contextlib.contextmanager
def servers(directory: Path) -> Iterator[Servers]:
    made = Servers(directory)
    try:
        yield made
    finally:
        for server in made.made:
            server.kill()
            server.end_started_by_others()


class Writer:
    """Writes one key after another, from a client's address, wherever `end` leads; keeps when each was acknowledged."""

    EVERY = 0.003

    def __init__(self, end: Callable[[], tuple[str, int]], source: str) -> None:
        self.acked: list[tuple[float, float]] = []
        """CLOCK_BOOTTIME at which a write was sent, and at which it was acknowledged."""
        self._end = end
        self._source = source
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Writer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(WITHIN)

    def _run(self) -> None:
        while not self._ending.is_set():
            with contextlib.suppress(OSError, ValueError):
                self._write_on(self._end())
            time.sleep(self.EVERY)

    def _write_on(self, end: tuple[str, int]) -> None:
        """Over one connection, until it fails or the way leads elsewhere."""
        with socket.create_connection(end, timeout=0.1, source_address=(self._source, 0)) as link:
            while not self._ending.is_set() and self._end() == end:
                sent_at = time.clock_gettime(time.CLOCK_BOOTTIME)
                if say(link, "SET", f"writer:{end[0]}", str(sent_at)) == "OK":
                    self.acked.append((sent_at, time.clock_gettime(time.CLOCK_BOOTTIME)))
                time.sleep(self.EVERY)

    def accepted_after(self, moment: float) -> list[tuple[float, float]]:
        return [each for each in self.acked if each[0] > moment]

    def longest_gap(self) -> float:
        ends = [at for _, at in self.acked]
        return max((later - earlier for earlier, later in itertools.pairwise(ends)), default=float("inf"))
