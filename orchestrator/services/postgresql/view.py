"""What a running instance says of itself, in one question, and in the domain's words."""

import re
from dataclasses import dataclass
from typing import Any, Final

from orchestrator.domain.observations import Role, ServiceView
from orchestrator.domain.verdicts import Diagnosis, Finding
from orchestrator.services.postgresql import conninfo, timelines
from orchestrator.services.postgresql.files import DataDirectory
from orchestrator.services.postgresql.line import Line, ProcessGone
from orchestrator.services.postgresql.lsn import timeline_of
from orchestrator.services.postgresql.postmaster import command_lines
from orchestrator.services.postgresql.timelines import Timelines

LOOK: Final = """
SELECT r.standby,
       (CASE WHEN r.standby THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
             ELSE pg_current_wal_flush_lsn() END - '0/0'::pg_lsn)::bigint,
       CASE WHEN r.standby THEN NULL ELSE substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) END,
       current_setting('primary_conninfo', true),
       w.status, w.sender_host, w.sender_port, w.received_tli,
       extract(epoch FROM clock_timestamp() - w.last_msg_receipt_time)::float8,
       (SELECT count(*) FROM pg_stat_get_wal_senders() s WHERE s.state = 'streaming')
FROM (SELECT pg_is_in_recovery() AS standby) r LEFT JOIN pg_stat_get_wal_receiver() w ON w.pid IS NOT NULL
"""

ABOUT: Final = """
SELECT (SELECT system_identifier::text FROM pg_control_system()), current_setting('server_version')
"""

LOAD: Final = """
SELECT (SELECT count(*) FROM pg_stat_get_activity(NULL) WHERE backend_type = 'client backend'),
       current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
           - coalesce(current_setting('reserved_connections', true)::int, 0),
       CASE WHEN current_setting('default_transaction_read_only')::bool
            THEN (SELECT source NOT IN ('database', 'user', 'database user', 'client', 'session')
                  FROM pg_settings WHERE name = 'default_transaction_read_only') END
"""
"""Ordinary clients find a free connection until as many are taken as the second number says."""

CONTROL_FILE: Final = """
SELECT greatest(c.timeline_id, r.min_recovery_end_timeline) FROM pg_control_checkpoint() c, pg_control_recovery() r
"""

_READING: Final = re.compile(r"\bstartup\s+(?:recovering|waiting for)\s+([0-9A-F]{24})")


UNKNOWN: Final = Timelines(0)


@dataclass(slots=True)
class Known:
    """What does not change while one main process runs, and what was last seen of its timeline."""

    pid: int
    started: int
    system: str
    software: str
    timelines: Timelines = UNKNOWN


class Viewer:
    """Asks, and remembers between looks what need not be asked again."""

    def __init__(self, line: Line, files: DataDirectory) -> None:
        self.line = line
        self._files = files
        self._known: Known | None = None

    @property
    def system(self) -> str:
        return self._known.system if self._known is not None else ""

    @property
    def timelines(self) -> Timelines:
        return self._known.timelines if self._known is not None else UNKNOWN

    async def look(self) -> ServiceView:
        """Raises psycopg's errors."""
        rows = await self.line.ask(LOOK)
        if not rows:
            raise ProcessGone("it answered with nothing")
        known = await self._process()
        return await self._view(known, rows[0])

    async def load(self, role: Role) -> Finding | None:
        """What keeps clients from their work although the service is well: too many of them, or a setting."""
        ((taken, usable, read_only),) = await self.line.ask(LOAD)
        if role is Role.PRIMARY and read_only:
            return Finding(Diagnosis.READ_ONLY, "default_transaction_read_only is on for everybody")
        if taken >= usable:
            return Finding(Diagnosis.OVERLOADED, f"all {usable} connections that clients may have are taken")
        return None

    async def _process(self) -> Known:
        known, line = self._known, self.line
        if known is None or (known.pid, known.started) != (line.pid, line.started):
            ((system, software),) = await line.ask(ABOUT)
            known = self._known = Known(line.pid, line.started, str(system), f"PostgreSQL {str(software).split()[0]}")
        return known

    async def _view(self, known: Known, row: tuple[Any, ...]) -> ServiceView:
        standby, offset, primary_timeline, follows, status, sender_host, sender_port, received, heard_ago, replicas = row
        number = int(primary_timeline, 16) if primary_timeline else await self._timeline_of_standby(known, received)
        if number != known.timelines.number:
            known.timelines = self._files.timelines(number)
        upstream = conninfo.upstream(follows or "") if standby else None
        streaming = status == "streaming" and upstream is not None and (sender_host, sender_port) == upstream
        return ServiceView(
            role=Role.STANDBY if standby else Role.PRIMARY,
            position=timelines.position(known.system, known.timelines, int(offset or 0)),
            pid=known.pid,
            process_started=known.started,
            upstream=upstream,
            link_up=streaming,
            link_heard_ago=max(0.0, heard_ago) if streaming and heard_ago is not None else None,
            durable=True,
            replicas=int(replicas),
            software=known.software,
        )

    async def _timeline_of_standby(self, known: Known, received: int | None) -> int:
        """No function tells it. The receiver knows while it runs; the startup process writes in its title what it reads."""
        if received:
            return int(received)
        for words in command_lines(known.pid):
            if found := _READING.search(words):
                return max(timeline_of(found[1]), known.timelines.number)
        if known.timelines.number:
            return known.timelines.number
        ((number,),) = await self.line.ask(CONTROL_FILE)
        return int(number)
