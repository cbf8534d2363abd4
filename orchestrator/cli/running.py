"""`tanist run`: the daemon of this host."""

import asyncio
import sys

import click

from orchestrator.api.serving import CannotListen, serve_on
from orchestrator.cli.context import EXIT_USAGE, Setting, fail, pass_setting, told_well
from orchestrator.config.build import run_directory
from orchestrator.config.models import split_host_port
from orchestrator.daemon.assemble import assemble
from orchestrator.domain.spans import Span

SWITCH_EVERY: Span = 0.0005
"""Threads that write to disk or guard must not keep the event loop waiting; Python's own default is 5 ms."""


@click.command()
@pass_setting
@told_well
def run(setting: Setting) -> None:
    """Run the daemon of this host until it is told to end (SIGTERM).

    Ending, killing or restarting it leaves the service as it is: the keeper, a small process of its own, holds the right.
    SIGHUP reads the policies of the configuration again.
    """
    sys.setswitchinterval(SWITCH_EVERY)
    config = setting.config()
    name = setting.node(config)
    api = config.nodes[name].api
    try:
        node = assemble(setting.config_path, name)
        serve = serve_on(run_directory(config, name), split_host_port(api) if api else None, config.api)
    except CannotListen as error:
        fail(str(error), EXIT_USAGE)
    raise SystemExit(asyncio.run(node.run(serve)))
