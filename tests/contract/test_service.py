"""The service's port: one suite for every adapter, on real servers (design, section 8; rules 6, 13 and 17).

The simulation's instance in memory is no adapter of this port: the simulator acts on it itself.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from orchestrator.domain.effects import EnsureService, WantedRole
from orchestrator.domain.observations import Answered, Refused, Role, ServiceView, Silent
from orchestrator.domain.positions import bytes_behind
from orchestrator.keeper.tree import Tree, started
from orchestrator.ports import RefusedByPeer, Service
from orchestrator.services.redis.service import RedisService
from tests.system import postgresql_servers, redis_servers

ONE, TWO = "a", "b"
WITHIN = 1.0
NOT_IN_TIME = 20.0

pytestmark = pytest.mark.timeout(120)


class Running:
    """A primary and its standby that were started by hand, and how to reach past the adapters."""

    armed = True

    def service(self, name: str) -> Service:
        raise NotImplementedError

    def end_of(self, name: str) -> tuple[str, int]:
        raise NotImplementedError

    def tree(self, name: str) -> Tree:
        raise NotImplementedError

    def write(self, name: str, what: str) -> bool:
        """Whether a client's write was acknowledged."""
        raise NotImplementedError

    def has(self, name: str, what: str) -> bool:
        raise NotImplementedError

    def kill(self, name: str) -> None:
        raise NotImplementedError


class Postgresql(Running):
    def __init__(self, servers: postgresql_servers.Servers) -> None:
        self.servers = servers

    def service(self, name: str) -> Service:
        self.servers.is_armed = self.armed
        return self.servers.service(name)

    def end_of(self, name: str) -> tuple[str, int]:
        return postgresql_servers.HOST, self.servers.ports[name]

    def tree(self, name: str) -> Tree:
        return self.servers.tree(name)

    def write(self, name: str, what: str) -> bool:
        try:
            self.servers.sql(name, f"INSERT INTO kept (what) VALUES ('{what}')", connect_timeout=2)
        except psycopg.Error:
            return False
        return True

    def has(self, name: str, what: str) -> bool:
        return self.servers.sql(name, f"SELECT count(*) FROM kept WHERE what = '{what}'") == [(1,)]

    def kill(self, name: str) -> None:
        self.servers.kill(name)


class Redis(Running):
    def __init__(self, servers: redis_servers.Servers) -> None:
        self.servers = {name: servers.make(name) for name in (ONE, TWO)}
        for name, server in self.servers.items():
            server.write_config(*(() if name == ONE else (f"replicaof {self.servers[ONE].address} {self.servers[ONE].port}",)))
            server.start()
        redis_servers.wait_for(lambda: redis_servers.facts(self.end_of(TWO), "replication")["master_link_status"] == "up")
        self.write(ONE, "first")

    def service(self, name: str) -> Service:
        server = self.servers[name]
        members = tuple(each.member(which) for which, each in self.servers.items())
        return RedisService(server.settings(config=server.config), members, lambda epoch, pid, started: self.armed)

    def end_of(self, name: str) -> tuple[str, int]:
        return self.servers[name].end

    def tree(self, name: str) -> Tree:
        return Tree(self.servers[name].pid, started(self.servers[name].pid) or 0)

    def write(self, name: str, what: str) -> bool:
        with suppress(OSError):
            return self.servers[name].ask("SET", what, "1") == "OK"
        return False

    def has(self, name: str, what: str) -> bool:
        return self.servers[name].ask("EXISTS", what) in ("1", ":1")

    def kill(self, name: str) -> None:
        self.servers[name].kill()


@pytest.fixture(scope="module")
def root() -> Iterator[Path | None]:
    if postgresql_servers.why_not():
        yield None
        return
    with postgresql_servers.template() as made:
        yield made


@pytest.fixture(params=["redis", "postgresql"])
def pair(request: pytest.FixtureRequest, tmp_path: Path, root: Path | None) -> Iterator[Running]:
    if request.param == "redis":
        if reason := redis_servers.why_no_redis():
            pytest.skip(reason)
        with redis_servers.servers(tmp_path) as made:
            yield Redis(made)
        return
    if root is None:
        pytest.skip(postgresql_servers.why_not())
    with postgresql_servers.copies(root) as servers:
        yield Postgresql(servers)


def primary(epoch: int) -> EnsureService:
    return EnsureService(role=WantedRole.PRIMARY, epoch=epoch)


def held(epoch: int) -> EnsureService:
    return EnsureService(role=WantedRole.HELD, epoch=epoch)


def standby(epoch: int, of: str | None = None) -> EnsureService:
    return EnsureService(role=WantedRole.STANDBY, epoch=epoch, upstream=of)


async def until_view(service: Service, shown: Callable[[ServiceView], bool]) -> ServiceView:
    deadline = time.monotonic() + NOT_IN_TIME
    while True:
        outcome = await service.look(WITHIN)
        if isinstance(outcome, Answered) and shown(outcome.view):
            return outcome.view
        assert time.monotonic() < deadline, outcome
        await asyncio.sleep(0.01)


async def until_gone(service: Service) -> None:
    """A connection to a process that has ended meanwhile may cost one look."""
    looks = [await service.look(WITHIN) for _ in range(2)]
    assert isinstance(looks[1], Refused) and looks[1].gone, looks


def until(condition: Callable[[], object]) -> None:
    postgresql_servers.until(condition, NOT_IN_TIME)


def run(pair: Running, scenario: Callable[[Service, Service], Awaitable[None]]) -> None:
    async def both() -> None:
        one, two = pair.service(ONE), pair.service(TWO)
        try:
            await scenario(one, two)
        finally:
            await one.close()
            await two.close()

    asyncio.run(both())


def test_a_running_pair_is_seen_as_it_is_and_asked_for_what_it_is_nothing_changes(pair: Running):
    async def scenario(one: Service, two: Service) -> None:
        first, second = await until_view(one, lambda _: True), await until_view(two, lambda view: view.link_up)
        assert (first.role, first.upstream, first.writes_held) == (Role.PRIMARY, None, False)
        assert (second.role, second.upstream) == (Role.STANDBY, pair.end_of(ONE))
        for view, name in ((first, ONE), (second, TWO)):
            assert (view.pid, view.process_started) == (pair.tree(name).pid, pair.tree(name).process_started)
            assert view.software
        assert (await one.ensure(primary(3))).pid == first.pid
        assert (await two.ensure(standby(3, ONE))).pid == second.pid
        assert pair.write(ONE, "goes on")

    run(pair, scenario)


def test_what_an_older_epoch_wants_is_refused(pair: Running):
    async def scenario(one: Service, two: Service) -> None:
        await two.ensure(standby(3, ONE))
        for wanted in (primary(2), held(2), standby(2)):
            with pytest.raises(RefusedByPeer, match="epoch 2 is older than epoch 3"):
                await two.ensure(wanted)
        assert (await until_view(two, lambda _: True)).role is Role.STANDBY

    run(pair, scenario)


def test_nothing_becomes_primary_while_nobody_would_end_its_right(pair: Running):
    pair.armed = False

    async def scenario(one: Service, two: Service) -> None:
        with pytest.raises(RefusedByPeer, match="not armed"):
            await two.ensure(primary(3))
        assert (await until_view(two, lambda _: True)).role is Role.STANDBY
        assert not pair.write(TWO, "never")

    run(pair, scenario)


def test_the_standby_takes_over_with_everything_and_the_old_primary_comes_back_as_a_standby(pair: Running):
    async def scenario(one: Service, two: Service) -> None:
        assert pair.write(ONE, "last")
        end = (await until_view(one, lambda _: True)).position
        await until_view(two, lambda view: (bytes_behind(view.position, end) or 0) <= 0)
        pair.kill(ONE)
        await until_gone(one)
        assert await one.why_not_start() == ""
        view = await two.ensure(primary(3))
        assert (view.role, view.upstream) == (Role.PRIMARY, None)
        assert pair.write(TWO, "new") and pair.has(TWO, "last")
        back = await one.ensure(standby(3, TWO))
        assert back.role is Role.STANDBY and back.upstream == pair.end_of(TWO)
        await until_view(one, lambda view: view.link_up)
        until(lambda: pair.has(ONE, "new"))
        assert not pair.write(ONE, "never")

    run(pair, scenario)


def test_held_it_takes_no_write_and_says_where_its_data_end(pair: Running):
    async def scenario(one: Service, two: Service) -> None:
        assert pair.write(ONE, "last")
        stood = await one.ensure(held(3))
        assert stood.writes_held and stood.role is Role.PRIMARY
        assert not pair.write(ONE, "never")
        assert bytes_behind(stood.position, (await one.ensure(held(3))).position) == 0, "asked twice"
        await until_view(two, lambda view: bytes_behind(view.position, stood.position) is not None)
        await until_view(two, lambda view: (bytes_behind(view.position, stood.position) or 0) <= 0)
        assert pair.has(TWO, "last")
        await two.ensure(primary(4))
        assert pair.write(TWO, "after")
        await one.ensure(standby(4, TWO))
        await until_view(one, lambda view: view.link_up)
        until(lambda: pair.has(ONE, "after"))

    run(pair, scenario)


def test_who_held_its_writes_can_take_them_again(pair: Running):
    async def scenario(one: Service, two: Service) -> None:
        await one.ensure(held(3))
        view = await one.ensure(primary(3))
        assert view.role is Role.PRIMARY and not view.writes_held
        assert pair.write(ONE, "again")

    run(pair, scenario)


def test_a_frozen_one_is_silent_within_the_bound_and_goes_on_afterwards(pair: Running):
    async def scenario(one: Service, two: Service) -> None:
        before = await until_view(one, lambda _: True)
        tree = pair.tree(ONE)
        tree.stop()
        try:
            for _ in range(2):
                began = time.monotonic()
                assert isinstance(await one.look(0.3), Silent)
                assert time.monotonic() - began < 0.6
        finally:
            tree.go_on()
        assert (await until_view(one, lambda _: True)).pid == before.pid

    run(pair, scenario)


def test_it_outlives_whoever_looks_after_it(pair: Running):
    async def scenario(one: Service, two: Service) -> None:
        pair.kill(TWO)
        await two.ensure(standby(3, ONE))

    run(pair, scenario)
    assert pair.write(ONE, "goes on")
    until(lambda: pair.has(TWO, "goes on"))


def test_a_refusal_that_nobody_knows_has_no_cure(pair: Running):
    async def scenario(one: Service, two: Service) -> None:
        assert one.cure("a reason that no server gives") == ""
        assert isinstance(await one.check(), tuple)

    run(pair, scenario)
