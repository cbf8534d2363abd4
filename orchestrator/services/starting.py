"""Running a command on behalf of a service: bounded, its words kept, ended when the daemon ends."""

import asyncio
import contextlib
import ctypes
import os
import signal
from collections.abc import Callable, Sequence

from orchestrator.domain.spans import Span, in_words

PR_SET_PDEATHSIG = 1
WORDS_KEPT = 2000
LAST_WORDS_WITHIN: Span = 0.1
LOOK_EVERY: Span = 0.01


class CannotStart(RuntimeError):
    """The command failed; says how."""


def dying_with(parent: int) -> Callable[[], None]:
    """For the child, before it becomes the command: end when the daemon ends (design, rule 13: helpers die with it).

    A parent that has died already sends no signal any more.
    """

    def prepare() -> None:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return prepare


async def run_command(command: Sequence[str], *, within: Span, user: str | None = None, text: bytes = b"") -> str:
    """Run to its end and return what it said. Raises CannotStart with its words."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE if text else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            user=user,
            start_new_session=True,
            preexec_fn=dying_with(os.getpid()),
        )
    except (OSError, PermissionError) as error:
        raise CannotStart(str(error)) from error
    try:
        async with asyncio.timeout(within):
            said = await _hear(process, text)
    except TimeoutError:
        await _end(process)
        raise CannotStart(f"not finished within {in_words(within)}, killed") from None
    except asyncio.CancelledError:
        await _end(process)
        raise
    finally:
        close_pipes(process)
    words = said.decode(errors="replace")[-WORDS_KEPT:].strip()
    if process.returncode != 0:
        raise CannotStart(f"ended with status {process.returncode}: {words or 'it said nothing'}")
    return words


def close_pipes(process: asyncio.subprocess.Process) -> None:
    """Our end of them: whoever the command left behind may keep the other one open for good. asyncio has no other way."""
    process._transport.close()  # type: ignore[attr-defined]


async def _hear(process: asyncio.subprocess.Process, text: bytes) -> bytes:
    """What it said until it ended; whoever it left behind may keep the pipe open for good."""
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.write(text)
            await process.stdin.drain()
        process.stdin.close()
    assert process.stdout is not None
    said = bytearray()

    async def read(stream: asyncio.StreamReader) -> None:
        while part := await stream.read(65536):
            said.extend(part)

    reading = asyncio.ensure_future(read(process.stdout))
    try:
        while process.returncode is None and not reading.done():  # wait() of Python 3.11 waits for the pipe too
            await asyncio.wait([reading], timeout=LOOK_EVERY)
        if process.returncode is None:
            await process.wait()
        await asyncio.wait([reading], timeout=LAST_WORDS_WITHIN)
    finally:
        reading.cancel()
    return bytes(said)


async def _end(process: asyncio.subprocess.Process) -> None:
    """With whatever it has started: it leads a session of its own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
