"""What the page says of a group: the report, put into words. No state is shown by colour alone."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from orchestrator.config.tokens import Right
from orchestrator.daemon.clock import wall
from orchestrator.daemon.report import group_report
from orchestrator.daemon.runner import GroupRunner
from orchestrator.domain.spans import in_words

EVENTS_SHOWN: Final = 15
BUTTONS: Final = {
    "confirm": "Switching over",
    "reject": "Leaving as it is:",
    "switchover": "Switching over",
    "pause": "Pausing",
    "resume": "Resuming",
}
TYPED: Final = frozenset({"confirm", "switchover"})


def standing(runner: GroupRunner) -> tuple[Any, ...]:
    """All that is shown and does not run on by itself."""
    state = runner.state
    record, control, keeper = state.record, state.control, state.keeper
    peers = [(each.name, each.silent_since is None, each.statement) for each in keeper.peers] if keeper is not None else []
    frozen = keeper is not None and keeper.frozen_since is not None
    told = [(name, each and (each.health, each.phase, each.electable, each.why_not, each.hears)) for name, _, each in peers]
    return (
        state.phase,
        record,
        control.version,
        frozen,
        [(name, heard) for name, heard, _ in peers],
        told,
        sorted(state.refusals),
        state.mediated.lost_since is None,
        runner.recent(1),
    )


def group(runner: GroupRunner, right: Right) -> dict[str, Any]:
    report = group_report(runner)
    level, headline = _headline(report)
    proposal = report["proposal"]
    return {
        **report,
        "level": level,
        "headline": headline,
        "situation": f"{report['epoch']}/{proposal['id'] if proposal else ''}/{report['primary']}/{bool(report['paused'])}",
        "events": list(reversed(runner.recent(EVENTS_SHOWN))),
        "matrix": _matrix(report["members"]),
        "targets": [
            each["name"] for each in report["members"] if each["in_succession"] and each["electable"] and not each["silent"]
        ],
        "may_confirm": right >= Right.CONFIRM,
        "may_operate": right >= Right.OPERATE,
    }


def _headline(report: dict[str, Any]) -> tuple[str, str]:
    """How it stands, in a word for the eye and a sentence for everybody: good, warn or bad."""
    name, serving, mediator = report["group"], report["serving"], report["mediator"]
    diverged = len(report["divergence"])
    waits = " A decision waits for a person." if report["proposal"] is not None else ""
    ill = _ill(report)
    if serving is None or ill:
        return "bad", f"Nobody {'is known to serve' if not ill else 'serves'} {name}{ill}.{waits}"
    if waits:
        return "warn", f"{serving} serves.{waits}"
    if report["right"]["frozen"]:
        return "bad", f"{report['node']} is frozen: its right to serve has run out."
    members = [each for each in report["members"] if not each["witness"] and each["name"] != serving]
    ready = [each["name"] for each in members if each["in_succession"] and not each["silent"]]
    if members and not ready:
        return "bad", f"{serving} serves, and nobody could take over."
    if mediator["lost_seconds"] is not None:
        lost = in_words(mediator["lost_seconds"])
        return "warn", f"{serving} serves; the mediator has not answered for {lost}, which costs the clients nothing."
    if report["paused"] is not None:
        return "warn", f"{serving} serves; paused by {report['paused']['by']}, so nothing is done by itself."
    missing = [each["name"] for each in members if each["name"] not in ready]
    if missing:
        return "warn", f"{serving} serves; {_listed(missing)} could not take over now."
    if diverged:
        return "warn", f"{serving} serves; writes of a lost history wait for a person."
    return "good", f"{serving} serves, and {_listed(ready)} could take over at once."


def _ill(report: dict[str, Any]) -> str:
    """What is wrong with whoever should serve, if anything is."""
    for each in report["members"]:
        if each["name"] == report["serving"] and not each["witness"]:
            if each["silent"] and not each["self"]:
                return f": {each['name']} is silent"
            if each["health"] in ("dead", "unresponsive"):
                return f": the service on {each['name']} is {each['health']}"
    return ""


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _matrix(members: list[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """Who hears whom: a row for each observer, as it last said itself."""
    names = [each["name"] for each in members]
    rows = []
    for each in members:
        said = not each["silent"] or each["self"]
        words = ["itself" if name == each["name"] else _hears(said, name in each["hears"]) for name in names]
        rows.append((each["name"], words))
    return rows


def _hears(said: bool, hears: bool) -> str:
    if not said:
        return "unknown"
    return "hears" if hears else "silent"


def moment() -> str:
    return clock(wall())


def clock(moment_wall: float) -> str:
    return f"{datetime.fromtimestamp(moment_wall, UTC):%Y-%m-%d %H:%M:%S} UTC"


def iso(moment_wall: float) -> str:
    return f"{datetime.fromtimestamp(moment_wall, UTC):%Y-%m-%dT%H:%M:%SZ}"


def size(value: int | None) -> str:
    """Bytes for people; powers of 1024, as in the configuration."""
    if value is None:
        return "not known"
    if value < 1024:
        return f"{value} B"
    number = float(value)
    for unit in ("kB", "MB", "GB", "TB"):
        number /= 1024
        if number < 1024 or unit == "TB":
            return f"{number:.1f} {unit}"
    raise AssertionError


def span(value: float | None) -> str:
    return "never" if value is None else in_words(value)


FILTERS: Final[dict[str, Callable[..., str]]] = {"clock": clock, "iso": iso, "size": size, "span": span}
