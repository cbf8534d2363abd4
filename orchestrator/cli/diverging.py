"""`tanist divergence`: the writes that this host's member had and its successor has not. Works without a daemon, on its files."""

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import click

from orchestrator.cli.context import EXIT_USAGE, Setting, fail, pass_setting, person, tell, told_well
from orchestrator.config.build import divergence_directory, groups_of
from orchestrator.services.divergence import Kept

SHOWN = 60
"""Letters of a value."""

group_option = click.option("--group", help="The group; needed where this node has several.")
by_option = click.option("--by", default=person, help="In whose name; by default the login name.")


@click.group()
def divergence() -> None:
    """Writes that an old primary had and the new one has not: saved before it rejoined."""


@divergence.command("list")
@group_option
@click.option("--json", "as_json", is_flag=True)
@pass_setting
@told_well
def list_(setting: Setting, group: str | None, as_json: bool) -> None:
    """Every divergence that is kept on this host, oldest first."""
    found = [each for _, kept in _all(setting, group) for each in kept.manifests()]
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for each in found:
        tell(_in_words(each))
    if not found:
        tell("nothing has diverged here")


@divergence.command()
@click.argument("name", required=False)
@group_option
@click.option("--rows", type=click.IntRange(0), default=20, show_default=True, help="How many writes.")
@click.option("--json", "as_json", is_flag=True, help="What is known of it, without the writes: see export.")
@pass_setting
@told_well
def show(setting: Setting, name: str | None, group: str | None, rows: int, as_json: bool) -> None:
    """What was saved: where the histories part, how much of what, and the first writes. A part of the NAME is enough."""
    kept, manifest = _find(setting, group, name)
    if as_json:
        click.echo(json.dumps(manifest, indent=2))
        return
    tell(_in_words(manifest))
    if reason := manifest.get("reason"):
        tell(f"  {reason}")
    if manifest.get("why"):
        tell(f"  NOT complete: {manifest['why']}", "red")
    for table, counts in manifest.get("tables", {}).items():
        tell(f"  {table}: {', '.join(f'{number} {kind}' for kind, number in counts.items())}")
    path = kept.rows(manifest["name"])
    if not path.exists():
        return
    writes = (line for line in _lines(path) if line["kind"] != "header")
    for line in islice(writes, rows):
        tell(f"  {_write_in_words(line)}")
    if next(writes, None) is not None:
        tell(f"  ... all of them: tanist divergence export {manifest['name']}")


@divergence.command()
@click.argument("name", required=False)
@group_option
@click.option("--to", "target", type=click.Path(path_type=Path, dir_okay=False), help="A file; by default standard output.")
@pass_setting
@told_well
def export(setting: Setting, name: str | None, group: str | None, target: Path | None) -> None:
    """All saved writes, one JSON object a line."""
    kept, manifest = _find(setting, group, name)
    path = kept.rows(manifest["name"])
    if not path.exists():
        fail(f"{path} is not there: {_in_words(manifest)}")
    with path.open("rb") as stream:
        if target is None:
            shutil.copyfileobj(stream, sys.stdout.buffer)
            return
        try:
            with open(target, "xb", opener=_private) as copy:
                shutil.copyfileobj(stream, copy)
        except OSError as error:
            fail(f"{target}: {error.strerror}")
    tell(f"wrote {target}")


@divergence.command()
@click.argument("name", required=False)
@group_option
@by_option
@click.option("--reason", required=True, help="Why they may go; it is kept.")
@click.option("--delete", is_flag=True, help="Delete the saved writes too; what is known of them stays.")
@pass_setting
@told_well
def discard(setting: Setting, name: str | None, group: str | None, by: str, reason: str, delete: bool) -> None:
    """Say that nobody needs these writes any more: status and alarms stop speaking of them."""
    kept, manifest = _find(setting, group, name)
    kept.discard(manifest["name"], _word(by, reason), delete=delete)
    tell(f"{manifest['name']}: discarded in the name of {by}{' and deleted' if delete else ''}")


@divergence.command("give-up")
@group_option
@by_option
@click.option("--reason", required=True, help="Why they may go; it is kept.")
@click.option("--yes", is_flag=True, help="Do not ask back.")
@pass_setting
@told_well
def give_up(setting: Setting, group: str | None, by: str, reason: str, yes: bool) -> None:
    """Let this member rejoin although its diverged writes could not be saved. They are lost then. Good for one rejoin."""
    places = list(_all(setting, group))
    if len(places) != 1:
        fail(f"say which group: --group {' | '.join(name for name, _ in places)}", EXIT_USAGE)
    name, kept = places[0]
    if not yes:
        click.confirm(f"What {name} on this host has and the new primary has not will be overwritten unsaved. Go on?", abort=True)
    kept.give_up(_word(by, reason))
    tell(f"{name}: the next rejoin here goes on without them, in the name of {by}")


def _word(by: str, reason: str) -> dict[str, Any]:
    return {"by": by, "reason": reason, "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _all(setting: Setting, group: str | None) -> Iterator[tuple[str, Kept]]:
    config = setting.config()
    node = setting.node(config)
    names = [name for name in groups_of(config, node) if node in config.groups[name].members]
    if group is not None and group not in names:
        fail(f"no group {group!r} here; there are: {', '.join(names) or 'none'}", EXIT_USAGE)
    for name in names:
        if group in (None, name):
            yield name, Kept(divergence_directory(config, name, node))


def _find(setting: Setting, group: str | None, wanted: str | None) -> tuple[Kept, dict[str, Any]]:
    found = [(kept, each) for _, kept in _all(setting, group) for each in kept.manifests()]
    matches = [each for each in found if wanted is None or wanted in each[1]["name"]]
    exact = [each for each in matches if each[1]["name"] == wanted]
    if len(exact or matches) != 1:
        known = ", ".join(each["name"] for _, each in found) or "none"
        why = "say which one" if matches else f"there is no {wanted!r}" if wanted else "there is none"
        fail(f"{why}; kept here: {known}", EXIT_USAGE)
    return (exact or matches)[0]


def _in_words(manifest: dict[str, Any]) -> str:
    words = f"{manifest['name']}: {manifest.get('writes', 0)} writes"
    if "divergence_lsn" in manifest:
        words += (
            f" in {manifest['transactions']} transactions, past {manifest['divergence_lsn']} on timeline {manifest['old_tli']}"
        )
    words += f", not on {manifest.get('from', 'the new primary')}, saved {manifest.get('saved_at') or 'at an unknown time'}"
    if not manifest.get("complete"):
        words += "; NOT complete"
    if said := manifest.get("given_up"):
        words += f"; given up by {said['by']}: {said['reason']}"
    if said := manifest.get("discarded"):
        words += f"; discarded by {said['by']}: {said['reason']}"
    return words


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8", errors="surrogateescape") as stream:
        for line in stream:
            yield json.loads(line)


def _write_in_words(line: dict[str, Any]) -> str:
    if line["kind"] != "row":
        rest = {name: each for name, each in line.items() if name not in ("v", "kind")}
        return f"{line['kind']} {json.dumps(rest, ensure_ascii=False)}"
    old, new = line["old"] or {}, line["new"] or {}
    key = ", ".join(f"{name} = {each}" for name, each in (line["key"] or {}).items()) or "no key"
    if line["op"] == "update" and old:
        changed = [f"{name}: {_short(old.get(name))} -> {_short(each)}" for name, each in new.items() if each != old.get(name)]
    else:
        changed = [f"{name}: {_short(each)}" for name, each in (new or old).items()]
    table = ".".join(line["table"])
    return f"{line['commit_ts']} {line['op']} {line['db']}: {table} ({key}) {'; '.join(changed) or 'nothing known of it'}"


def _short(text: str | None) -> str:
    if text is None:
        return "NULL"
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."
