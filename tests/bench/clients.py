"""Clients of the bench: the laboratory's, on hosts of their own, finding the primary as each tool's documentation says."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.domain.spans import Instant, Span
from orchestrator.lab.clients import ANSWER_WITHIN, Connection, Failed, RecordingClient
from orchestrator.lab.postgresql import PostgresConnection
from tests.system.hosts import Host
from tests.system.redis_servers import ask

PATIENCE: Span = 2.0
SENTINEL_PORT = 26379
MASTER = "orders"

End = tuple[str, int]


@dataclass(frozen=True)
class Connect:
    """Connects from the host that has the source address; goes to other processes too."""

    connection: type[Connection]
    hosts: dict[str, Host]

    @classmethod
    def on(cls, connection: type[Connection], hosts: Sequence[Host]) -> "Connect":
        return cls(connection, {host.address: replace(host, switch=None, processes=[]) for host in hosts})  # type: ignore[arg-type]

    def __call__(self, address: End, source: str, give_up: Callable[[], bool] = lambda: False) -> Connection:
        return self.hosts[source].inside(lambda: self.connection(address, source, give_up))


class PatientPostgresConnection(PostgresConnection):
    """For watchers: a commit that waits for a synchronous standby keeps its server process, so another try takes one more.

    Ten a second would use up the server's connections, and the bench would be the cause of what it measures.
    """

    def _until_ready(self, until: Instant) -> None:
        super()._until_ready(until + PATIENCE)


class SearchingClient(RecordingClient):
    """Finds the primary anew whenever a write fails."""

    def __init__(self, connect: Any, source: str, every: Span) -> None:
        super().__init__(connect, Path("/nonexistent"), source, every)

    def _leads_to(self) -> End | None:
        return self._target

    def _write(self) -> None:
        if self._connection is None:
            self._target = self._find()
            self._connection = self._connect(self._target, self._source)
        super()._write()

    def _find(self) -> End:
        raise NotImplementedError


class HostsClient(SearchingClient):
    """One server after the other until one accepts a write: libpq with several hosts and target_session_attrs=read-write.

    libpq waits at least 2 s for a host that does not answer, and begins with the first one each time; this client waits 0.1 s
    and goes on with the next, so that the tool is measured and not its client.
    """

    def __init__(self, connect: Any, source: str, every: Span, ends: Sequence[End]) -> None:
        super().__init__(connect, source, every)
        self._ends = list(ends)
        self._next = 0

    def _find(self) -> End:
        found = self._ends[self._next % len(self._ends)]
        self._next += 1
        return found


class SentinelClient(SearchingClient):
    """Asks one Sentinel after the other for the master's address, and again when the connection fails or it is none."""

    def __init__(self, connect: Any, client: Host, every: Span, sentinels: Sequence[str]) -> None:
        super().__init__(connect, client.address, every)
        self._host = client
        self._sentinels = list(sentinels)

    def _find(self) -> End:
        for address in self._sentinels:
            try:
                return self._host.inside(lambda end=(address, SENTINEL_PORT): self._ask(end))
            except (OSError, ValueError):
                continue
        raise Failed("no Sentinel knows the master")

    def _ask(self, end: End) -> End:
        words = ("SENTINEL", "get-master-addr-by-name", MASTER)
        host, port = ask(end, *words, source=self._source, within=ANSWER_WITHIN).split()
        return host, int(port)
