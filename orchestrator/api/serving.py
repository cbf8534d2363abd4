"""Serving the API: on the node's own socket for commands, and on an address for metrics and health checks if one is given."""

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Final

import uvicorn

from orchestrator.api.access import Door, Tokens
from orchestrator.api.app import Api
from orchestrator.api.page.paths import Page
from orchestrator.config.load import BadConfig
from orchestrator.config.models import ApiSection
from orchestrator.daemon.node import Node, log

CONNECTIONS: Final = 128
"""More at a time are answered 503."""


class CannotListen(OSError):
    """The API's address cannot be used; says which and why."""


class _QuietServer(uvicorn.Server):
    """Leaves the signals to the daemon."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def socket_path(run: Path) -> Path:
    return run / "api.sock"


def serve_on(run: Path, address: tuple[str, int] | None, section: ApiSection | None = None) -> Callable[[Node], Awaitable[None]]:
    """Binds, and reads tokens and certificates, at once, so that a mistake is told before anything runs."""
    section = section or ApiSection()
    local = _local(socket_path(run))
    outside = _tcp(*address) if address is not None else None
    tokens = _tokens(section) if outside is not None else None
    context = _tls(section) if outside is not None else None

    async def serve(node: Node) -> None:
        servers = [(_server(Api(node, Door(local=True)), None), local)]
        if outside is not None:
            door = Door(
                local=False,
                tokens=tokens,
                anonymous=section.anonymous,
                secure=context is not None or section.cleartext,
                log=log,
                registry=node.registry,
            )
            page = Page(node, door)
            servers.append((_server(Api(node, door, page.routes()), context), outside))
        try:
            await asyncio.gather(*(server.serve(sockets=[listener]) for server, listener in servers))
        finally:
            for _, listener in servers:
                listener.close()

    return serve


def _tokens(section: ApiSection) -> Tokens | None:
    try:
        return Tokens(section.tokens, log) if section.tokens is not None else None
    except BadConfig as error:
        raise CannotListen(f"api.tokens: {error}") from error


def _tls(section: ApiSection) -> ssl.SSLContext | None:
    if section.tls is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(section.tls.certificate, section.tls.key)
    except (OSError, ssl.SSLError) as error:
        raise CannotListen(f"api.tls: {section.tls.certificate} and {section.tls.key} cannot be used: {error}") from error
    return context


def _server(api: Api, context: ssl.SSLContext | None) -> _QuietServer:
    config = uvicorn.Config(
        api.app(),
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_keep_alive=5,
        timeout_graceful_shutdown=1,
        limit_concurrency=CONNECTIONS,
        server_header=False,
        proxy_headers=False,
        ws="none",
    )
    config.load()
    config.ssl = context
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
