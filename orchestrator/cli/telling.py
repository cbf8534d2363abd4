"""`tanist status`, `explain` and `history`: what is, why, and what was."""

import json
import time
from datetime import UTC, datetime
from typing import Any

import click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from orchestrator.cli.context import Setting, console, pass_setting, pick_group, told_well
from orchestrator.domain.spans import in_words

STYLES = {"decision": "bold", "refusal": "yellow", "alarm": "bold red", "event": "green"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of tables.")
@click.option("--watch", is_flag=True, help="Draw it anew until interrupted.")
@click.option(
    "--every", type=click.FloatRange(0.05), default=0.5, show_default=True, help="Seconds between two drawings with --watch."
)
@pass_setting
@told_well
def status(setting: Setting, as_json: bool, watch: bool, every: float) -> None:
    """Show every group of this node: who is primary, how each member does, and what waits for a person."""
    client = setting.client()
    if as_json:
        click.echo(json.dumps(client.get("/v1/status"), indent=2))
        return
    if not watch:
        console.print(draw_status(client.get("/v1/status")))
        return
    with Live(draw_status(client.get("/v1/status")), console=console, auto_refresh=False) as live:
        try:
            while True:
                time.sleep(every)
                live.update(draw_status(client.get("/v1/status")), refresh=True)
        except KeyboardInterrupt:
            pass


def draw_status(report: dict[str, Any]) -> RenderableType:
    head = Text(f"cluster {report['cluster']}, seen from {report['node']}; mediator {report['mediator']}", style="dim")
    parts: list[RenderableType] = [head]
    if not report["keeper"]["connected"]:
        parts.append(Text("the daemon has no keeper at the moment", style="bold red"))
    parts += [Text(f"remark: {remark}", style="yellow") for remark in report["keeper"]["remarks"]]
    for group in report["groups"].values():
        parts += [Text(""), *_draw_group(group)]
    return Group(*parts)


def _draw_group(group: dict[str, Any]) -> list[RenderableType]:
    title = Text()
    title.append(group["group"], style="bold")
    title.append(f"  epoch {group['epoch']}, primary {group['primary'] or 'nobody'}")
    title.append(f", lease {in_words(group['lease_seconds'])}, {group['automation']}, gate {group['gate']}")
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("member", "role", "state", "health", "lag", "heard", "round trip", "takes over"):
        table.add_column(name)
    for member in group["members"]:
        table.add_row(*_member_cells(member, group))
    parts: list[RenderableType] = [title, table]
    parts += _draw_remarks(group)
    return parts


def _member_cells(member: dict[str, Any], group: dict[str, Any]) -> list[RenderableType]:
    is_primary = member["name"] == group["primary"]
    role = "witness" if member["witness"] else (member["role"] or "-")
    lag = "-" if member["lag_bytes"] is None or is_primary else f"{member['lag_bytes']} B"
    heard = member["heard_ago_seconds"]
    trips = [path["round_trip_seconds"] for path in member["paths"] if path["round_trip_seconds"] is not None]
    ready = "yes" if member["in_succession"] else ("-" if is_primary or member["witness"] else f"no: {member['why_not']}")
    found = member.get("finding")
    well = member["health"] == "well" and not member["silent"] and found is None
    health = found["code"].replace("_", " ") if found is not None and member["health"] != "dead" else member["health"]
    return [
        Text(member["name"], style="bold" if is_primary else ""),
        role,
        member["phase"] or "-",
        Text("silent" if member["silent"] else health, style="green" if well else "red"),
        lag,
        "self" if member["self"] else ("never" if heard is None else f"{in_words(heard)} ago"),
        f"{min(trips) * 1000:.2f} ms" if trips else "-",
        ready,
    ]


def _draw_remarks(group: dict[str, Any]) -> list[RenderableType]:
    lines: list[RenderableType] = []
    right = group["right"]
    if right["held"]:
        left = "without end: nobody is in the succession" if right["endless"] else f"{in_words(right['left_seconds'])} left"
        lines.append(Text(f"right to serve: {left}; promised by {', '.join(right['counted']) or 'nobody'}"))
    if group["quorum"]:
        lines.append(Text(f"every commit is on at least {group['quorum']} of {', '.join(group['succession'])}"))
    if right["frozen"]:
        lines.append(Text("FROZEN: the right has ended and is being renewed", style="bold red"))
    if group["mediator"]["lost_seconds"] is not None:
        lost = group["mediator"]
        lines.append(Text(f"mediator lost for {in_words(lost['lost_seconds'])}: {lost['because']}", style="yellow"))
    if group["paused"] is not None:
        lines.append(Text(f"paused by {group['paused']['by']}: {group['paused']['reason'] or 'no reason given'}", style="yellow"))
    if group["proposal"] is not None:
        proposal = group["proposal"]
        lines.append(Text(f"WAITS FOR A PERSON: {proposal['situation']}", style="bold yellow"))
        lines.append(Text(f"  tanist confirm {proposal['id']}    or    tanist reject {proposal['id']}"))
    lines += [line for member in group["members"] for line in _draw_finding(member)]
    lines += [_draw_divergence(each) for each in group.get("divergence", ())]
    verdict = group["verdict"]
    if verdict is not None and verdict["diagnosis"] != "healthy":
        lines.append(Text(verdict["sentence"], style="red"))
    lines += [Text(f"not done: {each['act']}: {each['reason']}", style="yellow") for each in group["refusals"]]
    lines += [Text(f"failed: {each}", style="red") for each in group["failures"]]
    return lines


def _draw_finding(member: dict[str, Any]) -> list[RenderableType]:
    found = member.get("finding")
    if found is None:
        return []
    words = f": {found['words']}" if found["words"] else ""
    return [Text(f"{member['name']}: {found['code'].replace('_', ' ')} for {in_words(found['for_seconds'])}{words}", style="red")]


def _draw_divergence(each: dict[str, Any]) -> RenderableType:
    """Until somebody has said that they may go."""
    if each["complete"]:
        return Text(f"{each['writes']} diverged writes saved in {each['file']}: tanist divergence show", style="yellow")
    saved = f", {each['writes']} of them saved in {each['file']}" if each["file"] else ""
    return Text(f"diverged writes were not all saved{saved}: {each['why']}", style="red")


@click.command()
@click.argument("group", required=False)
@click.option("--last", type=click.IntRange(0), default=12, show_default=True, help="How many sentences of the history.")
@click.option("--json", "as_json", is_flag=True)
@pass_setting
@told_well
def explain(setting: Setting, group: str | None, last: int, as_json: bool) -> None:
    """Why is it as it is, why is nothing done now, and what was decided before, each with its evidence."""
    client = setting.client()
    answer = client.get(f"/v1/groups/{pick_group(client, group)}/explain?last={last}")
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    for line in explain_lines(answer):
        console.print(line, soft_wrap=True)


def explain_lines(answer: dict[str, Any]) -> list[RenderableType]:
    lines: list[RenderableType] = [
        Text(f"{answer['group']}: primary {answer['primary'] or 'nobody'} in epoch {answer['epoch']}", style="bold"),
        Text(f"because: {answer['reason'] or 'there is no record yet'}"),
    ]
    verdict = answer["verdict"]
    if verdict is not None:
        certain = "" if verdict["certain"] or verdict["diagnosis"] == "healthy" else " (not certain yet)"
        lines.append(Text(f"now: {verdict['sentence']}{certain}"))
        lines += [Text(f"  {each}", style="dim") for each in verdict["evidence"]]
    for each in answer["refusals"]:
        opens = each["opens_in_seconds"]
        until = f"; opens by itself in {in_words(opens)}" if opens is not None else ""
        lines.append(Text(f'not done: {each["act"]}, by the gate "{each["gate"]}": {each["reason"]}{until}', style="yellow"))
    if not answer["refusals"]:
        lines.append(Text("nothing is being held back"))
    lines += [_draw_divergence(each) for each in answer.get("divergence", ())]
    lines += [Text(f"failed: {each}", style="red") for each in answer["failures"]]
    lines.append(Text("before:"))
    for entry in answer["history"]:
        lines += history_lines(entry)
    return lines


def history_lines(entry: dict[str, Any]) -> list[RenderableType]:
    moment = datetime.fromtimestamp(entry["wall"], UTC)
    stamp = f"{moment:%Y-%m-%d %H:%M:%S}.{moment.microsecond // 1000:03d}Z"
    line = Text(f"  {stamp}  ", style="dim")
    line.append(f"{entry['kind']:8}", style=STYLES.get(entry["kind"], ""))
    line.append(f" epoch {entry['epoch']}  {entry['text']}")
    return [line, *(Text(f"      {each}", style="dim") for each in entry.get("evidence", ()))]


@click.command()
@click.argument("group", required=False)
@click.option("--last", type=click.IntRange(0), default=50, show_default=True, help="How many sentences.")
@click.option("--json", "as_json", is_flag=True)
@pass_setting
@told_well
def history(setting: Setting, group: str | None, last: int, as_json: bool) -> None:
    """What this node decided, refused and lived through, oldest first."""
    client = setting.client()
    entries = client.get(f"/v1/groups/{pick_group(client, group)}/history?last={last}")
    if as_json:
        click.echo(json.dumps(entries, indent=2))
        return
    for entry in entries:
        for line in history_lines(entry):
            console.print(line, soft_wrap=True)
