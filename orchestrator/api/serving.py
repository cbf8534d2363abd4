"""Serving the API: on the node's own socket for commands, and on an address for metrics and health checks if one is given."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import uvicorn

from orchestrator.api.app import Api
from orchestrator.daemon.node import Node


class CannotListen(OSError):
    """The API's address cannot be used; says which and why."""


class _QuietServer(uvicorn.Server):
    """Leaves the signals to the daemon."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def socket_path(run: Path) -> Path:
    return run / "api.sock"


def serve_on(run: Path, address: tuple[str, int] | None) -> Callable[[Node], Awaitable[None]]:
    """Binds at once, so that a mistake is told before anything runs."""
    listeners = [(_local(socket_path(run)), True)]
    if address is not None:
        listeners.append((_tcp(*address), False))

    async def serve(node: Node) -> None:
        servers = [(_server(node, acts), listener) for listener, acts in listeners]
        try:
            await asyncio.gather(*(server.serve(sockets=[listener]) for server, listener in servers))
        finally:
            for _, listener in servers:
                listener.close()

    return serve


def _server(node: Node, acts: bool) -> _QuietServer:
    config = uvicorn.Config(
        Api(node, acts).app(),
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_keep_alive=5,
        timeout_graceful_shutdown=1,
        ws="none",
    )
    return _QuietServer(config)


def _local(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o117)
    try:
        listener.bind(str(path))
    except OSError as error:
        raise CannotListen(f"the API's socket {path}: {error.strerror or error}") from error
    finally:
        os.umask(before)
    listener.listen(64)
    return listener


def _tcp(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        raise CannotListen(f"the API's address {host}:{port}: {error.strerror}") from error
    listener.listen(64)
    return listener
