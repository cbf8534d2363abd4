"""A member's own words: the files in its data directory that are its configuration. A rewind or a copy brings the source's."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from orchestrator.services.postgresql.conninfo import unquoted

ALWAYS: Final = ("postgresql.conf", "postgresql.auto.conf", "pg_hba.conf", "pg_ident.conf")
_INCLUDE: Final = re.compile(r"^\s*(include_dir|include_if_exists|include)\b\s*=?\s*('(?:[^']|'')*'|[^#\s]+)", re.IGNORECASE)
_NAMED: Final = re.compile(
    r"^\s*(hba_file|ident_file|ssl_(?:cert|key|ca|crl|dh_params)_file)\s*=?\s*('(?:[^']|'')*'|[^#\s]+)", re.I
)
KEPT: Final = (".conf", ".crt", ".key", ".crl", ".pem")
"""What lies beside them under these endings is the member's own too, named there or not."""
DEEPEST: Final = 10
"""As the server: a file that includes itself is an error there."""


def find(data: Path, configuration: Path) -> set[Path]:
    """Those that lie in the data directory: what lies elsewhere (Debian: below /etc) nobody overwrites."""
    found = {data / name for name in ALWAYS}
    if data.is_dir():
        found |= {path for path in data.iterdir() if path.suffix in KEPT}
    for start in (configuration, data / "postgresql.auto.conf"):
        for path in _read(start, data, 0):
            found.add(path)
    return {path for path in found if data in path.parents and (path.is_file() or path.is_symlink())}


def _read(path: Path, data: Path, depth: int) -> Iterator[Path]:
    yield path
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        if named := _NAMED.match(line):
            yield data / unquoted(named[2])
        if (include := _INCLUDE.match(line)) and depth < DEEPEST:
            target = path.parent / unquoted(include[2])
            inner = sorted(target.glob("*.conf")) if include[1].lower() == "include_dir" else [target]
            for each in inner:
                yield from _read(each, data, depth + 1)
