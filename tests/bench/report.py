from pathlib import Path

from tests.bench.results import Results


def write_report(results: Results, into: Path) -> None: ...
