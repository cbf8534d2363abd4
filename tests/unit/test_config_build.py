"""A right configuration is read, and becomes the values that the rest of Tanist works with."""

from pathlib import Path

import pytest

from orchestrator.config import build
from orchestrator.config.load import load
from orchestrator.config.models import ClusterConfig, json_schema
from orchestrator.daemon.assemble import with_addresses_of
from orchestrator.domain.policy import Automation, Replication
from orchestrator.keeper.setup import AddressSetup, Endpoint, LineSetup

MINIMAL = """\
cluster: shop
mediator: zookeeper://10.0.0.11:2181/tanist
key_file: /etc/tanist/key
nodes:
  db1: {address: 10.0.0.1}
  db2: {address: 10.0.0.2}
groups:
  orders:
    service: redis
    members: {db1: {}, db2: {}}
"""

FULL = """\
cluster: shop
node: db1
mediator: zookeeper://10.0.0.11:2181,[fd00::11]:2181,zk3:2181/deep/tanist
mediator_auth: {user: tanist, password_file: /etc/tanist/zk}
mediator_tls: {ca: /etc/tanist/ca.pem, certificate: /etc/tanist/me.pem, key: /etc/tanist/me.key}
key_file: [/etc/tanist/key, /etc/tanist/key.old]
directories: {run: /run/shop, state: /var/lib/shop}
realtime: false
nodes:
  db1:
    address: 10.0.0.1
    paths: ["udp://10.0.0.1:7400", "udp://[fd00::1]:7401"]
    api: 10.0.0.1:7480
  db2:
    address: 10.0.0.2
    paths: ["udp://10.0.0.2:7400", "udp://[fd00::2]:7401"]
  db3:
    address: 10.0.0.3
    paths: ["udp://10.0.0.3:7400", "udp://[fd00::3]:7401"]
  app1:
    address: 10.0.0.21
    paths: ["udp://10.0.0.21:7400", "udp://[fd00::21]:7401"]
    witness: true
  app2:
    address: 10.0.0.22
    paths: ["udp://10.0.0.22:7400", "udp://[fd00::22]:7401"]
    witness: true
groups:
  orders:
    service: redis
    redis: {port: 6380, user: tanist, password_file: /etc/tanist/redis, max_replica_lag: 5s, config: /etc/redis/redis.conf}
    members:
      db1:
      db2: {preferred: true, redis: {port: 6390, socket: /run/redis.sock}}
      db3: {never_primary: true, address: 10.9.0.3}
    witnesses: [app2]
    replication: asynchronous
    gate: required
    policy:
      lease: 300ms
      timing:
        host_down: {after: 1.5s, automation: confirm}
        process_down: {after: 100ms, restarts_first: 2, automation: manual}
        unresponsive: {after: 500ms}
        lag: {over: 512kB, action: alarm}
      automation: observe
      cooldown: 10m
      failback: {mode: never}
      partition: consistency
      proposal_expires: 2h
      min_replicas: 2
    clients:
      - file: {template: /t/a.j2, path: /etc/a.cfg, reload: reload a, reload_within: 5s, check: "check {}", mode: "0640"}
      - file: {template: /t/b.j2, path: /etc/b.cfg, nodes: [app2]}
  sessions:
    service: redis
    redis: {port: 6500}
    members: {db1: {}, db3: {}}
"""


def read(tmp_path: Path, text: str) -> ClusterConfig:
    path = tmp_path / "tanist.yaml"
    path.write_text(text, encoding="utf-8")
    return load(path)


@pytest.fixture
def full(tmp_path: Path) -> ClusterConfig:
    return read(tmp_path, FULL)


@pytest.fixture
def minimal(tmp_path: Path) -> ClusterConfig:
    return read(tmp_path, MINIMAL)


def test_a_minimal_configuration_gets_the_documented_defaults(minimal: ClusterConfig):
    policy = build.domain_policy(minimal.groups["orders"])
    assert policy.lease == 1.0
    assert policy.automation is Automation.AUTOMATIC
    assert policy.timing.process_down.after == 0.0
    assert policy.timing.unresponsive.after == 2.0
    assert policy.timing.restarts_first == 0
    assert policy.cooldown == 0.0
    assert policy.proposal_expires == 600.0
    assert policy.max_lag_bytes == 16 * 1024 * 1024
    assert policy.min_replicas == 0
    assert policy.replication is Replication.ASYNCHRONOUS
    assert minimal.realtime is True
    assert minimal.directories.run == Path("/run/tanist")
    assert minimal.directories.state == Path("/var/lib/tanist")


def test_a_silent_host_counts_as_down_after_the_lease_unless_the_operator_says_otherwise(tmp_path: Path):
    text = MINIMAL + "    policy: {lease: 3s}\n"
    assert build.domain_policy(read(tmp_path, text).groups["orders"]).timing.host_down.after == 3.0
    text = MINIMAL + "    policy: {lease: 3s, timing: {host_down: {after: 0s}}}\n"
    assert build.domain_policy(read(tmp_path, text).groups["orders"]).timing.host_down.after == 0.0


def test_every_word_of_a_full_policy_arrives(full: ClusterConfig):
    policy = build.domain_policy(full.groups["orders"])
    assert policy.lease == 0.3
    assert policy.timing.host_down.after == 1.5
    assert policy.timing.host_down.automation is Automation.CONFIRM
    assert policy.timing.process_down.after == 0.1
    assert policy.timing.process_down.automation is Automation.MANUAL
    assert policy.timing.restarts_first == 2
    assert policy.timing.unresponsive.after == 0.5
    assert policy.timing.unresponsive.automation is None
    assert policy.automation is Automation.OBSERVE
    assert policy.cooldown == 600.0
    assert policy.proposal_expires == 7200.0
    assert policy.max_lag_bytes == 512 * 1024
    assert policy.min_replicas == 2


def test_policies_that_differ_have_different_revisions_and_equal_ones_the_same(tmp_path: Path):
    def revision(text: str) -> str:
        return build.domain_policy(read(tmp_path, text).groups["orders"]).revision

    assert revision(MINIMAL) == revision(MINIMAL + "    policy: {}\n")
    assert revision(MINIMAL) == revision(MINIMAL + "    policy: {lease: 1000ms}\n")
    assert revision(MINIMAL) != revision(MINIMAL + "    policy: {lease: 2s}\n")


def test_members_keep_the_operators_order_addresses_and_wishes(full: ClusterConfig):
    group = build.domain_group(full, "orders")
    assert [(each.name, each.address, each.port) for each in group.members] == [
        ("db1", "10.0.0.1", 6380),
        ("db2", "10.0.0.2", 6390),
        ("db3", "10.9.0.3", 6380),
    ]
    assert [each.preferred for each in group.members] == [False, True, False]
    assert [each.never_primary for each in group.members] == [False, False, True]
    assert group.witnesses == ("app2",)
    assert group.preference("db2") == 0


def test_every_witness_observes_a_group_that_names_none(full: ClusterConfig):
    assert build.domain_group(full, "sessions").witnesses == ("app1", "app2")


def test_a_node_takes_part_in_the_groups_of_which_it_is_member_or_witness(full: ClusterConfig):
    assert build.groups_of(full, "db1") == ("orders", "sessions")
    assert build.groups_of(full, "db2") == ("orders",)
    assert build.groups_of(full, "app1") == ("sessions",)
    assert build.groups_of(full, "app2") == ("orders", "sessions")


def test_paths_of_the_same_rank_belong_together(full: ClusterConfig):
    first, second = build.keeper_setup(full, "db1").paths
    assert (first.host, first.port) == ("10.0.0.1", 7400)
    assert (second.host, second.port) == ("fd00::1", 7401)
    assert Endpoint(peer="db2", host="10.0.0.2", port=7400) in first.peers
    assert Endpoint(peer="db2", host="fd00::2", port=7401) in second.peers
    assert {each.peer for each in second.peers} == {"db2", "db3", "app1", "app2"}


def test_a_node_without_paths_beats_from_its_address_on_the_usual_port(minimal: ClusterConfig):
    (path,) = build.keeper_setup(minimal, "db1").paths
    assert (path.host, path.port) == ("10.0.0.1", 7400)
    assert path.peers == (Endpoint(peer="db2", host="10.0.0.2", port=7400),)


def with_lines(tmp_path: Path, **paths: str) -> ClusterConfig:
    text = MINIMAL
    for name, path in paths.items():
        address = f"10.0.0.{name[-1]}"
        text = text.replace(f"address: {address}", f"address: {address}, paths: ['udp://{address}:7400', '{path}']")
    return read(tmp_path, text)


def test_two_nodes_with_a_serial_line_each_have_it_in_common(tmp_path: Path):
    config = with_lines(tmp_path, db1="serial:///dev/ttyS0", db2="serial:///dev/ttyUSB1")
    assert build.keeper_setup(config, "db1").lines == (LineSetup(peer="db2", device="/dev/ttyS0", baud=115200),)
    assert build.keeper_setup(config, "db2").lines == (LineSetup(peer="db1", device="/dev/ttyUSB1", baud=115200),)
    (path,) = build.keeper_setup(config, "db1").paths
    assert path.peers == (Endpoint(peer="db2", host="10.0.0.2", port=7400),), "it takes no part in the pairing of networks"


def test_a_serial_line_may_say_who_is_at_its_other_end_and_how_fast_it_is(tmp_path: Path):
    config = with_lines(tmp_path, db1="serial:///dev/ttyS0?peer=db2&baud=921600", db2="serial:///dev/ttyS0?baud=921600&peer=db1")
    assert build.keeper_setup(config, "db1").lines == (LineSetup(peer="db2", device="/dev/ttyS0", baud=921600),)


def test_the_keeper_learns_what_it_guards(full: ClusterConfig):
    setup = build.keeper_setup(full, "db2")
    (group,) = setup.groups
    assert (setup.node, setup.cluster, setup.realtime) == ("db2", "shop", False)
    assert setup.keys == ("/etc/tanist/key", "/etc/tanist/key.old")
    assert setup.run_directory == "/run/shop/db2"
    assert setup.state_directory == "/var/lib/shop/db2"
    assert group.name == "orders"
    assert group.peers == ("db1", "db3", "app2")
    assert (group.lease, group.beat_every) == (0.3, pytest.approx(0.03))
    assert (group.gate, group.gate_port) == ("required", 6390)


def test_standbys_serve_reads_unless_they_are_said_to_be_warm(tmp_path: Path):
    (hot,) = build.keeper_setup(read(tmp_path, MINIMAL), "db1").groups
    (warm,) = build.keeper_setup(read(tmp_path, MINIMAL + "    standbys: warm\n"), "db1").groups
    assert (hot.warm, warm.warm) == (False, True)


def test_whatever_comes_from_any_address_of_another_members_host_counts_as_replication(tmp_path: Path):
    text = MINIMAL.replace("groups:", "  app1: {address: 10.0.0.21, witness: true}\ngroups:")
    text = text.replace("10.0.0.1}", "10.0.0.1, paths: ['udp://10.0.0.1:7400', 'udp://192.168.9.1:7400']}")
    text = text.replace("10.0.0.2}", "10.0.0.2, paths: ['udp://10.0.0.2:7400', 'udp://192.168.9.2:7400']}")
    text = text.replace("10.0.0.21, ", "10.0.0.21, paths: ['udp://10.0.0.21:7400', 'udp://192.168.9.21:7400'], ")
    text = text.replace("db2: {}", "db2: {address: 10.1.0.2}")
    (group,) = build.keeper_setup(read(tmp_path, text), "db1").groups
    assert group.member_addresses == ("10.1.0.2", "10.0.0.2", "192.168.9.2")
    (witness,) = build.keeper_setup(read(tmp_path, text), "app1").groups
    assert witness.member_addresses == ()


def test_a_witness_has_no_port_to_guard(full: ClusterConfig):
    assert {each.gate_port for each in build.keeper_setup(full, "app2").groups} == {0}


def test_a_members_own_redis_settings_stand_over_the_groups(full: ClusterConfig):
    group = build.redis_settings(full, "orders", "db1")
    member = build.redis_settings(full, "orders", "db2")
    assert (group.port, group.socket) == (6380, None)
    assert (member.port, member.socket) == (6390, "/run/redis.sock")
    assert member.user == group.user == "tanist"
    assert member.password_file == Path("/etc/tanist/redis")
    assert member.max_replica_lag == 5
    assert member.config == Path("/etc/redis/redis.conf")
    assert build.redis_settings(full, "orders", "db3").host == "10.9.0.3"


def test_a_client_file_is_kept_on_every_node_or_on_those_it_names(full: ClusterConfig):
    section = full.groups["orders"]
    (everywhere,) = build.client_files(section, "db1")
    assert everywhere.path == Path("/etc/a.cfg")
    assert everywhere.mode == 0o640
    assert everywhere.reload == "reload a"
    assert everywhere.reload_within == 5.0
    assert everywhere.check == "check {}"
    _, there = build.client_files(section, "app2")
    assert (there.path, there.mode, there.reload) == (Path("/etc/b.cfg"), 0o644, None)


def test_a_host_that_is_no_node_is_told_which_nodes_there_are(minimal: ClusterConfig):
    build.check_node(minimal, "db2")
    with pytest.raises(build.UnknownNode, match=r"'web7'.*db1, db2.*TANIST_NODE"):
        build.check_node(minimal, "web7")


@pytest.mark.parametrize(("written", "seconds"), [("200ms", 0.2), ("60s", 60.0), ("1m", 60.0)])
def test_the_shortest_and_the_longest_lease_are_allowed(written: str, seconds: float, tmp_path: Path):
    config = read(tmp_path, MINIMAL + f"    policy: {{lease: {written}}}\n")
    assert build.domain_policy(config.groups["orders"]).lease == seconds


@pytest.mark.parametrize("word", ["auto", "required", "off", '"off"'])
def test_every_documented_word_for_the_gate_is_understood_as_it_is_written(word: str, tmp_path: Path):
    config = read(tmp_path, MINIMAL + f"    gate: {word}\n")
    assert build.keeper_setup(config, "db1").groups[0].gate == word.strip('"')


def test_several_members_may_share_one_machine_and_one_sqlite_file(tmp_path: Path):
    text = MINIMAL.replace("zookeeper://10.0.0.11:2181/tanist", "sqlite:///var/lib/tanist/shop.db")
    config = read(tmp_path, text.replace("10.0.0.1}", "127.0.0.1}").replace("10.0.0.2}", "127.0.0.2}"))
    assert config.mediator == "sqlite:///var/lib/tanist/shop.db"


def test_the_order_of_keys_does_not_matter(minimal: ClusterConfig, tmp_path: Path):
    head, groups = MINIMAL.split("groups:\n")
    assert read(tmp_path, f"groups:\n{groups}{head}") == minimal


def test_the_published_schema_knows_every_section_and_forbids_unknown_keys():
    schema = json_schema()
    assert schema["additionalProperties"] is False
    assert set(schema["required"]) == {"cluster", "mediator", "key_file", "nodes", "groups"}
    sections = [each for name, each in schema["$defs"].items() if each.get("type") == "object"]
    assert len(sections) > 10
    assert all(each["additionalProperties"] is False for each in sections)


def test_the_example_that_is_shipped_loads_and_builds():
    root = Path(__file__).parents[2]
    config = load(root / "deploy/examples/redis.yaml")
    for node in config.nodes:
        setup = build.keeper_setup(config, node)
        assert len(setup.paths) == 2
    assert build.client_files(config.groups["sessions"], "app1")
    assert not build.client_files(config.groups["sessions"], "db1")


def test_the_reference_names_every_key_of_the_file():
    text = (Path(__file__).parents[2] / "docs/reference/configuration.md").read_text(encoding="utf-8")
    schema = json_schema()
    keys = set(schema["properties"])
    for section in schema["$defs"].values():
        keys |= set(section.get("properties", {}))
    assert not sorted(key for key in keys if key not in text)


def test_addresses_that_move_are_told_to_the_keeper_of_every_member_and_to_no_witness(tmp_path: Path):
    clients = """\
    clients:
      - vip: {address: 10.0.0.100/24, interface: eth0}
      - vip: {address: fd00:0::100/64, interface: bond0.12}
"""
    text = MINIMAL.replace("groups:", "  app1: {address: 10.0.0.21, witness: true}\ngroups:") + clients
    config = read(tmp_path, text)
    wanted = (
        AddressSetup(address="10.0.0.100", prefix=24, interface="eth0"),
        AddressSetup(address="fd00::100", prefix=64, interface="bond0.12"),
    )
    for name, held in (("db1", wanted), ("db2", wanted), ("app1", ())):
        (group,) = build.keeper_setup(config, name).groups
        assert group.addresses == held
        assert group.gate_addresses == (), "the gate guards every address of the host"


def test_a_gate_on_loopback_guards_the_addresses_that_move_too(tmp_path: Path):
    text = MINIMAL.replace("10.0.0.1}", "127.0.0.1}").replace("10.0.0.2}", "127.0.0.2}")
    text += "    clients: [{vip: {address: 10.0.0.100/24, interface: eth0}}]\n"
    (group,) = build.keeper_setup(read(tmp_path, text), "db1").groups
    assert group.gate_addresses == ("127.0.0.1", "10.0.0.100")


def test_addresses_change_only_with_the_daemon_that_takes_them(tmp_path: Path):
    vip = "    clients: [{vip: {address: 10.0.0.100/24, interface: eth0}}]\n"
    before = build.keeper_setup(read(tmp_path, MINIMAL + vip), "db1")
    wanted = build.keeper_setup(read(tmp_path, MINIMAL + "    policy: {lease: 3s}\n"), "db1")
    after = with_addresses_of(before, wanted)
    assert after.groups[0].addresses == before.groups[0].addresses != wanted.groups[0].addresses
    assert after.groups[0].lease == 3.0
