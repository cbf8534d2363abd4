"""Who there is: nodes of a cluster, members and witnesses of a group."""

from dataclasses import dataclass
from typing import TypeAlias

NodeName: TypeAlias = str
GroupName: TypeAlias = str
Life: TypeAlias = int
"""The random number of one keeper's memory; 0 stands for "none known"."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A member in one of its lives. A promise counts only from exactly this pair."""

    name: NodeName
    life: Life


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A node that runs the group's service and may become its primary."""

    name: NodeName
    address: str
    """Where clients and other members reach the service on this node."""
    port: int
    preferred: bool = False
    never_primary: bool = False
    never_synchronous: bool = False
    """No commit waits for it, so under synchronous replication it never takes over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One replicated service: its members, in the operator's order of preference, and who watches it."""

    name: GroupName
    members: tuple[Member, ...]
    witnesses: tuple[NodeName, ...] = ()

    def member(self, name: NodeName) -> Member | None:
        return next((member for member in self.members if member.name == name), None)

    @property
    def member_names(self) -> tuple[NodeName, ...]:
        return tuple(member.name for member in self.members)

    def others(self, me: NodeName) -> tuple[NodeName, ...]:
        """Everybody that `me` exchanges beats with about this group."""
        return tuple(name for name in (*self.member_names, *self.witnesses) if name != me)

    @property
    def preferred(self) -> NodeName | None:
        return next((member.name for member in self.members if member.preferred), None)

    def preference(self, name: NodeName) -> int:
        """0 for the member that should be primary when all else is equal; larger is less wanted."""
        ordered = sorted(self.members, key=lambda member: not member.preferred)
        return next((rank for rank, member in enumerate(ordered) if member.name == name), len(ordered))
