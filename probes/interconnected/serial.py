"""Beats over a serial line: where each begins and ends, and which go first on a line that carries few. Pure.

A datagram is framed by consistent overhead byte stuffing (COBS, Cheshire and Baker 1999): within a frame no byte is zero, and a
zero stands before and after it. So whatever noise came before, the next zero begins afresh. That a frame is authentic and whole
is told by the beat's own code (`wire.py`): the framing only finds boundaries.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from orchestrator.domain.spans import NEVER, Instant, Span
from probes.interconnected.wire import LEAST_BYTES, MAX_DATAGRAM_BYTES, Section, pack_section

END: Final = b"\0"
LONGEST_RUN: Final = 254
"""Bytes without a zero that one length byte can announce."""

MAX_FRAME_BYTES: Final = MAX_DATAGRAM_BYTES + MAX_DATAGRAM_BYTES // LONGEST_RUN + 2
"""Between the zeros. More than this without a zero is noise."""

BITS: Final = 10
"""On the line for each byte: a start bit, eight of data, a stop bit."""

FRAME_BEATS: Final = 1
WORDS_BEATS: Final = 2
"""What a frame may take of the line, in beats: without and with words. Together they stay below the three and a half beats
after which a peer counts as silent."""

WORDS_SHARE: Final = 0.5
"""For words, of what beats leave free of the line: one that is nearly full makes beats wait, and a lost one then costs more."""

MOST_LOAD: Final = 0.8
"""Of a line, for beats without words. With more they would wait for each other too long."""


def seconds(count: int, baud: int) -> Span:
    """How long so many bytes take on the line."""
    return count * BITS / baud


def load(beats_every: Iterable[Span], baud: int, sender: str, words_bytes: int = 0) -> float:
    """Share of the line that beats take, one way, at the most: of each group a beat and an answer, each in a frame of its own."""
    framed = len(frame(b"x" * (LEAST_BYTES + len(sender) + words_bytes)))
    return sum(2 * seconds(framed, baud) / beat_every for beat_every in beats_every)


def fits(span: Span, baud: int) -> int:
    """How many bytes the line carries in this time."""
    return int(span * baud / BITS)


def frame(datagram: bytes) -> bytes:
    """What goes onto the line."""
    framed = bytearray(END)
    for run in datagram.split(END):
        while len(run) >= LONGEST_RUN:
            framed.append(LONGEST_RUN + 1)
            framed += run[:LONGEST_RUN]
            run = run[LONGEST_RUN:]
        framed.append(len(run) + 1)
        framed += run
    return bytes(framed + END)


def unframe(stuffed: bytes) -> bytes | None:
    """The datagram between two zeros; None when it is none."""
    datagram = bytearray()
    at = 0
    while at < len(stuffed):
        code = stuffed[at]
        run = stuffed[at + 1 : at + code]
        if not code or len(run) < code - 1:
            return None
        datagram += run
        at += code
        if code <= LONGEST_RUN and at < len(stuffed):
            datagram += END
    return bytes(datagram)


class Deframer:
    """Finds the datagrams in what a line brings, in whatever pieces; never holds more than one frame."""

    def __init__(self) -> None:
        self.garbage = 0
        """Pieces between two zeros that were no frame."""
        self._rest = b""
        self._too_long = False

    def feed(self, data: bytes) -> list[bytes]:
        *whole, rest = data.split(END)
        datagrams = [datagram for piece in whole if (datagram := self._ended(piece)) is not None]
        self._hold(rest)
        return datagrams

    def _ended(self, piece: bytes) -> bytes | None:
        self._hold(piece)
        stuffed, self._rest = self._rest, b""
        too_long, self._too_long = self._too_long, False
        if not stuffed and not too_long:
            return None  # the zero that ends one frame and the zero that begins the next
        datagram = None if too_long else unframe(stuffed)
        if datagram is None:
            self.garbage += 1
        return datagram

    def _hold(self, piece: bytes) -> None:
        if self._too_long or len(self._rest) + len(piece) > MAX_FRAME_BYTES:
            self._rest, self._too_long = b"", True
        else:
            self._rest += piece


class Waiting:
    """What waits for the line: of each group the newest beat and the newest answer. An older one is replaced, never queued.

    Words are left out where they would make beats late. The receiver keeps those that it has, so a beat without them says all
    that the lease needs.
    """

    def __init__(self, baud: int, beat_every: Span, room: int) -> None:
        """`room`: the most that the sections of one datagram may take."""
        self.baud = baud
        self.beat_every = beat_every
        self._room = room
        self._sections: dict[tuple[int, bool], Section] = {}
        self._words_at: dict[int, Instant] = {}
        """When the next words of each group may go."""

    def __len__(self) -> int:
        return len(self._sections)

    def clear(self) -> None:
        self._sections.clear()

    def put(self, section: Section) -> bool:
        """True when it takes the place of an older one, which is not sent any more."""
        key = section.group, section.answer
        older = self._sections.get(key)
        if older is not None:
            section = replace(section, urgent=section.urgent or older.urgent)
        self._sections[key] = section  # keeps the older one's turn
        self._words_at.setdefault(section.group, NEVER)
        return older is not None

    def take(self, now: Instant) -> bytes:
        """The sections of the next datagram, packed: those that have waited longest, as many as the line carries in a beat."""
        limit = min(self._room, fits(FRAME_BEATS * self.beat_every, self.baud))
        taken: dict[tuple[int, bool], bytes] = {}
        size = 0
        for key, section in self._sections.items():
            packed = pack_section(section, words=False)
            if taken and size + len(packed) > limit:
                break
            taken[key] = packed
            size += len(packed)
        sections = [(key, self._sections.pop(key)) for key in taken]
        limit = min(self._room, fits(WORDS_BEATS * self.beat_every, self.baud))
        for key, section in sorted(sections, key=lambda each: (not each[1].urgent, self._words_at[each[1].group])):
            due = section.urgent or now >= self._words_at[section.group]
            if due and size + len(section.words) <= limit:
                taken[key] = pack_section(section)
                size += len(section.words)
                self._words_at[section.group] = now + self._rest_after(len(section.words))
        return b"".join(taken.values())

    def _rest_after(self, words_bytes: int) -> Span:
        """How long a group says no more after so many bytes of words, so that all groups have their share."""
        groups = len(self._words_at)
        free = max(1 - MOST_LOAD, 1 - load([self.beat_every] * groups, self.baud, ""))
        return groups * seconds(words_bytes, self.baud) / (WORDS_SHARE * free)
