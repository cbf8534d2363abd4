"""Debian clusters, made and removed by the tests: started by pg_ctlcluster, and by a systemd unit.

There is no systemd in most places where tests run, so a stand-in `systemctl` comes first on PATH. It runs what Debian's unit
runs, and keeps notes of what it was told: this shows that the commands are right, and the adapter's part of the work. It does
not show how a real systemd gets on with them.
"""

import asyncio
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from debian_clusters import SYSTEMCTL, VERSION, Clusters, clusters, why_not
from postgresql_servers import HOST, held, primary, standby, until, until_view

from orchestrator.domain.observations import Answered, Role
from orchestrator.domain.positions import bytes_behind
from orchestrator.ports import RefusedByPeer
from orchestrator.services.postgresql.settings import ControlKind

pytestmark = [
    pytest.mark.postgresql,
    pytest.mark.timeout(180),
    pytest.mark.skipif(bool(why_not()), reason=f"Debian's PostgreSQL: {why_not()}"),
]


@pytest.fixture(params=[ControlKind.CLUSTER, ControlKind.SYSTEMD], ids=["pg_ctlcluster", "systemd"])
def pair(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Clusters]:
    with clusters(request.param) as made:
        script = tmp_path / "systemctl"
        script.write_text(SYSTEMCTL.format(notes=made.notes))
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        yield made


def rows(pair: Clusters, name: str) -> list[tuple[object, ...]]:
    return pair.sql(name, "SELECT count(*), coalesce(sum(hashtext(what)), 0) FROM kept")


def write(pair: Clusters, name: str, what: str) -> None:
    pair.sql(name, f"INSERT INTO kept (what) VALUES ('{what}')")


def told(pair: Clusters) -> list[str]:
    return pair.notes.read_text().splitlines() if pair.notes.exists() else []


async def join(pair: Clusters) -> None:
    """b is copied from a, and follows it."""
    b = pair.service("b")
    await b.create("a")
    view = await b.ensure(standby(1, "a"))
    assert view.role is Role.STANDBY
    await until_view(b, lambda view: view.link_up)
    until(lambda: rows(pair, "b") == rows(pair, "a"))


def uses_its_own_configuration(pair: Clusters, name: str) -> None:
    each = pair.of[name]
    query = "SELECT current_setting('config_file'), current_setting('hba_file'), current_setting('log_line_prefix')"
    assert pair.sql(name, query) == [(f"{each.place}/postgresql.conf", f"{each.place}/pg_hba.conf", f"member {name} ")]
    assert not (each.data / "postgresql.conf").exists()


def test_started_stopped_promoted_followed_and_held(pair: Clusters):
    async def scenario() -> None:
        a, b = pair.service("a"), pair.service("b")
        before = {name: each.configuration() for name, each in pair.of.items()}
        outcome = await a.look(1.0)
        assert isinstance(outcome, Answered) and outcome.view.role is Role.PRIMARY, "adopted as it runs"
        await join(pair)
        assert [await each.check() for each in (a, b)] == [(), ()]
        stood = await a.ensure(held(1))
        until(lambda: not (pair.of["a"].data / "postmaster.pid").exists())
        await until_view(b, lambda view: bytes_behind(view.position, stood.position) == 0)
        await b.ensure(primary(2))
        write(pair, "b", "after the switchover")
        assert await a.why_not_start() == ""
        await a.ensure(standby(2, "b"))
        await until_view(a, lambda view: view.link_up)
        until(lambda: rows(pair, "a") == rows(pair, "b"))
        assert not [words for words in pair.heard["a"] if "copying" in words or "rewinding" in words]
        for name, each in pair.of.items():
            assert each.configuration() == before[name]
            uses_its_own_configuration(pair, name)
        assert "primary_conninfo" in (pair.of["a"].data / "postgresql.auto.conf").read_text()
        await b.control.stop()
        until(lambda: not (pair.of["b"].data / "postmaster.pid").exists())
        if pair.control is ControlKind.SYSTEMD:
            units = {name: f"postgresql@{VERSION}-{each.name}.service" for name, each in pair.of.items()}
            starts = [f"{verb} {units[name]}" for name in ("b", "a") for verb in ("reset-failed", "start")]
            verbs = [line for line in told(pair) if not line.startswith("show")]
            # a is stopped once, when it is held, and b at the end
            assert verbs == [*starts[:2], f"stop {units['a']}", *starts[2:], f"stop {units['b']}"]
        else:
            assert all(line.startswith("show ") for line in told(pair)), told(pair)
        await pair.close()

    asyncio.run(scenario())


def test_a_diverged_member_is_rewound_and_then_copied_and_keeps_its_configuration(pair: Clusters):
    """The crash is recovered by a single-user server, which must read the configuration below /etc, too."""

    async def scenario() -> None:
        a, b = pair.service("a"), pair.service("b")
        await join(pair)
        before = {name: each.configuration() for name, each in pair.of.items()}
        for epoch, (old, new, limits) in enumerate((("a", "b", {}), ("b", "a", {"rewinds": 0})), 2):
            pair.kill(new)
            for number in range(20):
                write(pair, old, f"lost {epoch} {number}")
            pair.kill(old)
            await pair.service(new).ensure(standby(epoch))
            await pair.service(new).ensure(primary(epoch))
            write(pair, new, f"new {epoch}")
            pair.heard[old].clear()
            service = pair.service(old, **limits)
            await service.ensure(standby(epoch, new))
            await until_view(service, lambda view: view.link_up)
            until(lambda old=old, new=new: rows(pair, old) == rows(pair, new))
            act = "copying" if limits else "rewinding"
            assert [words for words in pair.heard[old] if act in words], pair.heard[old]
            assert not [words for words in pair.heard[old] if "the rewind failed" in words]
        for name, each in pair.of.items():
            assert each.configuration() == before[name]
            uses_its_own_configuration(pair, name)
        del a, b
        await pair.close()

    asyncio.run(scenario())


def test_why_it_does_not_start_is_told_by_debians_log(pair: Clusters):
    async def refused() -> str:
        with pytest.raises(RefusedByPeer) as caught:
            await pair.service("a").ensure(standby(1))
        print("\n-", caught.value)
        return str(caught.value)

    async def scenario() -> None:
        place = pair.of["a"].place
        pair.kill("a")
        with socket.create_server((HOST, pair.of["a"].port)):
            words = await refused()
        assert words.startswith(f'it ended while starting: could not bind IPv4 address "{HOST}"'), words
        broken = place / "conf.d" / "broken.conf"
        broken.write_text("max_wal_senders = many\n")
        assert 'invalid value for parameter "max_wal_senders": "many"' in await refused()
        assert 'invalid value for parameter "max_wal_senders": "many"' in await pair.service("a").why_not_start()
        broken.unlink()
        if pair.control is ControlKind.CLUSTER:
            (place / "start.conf").write_text("disabled\n")
            assert (await refused()).endswith("Error: Cluster is disabled")
            assert "start.conf says disabled" in await pair.service("a").why_not_start()
        await pair.close()

    asyncio.run(scenario())


def test_what_starts_at_boot_and_data_elsewhere_than_configured_are_named(pair: Clusters):
    async def scenario() -> None:
        (pair.of["a"].place / "start.conf").write_text("auto\n")
        (finding,) = [each for each in await pair.service("a").check() if "start.conf" in each]
        assert finding.endswith("write there: manual")
        other = pair.service("a", data_directory=pair.of["b"].data)
        found = [each for each in await other.check() if "data_directory" in each]
        assert f"has its data_directory at {pair.of['a'].data}, and Tanist would use {pair.of['b'].data}" in found[0]
        await pair.close()

    asyncio.run(scenario())


def test_no_cluster_of_ours_is_left_behind():
    with clusters(ControlKind.CLUSTER) as made:
        names = [each.name for each in made.of.values()]
        assert all((Path("/etc/postgresql") / VERSION / name).exists() for name in names)
    assert not any((Path("/etc/postgresql") / VERSION / name).exists() for name in names)
    assert not made.directory.exists()
    assert shutil.which("pg_lsclusters") is not None
