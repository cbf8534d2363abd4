"""`service: postgresql` in the configuration: what it becomes, and what is refused."""

from pathlib import Path

import pytest

from orchestrator.config.build import domain_group, postgresql_settings
from orchestrator.config.load import BadConfig, load
from orchestrator.services.postgresql.settings import ControlKind, programs

TEXT = """\
cluster: shop
mediator: zookeeper://10.0.0.11:2181/tanist
key_file: /etc/tanist/key
nodes:
  db1: {{address: 10.0.0.1}}
  db2: {{address: 10.0.0.2}}
  db-2: {{address: 10.0.0.4}}
  db_2: {{address: 10.0.0.3}}
groups:
  orders:
    service: postgresql
{0}
"""
GROUP = """\
    postgresql:
      data_directory: /var/lib/postgresql/15/main
      config_file: /etc/postgresql/15/main/postgresql.conf
      replication_user: repl
      connection: {sslmode: require}
      control: pg_ctlcluster
      cluster: 15/main
      max_rate: 100MB
      start_within: 5m
    members: {db1: {}, db2: {address: 10.9.0.2, postgresql: {port: 5433, control: systemd, unit: pg.service, slots: false}}}
"""


def read(tmp_path: Path, group: str):  # type: ignore[no-untyped-def]
    path = tmp_path / "tanist.yaml"
    path.write_text(TEXT.format(group), encoding="utf-8")
    return load(path)


def test_the_members_own_settings_stand_over_the_groups(tmp_path: Path):
    config = read(tmp_path, GROUP)
    first, second = (postgresql_settings(config, "orders", name) for name in ("db1", "db2"))
    assert (first.name, first.host, first.port, first.control) == ("db1", "10.0.0.1", 5432, ControlKind.CLUSTER)
    assert (second.host, second.port, second.control, second.unit) == ("10.9.0.2", 5433, ControlKind.SYSTEMD, "pg.service")
    assert first.slots and not second.slots
    assert not first.synchronous
    assert second.follows_as == "repl" and dict(second.connection) == {"sslmode": "require"}
    assert second.max_rate == 100 * 1024 * 1024 and second.start_within == 300
    assert second.socket_directory == Path("/var/run/postgresql")
    assert [(member.address, member.port) for member in domain_group(config, "orders").members] == [
        ("10.0.0.1", 5432),
        ("10.9.0.2", 5433),
    ]


def test_programs_are_found_by_the_datas_version(tmp_path: Path):
    config = read(tmp_path, GROUP.replace("/var/lib/postgresql/15/main", str(tmp_path / "data")))
    settings = postgresql_settings(config, "orders", "db1")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "PG_VERSION").write_text("14\n")
    assert programs(settings) == Path("/usr/lib/postgresql/14/bin")


MEMBERS = "    members: {db1: {}, db2: {}}\n"


@pytest.mark.parametrize(
    ("group", "words"),
    [
        (MEMBERS, ["groups.orders.members.db1", "data_directory is missing, such as /var/lib/postgresql/15/main"]),
        (f"    postgresql: {{data_directory: main}}\n{MEMBERS}", ["data_directory: read main, expected an absolute path"]),
        (f"    postgresql: {{data_directory: /d, control: systemd}}\n{MEMBERS}", ["unit is missing"]),
        (f"    postgresql: {{data_directory: /d, control: pg_ctlcluster}}\n{MEMBERS}", ["cluster is missing, such as 15/main"]),
        (f"    postgresql: {{data_directory: /d, cluster: main}}\n{MEMBERS}", [":12:", "expected Debian's version and name"]),
        (f"    postgresql: {{data_directory: /d, control: initd}}\n{MEMBERS}", [":12:", "'initd'", "'systemd'"]),
        (f"    postgresql: {{data_directory: /d, max_rate: 1kB}}\n{MEMBERS}", ["max_rate: expected between 32kB and 1GB"]),
        (f"    postgresql: {{data_directory: /d, max_rate: 100}}\n{MEMBERS}", [":12:", "expected a size with its unit"]),
        (f"    postgresql: {{data_directory: /d, data_dir: /x}}\n{MEMBERS}", [":12:", "unknown key"]),
        (
            f"    postgresql: {{data_directory: /d, control: systemd, unit: u, parameters: {{work_mem: 4MB}}}}\n{MEMBERS}",
            ["parameters are for a direct start"],
        ),
        (
            f"    postgresql: {{data_directory: /d}}\n    redis: {{port: 1}}\n{MEMBERS}",
            [":13:", "the group's service is postgresql"],
        ),
        (f"    postgresql: {{data_directory: /d}}\n    policy: {{min_replicas: 1}}\n{MEMBERS}", ["min_replicas", "quorum"]),
        (
            f"    postgresql: {{data_directory: /d}}\n    policy: {{strict: true}}\n{MEMBERS}",
            ["policy.strict", "expected replication: synchronous"],
        ),
        (
            "    postgresql: {data_directory: /d}\n    members: {db1: {}, db2: {never_synchronous: true}}\n",
            ["db2.never_synchronous", "expected replication: synchronous"],
        ),
        (
            "    replication: synchronous\n    postgresql: {data_directory: /d}\n"
            "    members: {db1: {never_primary: true}, db2: {never_synchronous: true}}\n",
            ["nobody could ever take over"],
        ),
        ("    postgresql: {data_directory: /d}\n    members: {db-2: {}, db_2: {}}\n", ["replication slot", "rename one"]),
    ],
)
def test_what_cannot_work_is_refused_with_what_would_be_right(tmp_path: Path, group: str, words: list[str]):
    with pytest.raises(BadConfig) as refused:
        read(tmp_path, group)
    told = "\n".join(refused.value.mistakes)
    for word in words:
        assert word in told, told


@pytest.mark.parametrize("replication", ["synchronous", "quorum"])
def test_the_adapter_knows_that_its_group_promises_every_acknowledged_commit(tmp_path: Path, replication: str):
    config = read(tmp_path, GROUP.replace("    postgresql:\n", f"    replication: {replication}\n    postgresql:\n", 1))
    assert postgresql_settings(config, "orders", "db1").synchronous
