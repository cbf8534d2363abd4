"""What a person tells Tanist: switch over, fail over, confirm, reject, pause, resume. Each under the person's name."""

import time
from typing import Any

import click

from orchestrator.api.client import ApiClient
from orchestrator.cli.context import Setting, fail, pass_setting, person, pick_group, tell, told_well
from orchestrator.domain.spans import in_words

WAIT_FOR = 60.0
LOOK_EVERY = 0.1
HEARD_WITHIN = 3.0
"""A word that the daemon does not show as standing after this long was answered between two looks."""

by_option = click.option("--by", default=person, help="In whose name; by default the login name.")
no_wait = click.option("--no-wait", is_flag=True, help="Do not wait until it is done.")


@click.command()
@click.argument("group", required=False)
@click.option("--to", "target", help="The standby that shall be primary; by default the best one.")
@by_option
@no_wait
@pass_setting
@told_well
def switchover(setting: Setting, group: str | None, target: str | None, by: str, no_wait: bool) -> None:
    """Make a standby primary, planned: no acknowledged write is lost; when a step fails in time, nothing has changed."""
    _ask(setting, "switchover", group, target, by, no_wait)


@click.command()
@click.argument("group", required=False)
@click.option("--to", "target", help="The standby that shall be primary; by default the best one.")
@by_option
@no_wait
@click.option("--yes", is_flag=True, help="Do not ask back.")
@pass_setting
@told_well
def failover(setting: Setting, group: str | None, target: str | None, by: str, no_wait: bool, yes: bool) -> None:
    """Give the present primary up, although policy would wait. Writes that no standby has may be lost."""
    if not yes:
        click.confirm("A failover may lose writes that no standby has yet; a switchover loses none. Go on?", abort=True)
    _ask(setting, "failover", group, target, by, no_wait)


def _ask(setting: Setting, act: str, group: str | None, target: str | None, by: str, no_wait: bool) -> None:
    client = setting.client()
    name = pick_group(client, group)
    before = client.get(f"/v1/groups/{name}")
    began = time.monotonic()
    said = client.post(f"/v1/groups/{name}/{act}", {"by": by, "target": target})
    if no_wait:
        tell(f"{act} of {name} asked for, in the name of {by}")
        return
    after = _wait(client, name, before["epoch"], said["said"]["request"]["id"], began)
    took = in_words(time.monotonic() - began)
    tell(f"{after['serving']} is primary of {name} in epoch {after['epoch']}, {took} after the word")


def _wait(client: ApiClient, name: str, epoch: int, request: str, began: float) -> dict[str, Any]:
    """Until somebody serves a newer epoch, or the word was refused."""
    seen_standing = False
    while True:
        if time.monotonic() > began + WAIT_FOR:
            fail(f"not done after {WAIT_FOR:.0f} s; `tanist explain {name}` tells why")
        time.sleep(LOOK_EVERY)
        now: dict[str, Any] = client.get(f"/v1/groups/{name}")
        if now["epoch"] > epoch and now["serving"] is not None:
            return now
        standing = now["request"] is not None and now["request"]["id"] == request
        seen_standing = seen_standing or standing or time.monotonic() > began + HEARD_WITHIN
        if seen_standing and not standing and now["epoch"] == epoch:
            _tell_refusal(client, name, now.get("answer"), request)


def _tell_refusal(client: ApiClient, name: str, answer: dict[str, Any] | None, request: str) -> None:
    """In the words of whoever decided; of an older daemon, what stands in the history here."""
    if answer is not None and answer["request"] == request:
        fail(f"not done: {answer['text']} ({answer['by']})")
    recent = client.get(f"/v1/groups/{name}/history?last=20")
    why = [entry["text"] for entry in recent if entry["kind"] in ("refusal", "alarm", "decision")]
    fail("not done: " + ("; ".join(why[-3:]) or f"`tanist explain {name}` on the primary tells why"))


@click.command()
@click.argument("group", required=False)
@pass_setting
@told_well
def proposals(setting: Setting, group: str | None) -> None:
    """Decisions that wait for a person, with everything that the person needs to decide."""
    client = setting.client()
    groups = client.get("/v1/status")["groups"]
    chosen = list(groups) if group is None else [pick_group(client, group)]
    waiting = [groups[name]["proposal"] for name in chosen if groups[name]["proposal"] is not None]
    if not waiting:
        tell("nothing waits for a person")
    for each in waiting:
        tell(f"{each['id']}  for epoch {each['epoch']}, expires in {_rest(each['expires_wall'])}", "bold")
        tell(f"  {each['situation']}")
        loss = each["expected_loss_bytes"]
        tell(f"  expected loss: {'cannot be told' if loss is None else f'{loss} bytes'}")
        for line in each["evidence"]:
            tell(f"  {line}", "dim")
        tell(f"  tanist confirm {each['id']}    or    tanist reject {each['id']}")


def _rest(expires_wall: float) -> str:
    return in_words(max(0.0, expires_wall - time.time()))


@click.command()
@click.argument("proposal")
@by_option
@click.option("--epoch", type=int, help="The epoch that the proposal was for; by default that of the open proposal.")
@no_wait
@pass_setting
@told_well
def confirm(setting: Setting, proposal: str, by: str, epoch: int | None, no_wait: bool) -> None:
    """Approve a proposal. The word counts once, for exactly the situation that was shown."""
    client = setting.client()
    name, found = _find(client, proposal)
    began = time.monotonic()
    body = {"by": by, "proposal": proposal, "epoch": epoch if epoch is not None else found["epoch"]}
    said = client.post(f"/v1/groups/{name}/confirm", body)
    if no_wait:
        tell(f"{proposal} approved in the name of {by}")
        return
    after = _wait(client, name, found["epoch"], said["said"]["request"]["id"], began)
    tell(f"{after['serving']} is primary of {name} in epoch {after['epoch']}")


@click.command()
@click.argument("proposal")
@by_option
@pass_setting
@told_well
def reject(setting: Setting, proposal: str, by: str) -> None:
    """Say no to a proposal; the same situation does not ask again for a while."""
    client = setting.client()
    name, _ = _find(client, proposal)
    client.post(f"/v1/groups/{name}/reject", {"by": by, "proposal": proposal})
    tell(f"{proposal} rejected in the name of {by}")


def _find(client: ApiClient, proposal: str) -> tuple[str, dict[str, Any]]:
    for name, group in client.get("/v1/status")["groups"].items():
        found = group["proposal"]
        if found is not None and found["id"] == proposal:
            return name, found
    fail(f"there is no open proposal {proposal}: it was answered already, has expired, or its situation is over")
    return None


@click.command()
@click.argument("group", required=False)
@by_option
@click.option("--reason", default="", help="Shown to everybody who looks.")
@pass_setting
@told_well
def pause(setting: Setting, group: str | None, by: str, reason: str) -> None:
    """No automatic failover from now on. The primary goes on serving and keeps its right."""
    client = setting.client()
    name = pick_group(client, group)
    client.post(f"/v1/groups/{name}/pause", {"by": by, "reason": reason})
    tell(f"{name} is paused in the name of {by}; `tanist resume {name}` ends it")


@click.command()
@click.argument("group", required=False)
@by_option
@pass_setting
@told_well
def resume(setting: Setting, group: str | None, by: str) -> None:
    """End a pause."""
    client = setting.client()
    name = pick_group(client, group)
    client.post(f"/v1/groups/{name}/resume", {"by": by})
    tell(f"{name} goes on by itself")


@click.command()
@click.argument("group", required=False)
@click.option("--primary", required=True, help="The member that holds the data that shall count.")
@click.option("--epoch-above", type=int, default=0, help="Higher than any member has seen, if some cannot be heard.")
@by_option
@click.option("--yes", is_flag=True, help="Do not ask back.")
@pass_setting
@told_well
def adopt(setting: Setting, group: str | None, primary: str, epoch_above: int, by: str, yes: bool) -> None:
    """After the mediator was emptied or restored: begin a new line of records, in which PRIMARY's data counts.

    Where PRIMARY serves already, nothing changes for anybody. Otherwise it becomes primary in a new epoch: make sure that
    every other member is stopped, or follows.
    """
    client = setting.client()
    name = pick_group(client, group)
    report = client.get(f"/v1/groups/{name}")
    silent = [each["name"] for each in report["members"] if each["silent"] and not each["witness"]]
    if not yes:
        tell(f"the highest epoch known here is {report['epoch']}; not heard: {', '.join(silent) or 'nobody'}")
        click.confirm(
            f"Every other record of {name} will count no more. Is {primary}'s data the one to keep, and is every member that "
            "is not heard stopped?",
            abort=True,
        )
    said = client.post(f"/v1/groups/{name}/adopt", {"by": by, "target": primary, "epoch": epoch_above})
    record = said["record"]
    tell(f"{name}: adopted in the name of {by}: {record['primary']['name']} in epoch {record['epoch']}")
