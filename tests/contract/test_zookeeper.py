"""What is particular to ZooKeeper: sessions, access lists, an ensemble that loses servers."""

import asyncio
import secrets
import time
from pathlib import Path

import pytest
from kazoo.client import KazooClient

from orchestrator.coordination.zookeeper import Credentials, ZooKeeperMediator
from orchestrator.domain.effects import WriteRecord
from orchestrator.domain.events import WriteOutcome
from orchestrator.ports import RefusedByPeer, Unreachable
from tests.contract.servers import Ensemble, ensemble, why_no_zookeeper
from tests.contract.test_mediator import GROUP, WITHIN, record, until, until_reachable, write

pytestmark = pytest.mark.zookeeper


def cluster() -> str:
    return f"shop-{secrets.token_hex(4)}"


def mediator(servers: Ensemble, name: str, node: str = "db1", **more: object) -> ZooKeeperMediator:
    return ZooKeeperMediator(servers.hosts, f"/{name}", name, node, more.pop("identity", node), **more)


def test_a_frozen_server_ends_calls_at_their_deadline_and_nothing_is_sent_later(tmp_path: Path):
    if reason := why_no_zookeeper():
        pytest.skip(reason)
    with ensemble(tmp_path, 1) as servers:

        async def run() -> None:
            one = mediator(servers, cluster())
            await one.start()
            try:
                await until_reachable(one)
                await one.write_record(GROUP, write(record(), None))
                servers.servers[0].freeze()
                began = time.monotonic()
                late = WriteRecord(record=record(1, epoch=2), expected=0, within=0.5)
                assert (await one.write_record(GROUP, late)).outcome is WriteOutcome.UNKNOWN
                with pytest.raises(Unreachable):
                    await one.read(GROUP, 0.5)
                assert time.monotonic() - began < 2.0
                deadline = time.monotonic() + 20
                while one._client.connected:
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.05)
                queued = WriteRecord(record=record(1, epoch=77), expected=0, within=0.5)
                assert (await one.write_record(GROUP, queued)).outcome is WriteOutcome.NOT_SENT
                servers.servers[0].thaw()
                await until_reachable(one)
                assert (await one.read(GROUP, WITHIN)).record.epoch in (1, 2), "what was not sent must never appear"
            finally:
                await one.stop()

        asyncio.run(run())


def test_an_emptied_server_is_seen_to_be_empty(tmp_path: Path):
    if reason := why_no_zookeeper():
        pytest.skip(reason)
    with ensemble(tmp_path, 1) as servers:

        async def run() -> None:
            one = mediator(servers, cluster())
            await one.start()
            try:
                await until_reachable(one)
                for version in range(20):
                    await one.write_record(GROUP, write(record(version), version - 1 if version else None))
                servers.kill()
                servers.servers[0].empty()
                servers.start()

                async def empty() -> bool:
                    try:
                        return (await one.read(GROUP, 1.0)).record is None
                    except Unreachable:
                        return False

                await until(empty, within=30)
                adopted = record(incarnation=8, epoch=9)
                await one.adopt(GROUP, adopted, WITHIN)
                assert (await one.read(GROUP, WITHIN)).record == adopted
            finally:
                await one.stop()

        asyncio.run(run())


def test_an_ensemble_goes_on_without_the_server_that_was_used(zookeeper_ensemble: Ensemble):
    async def run() -> None:
        one = mediator(zookeeper_ensemble, cluster())
        await one.start()
        try:
            await until_reachable(one)
            await one.write_record(GROUP, write(record(), None))
            used = one._client._connection._socket.getpeername()[0]
            server = next(each for each in zookeeper_ensemble.servers if each.address == used)
            server.kill()
            try:
                await until_reachable(one)
                assert (await one.read(GROUP, WITHIN)).record.version == 0

                async def writes() -> bool:
                    version = (await one.read(GROUP, WITHIN)).record.version
                    ended = await one.write_record(GROUP, write(record(version + 1), version))
                    return ended.outcome is WriteOutcome.APPLIED

                await until(writes)
            finally:
                server.start()
                server.wait_up()
        finally:
            await one.stop()

    asyncio.run(run())


def test_reading_makes_nothing(zookeeper: Ensemble):
    name = cluster()

    async def run() -> None:
        visitor = mediator(zookeeper, name, identity=None)
        await visitor.start()
        try:
            await until_reachable(visitor)
        finally:
            await visitor.stop()

    asyncio.run(run())
    client = KazooClient(hosts=zookeeper.hosts)
    client.start(20)
    try:
        assert client.exists(f"/{name}") is None
    finally:
        client.stop()
        client.close()


def test_with_credentials_nobody_else_reads_or_writes(zookeeper: Ensemble):
    name = cluster()

    async def run() -> None:
        owner = mediator(zookeeper, name, credentials=Credentials(user="tanist", password="a password of ours"))
        stranger = mediator(zookeeper, name, node="db9")
        await owner.start()
        try:
            await until_reachable(owner)
            made = record()
            assert (await owner.write_record(GROUP, write(made, None))).outcome is WriteOutcome.APPLIED
            await stranger.start()
            try:

                async def refused() -> bool:
                    with pytest.raises(Unreachable) as told:
                        await stranger.read(GROUP, WITHIN)
                    return "NoAuth" in str(told.value)

                await until(refused)
                ended = await stranger.write_record(GROUP, write(record(1, epoch=9), 0))
                assert ended.outcome is not WriteOutcome.APPLIED
            finally:
                await stranger.stop()
            assert (await owner.read(GROUP, WITHIN)).record == made
        finally:
            await owner.stop()

    asyncio.run(run())


def test_two_hosts_of_one_name_are_told_apart(zookeeper: Ensemble):
    name = cluster()

    async def run() -> None:
        one, twin = mediator(zookeeper, name, identity="one"), mediator(zookeeper, name, identity="another")
        await one.start()
        try:

            async def present() -> bool:
                try:
                    return await one.present() == ("db1",)
                except Unreachable:
                    return False

            await until(present)
            await twin.start()
            try:

                async def refused() -> bool:
                    try:
                        await twin.read(GROUP, WITHIN)
                    except RefusedByPeer as error:
                        return "another host is present as db1" in str(error)
                    except Unreachable:
                        pass
                    return False

                await until(refused)
                assert (await twin.write_record(GROUP, write(record(), None))).outcome is WriteOutcome.NOT_SENT
            finally:
                await twin.stop()
        finally:
            await one.stop()

    asyncio.run(run())
