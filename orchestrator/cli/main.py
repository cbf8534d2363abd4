"""All commands of `tanist`."""

from pathlib import Path

import click

from orchestrator import __version__
from orchestrator.cli import checking, dismantling, diverging, people, running, simulating, telling, tokens
from orchestrator.cli.context import Setting
from orchestrator.lab import command as lab


class InOrder(click.Group):
    """Help lists the commands in the order in which an operator meets them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=InOrder, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    default=Path("/etc/tanist/tanist.yaml"),
    envvar="TANIST_CONFIG",
    show_default=True,
    show_envvar=True,
    help="Configuration file, the same on every host.",
)
@click.option("--node", envvar="TANIST_NODE", show_envvar=True, help="This host's name in it; by default the host name.")
@click.version_option(__version__, prog_name="tanist")
@click.pass_context
def main(context: click.Context, config_path: Path, node: str | None) -> None:
    """Tanist: failover that takes less than a second, never leaves two primaries, and says why."""
    context.obj = Setting(config_path, node)


for each in (
    running.run,
    checking.check,
    telling.status,
    telling.explain,
    telling.history,
    people.switchover,
    people.failover,
    people.proposals,
    people.confirm,
    people.reject,
    people.pause,
    people.resume,
    people.adopt,
    diverging.divergence,
    dismantling.dismantle,
    checking.key,
    tokens.token,
    checking.schema,
    simulating.simulate,
    lab.lab,
):
    main.add_command(each)
