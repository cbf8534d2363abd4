"""The paths to the other nodes: beats out and in, and how well each path does."""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.domain.observations import PathView
from orchestrator.domain.spans import FOREVER, NEVER, Instant, Span
from orchestrator.keeper.line import SerialLine
from orchestrator.keeper.setup import KeeperSetup
from probes.interconnected.udp import UdpPath
from probes.interconnected.wire import BadBeat, Codec, Section, pack_section

SMOOTHING = 1 / 8
"""Weight of a new round trip in the average, as in RFC 6298 (section 2)."""

WINDOW = 64
"""Datagrams over which loss is told."""

FROM_AFTER_RESTART = 1000
"""A count that falls back by more than this is a peer that began to count anew."""


class BadKey(ValueError):
    """A key file that cannot be used; says which and why."""


@dataclass(slots=True)
class PathState:
    """One path to one peer."""

    heard_at: Instant = NEVER
    count: int = -1
    expected: int = 0
    arrived: int = 0
    loss: float = 0.0
    round_trip: Span | None = None
    sent: int = 0


def read_keys(files: tuple[str, ...]) -> tuple[bytes, ...]:
    keys = []
    for name in files:
        try:
            key = Path(name).read_bytes().strip()
        except OSError as error:
            raise BadKey(f"key file {name}: {error.strerror}") from error
        if len(key) < 16:
            raise BadKey(f"key file {name} holds {len(key)} bytes; a key needs at least 16 (`tanist key` makes one)")
        keys.append(key)
    return tuple(keys)


class Links:
    def __init__(self, setup: KeeperSetup) -> None:
        self.codec = Codec(setup.cluster, setup.node, read_keys(setup.keys))
        self.paths = [
            UdpPath((path.host, path.port), {each.peer: (each.host, each.port) for each in path.peers}) for path in setup.paths
        ]
        self.lines = [
            SerialLine(line.peer, line.device, line.baud, setup.beat_every(line.peer), self.codec.room) for line in setup.lines
        ]
        self._by_descriptor = {path.fileno(): number for number, path in enumerate(self.paths)}
        self.counts: Counter[tuple[str, str]] = Counter()
        self._names = [str(each) for each in (*self.paths, *self.lines)]
        """Of each path by its number: first the network, then the lines."""
        self.states: dict[tuple[str, int], PathState] = {
            (peer, number): PathState() for number, path in enumerate(self.paths) for peer in path.peers
        }
        self.states |= {(line.peer, number): PathState() for number, line in self._numbered_lines()}
        self._outbox: dict[str, list[Section]] = {}
        self._last: PathState | None = None

    def _numbered_lines(self) -> Iterator[tuple[int, SerialLine]]:
        return enumerate(self.lines, len(self.paths))

    # --- out ---------------------------------------------------------------------------------------------------------

    def post(self, peer: str, section: Section) -> None:
        """Goes out with the next `flush`, together with what other groups have for the same peer."""
        self._outbox.setdefault(peer, []).append(section)

    def flush(self) -> None:
        outbox, self._outbox = self._outbox, {}
        for peer, sections in outbox.items():
            for batch in self.codec.batches([pack_section(section) for section in sections]):
                self._send(peer, batch)
        for number, line in self._numbered_lines():
            self._flush_line(number, line, outbox.get(line.peer, []))

    def _flush_line(self, number: int, line: SerialLine, sections: list[Section]) -> None:
        label = f"{line.peer}|{line}"
        if line.trouble:
            self.counts["beats_unsendable", label] += len(sections)
            return
        late = sum(line.waiting.put(section) for section in sections)
        if late:
            self.counts["beats_unsendable", label] += late
        moment = time.clock_gettime(time.CLOCK_BOOTTIME)
        line.send_on(moment)
        if line.is_free(moment):
            state = self.states[line.peer, number]
            state.sent += 1
            self.counts["beats_sent", label] += 1
            line.send(self.codec.seal(line.waiting.take(moment), number, state.sent), moment)

    def wake_at(self) -> Instant:
        """When `flush` must be called at the latest."""
        return min((line.wake_at() for line in self.lines), default=FOREVER)

    def _send(self, peer: str, batch: bytes) -> None:
        for number, path in enumerate(self.paths):
            state = self.states.get((peer, number))
            if state is None:
                continue
            state.sent += 1
            label = f"{peer}|{path}"
            if path.send(peer, self.codec.seal(batch, number, state.sent)):
                self.counts["beats_sent", label] += 1
            else:
                self.counts["beats_unsendable", label] += 1

    # --- in ----------------------------------------------------------------------------------------------------------

    def is_path(self, descriptor: int) -> bool:
        return descriptor in self._by_descriptor

    def receive(self, descriptor: int) -> list[tuple[str, Section]]:
        """Every section that has arrived on this path, authentic and from whom it says."""
        number = self._by_descriptor[descriptor]
        path = self.paths[number]
        heard: list[tuple[str, Section]] = []
        while True:
            try:
                received = path.receive()
            except BadBeat as bad:
                self.counts["beats_refused", bad.kind] += 1
                continue
            if received is None:
                return heard
            heard += self._opened(number, *received)

    def receive_line(self, line: SerialLine) -> list[tuple[str, Section]]:
        """What has arrived on a serial line; a line that was lost meanwhile brings nothing more."""
        before = line.garbage
        number = len(self.paths) + self.lines.index(line)
        heard = [each for datagram in line.receive() for each in self._opened(number, line.peer, datagram)]
        if line.garbage > before:
            self.counts["beats_refused", "noise"] += line.garbage - before
        return heard

    def _opened(self, number: int, owner: str, datagram: bytes) -> list[tuple[str, Section]]:
        """The datagram's sections, if it is authentic and its sender the owner of the other end."""
        try:
            beat = self.codec.open(datagram)
            if beat.sender != owner:
                raise BadBeat("sender", f"{beat.sender} speaks from {owner}'s address")
        except BadBeat as bad:
            self.counts["beats_refused", bad.kind] += 1
            return []
        self._note(beat.sender, number, beat.count)
        return [(beat.sender, section) for section in beat.sections]

    def _note(self, sender: str, number: int, count: int) -> None:
        path = self._names[number]
        self.counts["beats_heard", f"{sender}|{path}"] += 1
        state = self.states.get((sender, number))
        if state is None:
            return
        self._last = state
        state.heard_at = time.clock_gettime(time.CLOCK_BOOTTIME)
        if state.count < 0 or count < state.count - FROM_AFTER_RESTART:
            state.expected, state.arrived = 1, 1
        else:
            state.expected += max(0, count - state.count)
            state.arrived += 1
        state.count = max(count, state.count) if count >= state.count - FROM_AFTER_RESTART else count
        if state.expected >= WINDOW:
            lost = max(0, state.expected - state.arrived)
            state.loss = lost / state.expected
            self.counts["beats_lost", f"{sender}|{path}"] += lost
            state.expected = state.arrived = 0

    def note_round_trip(self, sent_at: Instant | None, moment: Instant) -> None:
        """The section just received answers a beat that was sent at `sent_at`."""
        state = self._last
        if sent_at is None or state is None:
            return
        took = moment - sent_at
        known = state.round_trip
        state.round_trip = took if known is None else known + SMOOTHING * (took - known)

    def views(self, peer: str) -> tuple[PathView, ...]:
        return tuple(
            PathView(
                path=path,
                heard_at=self.states[peer, number].heard_at,
                lost=self.states[peer, number].loss,
                round_trip=self.states[peer, number].round_trip,
            )
            for number, path in enumerate(self._names)
            if (peer, number) in self.states
        )
