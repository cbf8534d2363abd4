"""The network between simulated hosts: late, lossy, doubling, and cut one way at a time."""

from collections.abc import Callable
from random import Random

from orchestrator.simulation.settings import Settings


class Network:
    def __init__(self, random: Random, settings: Settings) -> None:
        self._random = random
        self._settings = settings
        self._cuts: set[tuple[str, str]] = set()
        self.loss = settings.loss
        self.delay = 0.0
        """Added to every datagram: a path that delivers everything late."""
        self.lag: dict[tuple[str, str], float] = {}
        """Added one way only."""

    def cut(self, source: str, target: str) -> None:
        """Nothing passes from source to target; the other way stays."""
        self._cuts.add((source, target))

    def isolate(self, name: str, others: list[str]) -> None:
        for other in others:
            self._cuts |= {(name, other), (other, name)}

    def heal(self) -> None:
        self._cuts.clear()
        self.loss = self._settings.loss
        self.delay = 0.0
        self.lag.clear()

    def passes(self, source: str, target: str) -> bool:
        return (source, target) not in self._cuts

    def latency(self) -> float:
        least, most = self._settings.latency
        stretch = 10.0 if self._random.random() < 0.1 else 1.0
        return self.delay + self._random.uniform(least, most * stretch)

    def deliver(self, source: str, target: str, later: Callable[[float], None]) -> None:
        """Call `later(delay)` once per copy that arrives."""
        if not self.passes(source, target) or self._random.random() < self.loss:
            return
        lag = self.lag.get((source, target), 0.0)
        later(lag + self.latency())
        if self._random.random() < self._settings.duplication:
            later(lag + self.latency())
