"""From the checked file to the values that the rest of Tanist works with."""

import hashlib
from dataclasses import replace
from ipaddress import ip_address, ip_interface
from pathlib import Path

from orchestrator.actuators.client_config import ClientFile
from orchestrator.config.models import (
    ClusterConfig,
    FailbackSection,
    GroupSection,
    PostgresqlSection,
    RedisSection,
    RuleSection,
    service_end,
)
from orchestrator.domain.policy import Automation, Failback, Policy, Replication, Timing, TimingRule
from orchestrator.domain.topology import Group, GroupName, Member, NodeName
from orchestrator.keeper.setup import AddressSetup, Endpoint, GroupSetup, KeeperSetup, LineSetup, PathSetup
from orchestrator.services.postgresql.settings import ControlKind, PostgresqlSettings
from orchestrator.services.redis.settings import RedisSettings, RedisTls

DEFAULT_UNRESPONSIVE = 2.0


class UnknownNode(ValueError):
    """The name given for this host is none of the configuration's nodes."""


def check_node(config: ClusterConfig, node: NodeName) -> None:
    if node not in config.nodes:
        raise UnknownNode(
            f"this host is said to be {node!r}, which is none of the nodes: {', '.join(config.nodes)}; "
            "say --node NAME or set TANIST_NODE"
        )


def groups_of(config: ClusterConfig, node: NodeName) -> tuple[GroupName, ...]:
    """Groups that this node is a member or a witness of."""
    return tuple(name for name, group in config.groups.items() if node in group.members or node in config.witnesses_of(group))


def domain_group(config: ClusterConfig, name: GroupName) -> Group:
    section = config.groups[name]
    members = []
    for member_name in section.members:
        member = section.member(member_name)
        address, port = service_end(config, section, member_name)
        members.append(
            Member(
                name=member_name,
                address=address,
                port=port,
                preferred=member.preferred,
                never_primary=member.never_primary,
                never_synchronous=member.never_synchronous,
            )
        )
    return Group(name=name, members=tuple(members), witnesses=config.witnesses_of(section))


def domain_policy(section: GroupSection) -> Policy:
    policy = section.policy
    timing = policy.timing
    return Policy(
        lease=policy.lease,
        timing=Timing(
            host_down=_rule(timing.host_down, policy.lease),
            process_down=_rule(timing.process_down, 0.0),
            unresponsive=_rule(timing.unresponsive, DEFAULT_UNRESPONSIVE),
            restarts_first=timing.process_down.restarts_first,
        ),
        automation=Automation(policy.automation),
        cooldown=policy.cooldown,
        failback=_failback(policy.failback),
        proposal_expires=policy.proposal_expires,
        max_lag_bytes=timing.lag.over,
        lag_after=timing.lag.after,
        replication=Replication(section.replication),
        min_replicas=policy.min_replicas,
        strict=policy.strict,
        fetch_within=policy.fetch_within,
        revision=hashlib.sha256(section.policy.model_dump_json().encode()).hexdigest()[:12],
    )


def _failback(section: FailbackSection) -> Failback | None:
    return None if section.mode == "never" else Failback(after=section.for_, window=section.window)


def _rule(section: RuleSection, default: float) -> TimingRule:
    return TimingRule(
        after=default if section.after is None else section.after,
        automation=Automation(section.automation) if section.automation else None,
    )


def redis_settings(config: ClusterConfig, group: GroupName, node: NodeName) -> RedisSettings:
    section = config.groups[group]
    merged: RedisSection = section.member(node).redis.over(section.redis)
    host, port = service_end(config, section, node)
    settings = RedisSettings(
        host=host,
        port=port,
        socket=str(merged.socket) if merged.socket else None,
        user=merged.user,
        password_file=merged.password_file,
        replication_user=merged.replication_user,
        config=merged.config,
        run_as=merged.run_as,
        start=merged.start or (),
    )
    if merged.tls is not None:
        tls = merged.tls
        settings = replace(
            settings,
            tls=RedisTls(
                ca=str(tls.ca),
                certificate=str(tls.certificate) if tls.certificate else None,
                key=str(tls.key) if tls.key else None,
            ),
        )
    if merged.program is not None:
        settings = replace(settings, program=merged.program)
    if merged.max_replica_lag is not None:
        settings = replace(settings, max_replica_lag=round(merged.max_replica_lag))
    return settings


def postgresql_settings(config: ClusterConfig, group: GroupName, node: NodeName) -> PostgresqlSettings:
    section = config.groups[group]
    merged: PostgresqlSection = section.member(node).postgresql.over(section.postgresql)
    host, port = service_end(config, section, node)
    given = {name: getattr(merged, name) for name in PostgresqlSection.model_fields if getattr(merged, name) is not None}
    given |= {"name": node, "host": host, "port": port, "control": ControlKind(merged.control or "direct")}
    given["synchronous"] = section.replication != "asynchronous"
    given["divergence_directory"] = divergence_directory(config, group, node)
    return PostgresqlSettings(**given)


def client_files(section: GroupSection, node: NodeName) -> tuple[ClientFile, ...]:
    return tuple(
        ClientFile(
            template=file.template,
            path=file.path,
            reload=file.reload,
            reload_within=file.reload_within,
            check=file.check,
            mode=int(file.mode, 8),
        )
        for each in section.clients
        if (file := each.file) is not None and (not file.nodes or node in file.nodes)
    )


def addresses(section: GroupSection, node: NodeName) -> tuple[AddressSetup, ...]:
    """Addresses that a member holds while it is the primary; a witness never does."""
    vips = [each.vip for each in section.clients if each.vip is not None] if node in section.members else []
    parts = [(ip_interface(vip.address), vip.interface) for vip in vips]
    return tuple(AddressSetup(address=str(each.ip), prefix=each.network.prefixlen, interface=name) for each, name in parts)


def run_directory(config: ClusterConfig, node: NodeName) -> Path:
    return config.directories.run / node


def state_directory(config: ClusterConfig, node: NodeName) -> Path:
    return config.directories.state / node


def divergence_directory(config: ClusterConfig, group: GroupName, node: NodeName) -> Path:
    """Where a member's writes that its successor has not are kept."""
    return state_directory(config, node) / group / "divergence"


def keeper_setup(config: ClusterConfig, node: NodeName) -> KeeperSetup:
    ends = {name: section.beat_paths() for name, section in config.nodes.items()}
    paths = tuple(
        PathSetup(
            host=host,
            port=port,
            peers=tuple(
                Endpoint(peer=peer, host=ends[peer][number][0], port=ends[peer][number][1]) for peer in ends if peer != node
            ),
        )
        for number, (host, port) in enumerate(ends[node])
    )
    return KeeperSetup(
        node=node,
        cluster=config.cluster,
        keys=tuple(str(path) for path in config.key_files),
        run_directory=str(run_directory(config, node)),
        state_directory=str(state_directory(config, node)),
        paths=paths,
        lines=tuple(
            LineSetup(peer=end.peer, device=end.device, baud=end.baud) for end in config.serial_ends(node).values() if end.peer
        ),
        groups=tuple(_group_setup(config, name, node) for name in groups_of(config, node)),
        realtime=config.realtime,
    )


def _group_setup(config: ClusterConfig, name: GroupName, node: NodeName) -> GroupSetup:
    section = config.groups[name]
    group = domain_group(config, name)
    policy = domain_policy(section)
    member = group.member(node)
    vips = addresses(section, node)
    return GroupSetup(
        name=name,
        peers=group.others(node),
        lease=policy.lease,
        beat_every=policy.beat_every,
        gate_port=member.port if member is not None else 0,
        gate_addresses=(member.address, *(each.address for each in vips))
        if member is not None and ip_address(member.address).is_loopback
        else (),
        gate=section.gate,
        warm=section.standbys == "warm",
        member_addresses=_host_addresses(config, section, node),
        addresses=vips,
        directory=_directory_of_orphans(config, name, node),
        program="postgres" if section.service == "postgresql" else "",
    )


def _host_addresses(config: ClusterConfig, section: GroupSection, node: NodeName) -> tuple[str, ...]:
    """Of the other members' hosts: from any of them their services may replicate."""
    found: list[str] = []
    for name in section.members:
        if name != node and node in section.members:
            other = config.nodes[name]
            found += [service_end(config, section, name)[0], other.address, *(host for host, _ in other.beat_paths())]
    return tuple(dict.fromkeys(found))


def _directory_of_orphans(config: ClusterConfig, name: GroupName, node: NodeName) -> str:
    """PostgreSQL's backends outlive a killed postmaster; they work in the data directory."""
    section = config.groups[name]
    if section.service != "postgresql" or node not in section.members:
        return ""
    return str(postgresql_settings(config, name, node).data_directory.resolve())
