"""The Redis adapter alone, against real servers: what it sees, what it does, and what it says when it may not."""

import asyncio
import functools
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.domain.effects import EnsureReplicas, EnsureService, WantedRole
from orchestrator.domain.observations import Abstained, Answered, Refused, Role, ServiceView, Silent
from orchestrator.keeper.tree import started
from orchestrator.ports import NotConfirmed, RefusedByPeer, Unreachable
from orchestrator.services.redis.info import NOBODY
from orchestrator.services.redis.service import RedisService
from orchestrator.services.redis.settings import RedisSettings, RedisTls
from tests.system.redis_servers import RedisServer, Servers, ask, facts, free_port, is_alive, say, wait_for

pytestmark = [pytest.mark.redis, pytest.mark.timeout(60)]

WITHIN = 2.0
BIG = "67108864"


def in_loop(test: Callable[..., Any]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 45))

    return run


class Adapters:
    """Adapters of the members db1, db2 ... in the order of the servers; closed at the end."""

    def __init__(self, *servers: RedisServer) -> None:
        self.members = tuple(server.member(f"db{number}") for number, server in enumerate(servers, 1))
        self.asked: list[tuple[int, int, int]] = []
        self.armed = True
        self.made: list[RedisService] = []

    def of(self, settings: RedisSettings) -> RedisService:
        self.made.append(RedisService(settings, self.members, self._armed))
        return self.made[-1]

    def _armed(self, epoch: int, pid: int, process_started: int) -> bool:
        self.asked.append((epoch, pid, process_started))
        return self.armed

    async def __aenter__(self) -> "Adapters":
        return self

    async def __aexit__(self, *_: object) -> None:
        for each in self.made:
            await each.close()


def primary(epoch: int = 1) -> EnsureService:
    return EnsureService(role=WantedRole.PRIMARY, epoch=epoch)


def held(epoch: int = 1) -> EnsureService:
    return EnsureService(role=WantedRole.HELD, epoch=epoch)


def standby(upstream: str | None = None, epoch: int = 1) -> EnsureService:
    return EnsureService(role=WantedRole.STANDBY, epoch=epoch, upstream=upstream)


async def view_of(service: RedisService) -> ServiceView:
    outcome = await service.look(WITHIN)
    assert isinstance(outcome, Answered), outcome
    return outcome.view


async def until(service: RedisService, shown: Callable[[ServiceView], bool]) -> ServiceView:
    """A connection to a process that has ended meanwhile costs one look."""
    deadline = time.monotonic() + 15
    while True:
        outcome = await service.look(WITHIN)
        if isinstance(outcome, Answered) and shown(outcome.view):
            return outcome.view
        assert time.monotonic() < deadline, outcome
        await asyncio.sleep(0.02)


# --- looking ---------------------------------------------------------------------------------------------------------


@in_loop
async def test_a_running_server_is_attached_to_and_read_right(redis_servers: Servers):
    server = redis_servers.start("a")
    async with Adapters(server) as adapters:
        view = await view_of(adapters.of(server.settings()))
        assert (view.role, view.pid, view.process_started) == (Role.PRIMARY, server.pid, started(server.pid))
        assert (view.upstream, view.link_up, view.empty, view.writes_held, view.replicas) == (None, False, True, False, 0)
        assert view.software.startswith("Redis ")
        assert view.position.history == facts(server.end, "replication")["master_replid"]


@in_loop
async def test_the_position_grows_with_the_writes_and_a_standby_has_the_same(redis_servers: Servers):
    one, two = redis_servers.start("a"), redis_servers.start("b")
    async with Adapters(one, two) as adapters:
        first, second = adapters.of(one.settings()), adapters.of(two.settings())
        await second.ensure(standby("db1"))
        await until(second, lambda view: view.link_up)
        before = await view_of(first)
        one.ask("SET", "key", "x" * 1000)
        after = await until(first, lambda view: view.position.offset > before.position.offset + 1000)
        assert (after.empty, after.replicas) == (False, 1)
        copy = await until(second, lambda view: view.position.offset >= after.position.offset)
        assert copy.position.history == after.position.history
        assert (copy.role, copy.upstream, copy.empty) == (Role.STANDBY, one.end, False)


@in_loop
async def test_keys_in_another_database_count_as_data(redis_servers: Servers):
    server = redis_servers.start("a")
    async with Adapters(server) as adapters:
        server.ask("EVAL", "redis.call('SELECT', 7) redis.call('SET', 'key', '1')", "0")
        assert not (await view_of(adapters.of(server.settings()))).empty


@in_loop
async def test_an_empty_restart_shows(redis_servers: Servers):
    server = redis_servers.start("a")
    async with Adapters(server) as adapters:
        service = adapters.of(server.settings())
        server.ask("SET", "key", "value")
        before = await view_of(service)
        assert not before.empty
        server.kill()
        server.start()
        after = await until(service, lambda view: view.pid == server.pid)
        assert after.empty
        assert (after.pid, after.process_started) == (server.pid, started(server.pid))
        assert after.position.history != before.position.history
        assert before.position.history not in [history for history, _ in after.position.past]


@in_loop
async def test_a_gone_server_is_told_from_a_silent_one(redis_servers: Servers):
    server = redis_servers.start("a")
    async with Adapters(server) as adapters:
        service = adapters.of(server.settings())
        await view_of(service)
        server.kill()
        outcome = await service.look(WITHIN)
        assert isinstance(outcome, Refused)
        outcome = await service.look(WITHIN)
        assert isinstance(outcome, Refused)
        assert outcome.gone


@pytest.mark.parametrize("attached", [True, False], ids=["attached before", "never seen"])
@in_loop
async def test_a_hung_server_is_silent_within_the_bound(redis_servers: Servers, attached: bool):
    server = redis_servers.start("a")
    async with Adapters(server) as adapters:
        service = adapters.of(server.settings())
        if attached:
            await view_of(service)
        server.freeze()
        began = time.monotonic()
        outcome = await service.look(0.3)
        took = time.monotonic() - began
        server.thaw()
        assert outcome == Silent(0.3)
        assert 0.29 < took < 0.6
        assert (await view_of(service)).pid == server.pid, "the answer of then must not be taken for one of now"


@in_loop
async def test_a_wrong_port_is_refused_as_gone(redis_servers: Servers):
    server = redis_servers.make("a")
    async with Adapters(server) as adapters:
        outcome = await adapters.of(server.settings()).look(WITHIN)
        assert isinstance(outcome, Refused)
        assert outcome.gone
        assert str(server.port) in outcome.reason


@in_loop
async def test_a_server_that_loads_its_data_refuses_and_is_not_gone(redis_servers: Servers):
    server = redis_servers.start("a", "--rdbcompression", "no")
    async with Adapters(server) as adapters:
        for number in range(100):
            server.ask("SET", f"key{number}", "x" * 1000)
        server.ask("SAVE")
        server.kill()
        server.start("--key-load-delay", "10000", "--loading-process-events-interval-bytes", "1024")
        service = adapters.of(server.settings())
        assert await service.look(WITHIN) == Refused("it is loading its data")
        assert not (await until(service, lambda view: True)).empty


# --- passwords and TLS -----------------------------------------------------------------------------------------------


def password_file(directory: Path, password: str) -> Path:
    path = directory / f"password-{password}"
    path.write_text(f"{password}\n")
    return path


@in_loop
async def test_a_wrong_password_and_a_missing_one_are_named(redis_servers: Servers, tmp_path: Path):
    server = redis_servers.start("a", "--requirepass", "right")
    async with Adapters(server) as adapters:
        wrong = await adapters.of(server.settings(password_file=password_file(tmp_path, "wrong"))).look(WITHIN)
        assert isinstance(wrong, Refused)
        assert "wrong user or password" in wrong.reason
        assert not wrong.gone
        missing = await adapters.of(server.settings()).look(WITHIN)
        assert isinstance(missing, Refused)
        assert "uthentication" in missing.reason or "password" in missing.reason
        assert not missing.gone
        with pytest.raises((Unreachable, RefusedByPeer), match=r"WRONGPASS|password"):
            await adapters.made[0].ensure(standby())


@in_loop
async def test_a_standby_logs_in_with_the_password(redis_servers: Servers, tmp_path: Path):
    one, two = (redis_servers.start(name, "--requirepass", "right") for name in "ab")
    async with Adapters(one, two) as adapters:
        first, second = (adapters.of(each.settings(password_file=password_file(tmp_path, "right"))) for each in (one, two))
        await first.ensure(primary())
        await second.ensure(standby("db1"))
        await until(second, lambda view: view.link_up)
        assert (await view_of(first)).replicas == 1


@in_loop
async def test_a_named_user_with_few_rights_is_told_what_it_lacks(redis_servers: Servers, tmp_path: Path):
    server = redis_servers.start("a")
    server.ask("ACL", "SETUSER", "poor", "on", ">right", "+ping", "+info")
    async with Adapters(server) as adapters:
        service = adapters.of(server.settings(user="poor", password_file=password_file(tmp_path, "right")))
        assert (await view_of(service)).role is Role.PRIMARY
        with pytest.raises(RefusedByPeer, match=r"permission|replicaof|config"):
            await service.ensure(standby())


class Certificates:
    """An authority and one certificate for the loopback address, made by openssl."""

    def __init__(self, directory: Path) -> None:
        self.ca, self.certificate, self.key = (str(directory / name) for name in ("ca.crt", "redis.crt", "redis.key"))
        extensions = directory / "san"
        extensions.write_text("subjectAltName=IP:127.0.0.1\n")
        ca_key, request = directory / "ca.key", directory / "redis.csr"
        elliptic = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        _openssl("req", "-x509", *elliptic, "-keyout", ca_key, "-out", self.ca, "-subj", "/CN=test authority", "-days", "2")
        _openssl("req", *elliptic, "-keyout", self.key, "-out", request, "-subj", "/CN=redis")
        signing = ["-CA", self.ca, "-CAkey", ca_key, "-CAcreateserial", "-days", "2", "-extfile", extensions]
        _openssl("x509", "-req", "-in", request, *signing, "-out", self.certificate)

    def words(self, server: RedisServer) -> list[str]:
        """TLS only, with client certificates, between the servers too."""
        files = ["--tls-ca-cert-file", self.ca, "--tls-cert-file", self.certificate, "--tls-key-file", self.key]
        return ["--port", "0", "--tls-port", str(server.port), *files]


def _openssl(*words: object) -> None:
    try:
        subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True, timeout=30)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")


@in_loop
async def test_over_tls_it_is_looked_at_and_followed(redis_servers: Servers, tmp_path: Path):
    certificates = Certificates(tmp_path)
    one, two = redis_servers.make("a"), redis_servers.make("b")
    for each in (one, two):
        each.start(*certificates.words(each))
    tls = RedisTls(ca=certificates.ca, certificate=certificates.certificate, key=certificates.key)
    async with Adapters(one, two) as adapters:
        first, second = (adapters.of(each.settings(tls=tls)) for each in (one, two))
        assert (await first.ensure(primary())).pid == one.pid
        await second.ensure(standby("db1"))
        await until(second, lambda view: view.link_up)


@in_loop
async def test_tls_that_does_not_fit_is_refused(redis_servers: Servers, tmp_path: Path):
    certificates = Certificates(tmp_path)
    secret, plain = redis_servers.make("a"), redis_servers.start("b")
    secret.start(*certificates.words(secret))
    stranger = tmp_path / "other"
    stranger.mkdir()
    others = Certificates(stranger)
    tls = RedisTls(ca=certificates.ca, certificate=certificates.certificate, key=certificates.key)
    wrong_ca = RedisTls(ca=others.ca, certificate=certificates.certificate, key=certificates.key)
    cases = {"eset|losed": secret.settings(), "certificate": secret.settings(tls=wrong_ca)}
    cases["certificate required|eset|losed"] = secret.settings(tls=RedisTls(ca=certificates.ca))
    async with Adapters(secret) as adapters:
        for named, settings in cases.items():
            outcome = await adapters.of(settings).look(WITHIN)
            assert isinstance(outcome, Refused | Abstained), outcome
            assert re.search(named, outcome.reason), outcome
            assert outcome != Refused(outcome.reason, gone=True)
        no_tls_there = await adapters.of(plain.settings(tls=tls)).look(0.3)
        assert isinstance(no_tls_there, Refused | Silent), "a server without TLS waits for the end of a line"


# --- acting ----------------------------------------------------------------------------------------------------------


@in_loop
async def test_a_standby_is_promoted_only_under_guard(redis_servers: Servers):
    one, two = redis_servers.start("a"), redis_servers.start("b")
    async with Adapters(one, two) as adapters:
        service = adapters.of(two.settings())
        await service.ensure(standby("db1", epoch=4))
        adapters.armed = False
        with pytest.raises(RefusedByPeer, match="not armed for epoch 5"):
            await service.ensure(primary(epoch=5))
        assert (await view_of(service)).role is Role.STANDBY
        adapters.armed = True
        view = await service.ensure(primary(epoch=5))
        assert (view.role, view.upstream) == (Role.PRIMARY, None)
        assert adapters.asked[-1] == (5, two.pid, started(two.pid))
        with pytest.raises(RefusedByPeer, match="epoch 4 is older"):
            await service.ensure(standby("db1", epoch=4))
        assert (await view_of(service)).role is Role.PRIMARY


@in_loop
async def test_the_guard_is_asked_about_the_process_that_answers_now(redis_servers: Servers):
    server = redis_servers.start("a")
    async with Adapters(server) as adapters:
        service = adapters.of(server.settings())
        await service.ensure(primary())
        old = server.pid
        server.kill()
        server.start()
        while True:
            try:
                await service.ensure(primary())
                break
            except Unreachable:
                continue
        assert adapters.asked[-1] == (1, server.pid, started(server.pid))
        assert old != server.pid


@in_loop
async def test_a_promoted_standby_keeps_its_history_and_the_other_goes_on_without_a_copy(redis_servers: Servers):
    one, two, three = (redis_servers.start(name, "--repl-backlog-size", BIG) for name in "abc")
    async with Adapters(one, two, three) as adapters:
        second, third = adapters.of(two.settings()), adapters.of(three.settings())
        for each in (second, third):
            await each.ensure(standby("db1"))
            await until(each, lambda view: view.link_up)
        one.ask("SET", "key", "value")
        wait_for(lambda: two.ask("GET", "key") == three.ask("GET", "key") == "value")
        before = await view_of(second)
        one.kill()
        view = await second.ensure(primary(epoch=2))
        assert (before.position.history, view.position.past[0][0]) == (view.position.past[0][0], before.position.history)
        assert view.position.past[0][1] >= before.position.offset
        await third.ensure(standby("db2", epoch=2))
        await until(third, lambda seen: seen.link_up)
        assert facts(two.end, "stats")["sync_full"] == "0"
        assert facts(two.end, "stats")["sync_partial_ok"] == "1"


@in_loop
async def test_an_old_primary_follows_again_after_a_restart(redis_servers: Servers):
    one, two = redis_servers.start("a"), redis_servers.start("b")
    async with Adapters(one, two) as adapters:
        first, second = adapters.of(one.settings()), adapters.of(two.settings())
        await second.ensure(primary(epoch=2))
        two.ask("SET", "key", "new")
        one.ask("SET", "key", "old")
        one.kill()
        one.start()
        await first.ensure(standby("db2", epoch=2))
        await until(first, lambda view: view.link_up)
        assert one.ask("GET", "key") == "new"
        assert one.ask("SET", "key", "mine").startswith("-READONLY")


@in_loop
async def test_becoming_a_standby_ends_the_clients_connections(redis_servers: Servers):
    one, two = redis_servers.start("a"), redis_servers.start("b")
    async with Adapters(one, two) as adapters:
        service = adapters.of(two.settings())
        with socket.create_connection(two.end, timeout=2) as link:
            assert say(link, "SET", "key", "value") == "OK"
            await service.ensure(standby("db1"))
            with pytest.raises(OSError):
                say(link, "SET", "key", "value")


@in_loop
async def test_a_standby_of_nobody_accepts_no_write(redis_servers: Servers):
    server = redis_servers.start("a")
    async with Adapters(server) as adapters:
        view = await adapters.of(server.settings()).ensure(standby())
        assert (view.role, view.upstream) == (Role.STANDBY, None)
        assert server.ask("SET", "key", "value").startswith("-READONLY")


@in_loop
async def test_held_writes_wait_and_reads_go_on_until_it_is_primary_again(redis_servers: Servers):
    server = redis_servers.start("a")
    async with Adapters(server) as adapters:
        service = adapters.of(server.settings())
        await service.ensure(primary())
        assert (await service.ensure(held())).writes_held
        assert server.ask("GET", "key") == ""
        with pytest.raises(OSError):
            server.ask("SET", "key", "value", within=0.3)
        assert not (await service.ensure(primary())).writes_held
        assert server.ask("SET", "key", "value") == "OK"


@in_loop
async def test_a_pause_left_behind_by_a_daemon_that_died_is_lifted(redis_servers: Servers):
    server = redis_servers.start("a")
    async with Adapters(server) as adapters:
        before = adapters.of(server.settings())
        await before.ensure(primary())
        await before.ensure(held())
        after = adapters.of(server.settings())
        await after.ensure(primary())
        assert server.ask("SET", "key", "value") == "OK"


@in_loop
async def test_min_replicas_is_set_and_lifted(redis_servers: Servers):
    one, two = redis_servers.start("a"), redis_servers.start("b")
    async with Adapters(one, two) as adapters:
        first, second = adapters.of(one.settings(max_replica_lag=3)), adapters.of(two.settings())
        await first.ensure(primary())
        await first.ensure_replicas(EnsureReplicas(at_least=1, epoch=1))
        assert one.ask("SET", "key", "value").startswith("-NOREPLICAS")
        assert one.ask("CONFIG", "GET", "min-replicas-max-lag").splitlines()[-1] == "3"
        await second.ensure(standby("db1"))
        wait_for(lambda: one.ask("SET", "key", "value") == "OK")
        two.kill()
        wait_for(lambda: one.ask("SET", "key", "value").startswith("-NOREPLICAS"))
        await first.ensure(primary(epoch=2))
        assert one.ask("SET", "key", "value") == "OK", "a new primary must not wait for standbys that it does not have yet"


@in_loop
async def test_acting_on_a_hung_server_ends_and_says_so(redis_servers: Servers, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("orchestrator.services.redis.service.ACT_WITHIN", 0.4)
    server = redis_servers.start("a")
    async with Adapters(server) as adapters:
        service = adapters.of(server.settings())
        server.freeze()
        began = time.monotonic()
        with pytest.raises(Unreachable, match="did not answer"):
            await service.ensure(primary())
        with pytest.raises(Unreachable):
            await service.ensure_replicas(EnsureReplicas(at_least=1, epoch=1))
        assert time.monotonic() - began < 2.0
        server.thaw()


# --- starting --------------------------------------------------------------------------------------------------------


@in_loop
async def test_it_is_started_from_its_configuration_as_a_standby(redis_servers: Servers):
    one, two = redis_servers.start("a"), redis_servers.make("b")
    one.ask("SET", "key", "value")
    async with Adapters(one, two) as adapters:
        service = adapters.of(two.settings(config=two.write_config()))
        assert await service.why_not_start() == ""
        view = await service.ensure(standby("db1"))
        assert (view.role, view.upstream) == (Role.STANDBY, one.end)
        await until(service, lambda seen: seen.link_up)
        assert two.ask("GET", "key") == "value"
        assert is_alive(view.pid)


@in_loop
async def test_a_start_without_an_upstream_never_makes_a_primary(redis_servers: Servers):
    server = redis_servers.make("a")
    async with Adapters(server) as adapters:
        view = await adapters.of(server.settings(config=server.write_config())).ensure(standby())
        assert (view.role, view.upstream) == (Role.STANDBY, None)
        assert facts(server.end, "replication")["master_host"] == NOBODY[0]


@in_loop
async def test_it_is_started_by_a_command(redis_servers: Servers):
    one, two = redis_servers.start("a"), redis_servers.make("b")
    command = ("redis-server", str(two.write_config()), "--daemonize", "yes")
    async with Adapters(one, two) as adapters:
        view = await adapters.of(two.settings(start=command)).ensure(standby("db1"))
        assert (view.role, view.upstream) == (Role.STANDBY, one.end)


@in_loop
async def test_a_start_that_fails_is_told_with_the_commands_words(redis_servers: Servers):
    server = redis_servers.make("a")
    command = ("sh", "-c", "echo the disk is full >&2; exit 3")
    async with Adapters(server) as adapters:
        with pytest.raises(RefusedByPeer, match=r"status 3: the disk is full"):
            await adapters.of(server.settings(start=command)).ensure(standby())
        with pytest.raises(RefusedByPeer, match=r"set redis\.config or redis\.start"):
            await adapters.of(server.settings()).ensure(standby())
        server.write_config("no-such-word 1")
        with pytest.raises(RefusedByPeer, match=r"no-such-word|Bad directive"):
            await adapters.of(server.settings(config=server.config)).ensure(standby())


@in_loop
async def test_a_start_that_never_answers_ends(redis_servers: Servers, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("orchestrator.services.redis.service.ACT_WITHIN", 0.3)
    monkeypatch.setattr("orchestrator.services.redis.service.START_WITHIN", 0.3)
    server = redis_servers.make("a")
    async with Adapters(server) as adapters:
        began = time.monotonic()
        with pytest.raises((Unreachable, RefusedByPeer, NotConfirmed)):
            await adapters.of(server.settings(start=("true",))).ensure(standby())
        assert time.monotonic() - began < 3.0


@in_loop
async def test_what_was_started_outlives_the_daemon(redis_servers: Servers):
    """P5: the server's life must not hang on the daemon's."""
    server = redis_servers.make("a")
    program = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from orchestrator.domain.effects import EnsureService, WantedRole\n"
        "from orchestrator.services.redis.service import RedisService\n"
        "from orchestrator.services.redis.settings import RedisSettings\n"
        f"settings = RedisSettings(host='127.0.0.1', port={server.port}, config=Path({str(server.write_config())!r}))\n"
        "service = RedisService(settings, (), lambda *_: True)\n"
        "view = asyncio.run(service.ensure(EnsureService(role=WantedRole.STANDBY, epoch=1)))\n"
        "print(view.pid, flush=True)\n"
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert done.returncode == -signal.SIGKILL, done.stderr
    pid = int(done.stdout)
    assert os.getpgid(pid) != os.getpgid(0)
    assert server.role() == "slave"


# --- checking --------------------------------------------------------------------------------------------------------


async def findings(adapters: Adapters, settings: RedisSettings) -> str:
    return "\n".join(await adapters.of(settings).check())


@in_loop
async def test_check_says_what_is_dangerous_and_its_cure(redis_servers: Servers):
    server = redis_servers.start("a", "--repl-backlog-size", "1mb", "--replica-read-only", "no")
    async with Adapters(server) as adapters:
        told = await findings(adapters, server.settings())
        assert f"CONFIG SET repl-backlog-size {BIG}" in told
        assert "CONFIG SET replica-read-only yes" in told
        assert "has no replicaof line" in told
        assert "unixsocket and redis.socket are safer" in told


@in_loop
async def test_check_names_a_server_that_answers_only_its_own_host(redis_servers: Servers):
    server = redis_servers.make("a")
    path = server.directory / "sock"
    server.write_config(f"unixsocket {path}", "protected-mode yes")
    server.start()
    async with Adapters(server) as adapters:
        reached_elsewhere = replace(server.settings(socket=str(path)), host="10.9.9.9")
        assert "CONFIG SET protected-mode no" in await findings(adapters, reached_elsewhere)
        assert "protected-mode" not in await findings(adapters, server.settings())


@in_loop
async def test_check_has_nothing_against_a_careful_configuration(redis_servers: Servers):
    server = redis_servers.make("a")
    path = server.directory / "sock"
    server.write_config("replicaof 127.0.0.1 1", f"unixsocket {path}")
    server.start()
    async with Adapters(server) as adapters:
        assert await findings(adapters, server.settings(socket=str(path))) == ""
        view = await view_of(adapters.made[0])
        assert (view.pid, view.role, view.upstream) == (server.pid, Role.STANDBY, None)


@in_loop
async def test_check_of_a_server_that_does_not_run_says_so(redis_servers: Servers):
    server = redis_servers.make("a")
    async with Adapters(server) as adapters:
        assert "cannot be asked" in await findings(adapters, server.settings())


def test_free_ports_are_free():
    with pytest.raises(OSError):
        ask(("127.0.0.1", free_port()), "PING")
