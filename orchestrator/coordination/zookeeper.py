"""The mediator in production: ZooKeeper, through kazoo. The only file that imports kazoo.

Paths below `/<root>/<cluster>`::

    groups/<group>                       data: the incarnation (hexadecimal) whose record counts
    groups/<group>/record-<incarnation>  the record; its znode version is the record's version
    groups/<group>/control               what people said
    presence/<node>                      ephemeral, one per daemon; data: the daemon's identity

The record's path holds the incarnation, so a write that was meant for an older line of records can never hit a newer one,
whatever its version number. kazoo queues calls while its connection is suspended and sends them when it is back; a claim
must never go out late, so calls are refused while there is no connection, and taken out of the queue at their deadline.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from kazoo.client import KazooClient, KazooState
from kazoo.exceptions import (
    BadVersionError,
    KazooException,
    NodeExistsError,
    NoNodeError,
    RolledBackError,
    RuntimeInconsistency,
)
from kazoo.protocol.states import KeeperState
from kazoo.retry import KazooRetry
from kazoo.security import make_digest_acl

from orchestrator import tasks
from orchestrator.coordination.codec import decode_control, decode_record, encode
from orchestrator.domain.effects import WriteRecord
from orchestrator.domain.events import WriteOutcome
from orchestrator.domain.record import Control, Record, Snapshot
from orchestrator.domain.spans import Span
from orchestrator.domain.topology import GroupName, NodeName
from orchestrator.ports import Conflict, RefusedByPeer, Unreachable, Written

logging.getLogger("kazoo").setLevel(logging.CRITICAL)  # the state of the connection is told by `words`, once

SESSION_TIMEOUT: Span = 4.0
"""Twice the default tickTime of 2 s: the shortest that a server with default settings grants."""

ENSURE_AGAIN: Span = 0.5
RESTART_AFTER: Final = 8
"""Checks in a row, each `ENSURE_AGAIN` after the other, that find no connection."""

FELL_WITH_ANOTHER: Final = (RolledBackError, RuntimeInconsistency)
"""Answers of a transaction's operations that were not themselves at fault: those before, and those after, the one that was."""

DOUBTS_BEFORE_RESTART: Final = 3
"""Calls in a row without an answer, after which the connection is given up for another server's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Digest authentication: every node is made with an access list that lets only this user in."""

    user: str
    password: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    ca: str
    certificate: str | None = None
    key: str | None = None


class _PromptClient(KazooClient):  # type: ignore[misc]
    """kazoo's client, but a call without a connection fails at once instead of being kept for later."""

    def _call(self, request: Any, async_object: Any) -> Any:
        if self._state not in (KeeperState.CONNECTED, KeeperState.CONNECTED_RO):
            async_object.set_exception(ConnectionError("not connected"))
            return False
        return super()._call(request, async_object)

    def withdraw(self, async_object: Any) -> None:
        """Take a call that nobody waits for any more out of the queue, if it has not been sent yet."""
        for queued in list(self._queue):
            if queued[1] is async_object:
                try:
                    self._queue.remove(queued)
                except ValueError:
                    pass  # sent in this very moment: its outcome is unknown


class ZooKeeperMediator:
    def __init__(
        self,
        hosts: str,
        root: str,
        cluster: str,
        node: NodeName,
        identity: str | None,
        credentials: Credentials | None = None,
        tls: Tls | None = None,
    ) -> None:
        self._base = f"/{root.strip('/')}/{cluster}"
        self._node = node
        self._identity = identity.encode() if identity is not None else None
        self._watchers: dict[GroupName, list[Callable[[], None]]] = {}
        self._incarnations: dict[GroupName, str] = {}
        self._ready: set[GroupName] = set()
        self._doubts = 0
        self._rival = ""
        self._words = "not connected yet"
        self._tasks: list[asyncio.Task[None]] = []
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="zookeeper-mediator")
        self._loop: asyncio.AbstractEventLoop | None = None
        acl = [make_digest_acl(credentials.user, credentials.password, all=True)] if credentials else None
        auth = [("digest", f"{credentials.user}:{credentials.password}")] if credentials else None
        secured: dict[str, Any] = {}
        if tls is not None:
            secured = {"use_ssl": True, "ca": tls.ca, "certfile": tls.certificate, "keyfile": tls.key}
        self._client = _PromptClient(
            hosts=hosts,
            timeout=SESSION_TIMEOUT,
            default_acl=acl,
            auth_data=auth,
            connection_retry=KazooRetry(max_tries=-1, delay=0.05, backoff=2, max_delay=0.5),
            command_retry=KazooRetry(max_tries=0),
            **secured,
        )
        self._client.add_listener(self._state_changed)

    # --- life --------------------------------------------------------------------------------------------------------

    @property
    def words(self) -> str:
        return self._rival or self._words

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._client.start_async()
        if self._identity is not None:
            self._tasks.append(asyncio.create_task(self._stay_present()))

    async def stop(self) -> None:
        await tasks.end(self._tasks)
        self._client.remove_listener(self._state_changed)
        await asyncio.get_running_loop().run_in_executor(self._threads, self._end)
        self._threads.shutdown(wait=False)

    def _end(self) -> None:
        self._client.stop()
        self._client.close()

    def watch(self, group: GroupName, changed: Callable[[], None]) -> None:
        self._watchers.setdefault(group, []).append(changed)

    def _state_changed(self, state: str) -> None:
        """From kazoo's thread. SUSPENDED means that nothing is known: what was known goes on counting down."""
        self._words = {
            KazooState.CONNECTED: "connected",
            KazooState.SUSPENDED: "connection lost, session not yet over",
            KazooState.LOST: "session lost",
        }.get(state, state)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._tell_everybody)

    def _tell_everybody(self) -> None:
        for group in self._watchers:
            self._tell(group)

    def _tell(self, group: GroupName) -> None:
        for changed in self._watchers.get(group, []):
            changed()

    # --- bounded calls -----------------------------------------------------------------------------------------------

    async def _call(self, result: Any, within: Span) -> Any:
        """Wait for one of kazoo's results. Raises kazoo's own exceptions, or Unreachable after the deadline."""
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Any] = loop.create_future()

        def resolve() -> None:
            if answered.done():
                return
            error = result.exception
            if error is not None:
                answered.set_exception(error)
            else:
                answered.set_result(result.value)

        result.rawlink(lambda _: loop.call_soon_threadsafe(resolve))
        try:
            async with asyncio.timeout(within):
                value = await answered
        except TimeoutError:
            self._client.withdraw(result)
            self._doubt()
            raise Unreachable(f"ZooKeeper gave no answer within {within:.2f} s") from None
        except ConnectionError as error:
            raise Unreachable(f"ZooKeeper: {error}") from None
        self._doubts = 0
        return value

    def _doubt(self) -> None:
        """A connection that swallows calls is given up for another one."""
        self._doubts += 1
        if self._doubts >= DOUBTS_BEFORE_RESTART:
            self._doubts = 0
            self._threads.submit(self._restart)

    def _restart(self) -> None:
        """Begin anew, without what the old session had seen.

        A server whose data is older than a client's last transaction refuses that client, for ever if the ensemble was
        emptied or restored. Whether a record is older than one known is for the engine to judge, and it must see it (rule 23).
        """
        self._client.stop()
        self._client.last_zxid = 0
        self._client.start_async()

    # --- reading -----------------------------------------------------------------------------------------------------

    def _group(self, group: GroupName) -> str:
        return f"{self._base}/groups/{group}"

    def _record_path(self, group: GroupName, incarnation: str) -> str:
        return f"{self._group(group)}/record-{incarnation}"

    async def read(self, group: GroupName, within: Span) -> Snapshot:
        if self._rival:
            raise RefusedByPeer(self._rival)
        try:
            async with asyncio.timeout(within):
                return await self._read(group, within)
        except TimeoutError:
            raise Unreachable(f"ZooKeeper gave no answer within {within:.2f} s") from None
        except KazooException as error:
            raise Unreachable(_in_words(error)) from error

    async def _read(self, group: GroupName, within: Span) -> Snapshot:
        def watch(_: Any) -> None:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._tell, group)

        control_result = self._client.get_async(f"{self._group(group)}/control", watch=watch)
        pointer = await self._get(self._client.get_async(self._group(group), watch=watch), within)
        incarnation = pointer[0].decode() if pointer is not None else ""
        record = None
        if incarnation:
            self._incarnations[group] = incarnation
            path = self._record_path(group, incarnation)
            found = await self._get(self._client.get_async(path, watch=watch), within)
            if found is None:
                raise RefusedByPeer(f"{self._group(group)} names incarnation {incarnation}, whose record is gone")
            record = decode_record(found[0], found[1].version, path)
        control = await self._get(control_result, within)
        return Snapshot(
            group=group,
            record=record,
            control=Control(version=0) if control is None else _control(control, group),
        )

    async def _get(self, result: Any, within: Span) -> Any:
        """Data and state of a node, or None when there is none."""
        try:
            return await self._call(result, within)
        except NoNodeError:
            return None

    # --- writing -----------------------------------------------------------------------------------------------------

    async def write_record(self, group: GroupName, write: WriteRecord) -> Written:
        if self._rival:
            return Written(outcome=WriteOutcome.NOT_SENT, reason=self._rival)
        if not self._client.connected:
            return Written(outcome=WriteOutcome.NOT_SENT, reason=f"ZooKeeper: {self._words}")
        try:
            if write.expected is None:
                await self._ensure_group(group, write.within)
            results = await self._call(self._transaction(group, write).commit_async(), write.within)
        except (Unreachable, KazooException) as error:
            return Written(outcome=WriteOutcome.UNKNOWN, reason=_in_words(error))
        failed = [each for each in results if isinstance(each, Exception)]
        if not failed:
            self._incarnations[group] = _incarnation(write.record)
            return Written(outcome=WriteOutcome.APPLIED)
        real = [each for each in failed if not isinstance(each, FELL_WITH_ANOTHER)]
        if all(isinstance(each, BadVersionError | NoNodeError | NodeExistsError) for each in real):
            return Written(outcome=WriteOutcome.CONFLICT, reason=", ".join(_in_words(each) for each in real))
        return Written(outcome=WriteOutcome.UNKNOWN, reason=", ".join(_in_words(each) for each in failed))

    def _transaction(self, group: GroupName, write: WriteRecord) -> Any:
        """Everything the write rests on, in one transaction of the ensemble."""
        incarnation = _incarnation(write.record)
        path = self._record_path(group, incarnation)
        transaction = self._client.transaction()
        if write.expected is None:
            transaction.create(path, encode(write.record), acl=self._client.default_acl)
            transaction.set_data(self._group(group), incarnation.encode(), version=0)
        else:
            transaction.set_data(path, encode(write.record), version=write.expected)
        control_path = f"{self._group(group)}/control"
        if write.control is not None:
            transaction.set_data(control_path, encode(write.control), version=write.control.version - 1)
        elif write.control_expected is not None:
            transaction.check(control_path, write.control_expected)
        return transaction

    async def write_control(self, group: GroupName, control: Control, expected: int, within: Span) -> None:
        if not self._client.connected:
            raise Unreachable(f"ZooKeeper: {self._words}")
        await self._ensure_group(group, within)
        path = f"{self._group(group)}/control"
        try:
            await self._call(self._client.set_async(path, encode(control), version=expected), within)
        except (BadVersionError, NoNodeError):
            self._ready.discard(group)
            raise Conflict(f"the control of {group} is not at version {expected} any more") from None
        except KazooException as error:
            raise Unreachable(_in_words(error)) from error

    async def adopt(self, group: GroupName, record: Record, within: Span) -> None:
        """The older line's record goes in the same transaction, so that no write to it can succeed any more."""
        self._ready.discard(group)  # what was made once may have been emptied since
        await self._ensure_group(group, within)
        incarnation = _incarnation(record)
        transaction = self._client.transaction()
        try:
            older, state = await self._call(self._client.get_async(self._group(group)), within)
            path = self._record_path(group, older.decode())
            if older and await self._get(self._client.get_async(path), within) is not None:
                transaction.delete(path)
            transaction.create(self._record_path(group, incarnation), encode(record), acl=self._client.default_acl)
            transaction.set_data(self._group(group), incarnation.encode(), version=state.version)
            results = await self._call(transaction.commit_async(), within)
        except KazooException as error:
            raise Unreachable(_in_words(error)) from error
        if failed := [each for each in results if isinstance(each, Exception)]:
            raise Unreachable(", ".join(_in_words(each) for each in failed))

    async def _ensure_group(self, group: GroupName, within: Span) -> None:
        """The nodes that a first write needs. Made once; a group's record is never made here."""
        if group in self._ready:
            return
        try:
            await self._call(self._client.ensure_path_async(self._group(group)), within)
            control = encode(Control(version=0))
            with contextlib.suppress(NodeExistsError):
                await self._call(self._client.create_async(f"{self._group(group)}/control", control), within)
        except KazooException as error:
            raise Unreachable(_in_words(error)) from error
        self._ready.add(group)

    # --- presence ----------------------------------------------------------------------------------------------------

    async def present(self) -> tuple[NodeName, ...]:
        try:
            names = await self._call(self._client.get_children_async(f"{self._base}/presence"), 2.0)
        except NoNodeError:
            return ()
        except KazooException as error:
            raise Unreachable(_in_words(error)) from error
        return tuple(sorted(names))

    async def _stay_present(self) -> None:
        """One daemon per node: an own leftover is replaced, another host's presence under our name refuses us."""
        disconnected = 0
        while True:
            try:
                if self._client.connected:
                    disconnected = 0
                    await self._announce()
                else:
                    disconnected += 1
                    if disconnected % RESTART_AFTER == 0:
                        self._threads.submit(self._restart)
            except (KazooException, Unreachable):
                pass
            await asyncio.sleep(ENSURE_AGAIN)

    async def _announce(self) -> None:
        path = f"{self._base}/presence/{self._node}"
        found = await self._get(self._client.get_async(path), 2.0)
        if found is None:
            await self._call(self._client.ensure_path_async(f"{self._base}/presence"), 2.0)
            await self._call(self._client.create_async(path, self._identity, ephemeral=True), 2.0)
            self._set_rival("")
        elif found[1].ephemeralOwner == (self._client.client_id or (0,))[0]:
            self._set_rival("")
        elif found[0] == self._identity:
            await self._call(self._client.delete_async(path, version=found[1].version), 2.0)
            await self._announce()
        else:
            self._set_rival(
                f"another host is present as {self._node} (identity {found[0].decode(errors='replace')}): "
                "two daemons must not share a name"
            )

    def _set_rival(self, rival: str) -> None:
        if rival != self._rival:
            self._rival = rival
            self._tell_everybody()


def _incarnation(record: Record) -> str:
    return f"{record.incarnation:x}"


def _control(found: Any, group: GroupName) -> Control:
    return decode_control(found[0], found[1].version, f"the control of {group}")


def _in_words(error: BaseException) -> str:
    return f"ZooKeeper: {str(error) or type(error).__name__}"
