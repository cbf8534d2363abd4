"""What every command shares: which configuration, which node, and how mistakes are told."""

import os
import pwd
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn, ParamSpec, TypeVar

import click
from rich.console import Console

from orchestrator.api.client import ApiClient, NoDaemon, Refused
from orchestrator.api.serving import socket_path
from orchestrator.config.build import UnknownNode, check_node, run_directory
from orchestrator.config.load import BadConfig, load
from orchestrator.config.models import ClusterConfig
from orchestrator.daemon.supervision import CannotStart

P = ParamSpec("P")
R = TypeVar("R")

console = Console(highlight=False)
mistakes = Console(stderr=True, highlight=False)

EXIT_REFUSED = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3


def tell(text: str, style: str = "") -> None:
    """One sentence or line, whole: names and reasons are printed as they are, and a pipe does not break it."""
    console.print(text, style=style, markup=False, soft_wrap=True)


def fail(text: str, status: int = EXIT_REFUSED) -> NoReturn:
    mistakes.print(text, style="red", markup=False, soft_wrap=True)
    raise SystemExit(status)


@dataclass(slots=True)
class Setting:
    """The options that stand before the command."""

    config_path: Path
    node_option: str | None

    def config(self) -> ClusterConfig:
        try:
            return load(self.config_path)
        except BadConfig as error:
            fail(str(error), EXIT_USAGE)

    def node(self, config: ClusterConfig) -> str:
        node = self.node_option or config.node or socket.gethostname().partition(".")[0]
        try:
            check_node(config, node)
        except UnknownNode as error:
            fail(str(error), EXIT_USAGE)
        return node

    def client(self) -> ApiClient:
        config = self.config()
        return ApiClient(socket_path(run_directory(config, self.node(config))))


pass_setting = click.make_pass_decorator(Setting)


def person() -> str:
    """Who gives the word: the login name, through sudo too."""
    if sudoer := os.environ.get("SUDO_USER"):
        return sudoer
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"user {os.getuid()}"


def told_well(command: Callable[P, R]) -> Callable[P, R]:
    """Expected failures become one clear sentence and an exit status, never a traceback."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except NoDaemon as error:
            fail(str(error), EXIT_UNREACHABLE)
        except (Refused, CannotStart) as error:
            fail(str(error))
        except BadConfig as error:
            fail(str(error), EXIT_USAGE)

    return wrapped


def pick_group(client: ApiClient, wanted: str | None) -> str:
    """The group named, or the only one there is."""
    groups: dict[str, Any] = client.get("/v1/status")["groups"]
    if wanted is not None:
        if wanted not in groups:
            fail(f"no group {wanted!r} here; there are: {', '.join(groups) or 'none'}", EXIT_USAGE)
        return wanted
    if len(groups) != 1:
        fail(f"say which group: {', '.join(groups) or 'there is none on this node'}", EXIT_USAGE)
    return next(iter(groups))
