"""The command line: exit statuses, sentences instead of tracebacks, and output that people and programs can read."""

import asyncio
import json
import os
import socket
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from scenarios import PAUSE, WALL, control, proposal, record
from stub import Asked, StubNode

from orchestrator import __version__
from orchestrator.api.client import ApiClient, NoDaemon, Refused
from orchestrator.cli import context, people, simulating, telling
from orchestrator.cli.main import main
from orchestrator.coordination.sqlite import SqliteMediator
from orchestrator.daemon.clock import wall
from orchestrator.domain.effects import NoticeKind
from orchestrator.domain.record import Answer, Snapshot
from orchestrator.simulation.campaign import run_seed
from orchestrator.simulation.schedules import Result as Simulated

OK, REFUSED, USAGE, UNREACHABLE = 0, 1, 2, 3
PROPOSAL = "orders-3-host_down-db2"
SOON = wall() + 590.0


class Cli:
    """`tanist` as a person types it, with a configuration of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "tanist.yaml"
        self.key = directory / "key"
        self.key.write_text("0" * 64)
        self.key.chmod(0o600)
        self.write()

    def write(self, *, port: int = 1, more: str = "", groups: str = "") -> None:
        self.path.write_text(
            f"cluster: shop\n"
            f"mediator: sqlite://{self.directory}/tanist.db\n"
            f"key_file: {self.key}\n"
            f"directories: {{run: {self.directory}/run, state: {self.directory}/state}}\n"
            f"nodes:\n"
            f"  db1: {{address: 127.0.0.1, paths: ['udp://127.0.0.1:17401']}}\n"
            f"  db2: {{address: 127.0.0.1, paths: ['udp://127.0.0.1:17402']}}\n"
            f"groups:\n"
            f"  orders:\n"
            f"    service: redis\n"
            f"    redis: {{port: {port}}}\n"
            f"    members: {{db1: {{}}, db2: {{address: 127.0.0.2}}}}\n"
            f"{more}{groups}"
        )

    def __call__(self, *words: str, given: str | None = None, **environment: str | None) -> Result:
        surroundings = {"TANIST_CONFIG": str(self.path), "TANIST_NODE": "db1", "COLUMNS": "200", "SUDO_USER": "ann"}
        return CliRunner().invoke(main, list(words), input=given, env={**surroundings, **environment})


@pytest.fixture
def tanist(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


def failed(result: Result, status: int) -> str:
    """What a command that failed said: on standard error only, and never a traceback."""
    assert result.exit_code == status, result.output
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    return result.stderr


def succeeded(result: Result) -> str:
    assert result.exit_code == OK, result.output
    assert result.stderr == ""
    return result.stdout


# --- help ------------------------------------------------------------------------------------------------------------


def commands(group: click.Group, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        yield (*words, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*words, name))


ALL_COMMANDS = tuple(commands(main))


@pytest.mark.parametrize("words", ALL_COMMANDS, ids=" ".join)
def test_every_command_says_what_it_does(words: tuple[str, ...], tanist: Cli):
    said = succeeded(tanist(*words, "-h"))
    sentence = said.split("\n\n")[1].strip()
    assert sentence and not sentence.startswith("Options:")


def test_help_lists_the_commands_in_the_order_in_which_they_are_met(tanist: Cli):
    said = succeeded(tanist("--help"))
    places = [said.index(f"\n  {word} ") for word in ("run", "check", "status", "switchover", "simulate")]
    assert places == sorted(places)


def test_the_version_is_told(tanist: Cli):
    assert succeeded(tanist("--version")).strip() == f"tanist, version {__version__}"


# --- configuration and node ------------------------------------------------------------------------------------------


def test_a_configuration_that_is_not_there_is_named(tanist: Cli):
    said = failed(tanist("--config", "/none/tanist.yaml", "check"), USAGE)
    assert said == "/none/tanist.yaml: No such file or directory\n"


def test_every_mistake_of_the_configuration_is_told_with_its_line(tanist: Cli):
    tanist.path.write_text(tanist.path.read_text().replace("cluster: shop", "cluster: Shop").replace("service:", "servce:"))
    said = failed(tanist("status"), USAGE).splitlines()
    assert [line.startswith(f"{tanist.path}:") for line in said] == [True] * 3
    assert said[0].startswith(f"{tanist.path}:1: cluster: read 'Shop'")
    assert "did you mean 'service'?" in said[2]


def test_a_host_that_is_no_node_is_told_which_nodes_there_are(tanist: Cli):
    said = failed(tanist("--node", "web7", "check", "--offline"), USAGE)
    assert "'web7'" in said
    assert "db1, db2" in said
    assert "TANIST_NODE" in said


def test_the_option_comes_before_the_environment_and_that_before_the_file(tanist: Cli):
    tanist.path.write_text("node: db2\n" + tanist.path.read_text())
    assert "for node db2" in succeeded(tanist("check", "--offline", TANIST_NODE=None))
    assert "for node db1" in succeeded(tanist("check", "--offline"))
    assert "for node db2" in succeeded(tanist("--node", "db2", "check", "--offline"))


# --- without a daemon ------------------------------------------------------------------------------------------------

ASKING = (
    ("status",),
    ("status", "--json"),
    ("status", "--watch"),
    ("explain",),
    ("history",),
    ("proposals",),
    ("switchover",),
    ("failover", "--yes"),
    ("confirm", PROPOSAL),
    ("reject", PROPOSAL),
    ("pause",),
    ("resume",),
    ("adopt", "--primary", "db1", "--yes"),
)


@pytest.mark.parametrize("words", ASKING, ids=" ".join)
def test_without_a_daemon_a_command_says_so_and_where_it_looked(words: tuple[str, ...], tanist: Cli):
    result = tanist(*words)
    place = tanist.directory / "run" / "db1" / "api.sock"
    assert failed(result, UNREACHABLE) == f"no daemon runs for this node: nobody listens at {place}\n"
    assert result.stdout == ""


def test_a_socket_that_a_dead_daemon_left_behind_is_no_daemon(tanist: Cli):
    place = tanist.directory / "run" / "db1" / "api.sock"
    place.parent.mkdir(parents=True)
    with closing(socket.socket(socket.AF_UNIX)) as left:
        left.bind(str(place))
    assert "nobody listens" in failed(tanist("status"), UNREACHABLE)


def hear_out(connection: socket.socket) -> None:
    """The whole question: whoever closes before its end has broken the pipe."""
    with connection.makefile("rb") as question:
        length = 0
        while (line := question.readline().strip()) != b"":
            if line.lower().startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        question.read(length)


@pytest.fixture
def answering(tmp_path: Path) -> Iterator[Any]:
    """A daemon that answers every question with the same bytes; None: never."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "api.sock"))
    listener.listen(4)
    answer: list[bytes | None] = [b""]
    kept: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            kept.append(connection)
            if answer[0] is not None:
                hear_out(connection)
                connection.sendall(answer[0])
                connection.close()

    thread = threading.Thread(target=serve)
    thread.start()

    def begin(text: bytes | None, timeout: float = 5.0) -> ApiClient:
        answer[0] = text
        return ApiClient(tmp_path / "api.sock", timeout)

    yield begin
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(5)
    for connection in kept:
        connection.close()


def http(status: str, body: str) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


def test_the_client_gives_the_daemons_answer_or_its_reason(answering: Any):
    assert answering(http("200 OK", '{"epoch": 3}')).get("/v1/status") == {"epoch": 3}
    with pytest.raises(Refused, match=r"^paused already$") as caught:
        answering(http("409 Conflict", '{"error": "paused already"}')).post("/v1/groups/orders/pause", {"by": "ann"})
    assert caught.value.status == 409


def test_an_answer_that_is_not_json_is_shown(answering: Any):
    with pytest.raises(Refused, match="502 with what is not JSON: b'<html>'"):
        answering(http("502 Bad Gateway", "<html>")).get("/v1/status")


@pytest.mark.parametrize("text", [None, b"", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", b"junk\r\n\r\n"], ids=repr)
def test_a_daemon_that_hangs_or_dies_while_it_answers_is_told_as_such(text: bytes | None, answering: Any):
    with pytest.raises(NoDaemon, match=r"the daemon at .*api\.sock does not answer: ."):
        answering(text, timeout=0.05).get("/v1/status")


# --- with a daemon ---------------------------------------------------------------------------------------------------


class Inside(ApiClient):
    """The daemon's socket, without a socket."""

    def __init__(self, api: Asked) -> None:
        super().__init__(Path("inside"))
        self._api = api

    def _raw(self, method: str, path: str, body: str | None) -> tuple[int, bytes]:
        answer = self._api.request(method, path, content=body)
        return answer.status_code, answer.content


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StubNode:
    stub = StubNode(tmp_path)
    monkeypatch.setattr(context.Setting, "client", lambda setting: Inside(stub.api()))
    monkeypatch.setattr(people, "LOOK_EVERY", 0.0)
    return stub


def test_the_status_names_the_primary_and_how_each_member_does(stub: StubNode, tanist: Cli):
    said = succeeded(tanist("status"))
    assert "cluster shop, seen from db1; mediator reachable" in said
    assert "orders  epoch 3, primary db1, lease 1.0 s, automatic, gate open" in said
    rows = {line.split()[0]: line for line in said.splitlines() if line.strip()}
    assert rows["db1"].split()[1:4] == ["primary", "serving", "well"]
    assert "20 B" in rows["db3"]
    assert "0.40 ms" in rows["db2"]
    assert rows["db2"].rstrip().endswith("yes")
    assert "promised by db2, db3" in said
    assert "remark: no real-time priority" in said


def test_the_status_shows_what_a_person_must_know(stub: StubNode, tanist: Cli):
    assert stub.runner.state.keeper is not None
    mediated = replace(
        stub.runner.state.mediated, lost_since=1.0, lost_because="no answer", control=control(paused=PAUSE, proposal=proposal())
    )
    stub.change(mediated=mediated, keeper=replace(stub.runner.state.keeper, frozen_since=1.0))
    stub.keeper.connected = False
    said = succeeded(tanist("status"))
    for words in (
        "the daemon has no keeper at the moment",
        "FROZEN",
        "mediator lost for",
        "no answer",
        "paused by ann: maintenance",
        "WAITS FOR A PERSON: db1 has not been heard",
        f"tanist confirm {PROPOSAL}",
    ):
        assert words in said


def test_a_status_for_programs_is_one_json_object(stub: StubNode, tanist: Cli):
    found = json.loads(succeeded(tanist("status", "--json")))
    assert found["groups"]["orders"]["primary"] == "db1"


def test_watching_draws_until_it_is_interrupted(stub: StubNode, tanist: Cli, monkeypatch: pytest.MonkeyPatch):
    slept: list[float] = []

    def sleep(span: float) -> None:
        slept.append(span)
        if len(slept) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(telling.time, "sleep", sleep)
    assert "primary db1" in succeeded(tanist("status", "--watch", "--every", "0.25"))
    assert slept == [0.25] * 3


@pytest.mark.parametrize("words", [("status", "--every", "-1"), ("history", "--last", "-1"), ("explain", "--last", "x")])
def test_a_number_out_of_range_is_a_mistake_of_use(words: tuple[str, ...], stub: StubNode, tanist: Cli):
    assert "Invalid value" in failed(tanist(*words), USAGE)


def test_an_explanation_says_why_and_gives_the_evidence(stub: StubNode, tanist: Cli):
    stub.tell("db1 serves", evidence=("it won the record",))
    said = succeeded(tanist("explain", "orders"))
    assert said.startswith("orders: primary db1 in epoch 3\nbecause: for the test\n")
    assert "nothing is being held back" in said
    assert "2023-11-14 22:13:20.250Z  decision epoch 3  db1 serves\n      it won the record\n" in said
    assert json.loads(succeeded(tanist("explain", "--json")))["history"][0]["text"] == "db1 serves"


def test_a_long_sentence_is_one_line_for_whoever_searches_for_it(stub: StubNode, tanist: Cli):
    sentence = "db1 serves because " + "of this and " * 30 + "[/] of [that]"
    stub.tell(sentence)
    assert sentence in succeeded(tanist("history", COLUMNS="40"))
    assert json.loads(succeeded(tanist("history", "--json")))[0]["text"] == sentence


def test_the_history_shows_as_many_sentences_as_are_asked_for(stub: StubNode, tanist: Cli):
    for number in range(4):
        stub.tell(f"sentence {number}")
    said = succeeded(tanist("history", "--last", "2"))
    assert [line.split()[-1] for line in said.splitlines()] == ["2", "3"]


def test_a_group_that_is_not_here_is_told_with_those_that_are(stub: StubNode, tanist: Cli):
    for words in (("explain",), ("history",), ("proposals",), ("pause",), ("switchover",)):
        assert failed(tanist(*words, "other"), USAGE) == "no group 'other' here; there are: orders\n"


def test_whoever_has_several_groups_must_say_which(stub: StubNode, tanist: Cli, monkeypatch: pytest.MonkeyPatch):
    both = {"orders": stub.runner, "sessions": stub.runner}
    node = stub.node
    node.groups = both
    monkeypatch.setattr(StubNode, "node", node)
    assert failed(tanist("pause"), USAGE) == "say which group: orders, sessions\n"
    assert stub.said.paused is None
    node.groups = {}
    assert failed(tanist("pause"), USAGE) == "say which group: there is none on this node\n"


# --- people's words --------------------------------------------------------------------------------------------------


def test_a_pause_and_its_end(stub: StubNode, tanist: Cli):
    assert succeeded(tanist("pause", "--reason", "new switches")) == (
        "orders is paused in the name of ann; `tanist resume orders` ends it\n"
    )
    assert stub.said.paused is not None
    assert (stub.said.paused.by, stub.said.paused.reason) == ("ann", "new switches")
    assert failed(tanist("pause", "--by", "bob"), REFUSED) == "paused already, by ann\n"
    assert succeeded(tanist("resume")) == "orders goes on by itself\n"
    assert stub.said.paused is None
    assert failed(tanist("resume"), REFUSED) == "not paused\n"


def test_a_name_is_printed_as_it_is(stub: StubNode, tanist: Cli):
    assert "in the name of [/] [red]ann;" in succeeded(tanist("pause", "--by", "[/] [red]ann"))


def test_a_user_whom_the_host_does_not_know_has_a_number(stub: StubNode, tanist: Cli, monkeypatch: pytest.MonkeyPatch):
    def unknown(user: int) -> Any:
        raise KeyError(user)

    monkeypatch.setattr(context.pwd, "getpwuid", unknown)
    assert f"in the name of user {os.getuid()};" in succeeded(tanist("pause", SUDO_USER=None))


def test_without_proposals_nothing_waits(stub: StubNode, tanist: Cli):
    assert succeeded(tanist("proposals")) == "nothing waits for a person\n"


def test_a_proposal_is_shown_with_all_that_a_person_needs(stub: StubNode, tanist: Cli):
    stub.say(control(proposal=proposal(expires_wall=time.time() + 599.0)))
    said = succeeded(tanist("proposals", COLUMNS="40"))
    assert said.startswith(f"{PROPOSAL}  for epoch 3, expires in 9 min")
    assert "  db1 has not been heard for 2.0 s; db2 would become primary in epoch 4\n" in said
    assert "  expected loss: 0 bytes\n" in said
    assert "  interconnected: no beat\n" in said
    assert f"  tanist confirm {PROPOSAL}    or    tanist reject {PROPOSAL}\n" in said
    stub.say(control(proposal=proposal(expected_loss_bytes=None)))
    assert "expected loss: cannot be told" in succeeded(tanist("proposals", "orders"))


@pytest.mark.parametrize("answer", ["confirm", "reject"])
def test_an_answer_to_a_proposal_that_is_not_open_is_refused(answer: str, stub: StubNode, tanist: Cli):
    said = failed(tanist(answer, PROPOSAL), REFUSED)
    assert said == f"there is no open proposal {PROPOSAL}: it was answered already, has expired, or its situation is over\n"


def test_an_approval_counts_for_the_epoch_that_was_shown(stub: StubNode, tanist: Cli):
    stub.say(control(proposal=proposal(expires_wall=SOON)))
    assert "was for epoch 3" in failed(tanist("confirm", PROPOSAL, "--epoch", "2"), REFUSED)
    assert succeeded(tanist("confirm", PROPOSAL, "--no-wait")) == f"{PROPOSAL} approved in the name of ann\n"
    assert stub.said.request is not None
    assert (stub.said.request.by, stub.said.request.proposal) == ("ann", PROPOSAL)


def test_an_approval_of_a_proposal_that_has_expired_is_refused(stub: StubNode, tanist: Cli):
    stub.say(control(proposal=proposal(expires_wall=WALL)))
    assert failed(tanist("confirm", PROPOSAL), REFUSED) == f"proposal {PROPOSAL} has expired\n"


def test_a_rejection(stub: StubNode, tanist: Cli):
    stub.say(control(proposal=proposal(expires_wall=SOON)))
    assert succeeded(tanist("reject", PROPOSAL)) == f"{PROPOSAL} rejected in the name of ann\n"
    assert (stub.said.proposal, stub.said.rejected) == (None, PROPOSAL)


def test_a_switchover_can_be_asked_for_without_waiting(stub: StubNode, tanist: Cli):
    assert succeeded(tanist("switchover", "--to", "db3", "--no-wait")) == "switchover of orders asked for, in the name of ann\n"
    assert stub.said.request is not None
    assert stub.said.request.target == "db3"


def test_a_switchover_to_nobody_is_refused_with_the_members(stub: StubNode, tanist: Cli):
    assert "its members are db1, db2, db3" in failed(tanist("switchover", "--to", "db9"), REFUSED)


def when_looked_at(stub: StubNode, monkeypatch: pytest.MonkeyPatch, acts: Iterable[Any]) -> None:
    """What happens between the looks of a command that waits."""
    coming = iter(acts)
    monkeypatch.setattr(people.time, "sleep", lambda _: next(coming)())


def test_a_switchover_waits_until_somebody_serves_the_new_epoch(stub: StubNode, tanist: Cli, monkeypatch: pytest.MonkeyPatch):
    def heard() -> None:
        stub.say(stub.said)

    def done() -> None:
        newer = record(version=6, epoch=4)
        stub.store.restore(Snapshot(group="orders", record=newer, control=control()))
        assert stub.runner.state.keeper is not None
        keeper = replace(stub.runner.state.keeper, epoch=4, right_epoch=4)
        stub.change(mediated=replace(stub.runner.state.mediated, record=newer, control=control()), keeper=keeper)

    when_looked_at(stub, monkeypatch, [heard, heard, done])
    assert "db1 is primary of orders in epoch 4" in succeeded(tanist("switchover"))


def test_a_switchover_that_is_refused_meanwhile_says_why(stub: StubNode, tanist: Cli, monkeypatch: pytest.MonkeyPatch):
    def heard() -> None:
        stub.say(stub.said)

    def refused() -> None:
        stub.tell("switchover refused: db2 is not heard", NoticeKind.REFUSAL)
        stub.say(control(version=9))

    when_looked_at(stub, monkeypatch, [heard, refused])
    assert failed(tanist("switchover"), REFUSED) == "not done: switchover refused: db2 is not heard\n"


def test_a_switchover_that_another_host_refuses_says_why_in_that_hosts_words(
    stub: StubNode, tanist: Cli, monkeypatch: pytest.MonkeyPatch
):
    """The history here speaks of other things."""

    def heard() -> None:
        stub.say(stub.said)

    def refused() -> None:
        stub.tell("proposal orders-1-process_down-db2 is void", NoticeKind.DECISION)
        words = Answer(request=stub.said.request.id, text="db3 is not heard", by="db2", at_wall=0.0)
        stub.say(control(version=9, answer=words))

    when_looked_at(stub, monkeypatch, [heard, refused])
    assert failed(tanist("switchover"), REFUSED) == "not done: db3 is not heard (db2)\n"


def test_a_switchover_that_was_refused_between_two_looks_is_not_waited_for(
    stub: StubNode, tanist: Cli, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(people, "HEARD_WITHIN", 0.0)
    when_looked_at(stub, monkeypatch, [lambda: None])
    assert "`tanist explain orders` on the primary tells why" in failed(tanist("switchover"), REFUSED)


def test_a_switchover_that_is_never_done_is_not_waited_for_for_ever(stub: StubNode, tanist: Cli, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(people, "WAIT_FOR", 0.0)
    assert failed(tanist("switchover"), REFUSED) == "not done after 0 s; `tanist explain orders` tells why\n"


def test_a_failover_asks_back_unless_told_not_to(stub: StubNode, tanist: Cli):
    result = tanist("failover", "--no-wait", given="n\n")
    assert result.exit_code == REFUSED
    assert "may lose writes" in result.output
    assert stub.said.request is None
    assert "failover of orders asked for" in succeeded(tanist("failover", "--no-wait", "--yes"))
    assert stub.said.request is not None


def test_an_adoption_asks_back_and_says_who_is_not_heard(stub: StubNode, tanist: Cli):
    before = stub.store.read("orders").record
    result = tanist("adopt", "--primary", "db2", given="n\n")
    assert result.exit_code == REFUSED
    assert "the highest epoch known here is 3; not heard: nobody" in result.output
    assert stub.store.read("orders").record == before
    said = succeeded(tanist("adopt", "--primary", "db2", "--epoch-above", "7", "--yes"))
    assert said == "orders: adopted in the name of ann: db2 in epoch 8\n"


def test_an_adoption_needs_a_primary(tanist: Cli):
    assert "--primary" in failed(tanist("adopt", "--yes"), USAGE)


# --- check -----------------------------------------------------------------------------------------------------------


def test_a_host_in_order_is_told_so(tanist: Cli):
    said = succeeded(tanist("check", "--offline"))
    assert said.splitlines()[-1] == f"{tanist.path} is in order for node db1 (orders)"


def wrong(result: Result) -> str:
    """The one thing that is wrong."""
    assert result.exit_code == REFUSED, result.output
    assert "1 thing is wrong for node db1" in result.stderr
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("wrong")]
    return line.removeprefix("wrong  ")


def test_a_key_that_is_missing_or_open_to_others_is_wrong(tanist: Cli):
    tanist.key.chmod(0o644)
    assert wrong(tanist("check", "--offline")).endswith(f"chmod 0600 {tanist.key}")
    tanist.key.unlink()
    assert wrong(tanist("check", "--offline")).endswith(f"No such file or directory; `tanist key {tanist.key}` makes one")


def test_a_directory_that_cannot_be_made_is_wrong(tanist: Cli):
    (tanist.directory / "run").write_text("a file")
    assert "run cannot be made or written" in wrong(tanist("check", "--offline"))


def test_warm_standbys_without_a_gate_are_wrong(tanist: Cli, monkeypatch: pytest.MonkeyPatch):
    tanist.write(more="    standbys: warm\n")
    monkeypatch.setattr("orchestrator.cli.checking.why_impossible", lambda: "no permission")
    assert wrong(tanist("check", "--offline")).startswith("groups.orders.standbys: warm takes the kernel gate")
    monkeypatch.setattr("orchestrator.cli.checking.why_impossible", lambda: "")
    succeeded(tanist("check", "--offline"))


CLIENT = "    clients: [{{file: {{template: {0}/x.j2, path: {1}/x.cfg}}}}]\n"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (None, "x.j2: No such file or directory"),
        ("{{ primary.adress }}", "x.j2"),
        ("one\n{% if %}", "x.j2, line 2"),
        ("{{ 1 // 0 }}", "x.j2, line 1: ZeroDivisionError"),
    ],
    ids=["missing", "unknown name", "syntax", "failure"],
)
def test_a_template_that_would_fail_at_a_failover_is_wrong_now(template: str | None, words: str, tanist: Cli):
    if template is not None:
        (tanist.directory / "x.j2").write_text(template)
    tanist.write(more=CLIENT.format(tanist.directory, tanist.directory))
    said = wrong(tanist("check", "--offline"))
    assert said.startswith("groups.orders.clients: template ")
    assert words in said


def test_a_client_files_directory_that_is_not_there_is_wrong(tanist: Cli):
    (tanist.directory / "x.j2").write_text("{{ primary.name }}")
    tanist.write(more=CLIENT.format(tanist.directory, tanist.directory / "none"))
    assert wrong(tanist("check", "--offline")).endswith("none does not exist")


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def test_a_service_that_nobody_could_start_is_wrong(tanist: Cli):
    tanist.write(port=free_port())
    said = wrong(tanist("check"))
    assert said.startswith("groups.orders: the service does not run here")
    assert said.endswith("nothing says how to: set redis.config or redis.start")


def test_what_the_first_daemon_will_make_is_worth_a_note(tanist: Cli):
    tanist.write(port=free_port())
    file = tanist.directory / "tanist.db"
    said = tanist("check").stdout
    assert f"note   mediator: {file} does not exist yet: the first daemon will make it\n" in said
    assert not file.exists()

    async def begin() -> None:
        mediator = SqliteMediator(file, "shop", "db2")
        await mediator.start()
        await mediator.read("orders", 5.0)
        await mediator.stop()

    asyncio.run(begin())
    said = tanist("check").stdout
    assert "note   orders has no record yet: the first primary that is found running will make it\n" in said


def test_a_mediator_without_its_directory_is_wrong(tanist: Cli):
    text = tanist.path.read_text().replace("/tanist.db", "/none/tanist.db")
    tanist.path.write_text(text)
    assert f"wrong  mediator: the directory {tanist.directory}/none does not exist\n" in tanist("check").stdout


# --- key, schema -----------------------------------------------------------------------------------------------------


def test_a_new_key_is_for_its_owner_only_and_never_overwritten(tanist: Cli):
    path = tanist.directory / "new"
    succeeded(tanist("key", str(path)))
    first = path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(bytes.fromhex(first)) == 32
    assert failed(tanist("key", str(path)), REFUSED) == f"{path} exists already; it is not overwritten\n"
    assert path.read_text() == first
    succeeded(tanist("key", str(tanist.directory / "other")))
    assert (tanist.directory / "other").read_text() != first


def test_a_key_that_cannot_be_written_is_told(tanist: Cli):
    path = tanist.directory / "none" / "key"
    assert failed(tanist("key", str(path)), REFUSED) == f"{path}: No such file or directory\n"


def test_the_schema_is_printed_for_editors(tanist: Cli):
    schema = json.loads(succeeded(tanist("schema", TANIST_CONFIG="/none")))
    assert schema["properties"]["cluster"]["type"] == "string"


# --- run, dismantle --------------------------------------------------------------------------------------------------


def test_a_daemon_without_its_key_does_not_start(tanist: Cli):
    tanist.key.unlink()
    assert f"`tanist key {tanist.key}` makes one" in failed(tanist("run"), REFUSED)


def test_dismantling_asks_back(tanist: Cli):
    result = tanist("dismantle", given="n\n")
    assert result.exit_code == REFUSED
    assert not (tanist.directory / "run").exists()


# --- simulate --------------------------------------------------------------------------------------------------------


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[Simulated]:
    """Schedules run in this process, or are the ones given here."""
    given: list[Simulated] = []

    def run(first: int, number: int, rule: str | None = None, *, processes: int = 0) -> Iterator[Simulated]:
        yield from given or (run_seed(seed, rule) for seed in range(first, first + number))

    monkeypatch.setattr(simulating, "run_seeds", run)
    return given


def test_a_simulation_must_be_told_what_to_do(tanist: Cli):
    assert failed(tanist("simulate"), USAGE) == "say --seeds N, --seed S or --rules\n"


@pytest.mark.parametrize(
    "words", [("--seeds", "0"), ("--seed", "-1"), ("--seeds", "many"), ("--seeds", "1", "--first", "-1")], ids=" ".join
)
def test_a_number_of_schedules_that_is_none_is_a_mistake_of_use(words: tuple[str, ...], tanist: Cli):
    assert "Invalid value" in failed(tanist("simulate", *words), USAGE)


def test_a_rule_that_there_is_not_is_refused(tanist: Cli):
    said = failed(tanist("simulate", "--seeds", "1", "--without", "gravity"), USAGE)
    assert said == "no rule 'gravity'; `tanist simulate --rules` lists them\n"


def test_every_rule_that_can_be_switched_off_is_listed(tanist: Cli):
    said = succeeded(tanist("simulate", "--rules"))
    assert all(f"\n{name} " in said for name in simulating.BY_NAME)


def test_a_seed_is_replayed_with_a_transcript_the_same_every_time(tanist: Cli):
    said = succeeded(tanist("simulate", "--seed", "3", COLUMNS="40"))
    assert len(said.splitlines()) > 20
    assert said.splitlines()[-2].startswith("seed 3: ")
    assert said.splitlines()[-1] == "every promise held"
    assert succeeded(tanist("simulate", "--seed", "3", COLUMNS="40")) == said


def test_schedules_that_hold_are_counted(here: list[Simulated], tanist: Cli):
    said = succeeded(tanist("simulate", "--seeds", "2", "--first", "4"))
    assert "2 schedules from seed 4: " in said
    assert "every promise held in every schedule" in said


def broken(seed: int) -> Simulated:
    told = "P1 at 3.2 s: db1 and db2 commit at once"
    return Simulated(seed=seed, broken=told, simulated=3.2, failovers=1, freezes=0, transcript=())


def test_a_broken_promise_is_told_with_the_command_that_replays_it(here: list[Simulated], tanist: Cli):
    here += [broken(5), broken(6)]
    result = tanist("simulate", "--seeds", "2", "--without", "lives", COLUMNS="40")
    assert result.exit_code == REFUSED
    assert "broken: P1 1 times\n" in result.stdout
    assert "P1 at 3.2 s: db1 and db2 commit at once\n    tanist simulate --seed 5 --without lives\n" in result.stdout
    assert "--seed 6" not in result.stdout
    assert "--seed 6" in tanist("simulate", "--seeds", "2", "--all").stdout


def test_a_serial_line_without_its_device_is_wrong_and_a_slow_one_is_worth_a_note(tanist: Cli):
    text = tanist.path.read_text()
    for port, device in ((17401, tanist.directory / "line"), (17402, "/dev/null")):
        network = f"'udp://127.0.0.1:{port}'"
        assert text.count(network) == 1
        text = text.replace(network, f"{network}, 'serial://{device}?baud=38400'")
    tanist.path.write_text(text)
    said = tanist("check").stdout
    assert f"wrong  nodes.db1.paths.1: {tanist.directory}/line is no device of this host" in said
    assert "note   nodes.db1.paths.1: at 38400 baud what members say (health, positions) goes with some of the beats only" in said
    said = tanist("--node", "db2", "check").stdout
    assert "nodes.db2.paths.1: /dev/null" not in said
