"""A serial line to one peer: opened, paced, given up and opened again; nothing here ever waits in the keeper's loop.

A thread of its own opens and closes the device, because a broken adapter may hold up whoever does that for seconds. Beats are
handed to the kernel one frame at a time, when the line is free: what waits in the kernel could only arrive late.
"""

import contextlib
import fcntl
import os
import signal
import termios
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from orchestrator.domain.spans import FOREVER, NEVER, Instant, Span
from probes.interconnected.serial import Deframer, Waiting, frame, seconds

OPEN_AGAIN: Span = 1.0
"""How often a device that is missing, or was lost, is tried."""

READ_BYTES: Final = 4096
"""In one go: whatever a line brings, the loop comes round to everything else."""

FULL_AGAIN: Span = 0.005
"""How soon a device that takes no more bytes is tried again."""

STUCK_BEATS: Final = 10
"""A device that has taken nothing for so many beats is opened anew, which throws away what it holds."""


def open_device(device: str, baud: int) -> int:
    """Raw, eight bits without parity, no flow control, nobody else's: usable at once, whoever is at the other end."""
    descriptor = os.open(device, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        speed = getattr(termios, f"B{baud}")
        control: list[bytes | int] = [b"\0"] * termios.NCCS
        control[termios.VMIN], control[termios.VTIME] = 1, 0
        flags = termios.CS8 | termios.CREAD | termios.CLOCAL
        wanted = [termios.IGNBRK | termios.IGNPAR, 0, flags, 0, speed, speed, control]
        termios.tcsetattr(descriptor, termios.TCSANOW, wanted)
        if termios.tcgetattr(descriptor)[4:6] != [speed, speed]:
            raise OSError(0, f"the device does not do {baud} baud")
        fcntl.ioctl(descriptor, termios.TIOCEXCL)
        termios.tcflush(descriptor, termios.TCIOFLUSH)
    except termios.error as error:
        os.close(descriptor)
        raise OSError(error.args[0], f"{error.args[1]}: is it a serial line?") from error
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def close_device(descriptor: int) -> None:
    """What was not sent yet is thrown away: otherwise the kernel waits until it is out."""
    with contextlib.suppress(termios.error):
        termios.tcflush(descriptor, termios.TCIOFLUSH)
    with contextlib.suppress(OSError):
        os.close(descriptor)


class SerialLine:
    def __init__(self, peer: str, device: str, baud: int, beat_every: Span, room: int) -> None:
        self.peer = peer
        self.device = device
        self.baud = baud
        self.waiting = Waiting(baud, beat_every, room)
        self.trouble = "not opened yet"
        """Why it cannot be used; empty when it can."""
        self.news: deque[str] = deque()
        """For the log."""
        self._descriptor = -1
        self._deframer = Deframer()
        self._unsent = b""
        self._free_at: Instant = NEVER
        self._stuck_since: Instant = FOREVER
        self._wake: Callable[[], None] = lambda: None
        self._given_up: deque[int] = deque()
        self._opened: deque[int] = deque()
        self._wanted = threading.Semaphore()
        self._thread = threading.Thread(target=self._keep_open, name=f"line {device}", daemon=True)

    def __str__(self) -> str:
        return f"serial://{self.device}"

    # --- called by the loop, never waiting ---------------------------------------------------------------------------

    def start(self, wake: Callable[[], None]) -> None:
        """`wake` makes the loop call `notice` soon; it is called from the thread."""
        self._wake = wake
        self._thread.start()

    def fileno(self) -> int:
        """-1 while there is none, or it was lost."""
        return self._descriptor

    def open_again(self) -> None:
        """Called when the loop has forgotten the lost descriptor: its number may then be given to another file."""
        self._wanted.release()

    def notice(self) -> None:
        """Take over what the thread has opened."""
        while self._opened:
            self._descriptor = self._opened.popleft()
            self._deframer, garbage = Deframer(), self._deframer.garbage
            self._deframer.garbage = garbage
            self._unsent, self._free_at, self._stuck_since = b"", NEVER, FOREVER
            self.trouble = ""

    @property
    def remark(self) -> str:
        return f"{self} to {self.peer} cannot be used: {self.trouble}" if self.trouble else ""

    @property
    def garbage(self) -> int:
        return self._deframer.garbage

    def is_free(self, now: Instant) -> bool:
        """The next frame would go out at once."""
        return self._descriptor >= 0 and bool(self.waiting) and not self._unsent and now >= self._free_at

    def wake_at(self) -> Instant:
        """When `send_on` must be called at the latest."""
        return self._free_at if self._descriptor >= 0 and (self._unsent or self.waiting) else FOREVER

    def send(self, datagram: bytes, now: Instant) -> None:
        framed = frame(datagram)
        self._unsent = framed
        self._free_at = now + seconds(len(framed), self.baud)
        self._write(now)

    def send_on(self, now: Instant) -> None:
        """What the kernel did not take is offered again; when it never does, the device is given up."""
        if self._unsent and now >= self._free_at:
            self._write(now)

    def receive(self) -> list[bytes]:
        """The datagrams that have arrived: nobody has looked yet whether they are beats."""
        if self._descriptor < 0:
            return []
        try:
            data = os.read(self._descriptor, READ_BYTES)
        except BlockingIOError:
            return []
        except OSError as error:
            self._lose(f"{error.strerror}")
            return []
        if not data:
            self._lose("hung up")
        return self._deframer.feed(data)

    def _write(self, now: Instant) -> None:
        try:
            written = os.write(self._descriptor, self._unsent)
        except BlockingIOError:
            written = 0
        except OSError as error:
            self._lose(f"{error.strerror}")
            return
        self._unsent = self._unsent[written:]
        if not self._unsent:
            self._stuck_since = FOREVER
            return
        self._stuck_since = now if written else min(self._stuck_since, now)
        self._free_at = max(self._free_at, now + FULL_AGAIN)
        if now > self._stuck_since + STUCK_BEATS * self.waiting.beat_every:
            self._lose("it takes no more bytes")

    def _lose(self, why: str) -> None:
        self._fail(why)
        self._given_up.append(self._descriptor)
        self._descriptor, self._unsent = -1, b""
        self.waiting.clear()

    def _fail(self, why: str) -> None:
        if why != self.trouble:
            self.trouble = why
            self.news.append(self.remark)

    # --- the thread --------------------------------------------------------------------------------------------------

    def _keep_open(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while True:
            self._wanted.acquire()
            while self._given_up:
                close_device(self._given_up.popleft())
                time.sleep(OPEN_AGAIN)
            while not self._open():
                time.sleep(OPEN_AGAIN)
            self._tell_loop()

    def _open(self) -> bool:
        try:
            descriptor = open_device(self.device, self.baud)
        except OSError as error:
            self._fail(error.strerror or str(error))
            self._tell_loop()
            return False
        self.news.append(f"{self} to {self.peer} is open at {self.baud} baud")
        self._opened.append(descriptor)
        return True

    def _tell_loop(self) -> None:
        with contextlib.suppress(OSError):  # the loop has ended
            self._wake()
