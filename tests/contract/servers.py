"""Real ZooKeeper servers on loopback addresses, started and ended by the tests."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

JAR = Path("/usr/share/java/zookeeper.jar")
MAIN = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
CLIENT_PORT = 2181
UP_WITHIN = 60.0


def why_no_zookeeper() -> str:
    if shutil.which("java") is None:
        return "java is not installed"
    return "" if JAR.exists() else f"{JAR} is not there (Debian: apt-get install zookeeper)"


def free_net() -> str:
    return f"127.{secrets.randbelow(180) + 40}.{secrets.randbelow(250) + 2}"


@dataclass
class Server:
    """One server process."""

    directory: Path
    address: str
    process: subprocess.Popen[bytes] | None = None

    @property
    def end(self) -> str:
        return f"{self.address}:{CLIENT_PORT}"

    @property
    def command(self) -> list[str]:
        return ["java", "-Xmx128m", "-XX:TieredStopAtLevel=1", "-cp", str(JAR), MAIN, str(self.directory / "zoo.cfg")]

    def start(self) -> None:
        with open(self.directory / "log", "ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def freeze(self) -> None:
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGCONT)

    def empty(self) -> None:
        """As somebody who loses the disk would."""
        for child in (self.directory / "data").glob("version-2"):
            shutil.rmtree(child)

    def serves(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((self.address, CLIENT_PORT), timeout=1) as link:
            link.sendall(b"srvr")
            return b"Mode:" in link.recv(4096)
        return False

    def wait_up(self) -> None:
        deadline = time.monotonic() + UP_WITHIN
        while not self.serves():
            assert time.monotonic() < deadline, (self.directory / "log").read_text(errors="replace")[-2000:]
            time.sleep(0.1)


@dataclass
class Ensemble:
    servers: list[Server] = field(default_factory=list)

    @property
    def hosts(self) -> str:
        return ",".join(server.end for server in self.servers)

    def start(self) -> None:
        for server in self.servers:
            if server.process is None:
                server.start()
        for server in self.servers:
            server.wait_up()

    def kill(self) -> None:
        for server in self.servers:
            server.kill()


@contextlib.contextmanager
def ensemble(directory: Path, size: int) -> Iterator[Ensemble]:
    net = free_net()
    servers = [Server(directory / f"server{number}", f"{net}.{number}") for number in range(1, size + 1)]
    quorum = "".join(f"server.{number}={net}.{number}:2888:3888\n" for number in range(1, size + 1)) if size > 1 else ""
    for number, server in enumerate(servers, 1):
        (server.directory / "data").mkdir(parents=True)
        (server.directory / "data" / "myid").write_text(f"{number}\n")
        (server.directory / "zoo.cfg").write_text(
            f"tickTime=500\ninitLimit=20\nsyncLimit=10\ndataDir={server.directory}/data\nclientPort={CLIENT_PORT}\n"
            f"clientPortAddress={server.address}\nadmin.enableServer=false\n4lw.commands.whitelist=*\n{quorum}"
        )
    made = Ensemble(servers)
    try:
        made.start()
        yield made
    finally:
        made.kill()
