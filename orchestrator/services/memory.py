"""A replicated service in memory: just enough of one to be promoted, demoted, frozen, killed, and to lose data."""

from dataclasses import dataclass, field

from orchestrator.domain.observations import Role, ServiceView
from orchestrator.domain.positions import Position


@dataclass(slots=True)
class Instance:
    """One member's service. What it commits is a growing offset in a history; promotion begins a new history."""

    address: tuple[str, int]
    history: str = "none"
    offset: int = 0
    role: Role = Role.STANDBY
    upstream: tuple[str, int] | None = None
    link_up: bool = False
    running: bool = False
    frozen: bool = False
    held: bool = False
    pid: int = 0
    past: dict[str, int] = field(default_factory=dict)
    """Histories that this copy's history grew out of, and how far it shares them."""
    covered: tuple[str, ...] = ()
    """Standbys that must have a write before it is acknowledged."""
    enough: int | None = None
    """How many of them; None: each."""
    durable: bool = False

    def start(self, pid: int) -> None:
        """It always starts as a standby of nobody: a primary is made by promotion only."""
        self.running, self.frozen, self.held = True, False, False
        self.role, self.upstream, self.link_up = Role.STANDBY, None, False
        self.pid = pid

    def stop(self) -> None:
        self.running = self.frozen = self.link_up = self.held = False

    def promote(self, history: str) -> None:
        if self.role is not Role.PRIMARY:
            self.past = {**self.past, self.history: self.offset}
            self.history, self.role, self.upstream, self.link_up = history, Role.PRIMARY, None, False
        self.held = False

    def follow(self, upstream: tuple[str, int] | None) -> None:
        if self.role is Role.PRIMARY or self.upstream != upstream:
            self.link_up = False
        self.role, self.upstream, self.held = Role.STANDBY, upstream, False

    def pull(self, source: "Instance") -> None:
        """Copy what the source has; a copy that shares no history with it is replaced as a whole."""
        self.history, self.offset, self.past = source.history, source.offset, dict(source.past)
        self.link_up = True

    def holds(self, history: str, offset: int) -> bool:
        """Whether everything up to there is in this copy."""
        return self.offset >= offset if self.history == history else self.past.get(history, -1) >= offset

    def can_commit(self) -> bool:
        return self.running and not self.frozen and self.role is Role.PRIMARY and not self.held

    def view(self) -> ServiceView:
        return ServiceView(
            role=self.role,
            position=Position(self.history, self.offset, tuple(self.past.items())[-2:]),
            pid=self.pid,
            process_started=self.pid,
            upstream=self.upstream,
            link_up=self.link_up,
            empty=self.offset == 0,
            durable=self.durable,
            writes_held=self.held,
        )
