"""Tokens: who may ask over the network, and for what."""

import time
from pathlib import Path
from types import MappingProxyType

import click

from orchestrator.cli.context import EXIT_USAGE, Setting, fail, mistakes, pass_setting, tell, told_well
from orchestrator.config.tokens import EVERY_GROUP, RIGHTS, Bearer, Right, fingerprint, load_tokens, new_token, save_tokens
from orchestrator.config.units import parse_span
from orchestrator.domain.spans import Span

file_option = click.option(
    "--file", "path", type=click.Path(path_type=Path), help="The tokens file; by default the configuration's `api.tokens`."
)


@click.group()
def token() -> None:
    """Tokens for the API and the page over the network. On the hosts themselves none is needed."""


def _path(setting: Setting, path: Path | None) -> Path:
    if path is not None:
        return path
    configured = setting.config().api.tokens
    if configured is None:
        fail(f"{setting.config_path} has no api.tokens; say which file: --file /etc/tanist/tokens.yaml", EXIT_USAGE)
    return configured


def _parse_rights(given: tuple[str, ...]) -> dict[str, Right]:
    rights = {}
    for each in given:
        group, equals, name = each.rpartition("=")
        if name not in RIGHTS or (equals and not group):
            fail(f"--right: read {each!r}, expected GROUP=read, GROUP=confirm or GROUP=operate ('*' is every group)", EXIT_USAGE)
        rights[group or EVERY_GROUP] = RIGHTS[name]
    return rights


def _parse_expiry(given: str | None) -> Span | None:
    if given is None:
        return None
    try:
        days = given.removesuffix("d")
        return float(days) * 86400 if days != given and days.isdigit() else parse_span(given)
    except ValueError:
        fail(f"--expires: read {given!r}, expected a duration such as 90d or 12h", EXIT_USAGE)


@token.command("add")
@click.argument("name")
@click.option(
    "--right", "given", multiple=True, required=True, metavar="GROUP=RIGHT", help="read, confirm or operate; '*' is every group."
)
@click.option("--expires", metavar="SPAN", help="For how long it counts, such as 90d; by default until it is revoked.")
@file_option
@pass_setting
@told_well
def add(setting: Setting, name: str, given: tuple[str, ...], expires: str | None, path: Path | None) -> None:
    """Make a token for NAME and print it. The file keeps only its fingerprint, so it cannot be shown again."""
    path = _path(setting, path)
    rights, lasts = _parse_rights(given), _parse_expiry(expires)
    known = load_tokens(path) if path.exists() else {}
    if name in [each.name for each in known.values()]:
        fail(f"{name} has a token already; `tanist token revoke {name}` first")
    made = new_token()
    bearer = Bearer(name, fingerprint(made), MappingProxyType(rights), time.time() + lasts if lasts is not None else None)
    try:
        save_tokens(path, [*known.values(), bearer])
        load_tokens(path)
    except OSError as error:
        fail(f"{path}: {error.strerror}")
    click.echo(made)
    mistakes.print(
        f"{path} knows it now; copy that file to every node, and give the token to {name}", markup=False, soft_wrap=True
    )


@token.command("list")
@file_option
@pass_setting
@told_well
def list_(setting: Setting, path: Path | None) -> None:
    """Who has a token, with which rights."""
    found = load_tokens(_path(setting, path)).values()
    for each in found:
        rights = ", ".join(f"{group}={right.name.lower()}" for group, right in each.rights.items()) or "none"
        until = ""
        if each.expires_wall is not None:
            moment = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(each.expires_wall))
            until = f"; {'until' if each.expires_wall > time.time() else 'EXPIRED'} {moment}"
        tell(f"{each.name}: {rights}{until}")
    if not found:
        tell("nobody")


@token.command("revoke")
@click.argument("name")
@file_option
@pass_setting
@told_well
def revoke(setting: Setting, name: str, path: Path | None) -> None:
    """NAME's token does not count any more, at once, on this node; copy the file to the others."""
    path = _path(setting, path)
    known = load_tokens(path)
    left = [each for each in known.values() if each.name != name]
    if len(left) == len(known):
        fail(f"{name} has no token in {path}; those who have: {', '.join(each.name for each in known.values()) or 'nobody'}")
    try:
        save_tokens(path, left)
    except OSError as error:
        fail(f"{path}: {error.strerror}")
    tell(f"{name}'s token is revoked here; copy {path} to every node")
