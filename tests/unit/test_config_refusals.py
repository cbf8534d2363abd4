"""A wrong configuration is refused, and the refusal says where, what was read, and what would be right."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.config.load import BadConfig, load

BASE = """\
cluster: shop
mediator: zookeeper://10.0.0.11:2181/tanist
key_file: /etc/tanist/key
nodes:
  db1:
    address: 10.0.0.1
  db2:
    address: 10.0.0.2
  app1:
    address: 10.0.0.21
    witness: true
groups:
  orders:
    service: redis
    members:
      db1: {preferred: true}
      db2: {}
    policy:
      lease: 1s
      timing:
        host_down: {after: 1s}
    clients:
      - file:
          template: /etc/tanist/haproxy.cfg.j2
          path: /etc/haproxy/haproxy.cfg
"""

HERE = "# <-"
"""Stands behind the line that the refusal must name."""

DURATION = "expected a duration with its unit, such as 300ms"
SIZE = "expected a size with its unit, such as 512kB"
ADDRESS = "expected an IP address and its prefix, such as 10.0.0.100/24 or fd00::100/64"
NAME = "lower-case letters"
MEDIATOR = "expected zookeeper://"
END = "10.0.0.1:7400"


@dataclass(frozen=True)
class Wrong:
    name: str
    instead_of: str
    written: str
    place: str
    words: tuple[str, ...]
    """What the refusal must say: what was read, and what would be right."""

    def text(self) -> str:
        assert BASE.count(self.instead_of) == 1, self.instead_of
        return BASE.replace(self.instead_of, self.written)


def wrong(name: str, instead_of: str, written: str, place: str, *words: str) -> Wrong:
    return Wrong(name, instead_of, written, place, words)


def at_top(name: str, line: str, place: str, *words: str) -> Wrong:
    return wrong(name, "cluster: shop\n", f"cluster: shop\n{line} {HERE}\n", place, *words)


def mediator(name: str, url: str, *words: str) -> Wrong:
    line = f"mediator: {url} {HERE}"
    return wrong(name, "mediator: zookeeper://10.0.0.11:2181/tanist", line, "mediator", *words)


def node(name: str, line: str, place: str, *words: str) -> Wrong:
    written = f"  db2:\n    address: 10.0.0.2\n    {line} {HERE}\n"
    return wrong(name, "  db2:\n    address: 10.0.0.2\n", written, f"nodes.db2.{place}", *words)


def lines(name: str, ends: list[str], other_ends: list[str], number: int, *words: str) -> Wrong:
    """Serial lines of db1 and db2; the refusal must name db2's path of this number."""
    text = "  db1:\n    address: 10.0.0.1\n  db2:\n    address: 10.0.0.2\n"
    written = ""
    for node_name, each in (("db1", ends), ("db2", other_ends)):
        address = f"10.0.0.{node_name[-1]}"
        written += f"  {node_name}:\n    address: {address}\n    paths:\n    - udp://{address}:7400\n"
        for place, end in enumerate(each, 1):
            written += f"    - 'serial://{end}' {HERE if (node_name, place) == ('db2', number) else ''}\n"
    return wrong(name, text, written, f"nodes.db2.paths.{number}", *words)


def address(name: str, value: str, *words: str) -> Wrong:
    return wrong(name, "    address: 10.0.0.2\n", f"    address: {value} {HERE}\n", "nodes.db2.address", *words)


def group(name: str, line: str, place: str, *words: str) -> Wrong:
    written = f"    service: redis\n    {line} {HERE}\n"
    return wrong(name, "    service: redis\n", written, f"groups.orders.{place}", *words)


def member(name: str, line: str, place: str, *words: str) -> Wrong:
    return wrong(name, "      db2: {}\n", f"      {line} {HERE}\n", f"groups.orders.members.{place}", *words)


def policy(name: str, line: str, place: str, *words: str) -> Wrong:
    written = f"      {line} {HERE}\n      timing:\n"
    return wrong(name, "      timing:\n", written, f"groups.orders.policy.{place}", *words)


def lease(name: str, value: str, *words: str) -> Wrong:
    return wrong(name, "      lease: 1s\n", f"      lease: {value} {HERE}\n", "groups.orders.policy.lease", *words)


def timing(name: str, line: str, place: str, *words: str) -> Wrong:
    written = f"        {line} {HERE}\n"
    return wrong(name, "        host_down: {after: 1s}\n", written, f"groups.orders.policy.timing.{place}", *words)


def file(name: str, line: str, place: str, *words: str) -> Wrong:
    written = f"          template: /etc/tanist/haproxy.cfg.j2\n          {line} {HERE}\n"
    place = f"groups.orders.clients.0.file.{place}"
    return wrong(name, "          template: /etc/tanist/haproxy.cfg.j2\n", written, place, *words)


def vip(name: str, line: str, place: str, *words: str) -> Wrong:
    place = f"groups.orders.clients.0.vip{place}"
    return wrong(name, "      - file:\n", f"      - vip: {line} {HERE}\n      - file:\n", place, *words)


WRONG = (
    # keys that nobody knows, at every level
    at_top("unknown key at the top", "clutser: x", "clutser", "unknown key", "cluster"),
    at_top("unknown key that resembles nothing", "zzzqq: x", "zzzqq", "unknown key", "mediator"),
    at_top("known key in the wrong section", "lease: 1s", "lease", "unknown key", "belongs in groups.<name>.policy"),
    at_top("unknown key in directories", "directories: {rn: /x}", "directories.rn", "unknown key", "run"),
    node("unknown key of a node", "witnes: true", "witnes", "unknown key", "'witness'"),
    group("unknown key of a group", "polcy: {}", "polcy", "unknown key", "'policy'"),
    group("unknown key of redis", "redis: {prot: 6380}", "redis.prot", "unknown key", "'port'"),
    group("unknown key of tls", "redis: {tls: {ca: /x, cert: /y}}", "redis.tls.cert", "unknown key", "'certificate'"),
    member("unknown key of a member", "db2: {prefered: true}", "db2.prefered", "unknown key", "'preferred'"),
    member("unknown key of a member's redis", "db2: {redis: {prot: 1}}", "db2.redis.prot", "unknown key", "'port'"),
    policy("unknown key of the policy", "leese: 1s", "leese", "unknown key", "'lease'"),
    policy("timing key outside timing", "lag: {over: 1MB}", "lag", "unknown key", "belongs in groups.<name>.policy.timing"),
    policy("unknown key of failback", "failback: {mode: never, windw: x}", "failback.windw", "unknown key", "'window'"),
    policy("window that is none", "failback: {mode: window, window: Sun 3-4}", "failback.window", "read 'Sun 3-4'", "UTC"),
    policy("window without UTC", "failback: {mode: window, window: 03:00-04:00}", "failback.window", "in UTC"),
    policy("window of no length", "failback: {mode: window, window: 03:00-03:00 UTC}", "failback.window", "in UTC"),
    policy("window on no day", "failback: {mode: window, window: Son 03:00-04:00 UTC}", "failback.window", "Sat,Sun"),
    policy("window with another mode", "failback: {mode: never, for: 5m}", "failback", "for: says nothing", "when_healthy"),
    policy("mode of a window without one", "failback: {mode: window}", "failback", "belong together"),
    policy("failback too soon", "failback: {mode: when_healthy, for: 1ms}", "failback.for", "at least 1s"),
    timing("unknown key of timing", "host_dwon: {after: 1s}", "host_dwon", "unknown key", "'host_down'"),
    timing("unknown key of a rule", "host_down: {aftr: 1s}", "host_down.aftr", "unknown key", "'after'"),
    file("unknown key of a file", "relaod: x", "relaod", "unknown key", "'reload'"),
    wrong(
        "unknown kind of client",
        "      - file:\n",
        f"      - vpi: {{address: 10.0.0.100/24, interface: eth0}} {HERE}\n      - file:\n",
        "groups.orders.clients.0.vpi",
        "unknown key; did you mean 'vip'?",
    ),
    wrong(
        "client that is nothing",
        "      - file:\n",
        f"      - {{}} {HERE}\n      - file:\n",
        "groups.orders.clients.0",
        "read an empty section, expected either file or vip",
    ),
    # addresses that move
    vip("unknown key of a vip", "{address: 10.0.0.100/24, interfaec: eth0}", ".interfaec", "unknown key", "'interface'"),
    vip("vip without an interface", "{address: 10.0.0.100/24}", ".interface", "interface is missing"),
    vip("vip without an address", "{interface: eth0}", ".address", "address is missing"),
    vip("vip that is no address", "{address: shop/24, interface: eth0}", ".address", "read 'shop/24'", ADDRESS),
    vip("vip that is a number", "{address: 10, interface: eth0}", ".address", "read 10", "expected a valid string"),
    vip("vip without a prefix", "{address: 10.0.0.100, interface: eth0}", ".address", "read '10.0.0.100'", ADDRESS),
    vip("vip with a net mask", "{address: 10.0.0.100/255.255.255.0, interface: eth0}", ".address", ADDRESS),
    vip("vip with too long a prefix", "{address: 10.0.0.100/33, interface: eth0}", ".address", ADDRESS),
    vip("vip with a scope", '{address: "fe80::1%eth0/64", interface: eth0}', ".address", ADDRESS),
    vip("vip that is a network", "{address: 10.0.0.0/24, interface: eth0}", ".address", "such as 10.0.0.1/24", "all of"),
    vip("vip that is a broadcast", "{address: 10.0.0.255/24, interface: eth0}", ".address", "stands for all of 10.0.0.0/24"),
    vip("vip that is an IPv6 network", '{address: "fd00::/64", interface: eth0}', ".address", "such as fd00::1/64"),
    vip("vip of many", "{address: 224.0.0.5/24, interface: eth0}", ".address", "the address of one host"),
    vip("vip on loopback", "{address: 127.0.0.5/8, interface: lo}", ".address", "the address of one host"),
    vip("vip on no interface", "{address: 10.0.0.100/24, interface: eth 0}", ".interface", "read 'eth 0'", "such as eth0"),
    vip("interface of 16 letters", "{address: 10.0.0.100/24, interface: abcdefghijklmnop}", ".interface", "1 to 15"),
    vip("vip of a node", "{address: 10.0.0.1/24, interface: eth0}", ".address", "read 10.0.0.1/24", "nodes.db1.address already"),
    wrong(
        "vip of a member's service",
        "      db2: {}\n",
        f"      db2: {{address: 10.9.0.2}}\n    clients: [{{vip: {{address: 10.9.0.2/24, interface: eth0}}}}] {HERE}\n"
        "  other:\n    service: redis\n    members: {db1: {redis: {port: 7000}}, db2: {redis: {port: 7000}}}\n",
        "groups.orders.clients.0.vip.address",
        "groups.orders.members.db2.address already",
    ),
    wrong(
        "vip that stands twice",
        "      - file:\n",
        "      - vip: {address: fd00::0100/64, interface: eth0}\n"
        f"      - vip: {{address: fd00::100/48, interface: eth1}} {HERE}\n      - file:\n",
        "groups.orders.clients.1.vip.address",
        "read fd00::100/48",
        "groups.orders.clients.0.vip.address already",
    ),
    # bare numbers, wrong units
    lease("bare number as a duration", "1", "read 1,", DURATION),
    lease("quoted bare number as a duration", "'1'", "read '1'", DURATION),
    lease("fraction without a unit", "1.5", "read 1.5", DURATION),
    lease("unit that nobody knows", "1sec", "read '1sec'", DURATION),
    lease("unit in capitals", "1S", "read '1S'", DURATION),
    lease("negative duration", "-1s", "read '-1s'", DURATION),
    lease("two durations in one", "1s30ms", "read '1s30ms'", DURATION),
    lease("no duration at all", "null", DURATION),
    lease("truth as a duration", "true", DURATION),
    lease("date that is none", "2001-99-99", "read '2001-99-99'"),
    timing("bare number in a rule", "host_down: {after: 1}", "host_down.after", "read 1,", DURATION),
    timing("duration instead of a rule", "host_down: 1s", "host_down", "read '1s'"),
    timing("bare number as a size", "lag: {over: 16}", "lag.over", "read 16,", SIZE),
    timing("unit of size in small letters", "lag: {over: 16mb}", "lag.over", "read '16mb'", SIZE),
    timing("duration as a size", "lag: {over: 16s}", "lag.over", "read '16s'", SIZE),
    policy("bare cool-down", "cooldown: 10", "cooldown", "read 10,", DURATION),
    policy("cool-down in words", "cooldown: 10 minutes", "cooldown", "read '10 minutes'", DURATION),
    file("bare patience with a reload", "reload_within: 10", "reload_within", "read 10,", DURATION),
    group("bare lag of replicas", "redis: {max_replica_lag: 10}", "redis.max_replica_lag", "read 10,", DURATION),
    # numbers out of their range
    lease("lease too short", "100ms", "read '100ms'", "200ms", "60s"),
    lease("lease of nothing", "0s", "read '0s'", "200ms"),
    lease("lease too long", "61s", "read '61s'", "60s"),
    timing("unresponsive too soon", "unresponsive: {after: 100ms}", "unresponsive.after", "100ms", "at least 200ms"),
    policy("proposal that nobody can read in time", "proposal_expires: 5s", "proposal_expires", "5s", "at least 10s"),
    policy("more replicas than standbys", "min_replicas: 2", "min_replicas", "read 2", "at most 1"),
    policy("negative replicas", "min_replicas: -1", "min_replicas", "read -1", "0"),
    policy("replicas in words", "min_replicas: one", "min_replicas", "read 'one'", "integer"),
    policy("truth as a number", "min_replicas: true", "min_replicas", "read True", "integer"),
    timing("too many restarts", "process_down: {restarts_first: 11}", "process_down.restarts_first", "read 11", "10"),
    group("port of nothing", "redis: {port: 0}", "redis.port", "read 0", "1"),
    group("port too large", "redis: {port: 65536}", "redis.port", "read 65536", "65535"),
    group("port in words", "redis: {port: six}", "redis.port", "read 'six'", "integer"),
    group("truth as a port", "redis: {port: true}", "redis.port", "read True", "integer"),
    group("lag of replicas that Redis counts as none", "redis: {max_replica_lag: 300ms}", "redis.max_replica_lag", "1s"),
    file("no patience with a reload", "reload_within: 0s", "reload_within", "0s"),
    # words out of their list
    group("unknown kind of replication", "replication: sync", "replication", "read 'sync'", "'asynchronous'"),
    wrong(
        "unknown service",
        "    service: redis\n",
        f"    service: memcached {HERE}\n",
        "groups.orders.service",
        "read 'memcached'",
        "'redis'",
    ),
    group("unknown kind of standbys", "standbys: cold", "standbys", "read 'cold'", "'hot'", "'warm'"),
    wrong(
        "standbys that nothing shuts",
        "    service: redis\n",
        f'    service: redis\n    gate: "off"\n    standbys: warm {HERE}\n',
        "groups.orders.standbys",
        "read warm beside gate: off",
        "gate: auto",
    ),
    group("unknown kind of gate", "gate: perhaps", "gate", "read 'perhaps'", "'auto'", "'required'", "'off'"),
    policy(
        "unknown automation", "automation: auto", "automation", "read 'auto'", "'automatic'", "'confirm'", "'manual'", "'observe'"
    ),
    policy("unknown partition policy", "partition: both", "partition", "read 'both'", "'consistency'"),
    policy("unknown failback", "failback: {mode: always}", "failback.mode", "read 'always'", "'never'"),
    timing("unknown automation of a rule", "host_down: {automation: x}", "host_down.automation", "read 'x'", "'confirm'"),
    node("word that is neither yes nor no", "witness: perhaps", "witness", "read 'perhaps'", "true or false"),
    # addresses, paths, ports
    address("host name as an address", "db2.example.com", "read 'db2.example.com'", "IP address", "10.0.0.1"),
    address("network as an address", "10.0.0.2/24", "read '10.0.0.2/24'", "IP address"),
    address("octet out of range", "10.0.0.256", "read '10.0.0.256'", "IP address"),
    address("number as an address", "5", "read 5"),
    address("address of everybody", "0.0.0.0", "0.0.0.0"),
    address("address of a crowd", "224.0.0.1", "224.0.0.1"),
    node("path without a port", "paths: [udp://10.0.0.2]", "paths.0", "read 'udp://10.0.0.2'", END),
    node("path with port 0", "paths: ['udp://10.0.0.2:0']", "paths.0", "read 'udp://10.0.0.2:0'", END),
    node("path with a port too large", "paths: ['udp://10.0.0.2:70000']", "paths.0", "read 'udp://10.0.0.2:70000'", END),
    node("path to a host name", "paths: ['udp://db2:7400']", "paths.0", "read 'udp://db2:7400'", END),
    node("path with a user", "paths: ['udp://me@10.0.0.2:7400']", "paths.0", "read 'udp://me@10.0.0.2:7400'", END),
    node("path over TCP", "paths: ['tcp://10.0.0.2:7400']", "paths.0", "read 'tcp://10.0.0.2:7400'", "udp://"),
    node("path without a scheme", "paths: ['10.0.0.2:7400']", "paths.0", "read '10.0.0.2:7400'", "udp://"),
    node("one path instead of a list", "paths: udp://10.0.0.2:7400", "paths", "read 'udp://10.0.0.2:7400'", "list"),
    node("path of another node", "paths: ['udp://10.0.0.1:7400']", "paths", "10.0.0.1:7400", "db1"),
    # serial lines
    lines("line over a network", [], ["10.0.0.2/dev/ttyS0"], 1, "expected a device such as serial:///dev/ttyS0"),
    lines("line without a device", [], ["/"], 1, "expected a device"),
    lines("line with a word too many", [], ["/dev/ttyS0?speed=9600"], 1, "nothing but peer and baud"),
    lines("line with a word twice", [], ["/dev/ttyS0?baud=9600&baud=19200"], 1, "nothing but peer and baud"),
    lines("speed that no line has", [], ["/dev/ttyS0?baud=115201"], 1, "read 'serial:///dev/ttyS0?baud=115201'", "115200"),
    lines("line to itself", [], ["/dev/ttyS0?peer=db2"], 1, "expected as peer another node: db1, app1"),
    lines("line to nobody known", [], ["/dev/ttyS0?peer=db9"], 1, "expected as peer another node: db1, app1"),
    lines("line with one end", [], ["/dev/ttyS0?peer=db1"], 1, "nodes.db1.paths has no line to db2", "?peer=db2"),
    lines("line with one end, untold", [], ["/dev/ttyS0"], 1, "?peer=NAME", "since db2 have lines"),
    node("line instead of the network", "paths: ['serial:///dev/ttyS0']", "paths", "expected a udp:// path too"),
    lines("two lines between two nodes", ["/dev/ttyS0?peer=db2"], ["/dev/ttyS0?peer=db1", "/dev/ttyS1?peer=db1"], 2, "joins db2"),
    lines("two lines at one device", ["/dev/ttyS0?peer=db2"], ["/dev/ttyS0?peer=db1", "/dev/ttyS0?peer=app1"], 2, "already"),
    lines("a line back to somebody else", ["/dev/ttyS0?peer=app1"], ["/dev/ttyS0?peer=db1"], 1, "no line to db2"),
    lines(
        "ends that could be swapped", ["/dev/ttyS0"], ["/dev/ttyS0", "/dev/ttyS1"], 1, "cannot be told, since db1, db2 have lines"
    ),
    lines("ends of unequal speed", ["/dev/ttyS0"], ["/dev/ttyS0?baud=9600"], 1, "baud 115200", "expected the same"),
    lines(
        "more beats than it carries", ["/dev/ttyS0?baud=9600"], ["/dev/ttyS0?baud=9600"], 1, "960 bytes a second", "baud=38400"
    ),
    node("API without a port", "api: 10.0.0.2", "api", "read '10.0.0.2'", END),
    node("API on port 0", "api: '10.0.0.2:0'", "api", "read '10.0.0.2:0'", END),
    node("API by name", "api: 'db2:7480'", "api", "read 'db2:7480'", END),
    wrong(
        "unequal numbers of paths",
        "nodes:\n  db1:\n",
        f"nodes: {HERE}\n  db1:\n    paths: ['udp://10.0.0.1:7400', 'udp://10.0.1.1:7400']\n",
        "nodes",
        "same number of paths",
        "db1 has 2",
        "db2 has 1",
    ),
    wrong(
        "two nodes at one address",
        "  db2:\n    address: 10.0.0.2\n",
        f"  db2: {HERE}\n    address: 10.0.0.1\n",
        "nodes.db2",
        "10.0.0.1:7400",
        "db1",
    ),
    member("two members reached at one place", "db2: {address: 10.0.0.1}", "db2", "10.0.0.1:6379", "db1"),
    member("IPv6 member without a socket", "db2: {address: 'fd00::2'}", "db2", "fd00::2", "redis.socket"),
    wrong(
        "one server in two groups",
        "groups:\n",
        "groups:\n  sessions:\n    service: redis\n    members: {db1: {}, db2: {}}\n",
        "",
        "10.0.0.1:6379",
        "sessions",
        "orders",
    ),
    wrong(
        "one client file written twice",
        "    clients:\n",
        "    clients:\n      - file: {template: /etc/tanist/other.j2, path: /etc/haproxy/haproxy.cfg}\n",
        "",
        "/etc/haproxy/haproxy.cfg",
    ),
    # the API over the network
    at_top("nobody may read anything", "api: {anonymous: none}", "api.anonymous", "without api.tokens"),
    at_top("unknown level for the unknown", "api: {anonymous: write}", "api.anonymous", "read 'write'", "'read' or 'none'"),
    at_top("certificate without a key", "api: {tls: {certificate: /etc/tanist/api.crt}}", "api.tls", "key is missing"),
    wrong(
        "tokens in the clear",
        "nodes:\n  db1:\n    address: 10.0.0.1\n",
        f"api: {{tokens: /etc/tanist/t}} {HERE}\nnodes:\n  db1:\n    address: 10.0.0.1\n    api: 10.0.0.1:7480\n",
        "api.tls",
        "in the clear",
        "cleartext: true",
    ),
    # the mediator
    mediator("mediator of an unknown kind", "postgres://10.0.0.11/tanist", "read 'postgres://10.0.0.11/tanist'", MEDIATOR),
    mediator("mediator without a scheme", "10.0.0.11:2181", "read '10.0.0.11:2181'", MEDIATOR),
    mediator("mediator without a root", "zookeeper://10.0.0.11:2181/", "read 'zookeeper://10.0.0.11:2181/'", MEDIATOR),
    mediator("mediator without a host", "zookeeper:///tanist", "read 'zookeeper:///tanist'", MEDIATOR),
    mediator("mediator with a port only", "zookeeper://:2181/tanist", "read 'zookeeper://:2181/tanist'", MEDIATOR),
    mediator("mediator with a hole in its list", "zookeeper://a:2181,,b:2181/tanist", "a:2181,,b:2181", MEDIATOR),
    mediator("mediator's port too large", "zookeeper://10.0.0.11:99999/tanist", "99999", MEDIATOR),
    mediator("mediator's port in words", "zookeeper://10.0.0.11:port/tanist", "10.0.0.11:port", MEDIATOR),
    mediator("mediator with half a bracket", "'zookeeper://[::1/tanist'", "zookeeper://[::1/tanist", MEDIATOR),
    mediator("number as mediator", "5", "read 5"),
    mediator("SQLite by a relative path", "sqlite://tanist.db", "read 'sqlite://tanist.db'", "sqlite:///absolute/path"),
    mediator("SQLite with several hosts", "sqlite:///var/lib/tanist.db", "one machine", "10.0.0.2", "zookeeper://"),
    # keys
    wrong("no key at all", "key_file: /etc/tanist/key\n", f"key_file: [] {HERE}\n", "key_file", "read []"),
    wrong("number as key file", "key_file: /etc/tanist/key\n", f"key_file: 5 {HERE}\n", "key_file", "read 5", "path"),
    # names
    wrong("cluster's name in capitals", "cluster: shop\n", f"cluster: Shop {HERE}\n", "cluster", "read 'Shop'", NAME),
    wrong("cluster's name a number", "cluster: shop\n", f"cluster: 5 {HERE}\n", "cluster", "read 5", "string"),
    wrong("name too long", "cluster: shop\n", f"cluster: {'a' * 32} {HERE}\n", "cluster", "a" * 32, "31"),
    wrong("node's name with a dot", "  db2:\n    a", f"  db2.x: {HERE}\n    a", "nodes.db2.x", "read 'db2.x'", NAME),
    wrong("group's name in capitals", "  orders:\n", f"  Orders: {HERE}\n", "groups.Orders", "read 'Orders'", NAME),
    at_top("own name in capitals", "node: DB1", "node", "read 'DB1'", NAME),
    # members and witnesses
    member("member that is no node", "db9: {}", "db9", "no such node", "db1, db2, app1"),
    member("witness as a member", "app1: {}", "app1", "witness", "no data"),
    member("number as a member's section", "db2: 5", "db2", "read 5"),
    wrong(
        "one member only",
        "    members:\n      db1: {preferred: true}\n",
        f"    members: {HERE}\n",
        "groups.orders.members",
        "at least 2",
    ),
    wrong(
        "members as a list",
        "    members:\n      db1: {preferred: true}\n      db2: {}\n",
        f"    members: [db1, db2] {HERE}\n",
        "groups.orders.members",
        "read ['db1', 'db2']",
    ),
    wrong(
        "two preferred members",
        "    members:\n      db1: {preferred: true}\n      db2: {}\n",
        f"    members: {HERE}\n      db1: {{preferred: true}}\n      db2: {{preferred: true}}\n",
        "groups.orders.members",
        "db1, db2",
        "at most one",
    ),
    wrong(
        "nobody may serve",
        "    members:\n      db1: {preferred: true}\n      db2: {}\n",
        f"    members: {HERE}\n      db1: {{never_primary: true}}\n      db2: {{never_primary: true}}\n",
        "groups.orders.members",
        "never_primary",
        "nobody",
    ),
    wrong(
        "preferred and never primary at once",
        "    members:\n      db1: {preferred: true}\n",
        f"    members: {HERE}\n      db1: {{preferred: true, never_primary: true}}\n",
        "groups.orders.members",
        "db1 is preferred and never_primary",
    ),
    group("witness that is no node", "witnesses: [app9]", "witnesses", "app9", "witness: true"),
    group("member as a witness", "witnesses: [db1]", "witnesses", "db1", "witness: true"),
    group("one witness instead of a list", "witnesses: app1", "witnesses", "read 'app1'", "list"),
    # client files
    file("mode out of the octal digits", "mode: '0999'", "mode", "read '0999'", '"0644"'),
    file("mode with too many digits", "mode: '07777'", "mode", "read '07777'", '"0644"'),
    file("mode in letters", "mode: rw-r--r--", "mode", "rw-r--r--", '"0644"'),
    file("mode without quotes", "mode: 0644", "mode", "quotes", '"0644"'),
    file("client file on a node that is none", "nodes: [app9]", "nodes", "app9"),
    file("command as a list", "reload: [systemctl, reload, haproxy]", "reload", "string"),
    group("command as a word", "redis: {start: redis-server}", "redis.start", "read 'redis-server'", "list"),
    group("command of no words", "redis: {start: []}", "redis.start", "read []"),
    # missing
    wrong("no cluster", "cluster: shop\nmediator", "mediator", "cluster", "cluster is missing"),
    wrong("no key file", "key_file: /etc/tanist/key\n", "", "key_file", "key_file is missing"),
    wrong(
        "node without an address", "  db2:\n    address: 10.0.0.2\n", f"  db2: {{}} {HERE}\n", "nodes.db2.address", "is missing"
    ),
    wrong("node without anything", "  db2:\n    address: 10.0.0.2\n", f"  db2: {HERE}\n", "nodes.db2", "address"),
    wrong(
        "group without a service", "  orders:\n    service: redis\n", f"  orders: {HERE}\n", "groups.orders.service", "is missing"
    ),
    wrong(
        "file without a path",
        "      - file:\n          template: /etc/tanist/haproxy.cfg.j2\n          path: /etc/haproxy/haproxy.cfg\n",
        f"      - file: {HERE}\n          template: /etc/tanist/haproxy.cfg.j2\n",
        "groups.orders.clients.0.file.path",
        "path is missing",
    ),
    at_top("authentication without a password", "mediator_auth: {user: x}", "mediator_auth.password_file", "is missing"),
    wrong("no group", BASE[BASE.index("groups:") :], f"groups: {{}} {HERE}\n", "groups", "at least 1"),
    # not YAML, or not unambiguous
    wrong(
        "key that stands twice",
        "      lease: 1s\n",
        f"      lease: 1s\n      lease: 2s {HERE}\n",
        "",
        "'lease' stands twice",
        "line 19",
    ),
    wrong(
        "node that stands twice",
        "  app1:\n",
        f"  db1: {{address: 10.0.0.9}} {HERE}\n  app1:\n",
        "",
        "'db1' stands twice",
        "line 5",
    ),
    wrong("tab as indentation", "    address: 10.0.0.2\n", f"\taddress: 10.0.0.2 {HERE}\n", "", "not YAML", "\\t"),
    wrong("alias of nothing", "cluster: shop\n", f"cluster: *nobody {HERE}\n", "", "not YAML", "nobody"),
    wrong("alias of itself", "cluster: shop\n", f"cluster: &me [*me] {HERE}\n", "cluster.0", "alias"),
    wrong(
        "tag of a foreign type", "cluster: shop\n", f"cluster: !!python/name:os.system x {HERE}\n", "", "not YAML", "python/name"
    ),
    wrong(
        "tag that does not fit", "      lease: 1s\n", f"      lease: !!int soon {HERE}\n", "groups.orders.policy.lease", "'soon'"
    ),
    wrong("list as a key", "cluster: shop\n", f"? [a, b] {HERE}\n: c\ncluster: shop\n", "", "['a', 'b']"),
    wrong("two documents", "nodes:\n", f"--- {HERE}\nnodes:\n", "", "not YAML", "document"),
    wrong("letter that YAML does not allow", "cluster: shop\n", f"cluster: sh\x07op {HERE}\n", "", "not YAML"),
)

LINE = re.compile(r"^(?P<path>.+?):(?P<line>\d+): (?P<rest>.*)$")


def refusal(path: Path) -> list[str]:
    with pytest.raises(BadConfig) as caught:
        load(path)
    assert str(caught.value) == "\n".join(caught.value.mistakes)
    return caught.value.mistakes


def write(directory: Path, text: str | bytes) -> Path:
    path = directory / "tanist.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def marked_line(text: str) -> int | None:
    return next((number for number, line in enumerate(text.split("\n"), 1) if HERE in line), None)


def test_there_are_more_than_fifty_wrong_configurations_each_with_its_own_name():
    names = [each.name for each in WRONG]
    assert len(set(names)) == len(names) > 50


@pytest.mark.parametrize("case", WRONG, ids=lambda case: case.name)
def test_a_wrong_configuration_is_refused_with_place_reading_and_cure(case: Wrong, tmp_path: Path):
    path = write(tmp_path, case.text())
    mistakes = refusal(path)
    fitting = [each for each in mistakes if f": {case.place}" in each and all(word in each for word in case.words)]
    assert fitting, f"no mistake names {case.place!r} and says {case.words}:\n" + "\n".join(mistakes)
    for mistake in fitting:
        found = LINE.match(mistake)
        assert found is not None, mistake
        assert found["path"] == str(path)
        line = marked_line(case.text())
        assert line is None or int(found["line"]) == line, f"expected line {line}: {mistake}"


def test_no_refusal_speaks_of_the_program_instead_of_the_file(tmp_path: Path):
    """Names of classes and Python's words for things help nobody who writes YAML."""
    inside = re.compile(r"\b(tuple|pathlib|instance of|\w+Section|ClusterConfig|Dictionary|Input|NoneType|after validation)\b")
    found = []
    for case in WRONG:
        try:
            load(write(tmp_path, case.text()))
        except BadConfig as refused:
            found += [f"{case.name}: {each}" for each in refused.mistakes if inside.search(each.split(": ", 1)[1])]
        except Exception:
            continue
    assert not found, "\n" + "\n".join(found)


def test_every_mistake_is_told_at_once_in_the_order_of_the_file(tmp_path: Path):
    text = BASE.replace("cluster: shop", "cluster: Shop").replace("10.0.0.2\n", "db2\n").replace("lease: 1s", "lease: 1")
    mistakes = refusal(write(tmp_path, text))
    assert [int(LINE.match(each)["line"]) for each in mistakes] == [1, 8, 19]


@pytest.mark.parametrize("text", ["", "# nothing but a comment\n", "---\n"], ids=["empty", "comment", "marker"])
def test_an_empty_file_is_told_what_is_missing(text: str, tmp_path: Path):
    mistakes = refusal(write(tmp_path, text))
    for name in ("cluster", "mediator", "key_file", "nodes", "groups"):
        assert any(f":1: {name}: {name} is missing" in each for each in mistakes), mistakes


@pytest.mark.parametrize("text", ["- cluster: shop\n", "just words\n", "5\n"], ids=["list", "words", "number"])
def test_a_file_that_is_no_mapping_is_told_what_belongs_there(text: str, tmp_path: Path):
    path = write(tmp_path, text)
    (mistake,) = refusal(path)
    assert mistake.startswith(f"{path}:1: ")
    assert ": :" not in mistake
    assert "cluster" in mistake


@pytest.mark.parametrize("junk", [b"caf\xe9", b"\xff\xfe"], ids=["latin", "utf-16 mark"])
def test_a_file_that_is_not_utf8_is_refused_with_its_line(junk: bytes, tmp_path: Path):
    path = write(tmp_path, b"mediator: zookeeper://a:2181/t\ncluster: " + junk + b"\n")
    (mistake,) = refusal(path)
    assert "UTF-8" in mistake
    assert mistake.startswith(f"{path}:2: ")


def test_a_file_that_is_not_there_is_refused_by_name(tmp_path: Path):
    assert refusal(tmp_path / "none.yaml") == [f"{tmp_path / 'none.yaml'}: No such file or directory"]


def test_a_directory_is_refused_by_name(tmp_path: Path):
    assert refusal(tmp_path) == [f"{tmp_path}: Is a directory"]
