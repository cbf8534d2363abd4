"""`tanist dismantle`: take Tanist off a host, so that nothing of it stays in the kernel."""

import os
import signal
import time
from pathlib import Path

import click

from orchestrator.cli.context import Setting, fail, pass_setting, tell, told_well
from orchestrator.config.build import groups_of, keeper_setup, run_directory
from orchestrator.daemon.supervision import HostLock, make_directories
from orchestrator.keeper.gate import NoGate, remove_table, table_name, why_impossible
from orchestrator.keeper.group import guarded_mark
from orchestrator.keeper.netlink import prefixes, take_address
from orchestrator.keeper.setup import GroupSetup

END_WITHIN = 5.0


@click.command()
@click.option("--yes", is_flag=True, help="Do not ask back.")
@pass_setting
@told_well
def dismantle(setting: Setting, yes: bool) -> None:
    """End this host's keeper and take its kernel gates away. The service goes on, guarded by nobody, with its addresses.

    Stop the daemon first. Where the other members' daemons still run they may take over while the service here goes on:
    stop Tanist everywhere, or stop the service here, before.
    """
    config = setting.config()
    node = setting.node(config)
    run, state = run_directory(config, node), config.directories.state / node
    if not yes:
        click.confirm(
            "From then on nothing ends this host's right to serve. Is Tanist stopped on every other member too, or the "
            "service stopped here?",
            abort=True,
        )
    make_directories(run, state)
    lock = HostLock(run)
    try:
        _end_keeper(run / "keeper.lock")
        setup = keeper_setup(config, node)
        for group in setup.groups:
            if group.gate_port and not why_impossible():
                _remove_gate(config.cluster, node, group.name)
            _keep_addresses(group)
            (run / f"{group.name}.page").unlink(missing_ok=True)
            guarded_mark(setup, group.name).unlink(missing_ok=True)
    finally:
        lock.release()
    told = ", ".join(groups_of(config, node)) or "no group"
    tell(f"{node}: the keeper has ended and the gates are gone ({told})")


def _end_keeper(path: Path) -> None:
    try:
        pid = int(path.read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return
    if b"orchestrator.keeper" not in command:
        return
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + END_WITHIN
    while Path(f"/proc/{pid}").exists() and _runs(pid):
        if time.monotonic() > deadline:
            fail(f"the keeper (process {pid}) did not end within {END_WITHIN:.0f} s")
        time.sleep(0.02)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _remove_gate(cluster: str, node: str, group: str) -> None:
    try:
        remove_table(table_name(cluster, node, group))
    except NoGate as error:
        fail(f"{group}: the gate could not be removed: {error}")


def _keep_addresses(group: GroupSetup) -> None:
    """An address that is held here would run out with nobody to set its time anew."""
    for each in group.addresses:
        try:
            if each.prefix in prefixes(each.address, each.interface):
                take_address(each.address, each.prefix, each.interface, None)
                tell(f"{group.name}: address {each.address} stays on {each.interface}, and is nobody's to move any more")
        except OSError as error:
            fail(f"{group.name}: address {each.address}: {error.strerror}")
