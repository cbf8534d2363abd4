"""The faults of the laboratory: each breaks one thing on the primary's host, and knows how to mend it again."""

import os
import signal
import sqlite3
import subprocess
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import Final

from orchestrator.api.client import NoDaemon, Refused
from orchestrator.domain.spans import Span
from orchestrator.keeper.gate import ADMIN_SOURCE, why_impossible
from orchestrator.keeper.tree import Tree, started
from orchestrator.lab.disks import Disk
from orchestrator.lab.group import GROUP, Host, LabGroup
from orchestrator.lab.kinds import LabError

RESTART_AFTER: Span = 1.0
"""How long a process stays dead before it is started again, as a supervisor would."""


class Fault(ABC):
    """Made for one run; `inject` at the moment of the fault, `mend` afterwards."""

    says = ""
    moves_the_role = True
    """Another member is expected to become primary."""
    loses_writes = True
    """Acknowledged writes may be lost, because replication is asynchronous and the primary's data is out of reach."""
    lasts: Span = 0.0
    """How long it is left as it is before it is mended."""
    only_for: str | None = None
    """The one kind of service that it can be tried on."""
    needs_disk = False
    """Every member must have a file system of its own."""

    def __init__(self, group: LabGroup, primary: Host) -> None:
        self.group = group
        self.primary = primary

    @abstractmethod
    def inject(self) -> None: ...

    def mend(self) -> None: ...

    def why_not(self) -> str:
        """Why it cannot be injected here; empty when it can."""
        return ""

    def why_not_this_group(self) -> str:
        if self.only_for not in (None, self.group.kind.name):
            return f"it is for {self.only_for} only"
        if self.needs_disk and self.primary.disk is None:
            return "the group was made without a disk for each member"
        return ""

    # --- what they share ---------------------------------------------------------------------------------------------

    def _service(self) -> int:
        return _needed(self.primary.service_pid(), f"{self.primary.name} has no {self.group.kind.says} running")

    def _keeper(self) -> int:
        return _needed(self.primary.keeper_pid(self.group.run), f"{self.primary.name} has no keeper")

    def _daemon(self) -> int:
        return _needed(self.primary.daemon.pid if self.primary.daemon else None, f"{self.primary.name} has no daemon")

    def _disk(self) -> Disk:
        if self.primary.disk is None:
            raise LabError(f"{self.primary.name} has no disk of its own")
        return self.primary.disk

    def _restart_daemon(self) -> None:
        assert self.primary.daemon is not None
        self.primary.daemon.popen.wait(5)
        self.group.start_daemon(self.primary)


def _needed(pid: int | None, otherwise: str) -> int:
    if pid is None:
        raise LabError(otherwise)
    return pid


class ServiceKilled(Fault):
    says = "the primary's server is killed (SIGKILL)"

    def inject(self) -> None:
        os.kill(self._service(), signal.SIGKILL)


class HostKilled(Fault):
    says = "every process of the primary's host is killed at once: daemon, keeper, server and all that they have started"
    lasts = RESTART_AFTER

    def inject(self) -> None:
        """Whatever runs there: a host may lose its power while it has no server, or no keeper yet."""
        host = self.primary
        pids = (host.daemon.pid if host.daemon else None, host.keeper_pid(self.group.run), host.service_pid())
        trees = [Tree(pid, began) for pid in pids if pid is not None and (began := started(pid)) is not None]
        for tree in trees:
            tree.stop()  # first of all of them: none sees another one die
        for tree in trees:
            tree.kill()
        self._killed = host.daemon

    def mend(self) -> None:
        if self.primary.daemon is self._killed:  # nobody else has brought it back
            self._restart_daemon()


class Isolated(Fault):
    says = "the primary's host is cut off from every other host, and from the mediator"

    def __init__(self, group: LabGroup, primary: Host) -> None:
        super().__init__(group, primary)
        self.lasts = max(3.0, 4 * group.settings.lease)
        self._table = f"tanist_cut_{group.cluster.replace('-', '_')}"

    def why_not(self) -> str:
        if self.group.settings.mediator:
            return "the laboratory cuts hosts off from a mediator of its own only"
        reason = why_impossible()
        return f"cutting a host off takes kernel rules: {reason}" if reason else ""

    def inject(self) -> None:
        """Its own processes still reach each other: an isolated host works on, inside."""
        address = self.primary.address
        allowed = f"{{ {address}, {ADMIN_SOURCE} }}"
        rules = "\n".join(
            [
                f"add table inet {self._table}",
                f"add chain inet {self._table} out {{ type filter hook output priority -20; policy accept; }}",
                f"add rule inet {self._table} out ip saddr {address} ip daddr != {allowed} drop",
                f"add rule inet {self._table} out ip daddr {address} ip saddr != {allowed} drop",
            ]
        )
        _nft(rules)
        self.primary.mediator_link.unlink()

    def mend(self) -> None:
        self.group.join_mediator(self.primary)
        _nft(f"delete table inet {self._table}")


def _nft(rules: str) -> None:
    done = subprocess.run(["nft", "-f", "-"], input=rules, text=True, capture_output=True, check=False)
    if done.returncode != 0:
        raise LabError(f"nft refused: {done.stderr.strip()}")


class ServiceHung(Fault):
    says = "the primary's server hangs (SIGSTOP)"

    def __init__(self, group: LabGroup, primary: Host) -> None:
        super().__init__(group, primary)
        self._tree: Tree | None = None

    def inject(self) -> None:
        pid = self._service()
        self._tree = Tree(pid, started(pid) or 0)
        self._tree.stop()

    def mend(self) -> None:
        if self._tree is not None and not self._tree.is_empty():
            with suppress(ProcessLookupError):
                self._tree.go_on()


class Switchover(Fault):
    says = "a person asks for a switchover"
    loses_writes = False

    def inject(self) -> None:
        try:
            self.primary.api.post(f"/v1/groups/{GROUP}/switchover", {"by": "lab"})
        except (NoDaemon, Refused) as error:
            raise LabError(f"the switchover was refused: {error}") from error


class MediatorLost(Fault):
    says = "the mediator answers nobody (its file is locked)"
    moves_the_role = False
    loses_writes = False

    def __init__(self, group: LabGroup, primary: Host, lasts: Span = 60.0) -> None:
        super().__init__(group, primary)
        self.lasts = lasts
        self._lock: sqlite3.Connection | None = None

    def why_not(self) -> str:
        return "the laboratory breaks only a mediator of its own" if self.group.settings.mediator else ""

    def inject(self) -> None:
        """Nobody can write because of the lock, and nobody reaches the file because its way there is cut."""
        self._lock = sqlite3.connect(self.group.mediator, isolation_level=None, timeout=5.0)
        self._lock.execute("BEGIN IMMEDIATE")
        for host in self.group.hosts.values():
            host.mediator_link.unlink(missing_ok=True)

    def mend(self) -> None:
        if self._lock is not None:
            self._lock.execute("ROLLBACK")
            self._lock.close()
            self._lock = None
        for host in self.group.hosts.values():
            self.group.join_mediator(host)


class DaemonKilled(Fault):
    says = "the primary's daemon is killed (SIGKILL), and started again a while later"
    moves_the_role = False
    loses_writes = False

    def __init__(self, group: LabGroup, primary: Host) -> None:
        super().__init__(group, primary)
        self.lasts = max(2.0, 3 * group.settings.lease)

    def inject(self) -> None:
        os.kill(self._daemon(), signal.SIGKILL)

    def mend(self) -> None:
        self._restart_daemon()


class DaemonFrozen(Fault):
    says = "the primary's daemon is frozen (SIGSTOP) for several leases"
    moves_the_role = False
    loses_writes = False

    def __init__(self, group: LabGroup, primary: Host) -> None:
        super().__init__(group, primary)
        self.lasts = max(2.0, 5 * group.settings.lease)

    def inject(self) -> None:
        os.kill(self._daemon(), signal.SIGSTOP)

    def mend(self) -> None:
        os.kill(self._daemon(), signal.SIGCONT)


class KeeperKilled(Fault):
    says = "the primary's keeper is killed (SIGKILL); the daemon starts it again"
    moves_the_role = False
    loses_writes = False

    def inject(self) -> None:
        os.kill(self._keeper(), signal.SIGKILL)


class KeeperFrozen(Fault):
    says = "the primary's keeper is frozen (SIGSTOP); the daemon replaces it"
    moves_the_role = False
    loses_writes = False

    def inject(self) -> None:
        os.kill(self._keeper(), signal.SIGSTOP)


class BothFrozen(Fault):
    says = "the primary's daemon and keeper are frozen (SIGSTOP) while the server runs on: the kernel gate alone is left"

    def __init__(self, group: LabGroup, primary: Host) -> None:
        super().__init__(group, primary)
        self.lasts = max(3.0, 4 * group.settings.lease)
        self._pids: tuple[int, ...] = ()

    def why_not(self) -> str:
        reason = why_impossible()
        return f"without the kernel gate nothing would end the right: {reason}" if reason else ""

    def inject(self) -> None:
        self._pids = (self._daemon(), self._keeper())
        for pid in self._pids:
            os.kill(pid, signal.SIGSTOP)

    def mend(self) -> None:
        for pid in self._pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


class DiskStalled(Fault):
    says = "the disk of the primary's data stalls: whoever writes waits in the kernel (a frozen ext4 file system)"
    only_for = "postgresql"
    needs_disk = True

    def __init__(self, group: LabGroup, primary: Host) -> None:
        super().__init__(group, primary)
        self.lasts = 2.0 + 3 * group.settings.lease

    def inject(self) -> None:
        self._disk().freeze()

    def mend(self) -> None:
        self._disk().thaw()


class DiskFull(Fault):
    says = "the disk of the primary's data is full to the last block"
    only_for = "postgresql"
    needs_disk = True
    lasts = 3.0

    def inject(self) -> None:
        self._disk().fill()

    def mend(self) -> None:
        self._disk().make_room()


class MainProcessStopped(Fault):
    says = "the primary's postmaster is stopped (SIGSTOP) while its backends serve on"
    only_for = "postgresql"

    def __init__(self, group: LabGroup, primary: Host) -> None:
        super().__init__(group, primary)
        self._stopped = 0

    def inject(self) -> None:
        self._stopped = self._service()
        os.kill(self._stopped, signal.SIGSTOP)

    def mend(self) -> None:
        if self._stopped and self.primary.service_pid() == self._stopped:
            os.kill(self._stopped, signal.SIGCONT)


FAULTS: Final[dict[str, type[Fault]]] = {
    "F1": ServiceKilled,
    "F2": HostKilled,
    "F3": Isolated,
    "F4": ServiceHung,
    "F5": Switchover,
    "F6": MediatorLost,
    "F7": DaemonKilled,
    "F8": DaemonFrozen,
    "F9": KeeperKilled,
    "F9-frozen": KeeperFrozen,
    "F10": BothFrozen,
    "stalled-disk": DiskStalled,
    "full-disk": DiskFull,
    "stopped-postmaster": MainProcessStopped,
}
