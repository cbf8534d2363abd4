"""The kinds of service that the laboratory can run: how each is prepared, reached, written to and asked what it kept."""

import contextlib
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from orchestrator.lab.clients import Connection
from orchestrator.services.divergence import Kept


class LabError(RuntimeError):
    """The laboratory cannot do what was asked; says why, and what would cure it."""


class Kind(ABC):
    """One kind of service."""

    name: ClassVar[str]
    """As `service:` in the configuration says it."""
    says: ClassVar[str]
    """As people say it."""
    port: ClassVar[int]
    connection: ClassVar[type[Connection]]

    @abstractmethod
    def require(self) -> None:
        """Raises LabError with the cure when its programs are missing."""

    def prepare(self, directory: Path) -> None:
        """Before any host is made, in the laboratory's own directory."""

    @abstractmethod
    def prepare_host(self, directory: Path, address: str) -> None:
        """The files that a member's server begins with."""

    @abstractmethod
    def group_section(self) -> dict[str, Any]:
        """What the configuration file says of all members."""

    @abstractmethod
    def member_section(self, directory: Path) -> dict[str, Any]: ...

    def policy(self) -> dict[str, Any]:
        """Over the laboratory's own policy."""
        return {}

    @abstractmethod
    def pid_file(self, directory: Path) -> Path:
        """Its first line is the number of the main process."""

    def end(self, pid: int) -> None:
        """End a server for good, at the laboratory's end."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    @abstractmethod
    def lost(self, address: str, source: str, numbers: Sequence[int]) -> list[int]:
        """Those of the acknowledged writes that are not there."""

    @abstractmethod
    def end_of_data(self, address: str, source: str) -> int:
        """Where the primary's data ends now."""

    @abstractmethod
    def arrived(self, address: str, source: str) -> list[int]:
        """How far each standby has the data that streams from this primary, as the primary knows."""

    def leftovers(self, directory: Path, address: str, me: str, members: Sequence[str]) -> list[str]:
        """What a running member holds that no member should hold for good, in words."""
        return []

    def sizes(self, directory: Path) -> dict[str, int]:
        """Bytes of what could grow without end."""
        return {}

    @abstractmethod
    def take_lost(self, address: str, source: str, numbers: Sequence[int]) -> int:
        """How many of the acknowledged writes are not there; then all of them are removed, for the next run."""

    def senders(self, main_pid: int) -> list[int]:
        """The primary's processes that send its data to standbys, where they can be told apart."""
        return []

    def saved(self, kept: Kept) -> set[int] | None:
        """Numbers of the clients' writes that a member saved because its successor had not got them; None: it saves none."""
        return None

    @abstractmethod
    def version(self, address: str, source: str) -> str: ...
