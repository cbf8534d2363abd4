"""Places in the write-ahead log: 64-bit offsets, written as two hexadecimal halves. Arithmetic only."""

from typing import Final

SHORT_PAGE_HEADER: Final = 24
LONG_PAGE_HEADER: Final = 40
"""The first page of a segment carries more (xlog_internal.h, XLogLongPageHeaderData)."""
ALIGNMENT: Final = 8
RECORD_HEADER: Final = 24
WAL_PAGE: Final = 8192
WAL_SEGMENT: Final = 16 * 1024 * 1024


def parse(text: str) -> int:
    """The offset.

    >>> parse("1/2000028") == (1 << 32) + 0x2000028
    True
    """
    high, _, low = text.strip().partition("/")
    return (int(high, 16) << 32) + int(low, 16)


def written(lsn: int) -> str:
    """As PostgreSQL writes it.

    >>> written((1 << 32) + 0x2000028)
    '1/2000028'
    """
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def segment_name(timeline: int, lsn: int, segment_bytes: int = WAL_SEGMENT) -> str:
    """The file that holds the byte at `lsn`.

    >>> segment_name(2, parse("1/2000028"))
    '000000020000000100000002'
    """
    number = lsn // segment_bytes
    per_half = (1 << 32) // segment_bytes
    return f"{timeline:08X}{number // per_half:08X}{number % per_half:08X}"


def timeline_of(segment: str) -> int:
    """The timeline to which a segment file belongs.

    >>> timeline_of("000000020000000100000002")
    2
    """
    return int(segment[:8], 16)


def end_of_record(start: int, length: int, page: int = WAL_PAGE, segment_bytes: int = WAL_SEGMENT) -> int:
    """Where a record that begins at `start` ends: `length` bytes, plus the headers of the pages it runs over, aligned.

    >>> end_of_record(parse("0/2000028"), 114) == parse("0/20000A0")
    True
    """
    at, left = start, length
    while True:
        room = page - at % page
        if left <= room:
            return at + -(-left // ALIGNMENT) * ALIGNMENT
        left -= room
        at += room
        at += LONG_PAGE_HEADER if at % segment_bytes == 0 else SHORT_PAGE_HEADER
