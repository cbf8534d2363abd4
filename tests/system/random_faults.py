"""Random faults on two groups at once, one or two at a time and healed again, for as long as you like; or noise alone.

    python -m tests.system.random_faults --for 1h --seed 7
    python -m tests.system.random_faults --for 10m --noise loss

Throughout: two primaries never accept writes, no acknowledged write of the synchronous group is lost, and after each round both
groups become whole by themselves. Under noise no role may move. Needs root. Status 0 only when all of it held; otherwise the
transcript is told and every file is kept.
"""

import random
import signal
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import click

from orchestrator.config.units import parse_span
from orchestrator.engine.words import Void
from orchestrator.lab.group import GROUP, LabError
from orchestrator.lab.group import Host as Member
from tests.system.field import Field, Watched, field, send
from tests.system.hosts import Host
from tests.system.spread_group import MEMBERS

LEASE: Final = 1.0
WHOLE_WITHIN: Final = 60.0
PERSON: Final = "random-faults"


class Bad(Exception):
    """A promise does not hold."""


class Fault(ABC):
    """One thing that goes wrong, and is mended again."""

    def __init__(self, ground: Field, watched: Watched, member: Member, dice: random.Random) -> None:
        self.ground = ground
        self.watched = watched
        self.member = member
        self.host: Host = ground.host(watched, member.name)
        self.dice = dice

    def __str__(self) -> str:
        return f"{type(self).__name__} {self.watched.name}/{self.member.name}"

    @abstractmethod
    def inject(self) -> None: ...

    def mend(self) -> None: ...


class _Signalled(Fault):
    """Some of a member's processes get a signal."""

    which: tuple[str, ...] = ()
    what = signal.SIGKILL

    def inject(self) -> None:
        found = self.watched.processes(self.member)
        self.pids = [found[name] for name in self.which if name in found]
        for pid in self.pids:
            send(pid, self.what)

    def mend(self) -> None:
        for pid in self.pids:
            send(pid, signal.SIGCONT)


class ServiceKilled(_Signalled):
    which = ("service",)


class DaemonKilled(_Signalled):
    which = ("daemon",)


class KeeperKilled(_Signalled):
    which = ("keeper",)


class BothKilled(_Signalled):
    which = ("daemon", "keeper")


class ServiceFrozen(_Signalled):
    which = ("service",)
    what = signal.SIGSTOP


class DaemonFrozen(_Signalled):
    which = ("daemon",)
    what = signal.SIGSTOP


class KeeperFrozen(_Signalled):
    which = ("keeper",)
    what = signal.SIGSTOP


class BothFrozen(_Signalled):
    which = ("keeper", "daemon")
    what = signal.SIGSTOP


class HostFrozen(Fault):
    """Every process of the host stands still."""

    def inject(self) -> None:
        self.pids = self.host.pids()
        for pid in self.pids:
            send(pid, signal.SIGSTOP)

    def mend(self) -> None:
        for pid in self.pids:
            send(pid, signal.SIGCONT)


class PowerLoss(Fault):
    """The link goes first, so that no dying process says a word more."""

    def inject(self) -> None:
        self.host.isolate()
        self.host.kill_all()

    def mend(self) -> None:
        self.host.heal()


class Isolated(Fault):
    def inject(self) -> None:
        self.host.isolate()

    def mend(self) -> None:
        self.host.heal()


class NotHeard(Isolated):
    def inject(self) -> None:
        self.host.cut_from()


class Deaf(Isolated):
    def inject(self) -> None:
        self.host.cut_to()


class Lossy(Isolated):
    def inject(self) -> None:
        self.host.lose(self.dice.choice([10, 30, 60]))


class WithoutMediator(Isolated):
    """This host alone does not reach the mediator."""

    def inject(self) -> None:
        for server in self.ground.servers:
            self.host.cut_off(server.host)


class ApartFromOne(Isolated):
    """Two members do not hear each other; everybody else hears both."""

    def inject(self) -> None:
        other = self.dice.choice([name for name in MEMBERS if name != self.member.name])
        self.host.cut_off(self.ground.host(self.watched, other))


class MediatorServerKilled(Fault):
    def inject(self) -> None:
        self.server = self.dice.choice(self.ground.servers)
        self.server.kill()

    def mend(self) -> None:
        if self.server.process is None:
            self.server.start_prepared()


class MediatorLost(Fault):
    """All three servers are cut off from everybody."""

    def inject(self) -> None:
        for server in self.ground.servers:
            server.host.isolate()

    def mend(self) -> None:
        for server in self.ground.servers:
            server.host.heal()


class Switchover(Fault):
    """A person asks for one in the midst of it all."""

    def inject(self) -> None:
        config = self.member.directory / "tanist.yaml"
        command = [sys.executable, "-m", "orchestrator.cli", "--config", str(config), "--node", self.member.name]
        self.asking = subprocess.Popen(
            [*command, "switchover", GROUP, "--by", PERSON], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def mend(self) -> None:
        try:
            self.asking.wait(30)
        except subprocess.TimeoutExpired:
            self.asking.kill()
            self.asking.wait()


FAULTS: Final[tuple[type[Fault], ...]] = (
    *(ServiceKilled, DaemonKilled, KeeperKilled, BothKilled),
    *(ServiceFrozen, DaemonFrozen, KeeperFrozen, BothFrozen, HostFrozen),
    *(PowerLoss, Isolated, NotHeard, Deaf, Lossy, WithoutMediator, ApartFromOne),
    *(MediatorServerKilled, MediatorLost, Switchover),
)


class Run:
    """Rounds of faults; every line of the transcript says when."""

    def __init__(self, ground: Field, seed: int, say: Callable[[str], None]) -> None:
        self.ground = ground
        self.dice = random.Random(seed)
        self.transcript: list[str] = []
        self.counts: Counter[str] = Counter()
        self.words = 0
        self.slowest = 0.0
        self._say = say
        self._began = time.monotonic()

    def tell(self, text: str) -> None:
        line = f"{time.monotonic() - self._began:8.2f}  {text}"
        self.transcript.append(line)
        self._say(line)

    def round(self) -> None:
        faults = [self._draw() for _ in range(self.dice.choice([1, 1, 2]))]
        for fault in faults:
            self.counts[type(fault).__name__] += 1
            self.tell(f"inject {fault}")
            fault.inject()
            time.sleep(self.dice.choice([0.0, 0.3, 1.0]) * self.dice.random())
        time.sleep(self.dice.uniform(0.2, 6.0))
        for fault in faults:
            fault.mend()
        self.tell("mended")
        for watched in self.ground.groups:
            watched.revive()
        self._become_whole()

    def _draw(self) -> Fault:
        watched = self.dice.choice(self.ground.groups)
        member = watched.group.hosts[self._primary(watched) if self.dice.random() < 0.6 else self.dice.choice(MEMBERS)]
        return self.dice.choice(FAULTS)(self.ground, watched, member, self.dice)

    def _primary(self, watched: Watched) -> str:
        return watched.group.whole() or self.dice.choice(MEMBERS)

    def _become_whole(self) -> None:
        """By themselves, but for what takes a person's word by design; such words are given, and counted."""
        began = time.monotonic()
        waiting = list(self.ground.groups)
        while waiting:
            for watched in waiting:
                watched.revive()
                self._answer(watched)
            waiting = [watched for watched in waiting if watched.group.whole() is None or watched.newest() < self._now() - 1.0]
            if time.monotonic() > began + WHOLE_WITHIN:
                reasons = "; ".join(f"{each.name}: {each.group.why_not_whole() or 'no client writes'}" for each in waiting)
                raise Bad(f"not whole {WHOLE_WITHIN:.0f} s after the faults were mended: {reasons}")
            time.sleep(0.1)
        self.slowest = max(self.slowest, time.monotonic() - began)
        for watched in self.ground.groups:
            if wrong := watched.look():
                raise Bad(wrong)
        states = ", ".join(f"{each.name} epoch {each.epoch()}, {each.group.whole()}" for each in self.ground.groups)
        self.tell(f"whole after {time.monotonic() - began:.1f} s: {states}")

    @staticmethod
    def _now() -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def _answer(self, watched: Watched) -> None:
        proposal = watched.proposal()
        if proposal is None:
            return
        member = watched.group.hosts[MEMBERS[0]]
        config = member.directory / "tanist.yaml"
        command = [sys.executable, "-m", "orchestrator.cli", "--config", str(config), "--node", member.name]
        done = subprocess.run([*command, "confirm", proposal, "--by", PERSON], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            self.words += 1
            self.tell(f"a person says yes to {proposal}")

    def summary(self) -> str:
        faults = ", ".join(f"{name} {count}" for name, count in sorted(self.counts.items()))
        groups = [
            f"{each.name}: {each.acknowledged} writes acknowledged, {each.lost} lost, two primaries "
            f"{each.two_primaries * 1000:.1f} ms, epoch {each.epoch()}"
            for each in self.ground.groups
        ]
        whole = f"slowest to become whole: {self.slowest:.1f} s; persons' words needed: {self.words}"
        return "\n".join([f"{sum(self.counts.values())} faults: {faults}", *groups, whole])


# --- noise: nothing may happen ---------------------------------------------------------------------------------------


@contextmanager
def loss(run: Run) -> Iterator[Callable[[], None]]:
    """Each host loses 5 % of what it sends and of what is sent to it."""
    for host in run.ground.hosts.values():
        host.lose(5)
    yield lambda: time.sleep(1.0)
    for host in run.ground.hosts.values():
        host.heal()


@contextmanager
def burn(run: Run) -> Iterator[Callable[[], None]]:
    """Twice as many busy loops as there are cores."""
    loop = "while True: pass"
    burning = [subprocess.Popen([sys.executable, "-c", loop]) for _ in range(4)]
    try:
        yield lambda: time.sleep(1.0)
    finally:
        for each in burning:
            each.kill()
            each.wait()


@contextmanager
def pauses(run: Run) -> Iterator[Callable[[], None]]:
    """One process after another stands still, for up to 0.8 of a lease."""

    def once() -> None:
        watched = run.dice.choice(run.ground.groups)
        member = watched.group.hosts[run.dice.choice(MEMBERS)]
        name, pid = run.dice.choice(sorted(watched.processes(member).items()))
        send(pid, signal.SIGSTOP)
        time.sleep(run.dice.uniform(0.1, 0.8) * LEASE)
        send(pid, signal.SIGCONT)
        run.counts[f"{name} paused"] += 1
        time.sleep(run.dice.uniform(0.5, 1.5))

    yield once


@contextmanager
def zookeeper(run: Run) -> Iterator[Callable[[], None]]:
    """Its servers are restarted, one after the other, for ever."""

    def once() -> None:
        for server in run.ground.servers:
            server.kill()
            run.counts["server restarted"] += 1
            time.sleep(1.0)
            server.start_prepared()
            server.wait_up()
            time.sleep(3.0)

    yield once


NOISES: Final = {"loss": loss, "burn": burn, "pauses": pauses, "zookeeper": zookeeper}


def under_noise(run: Run, name: str, lasts: float) -> None:
    before = {each.name: each.epoch() for each in run.ground.groups}
    until = time.monotonic() + lasts
    with NOISES[name](run) as once:
        while time.monotonic() < until:
            once()
            for each in run.ground.groups:
                if each.epoch() != before[each.name]:
                    raise Bad(f"{each.name}: a role moved without cause, to epoch {each.epoch()}")
    run._become_whole()


def play(lasts: float, seed: int, noise: str | None, directory: Path, say: Callable[[str], None]) -> str:
    """The summary. Raises Bad, with everything kept, when a promise does not hold."""
    policy = {"timing": {"unresponsive": {"after": "2s"}}}
    with ExitStack() as stack:
        ground = stack.enter_context(field(directory, LEASE, **policy))
        run = Run(ground, seed, say)
        try:
            if noise is not None:
                under_noise(run, noise, lasts)
            until = time.monotonic() + lasts
            while noise is None and time.monotonic() < until:
                run.round()
        except (Bad, LabError, Void) as error:
            for each in ground.groups:
                each.group.keep_files = True
            places = ", ".join(str(each.group.directory) for each in ground.groups)
            raise Bad(f"seed {seed}: {error}\nfiles are kept in {places}\n{run.summary()}") from error
        return run.summary()


@click.command(help=__doc__)
@click.option("--for", "lasts", default="10m", show_default=True, help="How long, such as 40s, 10m or 1h.")
@click.option("--seed", type=int, default=None, help="By default another one each time; it is told.")
@click.option("--noise", type=click.Choice(sorted(NOISES)), default=None, help="No faults, but this: no role may move.")
def main(lasts: str, seed: int | None, noise: str | None) -> None:
    chosen = random.SystemRandom().randrange(1 << 32) if seed is None else seed
    click.echo(f"seed {chosen}")
    with tempfile.TemporaryDirectory(prefix="tanist-field-") as directory:
        try:
            click.echo(play(parse_span(lasts), chosen, noise, Path(directory), click.echo))
        except Bad as error:
            raise click.ClickException(str(error)) from None


if __name__ == "__main__":
    main()
