"""PostgreSQL's own programs, run as the server's user: bounded, listened to, ended when the daemon ends."""

import asyncio
import contextlib
import os
import pwd
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.domain.spans import Span
from orchestrator.services.starting import CannotStart, close_pipes, dying_with

WORDS_KEPT = 4000
LINE_BYTES = 1 << 16


def as_user(user: str | None) -> dict[str, Any]:
    """Arguments that make a subprocess another user, with that user's groups; nothing when we are that user already."""
    if user is None or os.geteuid() != 0:
        return {}
    found = pwd.getpwnam(user)
    return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": os.getgrouplist(user, found.pw_gid)}


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Plain English and nothing of libpq's from around us: what the programs say is read here."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}
    return {**kept, "LC_ALL": "C", **(more or {})}


async def run(
    command: Sequence[str | Path],
    *,
    within: Span,
    user: str | None = None,
    env: Mapping[str, str] | None = None,
    text: str = "",
    heard: Callable[[str], None] | None = None,
) -> str:
    """Run to the end and return what was said. With `heard`, `within` bounds every silence instead of the whole.

    Raises CannotStart with the program's last words.
    """
    words = [str(word) for word in command]
    try:
        process = await asyncio.create_subprocess_exec(
            *words,
            stdin=asyncio.subprocess.PIPE if text else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd="/",
            env=environment(env),
            start_new_session=True,
            preexec_fn=dying_with(os.getpid()),
            limit=LINE_BYTES,
            **as_user(user),
        )
    except OSError as error:
        raise CannotStart(f"{shlex.join(words)}: {error}") from error
    try:
        said = await _listen(process, text, within, heard)
    except TimeoutError:
        kind = "silent for" if heard is not None else "not finished within"
        raise CannotStart(f"{words[0]}: {kind} {within:.0f} s, ended") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        close_pipes(process)
    if process.returncode != 0:
        raise CannotStart(f"{Path(words[0]).name} ended with status {process.returncode}: {said or 'it said nothing'}")
    return said


async def _listen(process: asyncio.subprocess.Process, text: str, within: Span, heard: Callable[[str], None] | None) -> str:
    if heard is None:
        said, _ = await asyncio.wait_for(process.communicate(text.encode() or None), within)
        return said.decode(errors="replace").strip()
    assert process.stdout is not None
    if process.stdin is not None:
        process.stdin.write(text.encode())
        process.stdin.close()
    kept = ""
    while line := await asyncio.wait_for(process.stdout.readline(), within):
        words = line.decode(errors="replace").rstrip()
        heard(words)
        kept = f"{kept}\n{words}"[-WORDS_KEPT:]
    await asyncio.wait_for(process.wait(), within)
    return kept.strip()
