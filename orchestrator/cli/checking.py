"""`tanist check`, `key`, `schema` and `adopt`: before it runs, and after the mediator was restored."""

import asyncio
import json
import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import click
from rich.text import Text

from orchestrator.actuators.client_config import ClientFileActuator
from orchestrator.cli.context import Setting, console, fail, pass_setting, tell, told_well
from orchestrator.config.build import addresses, client_files, domain_group, groups_of
from orchestrator.config.models import ClusterConfig, json_schema, split_host_port
from orchestrator.daemon.assemble import make_mediator, make_service
from orchestrator.daemon.supervision import CannotStart, check_key
from orchestrator.domain.observations import Answered, Refused, Silent
from orchestrator.domain.record import Snapshot
from orchestrator.keeper.gate import why_impossible
from orchestrator.ports import Mediator, RefusedByPeer, Unreachable
from probes.interconnected import serial

ASK_WITHIN = 3.0
READ_AGAIN = 0.1
WORDS_BYTES = 250
"""Of an ordinary beat."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`bad` keeps the node from doing its work; what is not bad is worth knowing."""

    bad: bool
    text: str


@click.command()
@click.option("--offline", is_flag=True, help="Only the file: ask nobody.")
@pass_setting
@told_well
def check(setting: Setting, offline: bool) -> None:
    """Check the configuration, and that everything it names can be reached from here. Changes nothing."""
    config = setting.config()
    node = setting.node(config)
    findings = list(_check_files(config, node))
    if not offline:
        findings += asyncio.run(_check_reach(config, node))
    for finding in findings:
        mark = Text("wrong", "bold red") if finding.bad else Text("note ", "yellow")
        console.print(mark.append(f"  {finding.text}", "default"), soft_wrap=True)
    bad = sum(finding.bad for finding in findings)
    if bad:
        fail(f"{setting.config_path}: {bad} {'thing is' if bad == 1 else 'things are'} wrong for node {node}")
    tell(f"{setting.config_path} is in order for node {node} ({', '.join(groups_of(config, node))})")


def _check_files(config: ClusterConfig, node: str) -> Iterator[Finding]:
    for key in config.key_files:
        try:
            check_key(key)
        except CannotStart as error:
            yield Finding(True, str(error))
    for directory in (config.directories.run, config.directories.state):
        parent = next(each for each in (directory, *directory.parents) if each.exists())
        if not parent.is_dir():
            yield Finding(True, f"{directory} cannot be made or written: {parent} is no directory")
        elif not os.access(parent, os.W_OK):
            yield Finding(True, f"{directory} cannot be made or written: {parent} is not writable for this user")
    for name in groups_of(config, node):
        group = domain_group(config, name)
        for file in client_files(config.groups[name], node):
            try:
                actuator = ClientFileActuator(file, group)
                for member in group.member_names:
                    actuator.render(member, 1)
            except RefusedByPeer as error:
                yield Finding(True, f"groups.{name}.clients: {error}")
            if not file.path.parent.is_dir():
                yield Finding(True, f"groups.{name}.clients: {file.path.parent} does not exist")
    if node in config.nodes and any(node in config.groups[name].members for name in groups_of(config, node)):
        reason = why_impossible()
        if reason:
            yield Finding(
                False,
                f"no kernel gate: {reason}. If keeper and daemon should both stand still at once, nothing ends the right",
            )
            for name in groups_of(config, node):
                if config.groups[name].standbys == "warm" and node in config.groups[name].members:
                    yield Finding(True, f"groups.{name}.standbys: warm takes the kernel gate, or clients read from standbys")


async def _check_reach(config: ClusterConfig, node: str) -> list[Finding]:
    findings = [*_check_addresses(config, node), *_check_interfaces(config, node), *_check_lines(config, node)]
    findings += await _check_mediator(config, node)
    for name in groups_of(config, node):
        if node in config.groups[name].members:
            findings += await _check_service(config, name, node)
    return findings


def _check_addresses(config: ClusterConfig, node: str) -> Iterator[Finding]:
    section = config.nodes[node]
    ends = [(host, 0) for host, _ in section.beat_paths()]
    if section.api is not None:
        ends.append((split_host_port(section.api)[0], 0))
    for host, port in dict.fromkeys(ends):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with closing(socket.socket(family, socket.SOCK_DGRAM)) as probe:
            try:
                probe.bind((host, port))
            except OSError as error:
                yield Finding(True, f"nodes.{node}: {host} is no address of this host ({error.strerror})")


def _check_interfaces(config: ClusterConfig, node: str) -> Iterator[Finding]:
    known = {name for _, name in socket.if_nameindex()}
    for name in groups_of(config, node):
        for vip in addresses(config.groups[name], node):
            if vip.interface not in known:
                text = f"{vip.interface} is no network interface of this host; it has {', '.join(sorted(known))}"
                yield Finding(True, f"groups.{name}.clients: address {vip.address}: {text}")


def _check_lines(config: ClusterConfig, node: str) -> Iterator[Finding]:
    """Looked at from outside only: the keeper may be using them."""
    for number, end in config.serial_ends(node).items():
        place = f"nodes.{node}.paths.{number}"
        device = Path(end.device)
        if not device.is_char_device():
            yield Finding(True, f"{place}: {device} is no device of this host: beats will not go over this line")
        elif not os.access(device, os.R_OK | os.W_OK):
            yield Finding(True, f"{place}: {device} cannot be read and written by this user; group dialout may, as a rule")
        beats_every = config.beats_every(node, end.peer or "")
        if serial.load(beats_every, end.baud, node, WORDS_BYTES) > 1.0:
            yield Finding(
                False,
                f"{place}: at {end.baud} baud what members say (health, positions) goes with some of the beats only; the lease "
                "needs no more",
            )


async def _read(mediator: Mediator, group: str) -> Snapshot:
    """The first answer; a session takes a moment to come up."""
    deadline = time.monotonic() + ASK_WITHIN
    while True:
        try:
            return await mediator.read(group, ASK_WITHIN)
        except Unreachable:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(READ_AGAIN)


async def _check_mediator(config: ClusterConfig, node: str) -> list[Finding]:
    """With an identity of its own, so that the running daemon's presence is left alone."""
    if config.mediator.startswith("sqlite://") and not (file := Path(config.mediator.removeprefix("sqlite://"))).exists():
        if not file.parent.is_dir():
            return [Finding(True, f"mediator: the directory {file.parent} does not exist")]
        return [Finding(False, f"mediator: {file} does not exist yet: the first daemon will make it")]
    mediator = make_mediator(config, node, identity=None)
    await mediator.start()
    findings = []
    try:
        for name in groups_of(config, node):
            try:
                snapshot = await _read(mediator, name)
            except (Unreachable, RefusedByPeer) as error:
                findings.append(Finding(True, f"mediator: {error}"))
                continue
            if snapshot.record is None:
                text = f"{name} has no record yet: the first primary that is found running will make it"
                findings.append(Finding(False, text))
    finally:
        await mediator.stop()
    return findings


async def _check_service(config: ClusterConfig, name: str, node: str) -> list[Finding]:
    service = make_service(config, name, node, armed=lambda epoch, pid, process_started: False)
    assert service is not None
    try:
        outcome = await service.look(ASK_WITHIN)
        match outcome:
            case Answered():
                return [Finding(False, f"groups.{name}: {finding}") for finding in await service.check()]
            case Refused(reason=reason, gone=True):
                why_not = await service.why_not_start()
                text = f"groups.{name}: the service does not run here ({reason}); {why_not or 'Tanist will start it'}"
                return [Finding(bool(why_not), text)]
            case Refused(reason=reason):
                cure = service.cure(reason)
                return [Finding(True, f"groups.{name}: the service refuses: {reason}{cure and '; ' + cure}")]
            case Silent(within=within):
                return [Finding(True, f"groups.{name}: the service did not answer within {within:.0f} s")]
            case _:
                return [Finding(True, f"groups.{name}: the service cannot be asked: {outcome.reason}")]
    finally:
        await service.close()


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
def key(path: Path) -> None:
    """Make a new key for beats at PATH, readable for its owner only. Copy it to every node."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        fail(f"{path} exists already; it is not overwritten")
    except OSError as error:
        fail(f"{path}: {error.strerror}")
    with os.fdopen(descriptor, "w") as stream:
        stream.write(secrets.token_hex(32) + "\n")
    tell(f"wrote a new key to {path}; copy it to every node, and keep it secret")


@click.command()
def schema() -> None:
    """Print the JSON schema of the configuration file, for editors."""
    click.echo(json.dumps(json_schema(), indent=2))
