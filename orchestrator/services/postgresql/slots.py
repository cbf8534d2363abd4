"""Physical slots, one for each member on every member, so that a standby goes on after a failover without a new copy."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from orchestrator.domain.topology import NodeName
from orchestrator.services.postgresql import lsn
from orchestrator.services.postgresql.line import Line

PREFIX: Final = "tanist_"

READ: Final = """
SELECT slot_name, active, (restart_lsn - '0/0'::pg_lsn)::bigint, wal_status
FROM pg_replication_slots WHERE slot_type = 'physical' AND NOT temporary
"""


@dataclass(frozen=True, slots=True)
class Slot:
    name: str
    active: bool
    keeps_from: int | None
    """The oldest byte of the log that it keeps."""
    status: str
    """reserved, extended, unreserved; lost: the log that it should have kept is gone."""


def slot_name(member: NodeName) -> str:
    """Slots know no dashes.

    >>> slot_name("db-1")
    'tanist_db_1'
    """
    return PREFIX + member.replace("-", "_")


async def read(line: Line) -> list[Slot]:
    rows = await line.ask(READ)
    return [
        Slot(str(name), bool(active), int(kept) if kept is not None else None, str(status or ""))
        for name, active, kept, status in rows
    ]


async def tend(line: Line, me: NodeName, others: Iterable[NodeName], elsewhere: Mapping[str, int] | None) -> list[str]:
    """Make what is missing, drop our own, and on a standby let the others' slots keep pace. What was changed, in words.

    `elsewhere` is what the primary's slots keep: nobody needs anything older than that from us. None on the primary, where
    the followers themselves move their slots.
    """
    there = {slot.name: slot for slot in await read(line)}
    changed = []
    for name in (slot_name(other) for other in others):
        slot = there.get(name)
        if slot is not None and slot.status == "lost" and not slot.active:
            await line.ask("SELECT pg_drop_replication_slot(%s)", (name,))
            changed.append(f"slot {name} had lost what it should keep: made anew")
            slot = None
        if slot is None:
            await line.ask("SELECT pg_create_physical_replication_slot(%s, true)", (name,))
            changed.append(f"slot {name} made")
        elif elsewhere is not None and not slot.active and (kept := elsewhere.get(name)) and kept > (slot.keeps_from or 0):
            # the server itself goes no further than it has replayed
            await line.ask("SELECT pg_replication_slot_advance(%s, %s::pg_lsn)", (name, lsn.written(kept)))
    own = there.get(slot_name(me))
    if own is not None and not own.active:
        await line.ask("SELECT pg_drop_replication_slot(%s)", (own.name,))
        changed.append(f"slot {own.name} dropped: nobody follows itself")
    return changed


def unknown(slots: Iterable[Slot], members: Iterable[NodeName]) -> list[Slot]:
    """Slots of Tanist's that belong to no member: they keep the log for nobody."""
    known = {slot_name(member) for member in members}
    return [slot for slot in slots if slot.name.startswith(PREFIX) and slot.name not in known]
