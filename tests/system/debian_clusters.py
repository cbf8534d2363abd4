"""Real Debian clusters for tests, in names and ports of their own: configuration below /etc/postgresql, data elsewhere."""

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from postgresql_servers import HOST, IN_THE_DIRECTORY, PASSWORD, USER, end_tree, free_ports, until

from orchestrator.domain.topology import Member
from orchestrator.keeper.tree import Tree
from orchestrator.lab.group import fast_directory
from orchestrator.services.postgresql import postmaster
from orchestrator.services.postgresql.service import PostgresqlService
from orchestrator.services.postgresql.settings import DEBIAN_PROGRAMS, ControlKind, PostgresqlSettings

VERSION = "15"
NAMES = ("a", "b")

SYSTEMCTL = """\
#!/bin/bash
# Stands in for systemd: runs what the unit postgresql@.service runs (ExecStart=-, Type=forking, PIDFile=), and keeps notes.
echo "$*" >>{notes}
unit="${{!#}}"
cluster="${{unit#postgresql@}}"; cluster="${{cluster%.service}}"
case "$1" in
start)
    /usr/bin/pg_ctlcluster --skip-systemctl-redirect "$cluster" start >>{notes}.said 2>&1
    [ -s "/var/run/postgresql/$cluster.pid" ] && kill -0 "$(head -1 "/var/run/postgresql/$cluster.pid")" && exit 0
    echo "Job for $unit failed because the service did not take the steps required by its unit configuration."
    exit 1 ;;
stop)
    pg_lsclusters -h "${{cluster%%-*}}" "${{cluster#*-}}" | grep -q online || exit 0
    exec /usr/bin/pg_ctlcluster --skip-systemctl-redirect -m fast "$cluster" stop ;;
show) printf 'UnitFileState=disabled\\nRestart=no\\n' ;;
esac
"""


def why_not() -> str:
    """Why no Debian cluster can be made here; empty when one can."""
    if os.geteuid() != 0:
        return "needs root"
    if shutil.which("pg_createcluster") is None:
        return "no pg_createcluster: Debian's postgresql-common"
    if not (DEBIAN_PROGRAMS / VERSION / "bin" / "postgres").exists():
        return f"no PostgreSQL {VERSION} of Debian's"
    return ""


@dataclass
class Cluster:
    name: str
    port: int
    data: Path

    @property
    def place(self) -> Path:
        return Path("/etc/postgresql") / VERSION / self.name

    def configuration(self) -> dict[str, str]:
        """Everything below /etc: nothing there may be changed by a rewind or a copy."""
        return {str(path): path.read_text() for path in sorted(self.place.rglob("*")) if path.is_file() and path.name != "log"}


class Clusters:
    """Two members of a group; a is made by pg_createcluster and runs, b has a configuration, and no data yet."""

    def __init__(self, directory: Path, control: ControlKind) -> None:
        self.directory = directory
        self.control = control
        ports = free_ports(2)
        word = secrets.token_hex(3)
        self.of = {name: Cluster(f"tanist{word}{name}", port, directory / name) for name, port in zip(NAMES, ports, strict=True)}
        self.members = tuple(Member(name=name, address=HOST, port=each.port) for name, each in self.of.items())
        self.heard: dict[str, list[str]] = {name: [] for name in NAMES}
        self.notes = directory / "systemctl"
        self._services: list[PostgresqlService] = []

    def make(self) -> None:
        for name, each in self.of.items():
            options = ["--start-conf", "manual", "--port", str(each.port), "--socketdir", str(self.directory)]
            options += ["--datadir", str(each.data), "--logfile", f"/var/log/postgresql/postgresql-{VERSION}-{each.name}.log"]
            run("pg_createcluster", *options, VERSION, each.name, "--", "--no-sync")
            conf = each.place / "conf.d" / "group.conf"
            conf.write_text(
                f"{IN_THE_DIRECTORY}wal_log_hints = on\nwal_keep_size = 1GB\nmax_slot_wal_keep_size = 4GB\n"
                f"shared_buffers = 16MB\nsuperuser_reserved_connections = 8\n"
                f"wal_retrieve_retry_interval = 100ms\nlog_line_prefix = 'member {name} '\n"
            )
            hba, ident = each.place / "pg_hba.conf", each.place / "pg_ident.conf"
            hba.write_text("local postgres postgres peer map=tanist\n" + hba.read_text())
            ident.write_text(f"tanist root {USER}\ntanist {USER} {USER}\n")
        run("pg_ctlcluster", "--skip-systemctl-redirect", VERSION, self.of["a"].name, "start")
        literal = PASSWORD.replace("'", "''")
        self.sql("a", f"ALTER ROLE postgres PASSWORD '{literal}'", host=str(self.directory))
        self.sql("a", "CREATE TABLE kept (id bigserial PRIMARY KEY, what text)")
        shutil.rmtree(self.of["b"].data)

    def settings(self, name: str, **changes: Any) -> PostgresqlSettings:
        each = self.of[name]
        given: dict[str, Any] = {
            "name": name,
            "host": HOST,
            "port": each.port,
            "data_directory": each.data,
            "socket_directory": self.directory,
            "password_file": self.directory / "password",
            "control": self.control,
            "run_as": USER,
            "stop_within": 5.0,
            "start_within": 20.0,
        }
        if self.control is ControlKind.SYSTEMD:
            given["unit"] = f"postgresql@{VERSION}-{each.name}.service"
        else:
            given["cluster"] = f"{VERSION}/{each.name}"
        return PostgresqlSettings(**{**given, **changes})

    def service(self, name: str, **changes: Any) -> PostgresqlService:
        made = PostgresqlService(self.settings(name, **changes), self.members, lambda epoch, pid, started: True)
        made.progress = lambda words: self.heard[name].append(words) if words else None
        self._services.append(made)
        return made

    async def close(self) -> None:
        for service in self._services:
            await service.close()
        self._services.clear()

    def sql(self, name: str, query: str, host: str = HOST) -> list[tuple[Any, ...]]:
        words = {"host": host, "port": self.of[name].port, "user": "postgres", "dbname": "postgres"}
        if host == HOST:
            words["password"] = PASSWORD
        with psycopg.connect(**words, autocommit=True) as connection:
            cursor = connection.execute(query)  # type: ignore[call-overload]
            return cursor.fetchall() if cursor.description else []

    def kill(self, name: str) -> None:
        running = postmaster.find(self.of[name].data)
        assert running is not None
        end_tree(Tree(running.pid, running.started))
        until(lambda: postmaster.uncollected(self.of[name].data) is None)

    def start_by_hand(self, name: str) -> None:
        run("pg_ctlcluster", "--skip-systemctl-redirect", VERSION, self.of[name].name, "start")

    def remove(self) -> None:
        for each in self.of.values():
            if (running := postmaster.find(each.data)) is not None:
                end_tree(Tree(running.pid, running.started))
            if not each.place.exists():
                continue
            each.data.mkdir(exist_ok=True)  # pg_dropcluster wants to see it
            shutil.chown(each.data, USER, USER)
            subprocess.run(["pg_dropcluster", VERSION, each.name], capture_output=True, check=False)
            shutil.rmtree(each.place, ignore_errors=True)
            for left in (
                f"/var/run/postgresql/{VERSION}-{each.name}.pid",
                f"/var/log/postgresql/postgresql-{VERSION}-{each.name}.log",
            ):
                Path(left).unlink(missing_ok=True)


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", timeout=60)
    assert done.returncode == 0, (command, done.stdout, done.stderr)


@contextmanager
def clusters(control: ControlKind) -> Iterator[Clusters]:
    directory = Path(tempfile.mkdtemp(prefix="tanist-debian-", dir=fast_directory()))
    user = pwd.getpwnam(USER)
    os.chown(directory, user.pw_uid, user.pw_gid)
    directory.chmod(0o755)
    (directory / "password").write_text(PASSWORD + "\n")
    made = Clusters(directory, control)
    try:
        made.make()
        yield made
    finally:
        made.remove()
        shutil.rmtree(directory, ignore_errors=True)
