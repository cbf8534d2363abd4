"""How many standbys must have a commit before it is acknowledged, and how many a claimant must hear because of that.

The record promises: every acknowledged commit is on at least `enough` of the succession. Under synchronous replication that
is all of it, so whoever is listed has everything. Under a quorum it is fewer, and a claimant among n needs the positions of
n - enough + 1 of them: so many that one of them must have each acknowledged commit (decision 0011).
"""

from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.domain.policy import Policy, Replication
from orchestrator.domain.record import Record
from orchestrator.domain.topology import NodeName, Pair


@dataclass(frozen=True, slots=True)
class Kept:
    """Every acknowledged commit is on at least `enough` of `names`."""

    names: frozenset[NodeName]
    enough: int

    def implies(self, other: "Kept") -> bool:
        """Whoever has a commit under this one, enough of the other have it too."""
        return self.enough - len(self.names - other.names) >= other.enough


def wished(policy: Policy, standbys: int) -> int:
    """What the record of a succession of that many should say; 0 where it promises all of them, or nothing."""
    return min(max(policy.min_replicas, 1), standbys) if policy.replication is Replication.QUORUM else 0


def kept(succession: tuple[Pair, ...], quorum: int) -> Kept:
    names = frozenset(pair.name for pair in succession)
    return Kept(names, quorum or len(names))


def promised(record: Record) -> Kept:
    return kept(record.succession, record.quorum)


def needed(record: Record) -> int:
    """How many of the succession a claimant must know the final positions of, its own included."""
    return max(1, len(record.succession) - promised(record).enough + 1)


def satisfying(all_of_these: Iterable[Kept]) -> Kept:
    """The least strict single list under which every commit satisfies each of them.

    Whoever all of them name can satisfy all of them at once. Where those are too few, so many of everybody are asked that
    enough are left of each, whoever answers.
    """
    each = tuple(all_of_these)
    common = frozenset.intersection(*(one.names for one in each))
    most = max(one.enough for one in each)
    if most <= len(common):
        return Kept(common, most)
    everybody = frozenset[NodeName]().union(*(one.names for one in each))
    return Kept(everybody, max(one.enough + len(everybody - one.names) for one in each))


def surely_having(record: Record, succession: tuple[Pair, ...]) -> int:
    """How many of another succession have every commit that was acknowledged so far, by the record's promise alone.

    A member keeps its data when its keeper loses its memory: names count here, not lives.
    """
    before = promised(record)
    return max(0, before.enough - len(before.names - {pair.name for pair in succession}))
