"""The faults of the design's table, on whatever tool is measured; each knows how to mend itself."""

import contextlib
import os
import signal
from abc import ABC, abstractmethod

from orchestrator.domain.spans import Span
from orchestrator.keeper.tree import Tree
from tests.bench.system import FAULTS, System, drop_vip, kill, stop_tree
from tests.bench.tanist import Tanist

AWAY: Span = 60.0
"""How long the arbiter is away."""


class Fault(ABC):
    says = ""
    lasts: Span = 0.0
    """It is left as it is for so long before it is mended, even if clients are served."""

    def __init__(self, system: System, primary: str) -> None:
        self.system = system
        self.primary = primary
        self.host = system.on[primary]

    @abstractmethod
    def inject(self) -> None: ...

    def mend(self) -> None: ...


class ServiceKilled(Fault):
    says = "service process killed"

    def inject(self) -> None:
        kill(self.system.service_pid(self.primary))

    def mend(self) -> None:
        self.system.revive(self.primary)


class PowerLoss(Fault):
    says = "power loss of the primary's host"

    def inject(self) -> None:
        """Off the network first: a host without power says no goodbye."""
        self.host.isolate()
        self.host.kill_all()
        self.host.processes.clear()
        drop_vip(self.host)

    def mend(self) -> None:
        self.host.heal()
        self.system.boot(self.primary)


class Isolated(Fault):
    says = "primary's host isolated"

    def __init__(self, system: System, primary: str) -> None:
        super().__init__(system, primary)
        self.lasts = system.hold

    def inject(self) -> None:
        self.host.isolate()

    def mend(self) -> None:
        self.host.heal()


class ServiceHung(Fault):
    says = "service hung (SIGSTOP)"
    tree: Tree | None = None

    def inject(self) -> None:
        self.tree = stop_tree(self.system.service_pid(self.primary))

    def mend(self) -> None:
        if self.tree is not None and not self.tree.is_empty():
            with contextlib.suppress(ProcessLookupError):
                self.tree.go_on()
        self.system.revive(self.primary)


class Switchover(Fault):
    says = "switchover under load"

    def inject(self) -> None:
        self.system.switchover(self.primary)


class ArbiterAway(Fault):
    says = f"arbiter away for {AWAY:.0f} s"
    lasts = AWAY

    def inject(self) -> None:
        for name in self.system.arbiters():
            self.system.on[name].isolate()

    def mend(self) -> None:
        for name in self.system.arbiters():
            self.system.on[name].heal()


class AgentKilled(Fault):
    says = "agent on the primary's host killed"

    def __init__(self, system: System, primary: str) -> None:
        super().__init__(system, primary)
        self.lasts = system.hold

    def inject(self) -> None:
        for pid in self.system.agents(self.primary):
            kill(pid)

    def mend(self) -> None:
        self.system.start_agents(self.primary)


class Frozen(Fault):
    """Stops processes, and lets them go on."""

    def __init__(self, system: System, primary: str) -> None:
        super().__init__(system, primary)
        self.lasts = system.hold
        self._stopped: list[int] = []

    def pids(self) -> list[int]:
        return self.system.agents(self.primary)

    def inject(self) -> None:
        for pid in self.pids():
            os.kill(pid, signal.SIGSTOP)
            self._stopped.append(pid)

    def mend(self) -> None:
        for pid in self._stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


class AgentFrozen(Frozen):
    says = "agent on the primary's host frozen (SIGSTOP)"


class KeeperKilled(Fault):
    says = "keeper killed"

    def inject(self) -> None:
        assert isinstance(self.system, Tanist)
        kill(self.system.keeper(self.primary))


class KeeperFrozen(Frozen):
    says = "keeper frozen (SIGSTOP)"

    def pids(self) -> list[int]:
        assert isinstance(self.system, Tanist)
        return [self.system.keeper(self.primary)]


class BothFrozen(KeeperFrozen):
    says = "daemon and keeper frozen (SIGSTOP), service running"

    def pids(self) -> list[int]:
        return [*self.system.agents(self.primary), *super().pids()]


KINDS: dict[str, type[Fault]] = dict(
    zip(
        FAULTS,
        [
            ServiceKilled,
            PowerLoss,
            Isolated,
            ServiceHung,
            Switchover,
            ArbiterAway,
            AgentKilled,
            AgentFrozen,
            KeeperKilled,
            KeeperFrozen,
            BothFrozen,
        ],
        strict=True,
    )
)
