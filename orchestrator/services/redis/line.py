"""A line to one Redis server: a client that repeats nothing by itself, and knows which process it speaks to."""

from typing import Any, Final

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

from orchestrator.keeper.tree import started
from orchestrator.services.redis.settings import RedisSettings

ADMIN_SOURCE: Final = "127.84.73.1"
"""The one source address on this host that a closed gate lets through (keeper/gate.py)."""


class _AdminConnection(redis.Connection):
    def _connection_arguments(self) -> dict[str, Any]:
        return {**super()._connection_arguments(), "local_addr": (ADMIN_SOURCE, 0)}


class _AdminTlsConnection(redis.SSLConnection):
    def _connection_arguments(self) -> dict[str, Any]:
        return {**super()._connection_arguments(), "local_addr": (ADMIN_SOURCE, 0)}


class Line:
    """Reconnects by itself; whenever it did, the process at its other end is asked for anew."""

    def __init__(self, settings: RedisSettings) -> None:
        self._settings = settings
        self._identity: tuple[int, int, str] | None = None
        self.client = self._connect()

    def _connect(self) -> redis.Redis:
        settings = self._settings
        common: dict[str, Any] = {
            "username": settings.user,
            "password": settings.password(),
            "retry": Retry(NoBackoff(), 0),
            "decode_responses": True,
            "protocol": 2,
            "redis_connect_func": self._connected,
        }
        if settings.socket is not None:
            common |= {"connection_class": redis.UnixDomainSocketConnection, "path": settings.socket}
        elif settings.tls is not None:
            tls = settings.tls
            common |= {"ssl_ca_certs": tls.ca, "ssl_certfile": tls.certificate, "ssl_keyfile": tls.key}
            common |= {"connection_class": _AdminTlsConnection, "host": settings.host, "port": settings.port}
        else:
            common |= {"connection_class": _AdminConnection, "host": settings.host, "port": settings.port}
        return redis.Redis.from_pool(redis.ConnectionPool(**common))

    async def _connected(self, connection: Any) -> None:
        self._identity = None
        await connection.on_connect()

    async def anew(self) -> None:
        """After a failure: nothing that was asked on the old connection may be mistaken for a later answer."""
        self._identity = None
        await self.client.aclose()
        self.client = self._connect()

    async def close(self) -> None:
        await self.client.aclose()

    async def process(self) -> tuple[int, int, str]:
        """Number and start of the server's process, and its software. Raises redis-py's exceptions."""
        if self._identity is None:
            server = await self.client.info("server")
            pid = int(server["process_id"])
            began = started(pid)
            if began is None:
                raise RedisConnectionError(f"process {pid} has ended, or runs in another process namespace")
            self._identity = (pid, began, f"Redis {server['redis_version']}")
        return self._identity
