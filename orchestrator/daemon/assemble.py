"""The only place that names concrete adapters: from a checked configuration to a node that can run."""

import secrets
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from orchestrator.actuators.client_config import ClientFileActuator
from orchestrator.actuators.vip import VipActuator
from orchestrator.config.build import (
    addresses,
    check_node,
    client_files,
    divergence_directory,
    domain_group,
    domain_policy,
    groups_of,
    keeper_setup,
    postgresql_settings,
    redis_settings,
    run_directory,
    state_directory,
)
from orchestrator.config.load import BadConfig, load
from orchestrator.config.models import ClusterConfig
from orchestrator.coordination.sqlite import SqliteMediator
from orchestrator.coordination.zookeeper import Credentials, Tls, ZooKeeperMediator
from orchestrator.daemon.clock import now, wall
from orchestrator.daemon.journal import Journal
from orchestrator.daemon.meters import Meters, MeterSet
from orchestrator.daemon.node import Node, log
from orchestrator.daemon.remembering import BadHistory, recall
from orchestrator.daemon.runner import GroupRunner, Seams
from orchestrator.daemon.supervision import CannotStart, HostLock, check_identity, check_key, make_directories
from orchestrator.domain.observations import Hold
from orchestrator.domain.topology import GroupName, NodeName
from orchestrator.engine.state import State
from orchestrator.keeper.gate import why_impossible
from orchestrator.keeper.page import boot_id
from orchestrator.keeper.setup import KeeperSetup
from orchestrator.ports import Mediator, RefusedByPeer, Service
from orchestrator.services.divergence import Kept
from orchestrator.services.postgresql.service import PostgresqlService
from orchestrator.services.redis.service import RedisService

ArmedFor = Callable[[int, int, int], bool]
"""Epoch, process number and process start: do guard and gate stand for them?"""


def assemble(config_path: Path, node: NodeName) -> Node:
    """Raises BadConfig, UnknownNode, CannotStart."""
    config = load(config_path)
    check_node(config, node)
    for key in config.key_files:
        check_key(key)
    run, state = run_directory(config, node), state_directory(config, node)
    make_directories(run, state)
    for name in groups_of(config, node):
        check_gate(config, name, node)
    identity = check_identity(state, config.cluster, node)
    made = Node(node, config.cluster, keeper_setup(config, node), HostLock(run))
    made.mediator = make_mediator(config, node, identity)
    meters = MeterSet(made.registry)
    for name in groups_of(config, node):
        made.groups[name] = _runner(made, config, name, meters)
    made.reload = lambda: _reload(made, config_path)
    return made


def check_gate(config: ClusterConfig, group: GroupName, node: NodeName) -> None:
    """`gate: required` means what it says."""
    section = config.groups[group]
    if section.gate == "required" and node in section.members and (reason := why_impossible()):
        raise CannotStart(f"groups.{group}.gate is required, but there can be none here: {reason}")


def make_mediator(config: ClusterConfig, node: NodeName, identity: str | None) -> Mediator:
    """`identity` is None for a visitor: it is not present, and disturbs nobody who is."""
    if config.mediator.startswith("sqlite://"):
        return SqliteMediator(Path(config.mediator.removeprefix("sqlite://")), config.cluster, node, visitor=identity is None)
    hosts, _, root = config.mediator.removeprefix("zookeeper://").partition("/")
    auth, tls = config.mediator_auth, config.mediator_tls
    credentials = None
    if auth is not None:
        try:
            credentials = Credentials(user=auth.user, password=auth.password_file.read_text().strip())
        except OSError as error:
            raise CannotStart(f"mediator_auth.password_file {auth.password_file}: {error.strerror}") from error
    return ZooKeeperMediator(
        hosts,
        f"/{root}",
        config.cluster,
        node,
        identity,
        credentials=credentials,
        tls=Tls(
            ca=str(tls.ca),
            certificate=str(tls.certificate) if tls.certificate else None,
            key=str(tls.key) if tls.key else None,
        )
        if tls is not None
        else None,
    )


def make_service(
    config: ClusterConfig, group: GroupName, node: NodeName, armed: Callable[[int, int, int], bool]
) -> Service | None:
    """The local instance's adapter; None on a witness."""
    domain = domain_group(config, group)
    if domain.member(node) is None:
        return None
    if config.groups[group].service == "postgresql":
        return PostgresqlService(postgresql_settings(config, group, node), domain.members, armed)
    return RedisService(redis_settings(config, group, node), domain.members, armed)


class Armed:
    """Rule 13, asked next to the act itself: do guard and gate stand for this epoch, and for this very process?"""

    def __init__(self, node: Node, group: GroupName) -> None:
        self._node = node
        self._group = group

    def __call__(self, epoch: int, pid: int, process_started: int) -> bool:
        page = self._node.guard.page(self._group)
        memory = page.read() if page is not None else None
        if memory is None or memory.hold is Hold.NONE or memory.writable_epoch != epoch:
            return False
        return (memory.pid, memory.process_started) == (pid, process_started)


class Entitled:
    """Asked next to taking an address: does the keeper's page show the right in this epoch, at this moment?"""

    def __init__(self, node: Node, group: GroupName) -> None:
        self._node = node
        self._group = group

    def __call__(self, epoch: int) -> bool:
        guard = self._node.guard
        if guard.right_until(self._group) <= now():  # asked often while there is none: the cheap part of the page first
            return False
        page = guard.page(self._group)
        memory = page.read() if page is not None else None
        if memory is None or memory.hold is Hold.NONE or memory.right_epoch != epoch or memory.frozen_since is not None:
            return False
        return memory.right_until > now()


def _runner(node: Node, config: ClusterConfig, name: GroupName, meters: MeterSet) -> GroupRunner:
    section = config.groups[name]
    group = domain_group(config, name)
    directory = state_directory(config, node.name) / name
    directory.mkdir(parents=True, exist_ok=True)
    try:
        history = recall(directory / "history.json")
        clients = tuple(ClientFileActuator(file, group) for file in client_files(section, node.name))
    except (BadHistory, RefusedByPeer) as error:
        raise CannotStart(str(error)) from error
    policy = domain_policy(section)
    vips = tuple(VipActuator(each, node.name, policy.lease, Entitled(node, name)) for each in addresses(section, node.name))
    mediator = node.mediator
    assert mediator is not None
    moment = now()
    state = State(
        me=node.name,
        group=group,
        policy=policy,
        run=secrets.randbits(32),
        boot=boot_id().decode(),
        now=moment,
        wall=wall(),
        began_at=moment,
        phase_since=moment,
        history=history,
    ).with_remembered_record()
    service = make_service(config, name, node.name, Armed(node, name))
    seams = Seams(
        mediator=mediator,
        keeper=node.keeper,
        journal=Journal(directory),
        disk=node.disk,
        history_path=directory / "history.json",
        right_until=lambda: node.guard.right_until(name),
        service=service,
        divergences=Kept(divergence_directory(config, name, node.name)).waiting if service is not None else None,
        clients=(*vips, *clients),
        log=log,
        broken=node.broken,
    )
    runner = GroupRunner(state, seams, Meters(meters, name))
    if isinstance(service, PostgresqlService):
        service.rejoined, service.alarmed = runner.happened, runner.alarmed
    for vip in vips:
        vip.alarmed, vip.happened = runner.alarmed, runner.happened
    return runner


def _reload(node: Node, config_path: Path) -> None:
    """SIGHUP: policies change at once; whatever else has changed needs a restart, which costs the clients nothing."""
    try:
        config = load(config_path)
        check_node(config, node.name)
        setup = with_addresses_of(node.setup, keeper_setup(config, node.name))
    except (BadConfig, ValueError) as error:
        log(f"the new configuration is refused, the old one stays: {error}")
        return
    changed = []
    for name, runner in node.groups.items():
        if name not in config.groups:
            continue
        policy = domain_policy(config.groups[name])
        if policy != runner.state.policy:
            runner.use_policy(policy)
            changed.append(name)
    if setup != node.setup:
        node.setup = setup
        node.keeper.reconfigure(setup)
    log(f"configuration read again: new policy for {', '.join(changed) or 'no group'}")


def with_addresses_of(running: KeeperSetup, setup: KeeperSetup) -> KeeperSetup:
    """This daemon goes on taking the addresses with which it began, so its keeper must go on knowing them."""
    known = {group.name: group.addresses for group in running.groups}
    groups = tuple(replace(group, addresses=known.get(group.name, group.addresses)) for group in setup.groups)
    return replace(setup, groups=groups)
