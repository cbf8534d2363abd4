"""The Redis adapter: looks, and brings the instance to a wanted role, read back."""

import asyncio
import ipaddress
import shlex
import ssl
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from redis.exceptions import AuthenticationError, BusyLoadingError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from orchestrator.domain.effects import EnsureReplicas, EnsureService, WantedRole
from orchestrator.domain.observations import Abstained, Answered, Outcome, Refused, Role, ServiceView, Silent
from orchestrator.domain.spans import Span
from orchestrator.domain.topology import Member, NodeName
from orchestrator.ports import NotConfirmed, RefusedByPeer, Unreachable
from orchestrator.services.redis.info import NOBODY, service_view
from orchestrator.services.redis.line import ADMIN_SOURCE, Line
from orchestrator.services.redis.settings import RedisSettings
from orchestrator.services.starting import CannotStart, run_command

ACT_WITHIN: Span = 5.0
START_WITHIN: Span = 30.0
HOLD_FOR_MS: Final = 6_000
"""Just longer than a switchover may take (5 s): should nobody be left to let go, the clients' writes go on by themselves."""

STALL_SLACK: Span = 0.5
"""A look that came back this share of its deadline late was late because we were."""


class RedisService:
    def __init__(
        self,
        settings: RedisSettings,
        members: tuple[Member, ...],
        armed: Callable[[int, int, int], bool],
    ) -> None:
        self.settings = settings
        self._members = {member.name: member for member in members}
        self._armed = armed
        self._looker = Line(settings)
        self._actor = Line(settings)
        self._held = False
        self._obeyed_epoch = 0

    async def why_not_start(self) -> str:
        return "" if self.settings.can_start else "nothing says how to: set redis.config or redis.start"

    def cure(self, reason: str) -> str:
        return ""

    async def close(self) -> None:
        await self._looker.close()
        await self._actor.close()

    # --- looking -----------------------------------------------------------------------------------------------------

    async def look(self, within: Span) -> Outcome:
        began = time.monotonic()
        try:
            async with asyncio.timeout(within):
                view = await self._view(self._looker)
        except (TimeoutError, RedisTimeoutError):
            await self._looker.anew()
            if time.monotonic() - began > within * (1 + STALL_SLACK):
                return Abstained("this daemon was stalled while it waited")
            return Silent(within)
        except (ConnectionRefusedError, FileNotFoundError) as error:
            return Refused(str(error), gone=True)
        except BusyLoadingError:
            return Refused("it is loading its data")
        except AuthenticationError as error:
            return Refused(f"wrong user or password: {error}")
        except RedisConnectionError as error:
            await self._looker.anew()
            return _connection_outcome(error)
        except ResponseError as error:
            return Refused(str(error))
        except OSError as error:
            await self._looker.anew()
            return Abstained(str(error))
        return Answered(view, time.monotonic() - began)

    async def _view(self, line: Line) -> ServiceView:
        await line.process()
        _, view = await self._ask(line)
        return view

    async def _ask(self, line: Line, *commands: tuple[str, ...]) -> tuple[list[Any], ServiceView]:
        """One round trip: the commands' answers, errors among them, and what the server says of itself after them."""
        pipeline = line.client.pipeline(transaction=False)
        for words in commands:
            pipeline.execute_command(*words)
        pipeline.ping()  # unlike INFO it is refused while the server loads its data, and looks empty
        pipeline.info("replication")
        pipeline.info("keyspace")
        *answers, pinged, replication, keyspace = await pipeline.execute(raise_on_error=False)
        for answer in (pinged, replication, keyspace):
            if isinstance(answer, Exception):
                raise answer
        pid, began, software = await line.process()  # another one, if it was connected anew for the answer
        held = self._held
        view = service_view({**replication, **keyspace}, pid=pid, process_started=began, held=held, software=software)
        return answers, view

    # --- acting ------------------------------------------------------------------------------------------------------

    async def ensure(self, wanted: EnsureService) -> ServiceView:
        if wanted.epoch < self._obeyed_epoch:
            raise RefusedByPeer(f"epoch {wanted.epoch} is older than epoch {self._obeyed_epoch}, which was obeyed already")
        self._obeyed_epoch = wanted.epoch
        within = ACT_WITHIN if wanted.role is not WantedRole.STANDBY else ACT_WITHIN + START_WITHIN
        try:
            async with asyncio.timeout(within):
                match wanted.role:
                    case WantedRole.PRIMARY:
                        return await self._be_primary(wanted.epoch)
                    case WantedRole.HELD:
                        return await self._hold()
                    case WantedRole.STANDBY:
                        return await self._be_standby(wanted.upstream)
        except (TimeoutError, RedisTimeoutError):
            await self._actor.anew()
            raise Unreachable(f"Redis did not answer within {within:.0f} s") from None
        except (RedisConnectionError, OSError) as error:
            await self._actor.anew()
            raise Unreachable(f"Redis: {error}") from error
        except RedisError as error:
            raise RefusedByPeer(f"Redis: {error}") from error

    async def _be_primary(self, epoch: int) -> ServiceView:
        """Rule 13: guard and gate stand first; the page is asked here once more, next to the act itself."""
        await self._actor.client.ping()  # on a connection that lives: the process at its other end is the one that is armed
        pid, began, _ = await self._actor.process()
        if not self._armed(epoch, pid, began):
            raise RefusedByPeer(f"the keeper is not armed for epoch {epoch} and process {pid}: nothing would end this right")
        self._held = False
        (_, promoted, _), view = await self._ask(
            self._actor,
            ("CONFIG", "SET", "min-replicas-to-write", "0"),  # may be renamed away on a guarded server
            ("REPLICAOF", "NO", "ONE"),
            ("CLIENT", "UNPAUSE"),  # the daemon before this one may have held the writes
        )
        if isinstance(promoted, RedisError):
            raise promoted
        if view.role is not Role.PRIMARY or view.pid != pid:
            raise NotConfirmed(f"Redis was told, but it does not say that it is primary: it says {view.role}, process {view.pid}")
        return view

    async def _hold(self) -> ServiceView:
        """Writes wait; reads go on; nothing more is added to the data (CLIENT PAUSE, Redis 6.2 and later)."""
        self._held = True
        (answer,), view = await self._ask(self._actor, ("CLIENT", "PAUSE", str(HOLD_FOR_MS), "WRITE"))
        if isinstance(answer, RedisError):
            self._held = False
            raise answer
        return view

    async def _be_standby(self, upstream: NodeName | None) -> ServiceView:
        target = self._address_of(upstream)
        view = await self._running_view(target)
        if view.role is Role.STANDBY and (view.upstream or NOBODY) == target and not self._held:
            return view
        words = [*self._log_in_words(), ("REPLICAOF", target[0], str(target[1]))]
        if view.role is Role.PRIMARY:
            words.append(("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"))
        if self._held:
            words.append(("CLIENT", "UNPAUSE"))
        answers, view = await self._ask(self._actor, *words)
        for answer in answers:
            if isinstance(answer, RedisError):
                raise answer
        self._held = False
        if view.role is not Role.STANDBY or (view.upstream or NOBODY) != target:
            raise NotConfirmed(f"Redis was told, but it does not follow: it says {view.role}, upstream {view.upstream}")
        return replace(view, writes_held=False)

    async def _running_view(self, upstream: tuple[str, int]) -> ServiceView:
        """What it says; it is started first when nobody listens there."""
        try:
            return await self._view(self._actor)
        except (BusyLoadingError, AuthenticationError):
            raise
        except (RedisConnectionError, FileNotFoundError, ConnectionRefusedError):
            await self._actor.anew()
            await self._start(upstream)
        return await self._view(self._actor)

    def _address_of(self, upstream: NodeName | None) -> tuple[str, int]:
        if upstream is None:
            return NOBODY
        member = self._members[upstream]
        return member.address, member.port

    def _log_in_words(self) -> list[tuple[str, ...]]:
        """How it is to log in to the primary that it follows."""
        settings = self.settings
        words: list[tuple[str, ...]] = []
        password = settings.password()
        if password is not None:
            words.append(("CONFIG", "SET", "masterauth", password))
        user = settings.replication_user or settings.user
        if user is not None:
            words.append(("CONFIG", "SET", "masteruser", user))
        if settings.tls is not None:
            words.append(("CONFIG", "SET", "tls-replication", "yes"))
        return words

    async def _start(self, upstream: tuple[str, int]) -> None:
        """It always begins as a standby: a server that came back without its data must never be anybody's source."""
        settings = self.settings
        if settings.config is not None:
            command = [settings.program, str(settings.config), "--replicaof", upstream[0], str(upstream[1])]
            command += ["--daemonize", "yes"]
        elif settings.start:
            command = list(settings.start)
        else:
            raise RefusedByPeer(
                "it does not run, and nothing says how to start it: set redis.config or redis.start for this member"
            )
        try:
            await run_command(command, within=START_WITHIN, user=settings.run_as)
        except CannotStart as error:
            raise RefusedByPeer(f"{shlex.join(command)}: {error}") from error
        await self._wait_until_it_answers()

    async def _wait_until_it_answers(self) -> None:
        while True:
            try:
                await self._actor.client.ping()
            except BusyLoadingError:
                return
            except (RedisConnectionError, OSError):
                await self._actor.anew()
                await asyncio.sleep(0.01)
            else:
                return

    async def _command(self, *words: str) -> Any:
        return await self._actor.client.execute_command(*words)  # type: ignore[no-untyped-call]

    async def tend(self, primary: NodeName | None) -> None:
        """Redis needs none."""

    async def ensure_replicas(self, wanted: EnsureReplicas) -> None:
        try:
            async with asyncio.timeout(ACT_WITHIN):
                await self._command("CONFIG", "SET", "min-replicas-max-lag", str(self.settings.max_replica_lag))
                await self._command("CONFIG", "SET", "min-replicas-to-write", str(wanted.at_least))
        except (TimeoutError, RedisError, OSError) as error:
            await self._actor.anew()
            raise Unreachable(f"Redis: {error}") from error

    # --- checking ----------------------------------------------------------------------------------------------------

    async def check(self) -> tuple[str, ...]:
        """Settings that would hurt in a failover, each with its cure."""
        try:
            async with asyncio.timeout(ACT_WITHIN):
                config = await self._actor.client.config_get(
                    "repl-backlog-size", "repl-backlog-ttl", "replica-read-only", "protected-mode"
                )
                server = await self._actor.client.info("server")
        except (TimeoutError, RedisError, OSError) as error:
            return (f"Redis at {self.settings.socket or self.settings.port} cannot be asked: {error}",)
        known = {str(name): str(value) for name, value in config.items()}
        return tuple(_findings(known, str(server.get("config_file", "")), self.settings))


def _findings(config: dict[str, str], config_file: str, settings: RedisSettings) -> list[str]:
    findings = []
    if int(config.get("repl-backlog-size", 0)) < 64 * 1024 * 1024:
        findings.append(
            f"repl-backlog-size is {config.get('repl-backlog-size')} bytes: standbys that were away for a moment copy "
            "everything anew; CONFIG SET repl-backlog-size 67108864"
        )
    if config.get("replica-read-only") != "yes":
        findings.append("replica-read-only is not yes: a standby accepts writes; CONFIG SET replica-read-only yes")
    if config.get("protected-mode") == "yes" and settings.password_file is None and not _is_loopback(settings.host):
        findings.append(
            "protected-mode is yes and no password is configured: Redis answers this host alone, so no other member can follow "
            "it; give it a password (requirepass, redis.password_file), or where the network is safe CONFIG SET protected-mode no"
        )
    if not _starts_as_replica(str(settings.config or config_file)):
        findings.append(
            f"{settings.config or config_file or 'its configuration'} has no replicaof line: started by anybody but Tanist it "
            "comes back as primary, perhaps empty, and its standbys would copy the emptiness; add: "
            f"replicaof {NOBODY[0]} {NOBODY[1]}"
        )
    if settings.socket is None:
        findings.append(
            f"no unix socket is configured: the daemon reaches it from {ADMIN_SOURCE}; unixsocket and redis.socket are safer"
        )
    return findings


def _is_loopback(host: str) -> bool:
    """By name or by number; a name that means something else here is judged by the others, who connect to it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _starts_as_replica(config_file: str) -> bool:
    try:
        with open(config_file, encoding="utf-8", errors="replace") as lines:
            return any(line.split()[:1] in (["replicaof"], ["slaveof"]) for line in lines)
    except OSError:
        return False


def _connection_outcome(error: RedisConnectionError) -> Outcome:
    """redis-py wraps the reason: who refused, we or they?"""
    cause = error.__cause__ or error.__context__
    if isinstance(cause, ConnectionRefusedError | FileNotFoundError) or "has ended" in str(error):
        return Refused(str(error), gone=True)
    if isinstance(cause, ConnectionResetError | BrokenPipeError) or "closed" in str(error).lower():
        return Refused(str(error))
    if isinstance(cause, ssl.SSLError):
        return Refused(f"TLS: {error}")
    if isinstance(cause, OSError):
        return Abstained(str(error))
    return Refused(str(error))
