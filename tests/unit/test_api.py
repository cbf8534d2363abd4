"""The HTTP side of a daemon: what it tells, what it lets a person say, and what it refuses with a reason."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from scenarios import PAUSE, WALL, control, keeper, peers_of, proposal, record, request, service, state
from stub import Asked, StubNode

from orchestrator.api.access import Door
from orchestrator.api.app import ACTS
from orchestrator.api.health import BY_NAME
from orchestrator.daemon.clock import now, wall
from orchestrator.domain.effects import NoticeKind
from orchestrator.domain.observations import Hold
from orchestrator.domain.policy import Replication
from orchestrator.domain.record import RequestKind
from orchestrator.domain.spans import FOREVER
from orchestrator.domain.topology import Pair
from orchestrator.domain.verdicts import Diagnosis, Finding, Refusal
from orchestrator.engine.state import Phase, frozen_mapping
from orchestrator.ports import Conflict

ALL_ACTS = (*ACTS, "adopt")
SOON = wall() + 600.0


@pytest.fixture
def stub(tmp_path: Path) -> StubNode:
    return StubNode(tmp_path)


@pytest.fixture
def api(stub: StubNode) -> Asked:
    """The host's own socket, where acts are taken."""
    return stub.api()


def said(api: Asked, act: str, status: int = 200, **word: Any) -> Any:
    answer = api.post(f"/v1/groups/orders/{act}", json={"by": "ann", **word})
    assert answer.status_code == status, answer.text
    return answer.json()


def refused(api: Asked, act: str, status: int = 409, **word: Any) -> str:
    told = said(api, act, status, **word)["error"]
    assert isinstance(told, str)
    return told


# --- telling ---------------------------------------------------------------------------------------------------------


def test_the_status_tells_of_node_keeper_mediator_and_every_group(api: Asked):
    answer = api.get("/v1/status").json()
    assert (answer["cluster"], answer["node"], answer["mediator"]) == ("shop", "db1", "reachable")
    assert answer["keeper"]["connected"] is True
    assert answer["keeper"]["remarks"] == ["no real-time priority: not permitted"]
    assert 59 < answer["up_seconds"] < 3600
    assert list(answer["groups"]) == ["orders"]
    assert answer["groups"]["orders"]["primary"] == "db1"


def test_a_group_is_told_with_its_right_and_how_each_member_does(api: Asked):
    answer = api.get("/v1/groups/orders").json()
    assert (answer["phase"], answer["epoch"], answer["serving"]) == ("serving", 3, "db1")
    assert answer["succession"] == ["db2", "db3"]
    assert answer["right"]["held"] is True
    assert 3000 < answer["right"]["left_seconds"] <= 3600
    members = {each["name"]: each for each in answer["members"]}
    assert list(members) == ["db1", "db2", "db3", "app1"]
    assert members["db1"]["self"] is True
    assert members["db2"]["in_succession"] is True
    assert members["db2"]["paths"][0]["lost"] == 0.25
    assert (members["db2"]["lag_bytes"], members["db3"]["lag_bytes"]) == (0, 20)
    assert (members["app1"]["witness"], members["app1"]["why_not"]) == (True, "a witness has no data")


def test_a_right_without_end_is_told_in_words_that_json_knows(stub: StubNode, api: Asked):
    stub.until = FOREVER
    right = api.get("/v1/groups/orders").json()["right"]
    assert (right["held"], right["endless"], right["left_seconds"]) == (True, True, None)


def test_a_daemon_that_knows_nothing_yet_can_be_asked(stub: StubNode, api: Asked):
    unknown = replace(stub.runner.state.mediated, record=None)
    stub.change(mediated=unknown, keeper=None, phase=Phase.STARTING)
    answer = api.get("/v1/groups/orders").json()
    assert (answer["primary"], answer["serving"], answer["gate"]) == (None, None, "no keeper")
    assert answer["right"]["held"] is False
    assert api.get("/v1/groups/orders/explain").json()["reason"] is None
    assert api.get("/metrics").status_code == 200


def test_an_explanation_says_why_nothing_is_done_and_what_was_decided(stub: StubNode, api: Asked):
    closed = Refusal(act="takeover", gate="lease over", reason="the record may be alive", since=stub.runner.state.now)
    stub.change(refusals=frozen_mapping({"takeover": closed}))
    stub.tell("db1 serves", evidence=("it won the record",))
    answer = api.get("/v1/groups/orders/explain").json()
    assert answer["reason"] == "for the test"
    assert [(each["act"], each["gate"], each["reason"]) for each in answer["refusals"]] == [
        ("takeover", "lease over", "the record may be alive")
    ]
    assert answer["history"][0]["text"] == "db1 serves"
    assert answer["history"][0]["evidence"] == ["it won the record"]


def test_the_history_gives_the_newest_sentences_oldest_first(stub: StubNode, api: Asked):
    for number in range(5):
        stub.tell(f"sentence {number}")
    assert [each["text"] for each in api.get("/v1/groups/orders/history?last=2").json()] == ["sentence 3", "sentence 4"]
    assert len(api.get("/v1/groups/orders/history").json()) == 5
    assert api.get("/v1/groups/orders/history?last=0").json() == []


@pytest.mark.parametrize("count", ["-1", "many", "1.5", "", "²", "9" * 5000], ids=lambda count: count[:5] or "nothing")
@pytest.mark.parametrize("path", ["history", "explain"])
def test_a_count_that_is_none_is_refused(path: str, count: str, api: Asked):
    answer = api.get(f"/v1/groups/orders/{path}", params={"last": count})
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("last: read ")


@pytest.mark.parametrize("path", ["", "/explain", "/history"])
def test_a_group_that_is_not_here_is_refused_with_those_that_are(path: str, api: Asked):
    answer = api.get(f"/v1/groups/other{path}")
    assert answer.status_code == 404
    assert answer.json() == {"error": "no group 'other' on db1; its groups: orders"}


@pytest.mark.parametrize("path", ["/", "/v1", "/v2/status", "/v1/groups", "/health/orders"])
def test_what_is_not_there_is_refused_in_json(path: str, api: Asked):
    answer = api.get(path)
    assert answer.status_code == 404
    assert answer.json()["error"]


def test_our_own_mistake_is_told_and_the_next_question_is_answered(stub: StubNode):
    api = stub.api()
    good = stub.runner.state
    stub.runner.state = None  # type: ignore[assignment]
    answer = api.get("/v1/groups/orders")
    assert answer.status_code == 500
    assert "AttributeError" in answer.json()["error"]
    stub.runner.state = good
    assert api.get("/v1/groups/orders").status_code == 200


# --- health ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "role", "status"),
    [
        (Phase.SERVING, "primary", 200),
        (Phase.SERVING, "standby", 503),
        (Phase.STANDBY, "standby", 200),
        (Phase.STANDBY, "primary", 503),
        (Phase.PROMOTING, "primary", 503),
        (Phase.HANDING_OVER, "primary", 503),
        (Phase.LETTING_GO, "primary", 503),
        (Phase.JOINING, "standby", 503),
        (Phase.WITNESS, "standby", 503),
    ],
)
def test_a_load_balancer_is_led_only_to_the_role_that_is_held(phase: Phase, role: str, status: int, stub: StubNode, api: Asked):
    stub.change(phase=phase)
    answer = api.get(f"/health/orders/{role}")
    assert answer.status_code == status
    told = answer.json()
    assert (told["phase"], told["epoch"]) == (phase, 3)
    assert ("reason" in told) == (status == 503)


def test_a_frozen_primary_is_no_primary_for_a_load_balancer(stub: StubNode, api: Asked):
    assert stub.runner.state.keeper is not None
    stub.change(keeper=replace(stub.runner.state.keeper, frozen_since=1.0))
    assert api.get("/health/orders/primary").status_code == 503


GONE, FULL = {"gone_since": 1.0}, {"finding": Finding(Diagnosis.DISK_FULL, "its disk is full"), "found_since": 1.0}


@pytest.mark.parametrize(
    "wrong", [GONE, {"silent_since": 1.0}, FULL, {"view": None}], ids=["gone", "silent", "disk full", "never"]
)
def test_a_primary_whose_service_does_not_work_is_none_for_a_load_balancer(wrong: dict[str, Any], stub: StubNode, api: Asked):
    stub.change(local=replace(stub.runner.state.local, **wrong))
    answer = api.get("/health/orders/primary")
    assert answer.status_code == 503
    assert answer.json()["reason"]


def test_a_primary_whose_right_has_run_out_is_none_for_a_load_balancer(stub: StubNode, api: Asked):
    stub.until = now() - 0.001
    assert api.get("/primary").json()["reason"] == "the right has run out"


AS_PRIMARY = {"primary", "master", "leader", "read-write", "read-only", "health", "readiness", "liveness"}
AS_STANDBY = {"replica", "read-only", "asynchronous", "async", "health", "readiness", "liveness"}


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_load_balancers_that_ask_as_for_patroni_get_the_same_answers(method: str, stub: StubNode):
    def good() -> set[str]:
        api = stub.api()
        return {name for name in BY_NAME if api.request(method, f"/{name}").status_code == 200}

    assert good() == AS_PRIMARY
    stub.change(phase=Phase.STANDBY)
    assert good() == AS_STANDBY
    stub.warm = True
    assert good() == {"health", "liveness"}
    stub.warm = False
    synchronous = replace(record(), succession=(Pair("db1", 11),))
    policy = replace(stub.runner.state.policy, replication=Replication.SYNCHRONOUS)
    stub.change(policy=policy, mediated=replace(stub.runner.state.mediated, record=synchronous))
    assert good() == AS_STANDBY - {"asynchronous", "async"} | {"synchronous", "sync"}


@pytest.mark.parametrize(("lag", "status"), [("20", 200), ("19", 503), ("1kB", 200), ("much", 404), ("-1", 404), ("9" * 40, 404)])
def test_a_standby_that_lags_is_none_for_a_load_balancer_that_says_how_much_it_may(lag: str, status: int, tmp_path: Path):
    stub = StubNode(tmp_path)
    behind = service(offset=480)
    stub.runner.state = state("db2", keeper=keeper("db2", peers=peers_of("db2")), local=replace(state("db2").local, view=behind))
    stub.change(phase=Phase.STANDBY)
    answer = stub.api().get("/replica", params={"lag": lag})
    assert answer.status_code == status, answer.text


def test_a_role_that_nobody_has_is_refused(api: Asked):
    answer = api.get("/health/orders/boss")
    assert answer.status_code == 404
    assert "expected primary or standby" in answer.json()["error"]


# --- metrics ---------------------------------------------------------------------------------------------------------

Samples = dict[tuple[str, tuple[str, ...]], float]
"""By name and labels, these in the order of their names."""


def measured(api: Asked) -> Samples:
    answer = api.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    families = text_string_to_metric_families(answer.text)
    samples = [each for family in families for each in family.samples]
    return {(each.name, tuple(each.labels[name] for name in sorted(each.labels))): each.value for each in samples}


def test_the_metrics_tell_of_role_right_and_succession(stub: StubNode, api: Asked):
    found = measured(api)
    roles = {role: found["tanist_role", ("orders", role)] for role in ("primary", "standby", "witness", "other")}
    assert roles == {"primary": 1.0, "standby": 0.0, "witness": 0.0, "other": 0.0}
    assert found["tanist_epoch", ("orders",)] == 3
    assert found["tanist_succession_members", ("orders",)] == 2
    assert 3000 < found["tanist_lease_left_seconds", ("orders",)] <= 3600
    assert found["tanist_frozen", ("orders",)] == 0
    stub.until = FOREVER
    assert measured(api)["tanist_lease_left_seconds", ("orders",)] == float("inf")


def test_the_metrics_tell_of_paths_and_beats(api: Asked):
    found = measured(api)
    assert found["tanist_path_loss_ratio", ("10.0.0.1:7400", "db2")] == 0.25
    assert found["tanist_path_round_trip_seconds", ("10.0.0.1:7400", "db2")] == 0.0004
    assert found["tanist_beats_sent_total", ("10.0.0.1:7400", "db2")] == 90
    assert found["tanist_beats_refused_total", ("old number",)] == 2
    assert found["tanist_line_up", ("serial:///dev/ttyS0", "db2")] == 1
    assert found["tanist_freezes_total", ("orders",)] == 1


def test_the_metrics_tell_what_is_worth_an_alarm(stub: StubNode, api: Asked):
    lost = replace(stub.runner.state.mediated, lost_since=1.0, control=control(paused=PAUSE, proposal=proposal()))
    assert stub.runner.state.keeper is not None
    stub.change(mediated=lost, keeper=replace(stub.runner.state.keeper, frozen_since=1.0))
    stub.tell("there is no standby", NoticeKind.ALARM)
    found = measured(api)
    for name in ("tanist_mediator_lost", "tanist_paused", "tanist_proposal_open", "tanist_frozen"):
        assert found[name, ("orders",)] == 1, name
    assert found["tanist_notices_total", ("test", "orders", "alarm")] == 1


def test_a_standby_tells_of_its_promise_and_its_lag_and_of_no_lease(tmp_path: Path):
    stub = StubNode(tmp_path)
    promised = keeper("db2", promised_to="db1", promised_until=stub.until, hold=Hold.NONE)
    stub.runner.state = state("db2", keeper=promised)
    found = measured(stub.api(acts_allowed=False))
    assert found["tanist_role", ("orders", "standby")] == 1
    assert found["tanist_lag_bytes", ("orders",)] == 0
    assert ("tanist_promise_age_seconds", ("orders",)) in found
    assert ("tanist_lease_left_seconds", ("orders",)) not in found


def test_a_daemon_without_its_keeper_says_so(stub: StubNode, api: Asked):
    stub.keeper.connected, stub.keeper.tally = False, None
    stub.change(keeper=None)
    found = measured(api)
    assert found["tanist_keeper_up", ()] == 0
    assert ("tanist_lease_left_seconds", ("orders",)) not in found


def test_every_metric_of_the_reference_is_there_and_no_other(stub: StubNode, api: Asked):
    text = (Path(__file__).parents[2] / "docs/reference/metrics.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `tanist")]
    documented = set()
    for row in rows:
        names = re.findall(r"`(\w+)`", row)
        stem = names[0].rsplit("_", 2)[0]
        documented |= {name if name.startswith("tanist_") else stem + name for name in names}
    Door(local=False, registry=stub.registry)  # the network's door counts whom it turns away
    families = text_string_to_metric_families(api.get("/metrics").text)
    served = {family.name + ("_total" if family.type == "counter" else "") for family in families}
    served = {name for name in served if not name.endswith("_created")}  # the library's own companions of counters
    assert served == documented


# --- being told ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("act", ALL_ACTS)
def test_nothing_can_be_changed_from_outside_the_host(act: str, stub: StubNode):
    outside = stub.api(acts_allowed=False)
    before = stub.store.read("orders")
    assert "this host's own socket only" in refused(outside, act, 403, target="db2")
    assert stub.store.read("orders") == before


def test_an_act_that_nobody_knows_is_refused_with_those_that_there_are(api: Asked):
    told = refused(api, "explode", 404)
    assert "'explode'" in told
    assert all(act in told for act in ALL_ACTS)


def test_an_act_cannot_be_asked_for_by_reading(api: Asked):
    answer = api.get("/v1/groups/orders/pause")
    assert answer.status_code == 405
    assert answer.json()["error"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("", "body"),
        ("not json", "body"),
        ("[]", "body"),
        ("{}", "by: "),
        ('{"by": 5}', "by: "),
        ('{"by": "ann", "epoch": "3"}', "epoch: "),
        ('{"by": "ann", "epoch": true}', "epoch: "),
        ('{"by": "ann", "reson": "x"}', "reson: "),
    ],
)
def test_a_word_of_the_wrong_shape_is_refused_by_its_place(body: str, words: str, stub: StubNode, api: Asked):
    before = stub.said
    answer = api.post("/v1/groups/orders/pause", content=body)
    assert answer.status_code == 422
    assert words in answer.json()["error"]
    assert stub.said == before


@pytest.mark.parametrize("name", ["", "  "])
@pytest.mark.parametrize("act", ALL_ACTS)
def test_a_word_without_a_name_does_not_count(act: str, name: str, stub: StubNode, api: Asked):
    stub.say(control(version=9, proposal=proposal(expires_wall=SOON)))
    before = stub.store.read("orders")
    word = {"target": "db2", "proposal": "orders-3-host_down-db2", "epoch": 3, "by": name}
    assert "a person's name is needed" in refused(api, act, **word)
    assert stub.store.read("orders") == before


def test_a_pause_stands_at_the_mediator_under_the_persons_name(stub: StubNode, api: Asked):
    answer = said(api, "pause", reason="new switches")
    assert stub.said.paused is not None
    assert (stub.said.paused.by, stub.said.paused.reason) == ("ann", "new switches")
    assert answer["said"]["paused"]["by"] == "ann"
    assert answer["epoch"] == 3
    assert refused(api, "pause", by="bob") == "paused already, by ann"
    said(api, "resume")
    assert stub.said.paused is None
    assert refused(api, "resume") == "not paused"


def test_a_switchover_is_asked_for_in_a_name_and_for_an_epoch(stub: StubNode, api: Asked):
    answer = said(api, "switchover", target="db3")
    asked = stub.said.request
    assert asked is not None
    assert (asked.kind, asked.target, asked.by, asked.epoch) == (RequestKind.SWITCHOVER, "db3", "ann", 3)
    assert answer["said"]["request"]["id"] == asked.id
    assert "ann asked for a switchover already" in refused(api, "failover", by="bob")


@pytest.mark.parametrize(
    ("target", "words"),
    [("db1", "db1 is the primary already"), ("db9", "db1, db2, db3"), ("app1", "no member")],
)
@pytest.mark.parametrize("act", ["switchover", "failover"])
def test_a_target_that_cannot_be_is_refused_at_once(act: str, target: str, words: str, stub: StubNode, api: Asked):
    assert words in refused(api, act, target=target)
    assert stub.said.request is None


def test_an_approval_becomes_a_request_and_counts_once(stub: StubNode, api: Asked):
    stub.say(control(proposal=proposal(expires_wall=SOON)))
    word = {"proposal": "orders-3-host_down-db2", "epoch": 3}
    said(api, "confirm", **word)
    asked = stub.said.request
    assert asked is not None
    assert (asked.proposal, asked.target, asked.by) == ("orders-3-host_down-db2", "db2", "ann")
    assert stub.said.proposal is None
    assert "answered already" in refused(api, "confirm", **word)


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ({}, "say which proposal"),
        ({"proposal": "orders-3-host_down-db2"}, "for which epoch"),
        ({"proposal": "orders-3-host_down-db2", "epoch": 2}, "was for epoch 3"),
        ({"proposal": "orders-3-process_down-db2", "epoch": 3}, "the open one is orders-3-host_down-db2"),
    ],
)
def test_an_approval_of_anything_but_what_was_shown_is_refused(word: dict[str, Any], words: str, stub: StubNode, api: Asked):
    stub.say(control(proposal=proposal(expires_wall=SOON)))
    assert words in refused(api, "confirm", **word)
    assert stub.said.request is None
    assert stub.said.proposal is not None


def test_an_approval_that_comes_too_late_is_refused(stub: StubNode, api: Asked):
    stub.say(control(proposal=proposal(expires_wall=WALL)))
    assert "has expired" in refused(api, "confirm", proposal="orders-3-host_down-db2", epoch=3)


def test_an_approval_without_a_record_is_refused(stub: StubNode, api: Asked):
    stub.store.erase("orders")
    assert "nothing to confirm" in refused(api, "confirm", proposal="orders-3-host_down-db2", epoch=3)


def test_a_rejection_is_remembered(stub: StubNode, api: Asked):
    stub.say(control(proposal=proposal()))
    said(api, "reject", proposal="orders-3-host_down-db2")
    assert stub.said.proposal is None
    assert stub.said.rejected == "orders-3-host_down-db2"
    assert "no open proposal" in refused(api, "reject", proposal="orders-3-host_down-db2")


def test_a_word_is_checked_against_what_stands_at_the_mediator_and_not_against_what_was_read(stub: StubNode, api: Asked):
    stub.say(control(version=9, request=request(by="bob", expires_wall=SOON)))
    stub.change(mediated=replace(stub.runner.state.mediated, control=control()))
    assert "bob asked for a failover already" in refused(api, "switchover")


@pytest.mark.parametrize("act", ALL_ACTS)
def test_a_word_is_not_taken_while_the_mediator_cannot_be_asked(act: str, stub: StubNode, api: Asked):
    stub.mediator.reachable = False
    assert "the mediator cannot be asked" in refused(api, act, 503, target="db2")


@pytest.fixture
def conflicts(stub: StubNode, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Somebody else speaks just before us, as often as the list is long."""
    left: list[str] = []
    write = stub.mediator.write_control

    async def contended(*arguments: Any) -> None:
        if left:
            raise Conflict(left.pop())
        await write(*arguments)

    monkeypatch.setattr(stub.mediator, "write_control", contended)
    return left


def test_a_word_between_two_others_is_said_again(stub: StubNode, api: Asked, conflicts: list[str]):
    conflicts += ["version 4 does not stand any more"]
    said(api, "pause")
    assert stub.said.paused is not None


def test_a_word_that_others_overtake_again_and_again_is_given_back(stub: StubNode, api: Asked, conflicts: list[str]):
    conflicts += ["another version stands"] * 10
    assert "somebody else said something at the same moment: another version" in refused(api, "pause")
    assert stub.said.paused is None


def test_an_adoption_begins_a_new_line_of_records(stub: StubNode, api: Asked):
    answer = said(api, "adopt", target="db2", epoch=7)["record"]
    adopted = stub.store.read("orders").record
    assert adopted is not None
    assert (adopted.primary.name, adopted.epoch) == ("db2", 8)
    assert adopted.incarnation != record().incarnation
    assert answer["primary"]["name"] == "db2"
    assert "ann" in answer["reason"]


@pytest.mark.parametrize("target", [None, "", "db9"])
def test_an_adoption_of_nobody_is_refused(target: str | None, stub: StubNode, api: Asked):
    before = stub.store.read("orders")
    assert "its members are db1, db2, db3" in refused(api, "adopt", target=target)
    assert stub.store.read("orders") == before


def test_everything_told_is_json_without_numbers_that_only_python_knows(stub: StubNode, api: Asked):
    stub.until = FOREVER
    for path in ("/v1/status", "/v1/groups/orders", "/v1/groups/orders/explain"):
        json.loads(api.get(path).text, parse_constant=pytest.fail)
