"""The configuration file, section by section. Unknown keys, bare numbers and unsafe combinations are refused."""

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from orchestrator.config.units import Size, Span

NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,30}")
SHORTEST_LEASE: Final = 0.2
LONGEST_LEASE: Final = 60.0
DEFAULT_BEAT_PORT: Final = 7400


def _name(value: str) -> str:
    if not NAME.fullmatch(value):
        raise ValueError("expected a name of 1 to 31 lower-case letters, digits, - or _, beginning with a letter")
    return value


def _address(value: str) -> str:
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        raise ValueError("expected an IP address, such as 10.0.0.1 or fd00::1 (names may not resolve when needed)") from None


def split_host_port(value: str) -> tuple[str, int]:
    """Host and port of `10.0.0.1:7400` or `[fd00::1]:7400`."""
    parts = urlsplit(f"//{value}")
    try:
        if parts.hostname is None or parts.port is None or parts.path:
            raise ValueError
        return _address(parts.hostname), parts.port
    except ValueError:
        raise ValueError("expected an IP address and a port, such as 10.0.0.1:7400 or [fd00::1]:7400") from None


def _host_port(value: str) -> str:
    split_host_port(value)
    return value


def _path(value: str) -> str:
    scheme, _, rest = value.partition("://")
    if scheme != "udp":
        raise ValueError("expected a path such as udp://10.0.0.1:7400")
    split_host_port(rest)
    return value


Name = Annotated[str, AfterValidator(_name)]
Address = Annotated[str, AfterValidator(_address)]
HostPort = Annotated[str, AfterValidator(_host_port)]
BeatPath = Annotated[str, AfterValidator(_path)]
Port = Annotated[int, Field(ge=1, le=65535)]


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
        """Address and port of every path."""
        if not self.paths:
            return ((self.address, DEFAULT_BEAT_PORT),)
        return tuple(split_host_port(path.partition("://")[2]) for path in self.paths)


class TlsSection(Section):
    ca: Path
    certificate: Path | None = None
    key: Path | None = None


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
    start: tuple[str, ...] | None = None
    max_replica_lag: Span | None = None

    def over(self, general: "RedisSection") -> "RedisSection":
        """The member's own settings over the group's."""
        own = {name: getattr(self, name) for name in self.model_fields_set}
        return general.model_copy(update=own)


class MemberSection(Section):
    preferred: bool = False
    never_primary: bool = False
    address: Address | None = None
    """Where clients and members reach the service, if not at the node's address."""
    redis: RedisSection = RedisSection()


# --- policy ----------------------------------------------------------------------------------------------------------

Level = Literal["automatic", "confirm", "manual", "observe"]


class RuleSection(Section):
    after: Span | None = None
    automation: Level | None = None


class ProcessDownSection(RuleSection):
    restarts_first: Annotated[int, Field(ge=0, le=10)] = 0


class LagSection(Section):
    over: Size = 16 * 1024 * 1024
    action: Literal["alarm"] = "alarm"


class TimingSection(Section):
    host_down: RuleSection = RuleSection()
    process_down: ProcessDownSection = ProcessDownSection()
    unresponsive: RuleSection = RuleSection()
    lag: LagSection = LagSection()


class FailbackSection(Section):
    mode: Literal["never"] = "never"


class PolicySection(Section):
    lease: Span = 1.0
    timing: TimingSection = TimingSection()
    automation: Level = "automatic"
    cooldown: Span = 0.0
    failback: FailbackSection = FailbackSection()
    partition: Literal["consistency"] = "consistency"
    proposal_expires: Span = 600.0
    min_replicas: Annotated[int, Field(ge=0, le=10)] = 0

    @model_validator(mode="after")
    def _spans_make_sense(self) -> Self:
        if not SHORTEST_LEASE <= self.lease <= LONGEST_LEASE:
            raise ValueError(
                f"lease: read {self.lease:g}s, expected between {SHORTEST_LEASE * 1000:.0f}ms (below, an ordinary host's "
                f"hiccups end it) and {LONGEST_LEASE:.0f}s"
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
    reload_within: Span = 10.0
    check: str | None = None
    mode: str = "0644"
    nodes: tuple[Name, ...] = ()
    """Nodes that keep this file; all of them by default."""

    @model_validator(mode="after")
    def _mode_is_octal(self) -> Self:
        if not re.fullmatch(r"0?[0-7]{3}", self.mode):
            raise ValueError(f'mode: read "{self.mode}", expected octal digits in quotes, such as "0644"')
        return self


class ClientSection(Section):
    file: FileSection


class GroupSection(Section):
    service: Literal["redis"]
    members: Annotated[dict[Name, MemberSection | None], Field(min_length=2)]
    redis: RedisSection = RedisSection()
    witnesses: tuple[Name, ...] | None = None
    """Witnesses that observe this group; by default all."""
    replication: Literal["asynchronous"] = "asynchronous"
    gate: Literal["auto", "required", "off"] = "auto"
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
        both = [name for name, section in sections.items() if section.preferred and section.never_primary]
        if both:
            raise ValueError(f"members: {both[0]} is preferred and never_primary at once")
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
    key_file: Path | tuple[Path, ...]
    """The first key signs; all of them are believed, so that a key can be changed node by node."""
    directories: DirectoriesSection = DirectoriesSection()
    realtime: bool = True
    nodes: Annotated[dict[Name, NodeSection], Field(min_length=2)]
    groups: Annotated[dict[Name, GroupSection], Field(min_length=1)]

    @property
    def key_files(self) -> tuple[Path, ...]:
        return self.key_file if isinstance(self.key_file, tuple) else (self.key_file,)

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        problems = [*_mediator_problems(self), *_path_problems(self), *_group_problems(self)]
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def witnesses_of(self, group: GroupSection) -> tuple[str, ...]:
        if group.witnesses is not None:
            return group.witnesses
        return tuple(name for name, node in self.nodes.items() if node.witness)


def _mediator_problems(config: ClusterConfig) -> list[str]:
    parts = urlsplit(config.mediator)
    if parts.scheme == "zookeeper":
        if not parts.netloc or not parts.path.strip("/"):
            return [f"mediator: read {config.mediator!r}, expected zookeeper://host:2181,host:2181/root"]
        return []
    if parts.scheme != "sqlite" or parts.netloc or not parts.path.startswith("/"):
        return [
            f"mediator: read {config.mediator!r}, expected zookeeper://host:2181,host:2181/root, or on one machine "
            "sqlite:///absolute/path"
        ]
    addresses = {node.address for node in config.nodes.values()}
    if len(addresses) > 1 and not all(ipaddress.ip_address(each).is_loopback for each in addresses):
        return [
            f"mediator: a SQLite file serves members on one machine only, but the nodes have {len(addresses)} addresses "
            f"({', '.join(sorted(addresses))}); use zookeeper://"
        ]
    return []


def _path_problems(config: ClusterConfig) -> list[str]:
    problems = []
    numbers = {name: len(node.beat_paths()) for name, node in config.nodes.items()}
    if len(set(numbers.values())) > 1:
        told = ", ".join(f"{name} has {number}" for name, number in numbers.items())
        problems.append(f"nodes: every node needs the same number of paths, so that they can be paired: {told}")
    taken: dict[tuple[str, int], str] = {}
    for name, node in config.nodes.items():
        for end in node.beat_paths():
            if end in taken:
                problems.append(f"nodes.{name}.paths: {end[0]}:{end[1]} belongs to {taken[end]} already")
            taken[end] = name
    return problems


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
        problems += _end_problems(config, place, group)
    return problems


def _end_problems(config: ClusterConfig, place: str, group: GroupSection) -> list[str]:
    """Two members must not be reached at the same address and port."""
    taken: dict[tuple[str, int], str] = {}
    problems = []
    for name in group.members:
        if name not in config.nodes:
            continue
        end = service_end(config, group, name)
        if end in taken:
            problems.append(f"{place}.members.{name}: {end[0]}:{end[1]} is {taken[end]}'s already")
        taken[end] = name
        if ":" in end[0] and group.member(name).redis.over(group.redis).socket is None:
            problems.append(
                f"{place}.members.{name}: its address {end[0]} is IPv6: set redis.socket, by which the daemon reaches it "
                "past a closed gate"
            )
    return problems


def service_end(config: ClusterConfig, group: GroupSection, name: str) -> tuple[str, int]:
    """Where the group's service is reached on a member."""
    member = group.member(name)
    port = member.redis.over(group.redis).port or 6379
    return member.address or config.nodes[name].address, port


def json_schema() -> dict[str, Any]:
    """For editors."""
    return ClusterConfig.model_json_schema()
