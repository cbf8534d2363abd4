"""Redis in the laboratory."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import redis

from orchestrator.lab.clients import RedisConnection
from orchestrator.lab.kinds import Kind, LabError

CONFIG: Final = """\
port {port}
bind {address}
protected-mode no
dir {directory}
pidfile {directory}/redis.pid
logfile {directory}/redis.log
save ""
appendonly no
repl-diskless-sync yes
repl-diskless-sync-delay 0
repl-backlog-size 67108864
repl-timeout 5
"""
AT_ONCE: Final = 500
"""Keys that are asked for in one round trip."""


class RedisKind(Kind):
    name = "redis"
    says = "Redis"
    port = 6379
    connection = RedisConnection

    def __init__(self, program: str = "redis-server") -> None:
        self.program = program

    def require(self) -> None:
        if shutil.which(self.program) is None:
            raise LabError(
                f"{self.program} is not there; Debian: apt-get install redis-server, without root: pip install 'tanist[lab]'"
            )

    def prepare_host(self, directory: Path, address: str) -> None:
        (directory / "redis.conf").write_text(CONFIG.format(port=self.port, address=address, directory=directory))

    def group_section(self) -> dict[str, Any]:
        return {"redis": {"port": self.port, "program": self.program}}

    def member_section(self, directory: Path) -> dict[str, Any]:
        return {"redis": {"config": str(directory / "redis.conf")}}

    def pid_file(self, directory: Path) -> Path:
        return directory / "redis.pid"

    def lost(self, address: str, source: str, numbers: Sequence[int]) -> list[int]:
        lost: list[int] = []
        with redis.Redis(address, self.port) as server:
            for begin in range(0, len(numbers), AT_ONCE):
                part = numbers[begin : begin + AT_ONCE]
                found = server.mget([f"client:{number}" for number in part])
                assert isinstance(found, list)
                lost += [number for number, value in zip(part, found, strict=True) if value != str(number).encode()]
        return lost

    def take_lost(self, address: str, source: str, numbers: Sequence[int]) -> int:
        lost = self.lost(address, source, numbers)
        with redis.Redis(address, self.port) as server:
            for begin in range(0, len(numbers), AT_ONCE):
                server.delete(*[f"client:{number}" for number in numbers[begin : begin + AT_ONCE]])
        return len(lost)

    def end_of_data(self, address: str, source: str) -> int:
        return int(self._replication(address)["master_repl_offset"])

    def arrived(self, address: str, source: str) -> list[int]:
        found = self._replication(address)
        standbys = [found[f"slave{number}"] for number in range(int(found["connected_slaves"]))]
        return [int(each["offset"]) for each in standbys if each["state"] == "online"]

    def _replication(self, address: str) -> dict[str, Any]:
        with redis.Redis(address, self.port, decode_responses=True) as server:
            found: dict[str, Any] = server.info("replication")
            return found

    def leftovers(self, directory: Path, address: str, me: str, members: Sequence[str]) -> list[str]:
        return [f"the file of a copy that was broken off: {path.name}" for path in sorted(directory.glob("temp-*.rdb"))]

    def version(self, address: str, source: str) -> str:
        with redis.Redis(address, self.port, decode_responses=True) as server:
            found: Any = server.info("server")
        return str(found["redis_version"])
