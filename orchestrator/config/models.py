"""The configuration file, section by section. Unknown keys, bare numbers and unsafe combinations are refused."""

import ipaddress
import re
import termios
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from orchestrator.config.units import Size, Span, TimeWindow, parse_span
from orchestrator.domain.policy import BEATS
from probes.interconnected import serial

NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,30}")
SHORTEST_LEASE: Final = 0.2
LONGEST_LEASE: Final = 60.0
DEFAULT_BEAT_PORT: Final = 7400
DEFAULT_BAUD: Final = 115200
SLOWEST_BAUD: Final = 9600
BAUDS: Final = sorted(int(name[1:]) for name in dir(termios) if re.fullmatch(r"B\d+", name) and int(name[1:]) >= SLOWEST_BAUD)
EVERYBODY: Final = ipaddress.ip_address("255.255.255.255")
INTERFACE: Final = re.compile(r"[^\s/:]{1,15}")
ZOOKEEPER_HOST: Final = re.compile(r"(?P<host>[A-Za-z0-9][A-Za-z0-9._-]*|\[[0-9a-fA-F:.]+\])(:(?P<port>\d{1,5}))?")


def _name(value: str) -> str:
    if not NAME.fullmatch(value):
        raise ValueError("expected a name of 1 to 31 lower-case letters, digits, - or _, beginning with a letter")
    return value


def _address(value: str) -> str:
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        raise ValueError("expected an IP address, such as 10.0.0.1 or fd00::1 (names may not resolve when needed)") from None
    if address.is_unspecified or address.is_multicast or address == EVERYBODY:
        raise ValueError("expected the IP address of one host, such as 10.0.0.1 or fd00::1")
    return str(address)


def split_host_port(value: str) -> tuple[str, int]:
    """Host and port of `10.0.0.1:7400` or `[fd00::1]:7400`."""
    try:
        parts = urlsplit(f"//{value}")
        if not parts.hostname or not parts.port or parts.netloc != value or "@" in value:
            raise ValueError
        return str(ipaddress.ip_address(parts.hostname)), parts.port
    except ValueError:
        raise ValueError("expected an IP address and a port, such as 10.0.0.1:7400 or [fd00::1]:7400") from None


def _host_port(value: str) -> str:
    split_host_port(value)
    return value


@dataclass(frozen=True, slots=True)
class SerialEnd:
    """One node's end of a serial line."""

    device: str
    baud: int = DEFAULT_BAUD
    peer: str | None = None
    """Who is at the other end; None: nobody else than the one other node with a line."""


def split_serial(value: str) -> SerialEnd:
    """The parts of `serial:///dev/ttyS0?peer=db2&baud=115200`."""
    parts = urlsplit(value)
    if parts.scheme != "serial" or parts.netloc or parts.fragment or not re.fullmatch(r"/.*[^/]", parts.path):
        raise ValueError("expected a device such as serial:///dev/ttyS0")
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    if parts.query != "&".join(f"{name}={word}" for name, word in given.items()) or not {*given} <= {"peer", "baud"}:
        raise ValueError("expected nothing but peer and baud after the device: serial:///dev/ttyS0?peer=db2&baud=115200")
    baud = given.get("baud", str(DEFAULT_BAUD))
    if baud not in map(str, BAUDS):
        raise ValueError(f"expected as baud one of {', '.join(map(str, BAUDS))}")
    peer = given.get("peer")
    return SerialEnd(parts.path, int(baud), _name(peer) if peer is not None else None)


def _path(value: str) -> str:
    scheme, _, rest = value.partition("://")
    if scheme == "serial":
        split_serial(value)
    elif scheme == "udp":
        _address(split_host_port(rest)[0])
    else:
        raise ValueError("expected a path such as udp://10.0.0.1:7400 or serial:///dev/ttyS0")
    return value


def _list_of_paths(value: object) -> object:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return value
    raise ValueError("expected a path, or a list of paths")


def _at_least(shortest: str) -> AfterValidator:
    def check(value: float) -> float:
        if value < parse_span(shortest):
            raise ValueError(f"expected at least {shortest}")
        return value

    return AfterValidator(check)


def _interface_address(value: str) -> str:
    """An address that a host can hold, with its prefix; written in one way, so that equals are seen."""
    expected = "expected an IP address and its prefix, such as 10.0.0.100/24 or fd00::100/64"
    address, slash, prefix = value.partition("/")
    try:
        made = ipaddress.ip_interface(value)
        ipaddress.ip_address(address)
        if not (slash and prefix.isdecimal()) or "%" in address:
            raise ValueError
    except ValueError:
        raise ValueError(expected) from None
    if made.is_unspecified or made.is_multicast or made.is_loopback or made.ip == EVERYBODY:
        raise ValueError(f"expected the address of one host, such as 10.0.0.100/24: {made.ip} is none")
    net = made.network
    if net.prefixlen < net.max_prefixlen - 1 and (made.ip == net.network_address or made.ip in _broadcast(net)):
        raise ValueError(f"expected the address of one host, such as {net[1]}/{prefix}: {made.ip} stands for all of {net}")
    return str(made)


def _broadcast(net: ipaddress.IPv4Network | ipaddress.IPv6Network) -> tuple[object, ...]:
    return (net.broadcast_address,) if isinstance(net, ipaddress.IPv4Network) else ()


def _interface(value: str) -> str:
    if not INTERFACE.fullmatch(value) or value in (".", ".."):
        raise ValueError("expected the name of a network interface, such as eth0: 1 to 15 characters, no space, / or :")
    return value


def _mode(value: object) -> object:
    if not isinstance(value, str) or not re.fullmatch(r"0?[0-7]{3}", value):
        raise ValueError('expected octal digits in quotes, such as "0644"')
    return value


Name = Annotated[str, AfterValidator(_name)]
Mode = Annotated[str, BeforeValidator(_mode)]
Paths = Annotated[tuple[Path, ...], BeforeValidator(_list_of_paths, json_schema_input_type=str | list[str])]
Address = Annotated[str, AfterValidator(_address)]
InterfaceAddress = Annotated[str, AfterValidator(_interface_address)]
Interface = Annotated[str, AfterValidator(_interface)]
HostPort = Annotated[str, AfterValidator(_host_port)]
BeatPath = Annotated[str, AfterValidator(_path)]
Port = Annotated[int, Field(strict=True, ge=1, le=65535)]
Count = Annotated[int, Field(strict=True, ge=0, le=10)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


# --- who there is ----------------------------------------------------------------------------------------------------


class NodeSection(Section):
    address: Address
    paths: tuple[BeatPath, ...] = ()
    """Where this node sends and receives beats; the first of every node belong together, and so on."""
    witness: bool = False
    api: HostPort | None = None
    """Where metrics and the API are served, besides the local socket."""

    def beat_paths(self) -> tuple[tuple[str, int], ...]:
        """Address and port of every path over the network."""
        if not self.paths:
            return ((self.address, DEFAULT_BEAT_PORT),)
        return tuple(split_host_port(path.partition("://")[2]) for path in self.paths if path.startswith("udp:"))

    def serial_ends(self) -> dict[int, SerialEnd]:
        """The serial lines, by their places in `paths`."""
        return {number: split_serial(path) for number, path in enumerate(self.paths) if path.startswith("serial:")}


class TlsSection(Section):
    ca: Path
    certificate: Path | None = None
    key: Path | None = None


class ApiTlsSection(Section):
    certificate: Path
    """With the certificates between it and the authority, as PEM."""
    key: Path


class ApiSection(Section):
    """Over the network; on each node's own socket nothing of this counts."""

    tokens: Path | None = None
    """Who may do what. Without it nobody can act over the network, and there is no page to sign in to."""
    tls: ApiTlsSection | None = None
    anonymous: Literal["read", "none"] = "read"
    """What is answered to whoever shows no token. Health checks are answered always."""
    cleartext: bool = False
    """Tokens may come in unencrypted: something in front of the daemon takes care of that."""


class MediatorAuthSection(Section):
    user: str
    password_file: Path


class DirectoriesSection(Section):
    run: Path = Path("/run/tanist")
    """On tmpfs: pages, sockets, locks."""
    state: Path = Path("/var/lib/tanist")
    """On disk: history, journal, lives."""


# --- services --------------------------------------------------------------------------------------------------------


class RedisSection(Section):
    port: Port | None = None
    socket: Path | None = None
    user: str | None = None
    password_file: Path | None = None
    tls: TlsSection | None = None
    replication_user: str | None = None
    program: str | None = None
    config: Path | None = None
    run_as: str | None = None
    start: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    max_replica_lag: Annotated[Span, _at_least("1s")] | None = None

    def over(self, general: "RedisSection") -> "RedisSection":
        """The member's own settings over the group's."""
        own = {name: getattr(self, name) for name in self.model_fields_set}
        return general.model_copy(update=own)


def _cluster_name(value: str) -> str:
    if not re.fullmatch(r"\d+/[A-Za-z0-9._-]+", value):
        raise ValueError("expected Debian's version and name of the cluster, such as 15/main")
    return value


class PostgresqlSection(Section):
    port: Port | None = None
    data_directory: Path | None = None
    config_file: Path | None = None
    socket_directory: Path | None = None
    user: str | None = None
    database: str | None = None
    password_file: Path | None = None
    replication_user: str | None = None
    replication_password_file: Path | None = None
    connection: dict[str, str] | None = None
    """More of libpq's keywords for connections between members, such as sslmode."""
    bin_directory: Path | None = None
    control: Literal["direct", "pg_ctlcluster", "systemd"] | None = None
    cluster: Annotated[str, AfterValidator(_cluster_name)] | None = None
    unit: str | None = None
    run_as: str | None = None
    parameters: dict[str, str] | None = None
    """Server parameters on the command line of a direct start."""
    log_file: Path | None = None
    slots: bool | None = None
    max_rate: Size | None = None
    start_within: Span | None = None
    stop_within: Span | None = None

    def over(self, general: "PostgresqlSection") -> "PostgresqlSection":
        """The member's own settings over the group's."""
        own = {name: getattr(self, name) for name in self.model_fields_set}
        return general.model_copy(update=own)

    def problems(self) -> list[str]:
        """What is missing or contradicts itself, once group and member are put together."""
        found = []
        if self.data_directory is None:
            found.append("data_directory is missing, such as /var/lib/postgresql/15/main")
        elif not self.data_directory.is_absolute():
            found.append(f"data_directory: read {self.data_directory}, expected an absolute path")
        if self.control == "systemd" and self.unit is None:
            found.append("control is systemd, and unit is missing, such as postgresql@15-main.service")
        if self.control == "pg_ctlcluster" and self.cluster is None:
            found.append("control is pg_ctlcluster, and cluster is missing, such as 15/main")
        if self.control in ("systemd", "pg_ctlcluster") and self.parameters:
            found.append(f"parameters are for a direct start; with control: {self.control} write them into postgresql.conf")
        if self.max_rate is not None and not 32 * 1024 <= self.max_rate <= 1024**3:
            found.append("max_rate: expected between 32kB and 1GB (per second; pg_basebackup --max-rate)")
        return found


class MemberSection(Section):
    preferred: bool = False
    never_primary: bool = False
    never_synchronous: bool = False
    address: Address | None = None
    """Where clients and members reach the service, if not at the node's address."""
    redis: RedisSection = RedisSection()
    postgresql: PostgresqlSection = PostgresqlSection()


# --- policy ----------------------------------------------------------------------------------------------------------

Level = Literal["automatic", "confirm", "manual", "observe"]


class RuleSection(Section):
    after: Span | None = None
    automation: Level | None = None


class ProcessDownSection(RuleSection):
    restarts_first: Count = 0


class LagSection(Section):
    over: Size = 16 * 1024 * 1024
    after: Span = 1.0
    action: Literal["alarm"] = "alarm"


class TimingSection(Section):
    host_down: RuleSection = RuleSection()
    process_down: ProcessDownSection = ProcessDownSection()
    unresponsive: RuleSection = RuleSection()
    lag: LagSection = LagSection()


class FailbackSection(Section):
    mode: Literal["never", "when_healthy", "window"] = "never"
    for_: Annotated[Span, _at_least("1s")] = Field(default=600.0, alias="for")
    """How long the preferred member must have been fit to take over, without a break."""
    window: TimeWindow | None = None

    @model_validator(mode="after")
    def _only_what_the_mode_uses(self) -> Self:
        if self.mode == "never" and self.model_fields_set - {"mode"}:
            given = "window" if self.window is not None else "for"
            raise ValueError(f"{given}: says nothing with mode: never; expected mode: when_healthy or mode: window")
        if (self.mode == "window") is (self.window is None):
            raise ValueError('mode: window and window: "Sun 03:00-04:00 UTC" belong together')
        return self


class PolicySection(Section):
    lease: Span = 1.0
    timing: TimingSection = TimingSection()
    automation: Level = "automatic"
    cooldown: Span = 0.0
    failback: FailbackSection = FailbackSection()
    partition: Literal["consistency"] = "consistency"
    proposal_expires: Span = 600.0
    min_replicas: Count = 0
    strict: bool = False
    fetch_within: Span = 5.0

    @model_validator(mode="after")
    def _spans_make_sense(self) -> Self:
        if not SHORTEST_LEASE <= self.lease <= LONGEST_LEASE:
            raise ValueError(
                f"lease: expected between {SHORTEST_LEASE * 1000:.0f}ms (below, an ordinary host's hiccups end it) "
                f"and {LONGEST_LEASE:.0f}s"
            )
        unresponsive = self.timing.unresponsive.after
        if unresponsive is not None and unresponsive < 0.2:
            raise ValueError("timing.unresponsive.after: expected at least 200ms: a look takes up to an eighth of it")
        if self.proposal_expires < 10:
            raise ValueError("proposal_expires: expected at least 10s: a person has to read it")
        return self


# --- clients ---------------------------------------------------------------------------------------------------------


class FileSection(Section):
    template: Path
    path: Path
    reload: str | None = None
    reload_within: Annotated[Span, _at_least("100ms")] = 10.0
    check: str | None = None
    mode: Mode = "0644"
    nodes: tuple[Name, ...] = ()
    """Nodes that keep this file; all of them by default."""


class VipSection(Section):
    """An address that goes where the primary is."""

    address: InterfaceAddress
    interface: Interface


class ClientSection(Section):
    """One way of leading clients: exactly one of these."""

    file: FileSection | None = None
    vip: VipSection | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.file is None) is (self.vip is None):
            raise ValueError("expected either file or vip, with a dash for each")
        return self


class GroupSection(Section):
    service: Literal["redis", "postgresql"]
    members: Annotated[dict[Name, MemberSection | None], Field(min_length=2)]
    redis: RedisSection = RedisSection()
    postgresql: PostgresqlSection = PostgresqlSection()
    witnesses: tuple[Name, ...] | None = None
    """Witnesses that observe this group; by default all."""
    replication: Literal["asynchronous", "synchronous", "quorum"] = "asynchronous"
    """Synchronous: no commit is acknowledged before every member that could take over has it. Quorum: before so many of them
    have it as `policy.min_replicas` says. PostgreSQL only."""
    gate: Literal["auto", "required", "off"] = "auto"
    standbys: Literal["hot", "warm"] = "hot"
    """What they do for clients: hot ones can be read from, warm ones serve nothing."""
    policy: PolicySection = PolicySection()
    clients: tuple[ClientSection, ...] = ()

    @model_validator(mode="after")
    def _somebody_may_lead(self) -> Self:
        sections = {name: section or MemberSection() for name, section in self.members.items()}
        if sum(section.preferred for section in sections.values()) > 1:
            names = ", ".join(name for name, section in sections.items() if section.preferred)
            raise ValueError(f"members: {names} are all preferred; expected at most one")
        if all(section.never_primary for section in sections.values()):
            raise ValueError("members: every one is never_primary, so nobody could ever serve")
        if self.policy.failback.mode != "never" and not any(section.preferred for section in sections.values()):
            raise ValueError("policy.failback: nobody is preferred; write `preferred: true` at the member it shall go back to")
        both = [name for name, section in sections.items() if section.preferred and section.never_primary]
        if both:
            raise ValueError(f"members: {both[0]} is preferred and never_primary at once")
        if self.replication != "asynchronous" and not any(
            not section.never_primary and not section.never_synchronous for section in sections.values()
        ):
            raise ValueError("members: nobody could ever take over: each is never_primary or never_synchronous")
        if self.standbys == "warm" and self.gate == "off":
            raise ValueError(
                "standbys: read warm beside gate: off; expected gate: auto or required, which keeps clients out of them"
            )
        if self.policy.min_replicas >= len(sections):
            raise ValueError(
                f"policy.min_replicas: read {self.policy.min_replicas}, but {len(sections)} members leave at most "
                f"{len(sections) - 1} standbys"
            )
        return self

    def member(self, name: str) -> MemberSection:
        return self.members[name] or MemberSection()


class ClusterConfig(Section):
    cluster: Name
    node: Name | None = None
    """This host's own name, when it is neither given by `--node` or TANIST_NODE nor the host name."""
    mediator: str
    mediator_auth: MediatorAuthSection | None = None
    mediator_tls: TlsSection | None = None
    key_file: Annotated[Paths, Field(min_length=1)]
    """The first key signs; all of them are believed, so that a key can be changed node by node."""
    api: ApiSection = ApiSection()
    directories: DirectoriesSection = DirectoriesSection()
    realtime: bool = True
    nodes: Annotated[dict[Name, NodeSection], Field(min_length=2)]
    groups: Annotated[dict[Name, GroupSection], Field(min_length=1)]

    @property
    def key_files(self) -> tuple[Path, ...]:
        return self.key_file

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        problems = [*_mediator_problems(self), *_path_problems(self), *_api_problems(self), *_group_problems(self)]
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def witnesses_of(self, group: GroupSection) -> tuple[str, ...]:
        if group.witnesses is not None:
            return group.witnesses
        return tuple(name for name, node in self.nodes.items() if node.witness)

    def serial_ends(self, name: str) -> dict[int, SerialEnd]:
        """The node's serial lines, by their places in its `paths`; the other end is filled in where there can be but one."""
        lines = {other: node.serial_ends() for other, node in self.nodes.items() if node.serial_ends()}
        implied = {one: another for one in lines for another in lines if one != another}
        if len(lines) != 2 or any(len(ends) > 1 for ends in lines.values()):
            return lines.get(name, {})
        return {number: replace(end, peer=end.peer or implied[name]) for number, end in lines.get(name, {}).items()}

    def beats_every(self, one: str, another: str) -> list[float]:
        """Of each group that both are part of."""
        parts = ((group, {*group.members, *self.witnesses_of(group)}) for group in self.groups.values())
        return [group.policy.lease / BEATS for group, part in parts if {one, another} <= part]


def _api_problems(config: ClusterConfig) -> list[str]:
    """A token that is sent in the clear is everybody's."""
    api = config.api
    if api.tokens is None:
        return ["api.anonymous: read none without api.tokens; nobody could read anything"] if api.anonymous == "none" else []
    if api.tls is not None or api.cleartext:
        return []
    for name, node in config.nodes.items():
        if node.api is not None and not ipaddress.ip_address(split_host_port(node.api)[0]).is_loopback:
            return [
                f"api.tls: missing, so tokens would come to {name} ({node.api}) in the clear; expected certificate and key, "
                "an address on loopback, or api.cleartext: true where a proxy in front encrypts"
            ]
    return []


def _mediator_problems(config: ClusterConfig) -> list[str]:
    scheme, _, rest = config.mediator.partition("://")
    hosts, slash, path = rest.partition("/")
    if scheme == "zookeeper":
        if not path.strip("/") or not all(_is_zookeeper_host(each) for each in hosts.split(",")):
            return ["mediator: expected zookeeper://host:2181,host:2181/root"]
        return []
    if scheme != "sqlite" or hosts or not slash or not path:
        return [
            "mediator: expected zookeeper://host:2181,host:2181/root, or, when all members share one machine, "
            "sqlite:///absolute/path"
        ]
    addresses = {node.address for node in config.nodes.values()}
    if len(addresses) > 1 and not all(ipaddress.ip_address(each).is_loopback for each in addresses):
        return [
            f"mediator: a SQLite file serves members on one machine only, but the nodes have {len(addresses)} addresses "
            f"({', '.join(sorted(addresses))}); use zookeeper://"
        ]
    return []


def _is_zookeeper_host(text: str) -> bool:
    found = ZOOKEEPER_HOST.fullmatch(text)
    return found is not None and (found["port"] is None or 0 < int(found["port"]) < 65536)


def _path_problems(config: ClusterConfig) -> list[str]:
    problems = []
    numbers = {name: len(node.beat_paths()) for name, node in config.nodes.items()}
    if 0 in numbers.values():
        name = next(name for name, number in numbers.items() if not number)
        problems.append(
            f"nodes.{name}.paths: expected a udp:// path too: a serial line stands beside the network, not in its place"
        )
    elif len(set(numbers.values())) > 1:
        told = ", ".join(f"{name} has {number}" for name, number in numbers.items())
        problems.append(f"nodes: every node needs the same number of paths over the network, so that they can be paired: {told}")
    taken: dict[tuple[str, int], str] = {}
    for name, node in config.nodes.items():
        for end in node.beat_paths():
            if end in taken:
                problems.append(f"nodes.{name}.paths: {end[0]}:{end[1]} belongs to {taken[end]} already")
            taken[end] = name
    return [*problems, *_serial_problems(config)]


def _serial_problems(config: ClusterConfig) -> Iterator[str]:
    """A serial line joins exactly two nodes, and both say so."""
    for name in config.nodes:
        peers: set[str] = set()
        devices: set[str] = set()
        for number, end in config.serial_ends(name).items():
            place = f"nodes.{name}.paths.{number}"
            if end.device in devices:
                yield f"{place}: {end.device} is another line's device already"
            elif end.peer in peers:
                yield f"{place}: another line joins {name} and {end.peer} already; expected one line between two nodes"
            else:
                yield from (f"{place}: {problem}" for problem in _line_problems(config, name, end))
            devices.add(end.device)
            peers |= {end.peer} if end.peer else set()


def _line_problems(config: ClusterConfig, name: str, end: SerialEnd) -> Iterator[str]:
    others = [other for other in config.nodes if other != name]
    if end.peer is None:
        owners = ", ".join(other for other in config.nodes if config.nodes[other].serial_ends())
        yield f"expected serial://{end.device}?peer=NAME, the node at its other end: it cannot be told, since {owners} have lines"
        return
    if end.peer not in others:
        yield f"expected as peer another node: {', '.join(others)}"
        return
    back = next((each for each in config.serial_ends(end.peer).values() if each.peer == name), None)
    beats_every = config.beats_every(name, end.peer)
    if back is None:
        yield f"nodes.{end.peer}.paths has no line to {name}; expected one such as serial:///dev/ttyS0?peer={name}"
    elif back.baud != end.baud:
        yield f"its other end, {end.peer}'s {back.device}, has baud {back.baud}; expected the same at both ends"
    if not beats_every:
        yield f"{name} and {end.peer} have no group in common, so that no beat would go over it"
    if serial.load(beats_every, end.baud, name) > serial.MOST_LOAD:
        enough = [baud for baud in BAUDS if serial.load(beats_every, baud, name) <= serial.MOST_LOAD]
        needed = f"baud={enough[0]} (both ends), " if enough else ""
        yield (
            f"{end.baud} baud carry {end.baud // serial.BITS} bytes a second, and the beats of {len(beats_every)} "
            f"group{'s' if len(beats_every) > 1 else ''} take up to {serial.load(beats_every, end.baud, name):.0%} of that even "
            f"without words; expected {needed}a longer lease{' or fewer groups' if len(beats_every) > 1 else ''}"
        )


def _group_problems(config: ClusterConfig) -> list[str]:
    problems = []
    for group_name, group in config.groups.items():
        place = f"groups.{group_name}"
        for name in group.members:
            if name not in config.nodes:
                problems.append(f"{place}.members.{name}: no such node; the nodes are {', '.join(config.nodes)}")
            elif config.nodes[name].witness:
                problems.append(f"{place}.members.{name}: {name} is a witness, which has no data")
        problems += [
            f"{place}.witnesses: {name} is no node with witness: true"
            for name in config.witnesses_of(group)
            if name not in config.nodes or not config.nodes[name].witness
        ]
        problems += _service_problems(place, group)
    return [*problems, *_end_problems(config), *_file_problems(config), *_vip_problems(config)]


def _end_problems(config: ClusterConfig) -> list[str]:
    """Two members, of whatever group, must not be reached at the same address and port."""
    taken: dict[tuple[str, int], str] = {}
    problems = []
    for group_name, group in config.groups.items():
        for name in group.members:
            if name not in config.nodes:
                continue
            place = f"groups.{group_name}.members.{name}"
            end = service_end(config, group, name)
            if end in taken:
                problems.append(f"{place}: {end[0]}:{end[1]} belongs to {taken[end]} already")
            taken[end] = place
            if group.service == "redis" and ":" in end[0] and group.member(name).redis.over(group.redis).socket is None:
                problems.append(
                    f"{place}: its address {end[0]} is IPv6: set redis.socket, by which the daemon reaches it past a closed gate"
                )
    return problems


def _service_problems(place: str, group: GroupSection) -> list[str]:
    """Settings of another service than the group's, and what this one's lack."""
    other = "redis" if group.service == "postgresql" else "postgresql"
    problems = [f"{place}.{other}: the group's service is {group.service}"] if other in group.model_fields_set else []
    slots: dict[str, str] = {}
    for name in group.members:
        member = group.member(name)
        if other in member.model_fields_set:
            problems.append(f"{place}.members.{name}.{other}: the group's service is {group.service}")
        if group.service != "postgresql":
            continue
        problems += [f"{place}.members.{name}: {each}" for each in member.postgresql.over(group.postgresql).problems()]
        slot = name.replace("-", "_")
        if slot in slots:
            problems.append(f"{place}.members.{name}: its replication slot would have the name of {slots[slot]}'s: rename one")
        slots[slot] = name
    if group.service == "redis" and group.replication != "asynchronous":
        problems.append(
            f"{place}.replication: read {group.replication}, but Redis replicates asynchronously; see policy.min_replicas"
        )
    if group.policy.strict and group.replication == "asynchronous" and not group.policy.min_replicas:
        cure = "policy.min_replicas: 1" if group.service == "redis" else "replication: synchronous"
        problems.append(f"{place}.policy.strict: has nothing to insist on; expected {cure} beside it")
    tagged = [name for name in group.members if group.member(name).never_synchronous]
    if tagged and group.replication == "asynchronous":
        problems.append(
            f"{place}.members.{tagged[0]}.never_synchronous: no commit waits for anybody; expected replication: synchronous"
        )
    if group.service == "postgresql" and group.policy.min_replicas and group.replication != "quorum":
        problems.append(
            f"{place}.policy.min_replicas: read {group.policy.min_replicas} beside replication: {group.replication}; expected "
            "replication: quorum (that many standbys have each commit) or synchronous (all of them have)"
        )
    return problems


def _file_problems(config: ClusterConfig) -> list[str]:
    """A client file is kept by known nodes, and on each of them by one group only."""
    taken: dict[tuple[str, Path], str] = {}
    problems = []
    for group_name, group in config.groups.items():
        part = tuple(dict.fromkeys((*group.members, *config.witnesses_of(group))))
        for number, client in enumerate(group.clients):
            file = client.file
            if file is None:
                continue
            place = f"groups.{group_name}.clients.{number}.file"
            strangers = [name for name in file.nodes if name not in part]
            if strangers:
                told = ", ".join(strangers)
                problems.append(f"{place}.nodes: {told} takes no part in {group_name}; expected some of {', '.join(part)}")
            for name in file.nodes or part:
                where = (name, file.path)
                if where in taken:
                    problems.append(f"{place}.path: {file.path} on {name} is written by {taken[where]} already")
                    break
                taken[where] = place
    return problems


def _vip_problems(config: ClusterConfig) -> list[str]:
    """An address that moves belongs to one group, and to no host."""
    taken = {ipaddress.ip_address(node.address): f"nodes.{name}.address" for name, node in config.nodes.items()}
    for name, node in config.nodes.items():
        for host, _ in node.beat_paths():
            taken.setdefault(ipaddress.ip_address(host), f"nodes.{name}.paths")
    for group_name, group in config.groups.items():
        for name in group.members:
            if (own := group.member(name).address) is not None:
                taken.setdefault(ipaddress.ip_address(own), f"groups.{group_name}.members.{name}.address")
    problems = []
    for group_name, group in config.groups.items():
        for number, client in enumerate(group.clients):
            if client.vip is None:
                continue
            place = f"groups.{group_name}.clients.{number}.vip.address"
            address = ipaddress.ip_interface(client.vip.address).ip
            if address in taken:
                problems.append(
                    f"{place}: read {client.vip.address}, which is {taken[address]} already; expected an address of its own, "
                    "that moves"
                )
            taken.setdefault(address, place)
    return problems


def service_end(config: ClusterConfig, group: GroupSection, name: str) -> tuple[str, int]:
    """Where the group's service is reached on a member."""
    member = group.member(name)
    if group.service == "postgresql":
        port = member.postgresql.over(group.postgresql).port or 5432
    else:
        port = member.redis.over(group.redis).port or 6379
    return member.address or config.nodes[name].address, port


def json_schema() -> dict[str, Any]:
    """For editors."""
    return ClusterConfig.model_json_schema()
