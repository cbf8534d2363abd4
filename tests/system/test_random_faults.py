"""A few rounds of what `python -m tests.system.random_faults` does for hours, and proof that it would notice."""

from collections import deque
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.lab.measure import Write
from tests.contract.servers import why_no_zookeeper
from tests.system.field import Watched
from tests.system.hosts import why_no_hosts
from tests.system.postgresql_servers import why_not as why_no_postgresql
from tests.system.random_faults import play
from tests.system.redis_servers import why_no_redis
from tests.system.spread_group import MEMBERS

WHY_NOT = why_no_hosts() or why_no_zookeeper() or why_no_redis() or why_no_postgresql()
pytestmark = [
    pytest.mark.root,
    pytest.mark.redis,
    pytest.mark.postgresql,
    pytest.mark.zookeeper,
    pytest.mark.timeout(240),
    pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT),
]


def test_two_groups_stand_random_faults_under_load(tmp_path: Path):
    summary = play(15.0, 1, None, tmp_path, print)
    assert summary.count("two primaries 0.0 ms") == 2
    assert "postgresql: 0 writes" not in summary


def test_writes_on_two_members_at_once_are_seen_across_looks():
    """The second look knows the end of what the first one saw."""

    def writes(first: int, last: int) -> deque[Write]:
        return deque(Write(0.01 * number, 0.01 * number + 0.002) for number in range(first, last))

    watched = Watched.__new__(Watched)
    watched._carried = {}
    watched.watchers = [SimpleNamespace(member=name, writes=deque()) for name in MEMBERS]
    watched.watchers[0].writes = writes(100, 110)
    assert watched._both() == 0.0
    watched.watchers[1].writes = writes(105, 120)
    assert watched._both() > 0.0
