"""A whole group on this machine: its directories, its configuration, its processes, and the end of all of them."""

import contextlib
import ctypes
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from orchestrator.api.client import ApiClient, NoDaemon, Refused
from orchestrator.config.tokens import Bearer, Right, fingerprint, load_tokens, new_token, save_tokens
from orchestrator.domain.spans import Span
from orchestrator.keeper.gate import table_name, why_impossible
from orchestrator.keeper.tree import state_of
from orchestrator.lab.cable import Cable
from orchestrator.lab.disks import Disk
from orchestrator.lab.kinds import Kind, LabError
from orchestrator.lab.orphans import Orphans
from orchestrator.lab.postgresql import PostgresqlKind
from orchestrator.lab.redis import RedisKind
from orchestrator.services.starting import PR_SET_PDEATHSIG

GROUP: Final = "orders"
CLUSTER: Final = "lab"
WITNESS: Final = "app1"
BEAT_PORT: Final = 7400
PAGE_PORT: Final = 7480

DISK: Final = "disk"
ROOM: Final = 2 * 1024**3
"""Bytes that must be free on tmpfs: three PostgreSQL members, their logs, and copies under way."""

TEMPLATE: Final = "{{ primary.address }} {{ primary.port }} {{ epoch }}\n"


@dataclass(slots=True)
class Process:
    """A daemon of the lab, by its process number."""

    popen: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        return self.popen.pid


@dataclass(slots=True, kw_only=True)
class Host:
    """One member, or the witness, with its own loopback address."""

    name: str
    address: str
    directory: Path
    api: ApiClient
    service_pid_file: Path
    witness: bool = False
    disk: Disk | None = None
    """Its data's own file system, where one was asked for."""
    daemon: Process | None = None

    @property
    def line(self) -> Path:
        """The device of its serial line, where it has one."""
        return self.directory / "line"

    @property
    def mediator_link(self) -> Path:
        """This host's own way to the mediator; without it the mediator is lost for this host alone."""
        return self.directory / "mediator"

    def keeper_pid(self, run: Path) -> int | None:
        return _pid_in(run / self.name / "keeper.lock")

    def service_pid(self) -> int | None:
        return _pid_in(self.service_pid_file)


def _pid_in(path: Path) -> int | None:
    try:
        pid = int(path.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None
    return pid if state_of(pid) not in (None, "Z", "X") else None


@dataclass(frozen=True, slots=True, kw_only=True)
class LabSettings:
    members: int = 3
    lease: Span = 1.0
    service: str = "redis"
    replication: str = "asynchronous"
    writers: int = 1
    """Clients that write side by side."""
    disks: bool = False
    """PostgreSQL: every member's data on a file system of its own, which can be stalled and filled."""
    line: bool = False
    """A serial line between the first two members, beside the network."""
    redis_server: str = "redis-server"
    mediator: str | None = None
    """A ZooKeeper that runs already (zookeeper://...); None: a SQLite file of the lab's own."""
    page: bool = False
    """Every node serves API and page on its own address, and there is a token to sign in with."""
    policy: dict[str, Any] = field(default_factory=dict)
    """Over the lab's own policy, in the words of the configuration file."""
    tags: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What members' sections say besides: never_primary and the like."""


KINDS: Final[dict[str, Callable[[LabSettings], Kind]]] = {
    "redis": lambda settings: RedisKind(settings.redis_server),
    "postgresql": lambda settings: PostgresqlKind(settings.replication, below=DISK if settings.disks else ""),
}


class LabGroup:
    """Use as a context manager: whatever happens inside, nothing is left behind."""

    def __init__(self, settings: LabSettings) -> None:
        self.settings = settings
        self.kind = KINDS[settings.service](settings)
        self.cluster = f"{CLUSTER}-{secrets.token_hex(3)}"
        self.directory = Path(tempfile.mkdtemp(prefix="tanist-lab-", dir=fast_directory()))
        self.run = self.directory / "run"
        self.config = self.directory / "tanist.yaml"
        self.keep_files = False
        """At the end, for whoever wants to know why."""
        self._service_pids: set[int] = set()
        self._keeper_pids: set[int] = set()
        self.net = _free_net()
        names = [f"db{number + 1}" for number in range(settings.members)]
        self.hosts = {name: self._host(name, number + 1) for number, name in enumerate(names)}
        self.hosts[WITNESS] = self._host(WITNESS, 100)
        first, second = (self.hosts[name].line for name in names[:2])
        self.cable = Cable((first, second)) if settings.line else None

    def _host(self, name: str, number: int) -> Host:
        directory = self.directory / name
        directory.mkdir()
        address = f"{self.net}.{number}"
        api = ApiClient(self.run / name / "api.sock", timeout=2.0)
        pid_file = self.kind.pid_file(directory)
        return Host(name=name, address=address, directory=directory, api=api, service_pid_file=pid_file, witness=name == WITNESS)

    def __enter__(self) -> "LabGroup":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def members(self) -> list[Host]:
        return [host for host in self.hosts.values() if not host.witness]

    @property
    def client_file(self) -> Path:
        return self.hosts[WITNESS].directory / "primary.conf"

    @property
    def mediator(self) -> Path:
        return self.directory / "mediator.sqlite"

    # --- making ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self.kind.require()
        self.kind.prepare(self.directory)
        Orphans.adopt()
        self._adopts = True
        (self.directory / "key").write_text(secrets.token_hex(32))
        (self.directory / "key").chmod(0o600)
        (self.directory / "primary.conf.j2").write_text(TEMPLATE)
        if self.settings.page:
            self.let_in("lab", Right.OPERATE)
        for host in self.hosts.values():
            self.join_mediator(host)
            if not host.witness:
                if self.settings.disks:
                    host.disk = Disk(host.directory / "disk.img", host.directory / DISK)
                    host.disk.make()
                self.kind.prepare_host(host.directory, host.address)
        self.config.write_text(json.dumps(self._configuration(), indent=1))
        if self.cable is not None:
            self.cable.plug()
        for host in self.hosts.values():
            self.start_daemon(host)

    def _configuration(self) -> dict[str, Any]:
        """JSON is YAML too."""
        nodes = {
            host.name: {
                "address": host.address,
                "paths": self._paths(host),
                **({"witness": True} if host.witness else {}),
                **({"api": f"{host.address}:{PAGE_PORT}"} if self.settings.page else {}),
            }
            for host in self.hosts.values()
        }
        members = {
            host.name: {
                **self.kind.member_section(host.directory),
                **({"preferred": True} if host.name == "db1" else {}),
                **self.settings.tags.get(host.name, {}),
            }
            for host in self.members
        }
        lease = in_words_exactly(self.settings.lease)
        policy = {"lease": lease, "timing": {"unresponsive": {"after": "500ms"}}, **self.kind.policy(), **self.settings.policy}
        file = {
            "template": str(self.directory / "primary.conf.j2"),
            "path": str(self.client_file),
            "nodes": [WITNESS],
        }
        return {
            "cluster": self.cluster,
            "mediator": self.settings.mediator or f"sqlite://{self.directory}/mediator-of-node/mediator",
            "key_file": str(self.directory / "key"),
            **({"api": {"tokens": str(self.directory / "tokens.yaml")}} if self.settings.page else {}),
            "directories": {"run": str(self.run), "state": str(self.directory / "state")},
            "nodes": nodes,
            "groups": {
                GROUP: {
                    "service": self.kind.name,
                    **self.kind.group_section(),
                    "members": members,
                    "policy": policy,
                    "clients": [{"file": file}],
                }
            },
        }

    def _paths(self, host: Host) -> list[str]:
        lines = [f"serial://{host.line}"] if self.cable is not None and host.line in self.cable.ends else []
        return [f"udp://{host.address}:{BEAT_PORT}", *lines]

    def config_of(self, host: Host) -> Path:
        """The same configuration for all, but that each has its own way to the mediator, which can be cut."""
        path = host.directory / "tanist.yaml"
        text = self.config.read_text().replace(f"{self.directory}/mediator-of-node/mediator", str(host.mediator_link))
        path.write_text(text)
        return path

    def join_mediator(self, host: Host) -> None:
        host.mediator_link.unlink(missing_ok=True)
        host.mediator_link.symlink_to(self.mediator)

    def start_daemon(self, host: Host) -> None:
        log = open(host.directory / "daemon.log", "ab")  # noqa: SIM115 (handed to the child)
        with log:
            popen = subprocess.Popen(
                [sys.executable, "-m", "orchestrator.cli", "--config", str(self.config_of(host)), "--node", host.name, "run"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_die_with_lab,
            )
        Orphans.except_for(popen.pid)
        host.daemon = Process(popen)

    def epoch(self) -> int:
        """The highest epoch that any member knows."""
        reports = [self.report(host) for host in self.members]
        known = [int(report["epoch"]) for report in reports if report is not None]
        if not known:
            raise LabError("no daemon answers")
        return max(known)

    def let_in(self, name: str, right: Right) -> str:
        """A token for API and page; the first one is kept as `token`."""
        path, made = self.directory / "tokens.yaml", new_token()
        known = load_tokens(path).values() if path.exists() else ()
        save_tokens(path, [*known, Bearer(name, fingerprint(made), MappingProxyType({GROUP: right}), None)])
        self.token = self.token or made
        return made

    # --- looking -----------------------------------------------------------------------------------------------------

    def report(self, host: Host) -> dict[str, Any] | None:
        """What the host's daemon says of the group; None when it says nothing."""
        try:
            found: dict[str, Any] = host.api.get(f"/v1/groups/{GROUP}")
        except (NoDaemon, Refused):
            return None
        return found

    def note_processes(self) -> None:
        """Remember every process that the daemons have started, so that it can be ended."""
        for host in self.hosts.values():
            if (pid := host.keeper_pid(self.run)) is not None:
                self._keeper_pids.add(pid)
            if (pid := host.service_pid()) is not None:
                self._service_pids.add(pid)
        Orphans.collect()

    def whole(self) -> str | None:
        """The primary's name when everybody is where they should be; None otherwise."""
        self.note_processes()
        return None if self.why_not_whole() else self._primary

    token = ""
    _primary: str | None = None
    _adopts = False

    def why_not_whole(self) -> str:
        reports = {}
        for host in self.hosts.values():
            report = self.report(host)
            if report is None:
                return f"the daemon of {host.name} does not answer{_last_words(host)}"
            reports[host.name] = report
        serving = [name for name, report in reports.items() if report["phase"] == "serving"]
        if len(serving) != 1:
            return f"serving: {', '.join(serving) or 'nobody'}"
        self._primary = primary = serving[0]
        epoch = reports[primary]["epoch"]
        others = {host.name for host in self.members} - {primary}
        for name, report in reports.items():
            if name in others and report["phase"] != "standby":
                refusals = "; ".join(each["reason"] for each in report["refusals"])
                return f"{name} is {report['phase']}: {refusals or 'no reason given'}"
            if report["epoch"] != epoch or report["serving"] != primary:
                return f"{name} does not know that {primary} serves epoch {epoch}"
        if set(reports[primary]["succession"]) != others or set(reports[primary]["right"].get("counted", ())) != others:
            return f"the succession is {reports[primary]['succession']}"
        for member in reports[primary]["members"]:
            if member["name"] in others and member["lag_bytes"] is None:
                return f"{member['name']} has not copied what {primary} serves yet"
        for host in self.members:
            if reports[host.name]["watched_pid"] != host.service_pid():
                return f"the keeper of {host.name} does not watch its {self.kind.says} (process {host.service_pid()})"
        if not reports[primary]["right"]["held"]:
            return f"{primary} does not hold its right"
        if self.client_file.exists() and self.client_file.read_text().split()[0] != self.hosts[primary].address:
            return "the client is led elsewhere"
        return "" if self.client_file.exists() else "the client has no configuration yet"

    def wait_whole(self, within: Span, tell: Callable[[str], None] = lambda text: None) -> str:
        deadline = time.monotonic() + within
        told = ""
        while True:
            primary = self.whole()
            if primary is not None:
                return primary
            reason = self.why_not_whole()
            if reason and reason != told:
                told = reason
                tell(reason)
            if time.monotonic() > deadline:
                raise LabError(f"the group is not whole after {within:.0f} s: {reason}; its files are in {self.directory}")
            time.sleep(0.05)

    # --- the end -----------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """Every process by its number, every rule by its name, every file by its directory."""
        self.note_processes()
        for host in self.members:
            if host.disk is not None:
                host.disk.thaw()
        for host in self.hosts.values():
            if host.daemon is not None:
                _kill(host.daemon.pid)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    host.daemon.popen.wait(5)
        self.note_processes()
        for pid in self._keeper_pids:
            _kill(pid)
        time.sleep(0.05)
        self.note_processes()
        for pid in self._service_pids:
            if _is_ours(pid, self.directory, self.net):
                self.kind.end(pid)
        Orphans.collect(within=1.0)
        if self.cable is not None:
            self.cable.unplug()
        if self._adopts:
            self._adopts = False
            Orphans.leave()
        for host in self.members:
            if host.disk is not None:
                host.disk.end()
        if not why_impossible():
            for host in self.members:
                subprocess.run(
                    ["nft", "delete", "table", "inet", table_name(self.cluster, host.name, GROUP)],
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    check=False,
                )
        if self.keep_files or os.environ.get("TANIST_LAB_KEEP"):
            return
        shutil.rmtree(self.directory, ignore_errors=True)


def in_words_exactly(span: Span) -> str:
    """As the configuration file wants it."""
    return f"{round(span * 1000)}ms"


def _last_words(host: Host) -> str:
    """Why a daemon ended, if it did."""
    if host.daemon is None or host.daemon.popen.poll() is None:
        return ""
    try:
        lines = (host.directory / "daemon.log").read_text(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return f": it ended with status {host.daemon.popen.returncode}: {' | '.join(lines[-3:])}"


def fast_directory() -> str | None:
    """On tmpfs where there is room: pages belong there, and measurements should not wait for a disk. (Containers have 64 MB.)"""
    shm = Path("/dev/shm")
    return str(shm) if os.access(shm, os.W_OK) and shutil.disk_usage(shm).free >= ROOM else None


def _free_net() -> str:
    """Three numbers of a loopback network that nobody uses: several laboratories may run at once."""
    for _ in range(50):
        net = f"127.{secrets.randbelow(180) + 40}.{secrets.randbelow(250) + 2}"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind((f"{net}.1", BEAT_PORT))
            except OSError:
                continue
        return net
    raise LabError("no free loopback network was found for the laboratory")


def _die_with_lab() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _is_ours(pid: int, directory: Path, net: str) -> bool:
    """A process number may have been given to somebody else meanwhile."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return False
    return str(directory) in command or net in command
