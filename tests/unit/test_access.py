"""The network's door: who is let in, for what, how often; and that what comes out has the published shape."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import TypeAdapter
from scenarios import PAUSE, control, proposal
from stub import Asked, StubNode

from orchestrator.api import openapi, shapes
from orchestrator.api.access import Door, Limiter, Tokens
from orchestrator.api.app import NEEDED, Api
from orchestrator.config.load import BadConfig
from orchestrator.config.tokens import Bearer, Right, fingerprint, load_tokens, new_token, save_tokens
from orchestrator.daemon.clock import wall

READER, CONFIRMER, OPERATOR, FOREIGNER, OLD = (new_token() for _ in range(5))
SOON = wall() + 600.0


def bearer(name: str, token: str, expires: float | None = None, **rights: Right) -> Bearer:
    return Bearer(name, fingerprint(token), rights, expires)  # type: ignore[arg-type]


BEARERS = (
    bearer("rita", READER, orders=Right.READ),
    bearer("carl", CONFIRMER, orders=Right.CONFIRM),
    bearer("olga", OPERATOR, orders=Right.OPERATE),
    bearer("fred", FOREIGNER, payments=Right.OPERATE),
    bearer("odd", OLD, wall() - 1.0, orders=Right.OPERATE),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "tokens.yaml"
    save_tokens(made, BEARERS)
    return made


@pytest.fixture
def stub(tmp_path: Path) -> StubNode:
    return StubNode(tmp_path)


class Outside:
    """The API as the network sees it."""

    def __init__(self, stub: StubNode, path: Path | None, **more: Any) -> None:
        self.log: list[str] = []
        tokens = Tokens(path, self.log.append) if path is not None else None
        self.door = Door(local=False, tokens=tokens, log=self.log.append, **more)
        self.api = Asked(Api(stub.node, self.door).app())

    def get(self, path: str, token: str | None = None) -> httpx.Response:
        return self.api.get(path, headers=_headers(token))

    def act(self, act: str, token: str | None = None, **word: Any) -> httpx.Response:
        return self.api.post(f"/v1/groups/orders/{act}", json=word, headers=_headers(token))


def _headers(token: str | None) -> dict[str, str]:
    return {} if token is None else {"Authorization": f"Bearer {token}"}


@pytest.fixture
def outside(stub: StubNode, path: Path) -> Outside:
    return Outside(stub, path)


# --- rights ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("act", NEEDED)
@pytest.mark.parametrize(
    ("token", "right", "status"),
    [
        (None, Right.NONE, 401),
        ("", Right.NONE, 401),
        ("tanist_wrong", Right.NONE, 401),
        (OLD, Right.NONE, 401),
        (READER, Right.READ, 403),
        (FOREIGNER, Right.NONE, 403),
        (CONFIRMER, Right.CONFIRM, 403),
        (OPERATOR, Right.OPERATE, 403),
    ],
    ids=["none", "empty", "wrong", "expired", "reader", "of another group", "confirmer", "operator"],
)
def test_an_act_needs_the_right_to_it(act: str, token: str | None, right: Right, status: int, stub: StubNode, outside: Outside):
    stub.say(control(proposal=proposal(expires_wall=SOON)))
    before = stub.store.read("orders")
    word = {"target": "db2", "proposal": proposal().id, "epoch": 3}
    answer = outside.act(act, token, **word)
    if right >= NEEDED[act]:
        assert answer.status_code in (200, 409), answer.text
        return
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]
    assert stub.store.read("orders") == before
    if status == 401:
        assert answer.headers["www-authenticate"].startswith("Bearer")


def test_an_act_is_recorded_in_the_name_of_the_token_and_of_nobody_else(stub: StubNode, outside: Outside):
    answer = outside.act("pause", OPERATOR, by="rita", reason="disks")
    assert answer.status_code == 403
    assert "speaks for olga, and not for rita" in answer.json()["error"]
    assert stub.said.paused is None
    assert outside.act("pause", OPERATOR, reason="disks").status_code == 200
    assert stub.said.paused is not None
    assert stub.said.paused.by == "olga"
    assert outside.act("pause", OPERATOR, reason="disks").status_code == 409
    told = [entry["text"] for entry in stub.runner.recent(5)]
    assert told == ["olga (by a token): pause: taken", "olga (by a token): pause: refused: paused already, by olga"]


def test_without_tokens_everything_can_be_read_and_nothing_changed(stub: StubNode):
    outside = Outside(stub, None)
    assert outside.get("/v1/groups/orders").status_code == 200
    answer = outside.act("pause", by="ann")
    assert answer.status_code == 403
    assert "this host's own socket only" in answer.json()["error"]
    assert outside.get("/v1/groups/orders", OPERATOR).status_code == 401, "a token that nothing knows is not passed over"


@pytest.mark.parametrize(
    "path_asked", ["/v1/status", "/v1/groups/orders", "/v1/groups/orders/explain", "/v1/groups/orders/history"]
)
def test_where_nobody_reads_unknown_a_token_is_needed(path_asked: str, stub: StubNode, path: Path):
    outside = Outside(stub, path, anonymous="none")
    assert outside.get(path_asked).status_code == 401
    assert outside.get(path_asked, FOREIGNER).status_code == 403
    assert outside.get(path_asked, READER).status_code == 200
    assert outside.get("/metrics").status_code == 401
    assert outside.get("/health/orders/primary").status_code == 200, "load balancers have no tokens"


@pytest.mark.parametrize("header", ["Basic YTpi", "Bearer", "Bearer ", "tanist", f"Token {OPERATOR}"])
def test_credentials_of_another_kind_are_refused_and_not_passed_over(header: str, outside: Outside):
    assert outside.api.get("/v1/status", headers={"Authorization": header}).status_code == 401


def test_no_refusal_tells_a_token_or_writes_it_to_the_log(outside: Outside):
    wrong = new_token()
    answer = outside.act("pause", wrong)
    assert wrong not in answer.text
    assert outside.log
    assert not [line for line in outside.log if wrong in line]


# --- the file ----------------------------------------------------------------------------------------------------------


def test_a_revoked_token_does_not_count_any_more_and_a_new_one_does_at_once(outside: Outside, path: Path):
    assert outside.act("pause", OPERATOR).status_code == 200
    fresh = new_token()
    save_tokens(path, [*(each for each in BEARERS if each.name != "olga"), bearer("nora", fresh, orders=Right.OPERATE)])
    assert outside.act("resume", OPERATOR).status_code == 401
    assert outside.act("resume", fresh).status_code == 200


def test_while_the_file_cannot_be_read_no_token_counts(outside: Outside, path: Path):
    path.write_text("tokens: [broken")
    assert outside.act("pause", OPERATOR).status_code == 401
    assert any("no token counts until this is mended" in line for line in outside.log)
    save_tokens(path, BEARERS)
    assert outside.act("pause", OPERATOR).status_code == 200


def test_the_file_holds_no_token_and_keeps_its_mode(path: Path):
    path.chmod(0o640)
    save_tokens(path, BEARERS)
    text = path.read_text()
    assert path.stat().st_mode & 0o777 == 0o640
    assert not any(token in text for token in (READER, CONFIRMER, OPERATOR))
    known = load_tokens(path)
    assert known[fingerprint(OPERATOR)].rights == {"orders": Right.OPERATE}
    assert [each.name for each in known.values()] == ["rita", "carl", "olga", "fred", "odd"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tokens:\n- name: ann\n", "tokens.0.sha256"),
        ("tokens:\n- {name: ann, sha256: abc, rights: {}}\n", "tokens.0.sha256"),
        (f"tokens:\n- {{name: ann, sha256: {'a' * 64}, rights: {{orders: rule}}}}\n", "expected one of read, confirm, operate"),
        (f"tokens:\n- {{name: ann, sha256: {'a' * 64}, rights: {{}}, expires: soon}}\n", "tokens.0.expires"),
        (f"tokens:\n- {{name: ann, sha256: {'a' * 64}, rihgts: {{}}}}\n", "tokens.0.rihgts"),
        ("token: []\n", "token"),
        ("tokens:\n" + f"- {{name: ann, sha256: {'a' * 64}, rights: {{}}}}\n" * 2, "stands there twice"),
        ("- x\n", ":1: "),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_the_place(text: str, words: str, path: Path):
    path.write_text(text)
    with pytest.raises(BadConfig) as refused:
        load_tokens(path)
    assert words in str(refused.value)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o602])
def test_a_file_that_others_can_read_or_change_is_refused(mode: int, path: Path):
    path.chmod(mode)
    with pytest.raises(BadConfig, match="chmod 0640"):
        load_tokens(path)


def test_a_missing_file_is_refused_with_its_cure(tmp_path: Path):
    with pytest.raises(BadConfig, match="tanist token add"):
        load_tokens(tmp_path / "none.yaml")


def test_what_is_said_of_a_group_itself_counts_and_not_what_is_said_of_every_group():
    somebody = Bearer("x", "0", {"*": Right.OPERATE, "payments": Right.READ}, None)  # type: ignore[arg-type]
    assert somebody.right("orders") is Right.OPERATE
    assert somebody.right("payments") is Right.READ


# --- how often ---------------------------------------------------------------------------------------------------------


def test_a_limiter_lets_a_burst_pass_and_then_so_many_a_second():
    moment = [0.0]
    limiter = Limiter(2.0, 3, lambda: moment[0])
    assert [limiter.wait("a") for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert limiter.wait("b") == 0.0, "everybody has their own"
    moment[0] = 0.5
    assert [limiter.wait("a"), limiter.wait("a") > 0] == [0.0, True]


def test_a_limiter_does_not_grow_with_the_number_of_those_who_ask():
    limiter = Limiter(1.0, 1)
    for number in range(3 * Limiter.KEPT):
        limiter.wait(str(number))
    assert len(limiter._left) == Limiter.KEPT


def test_whoever_reads_too_often_is_told_when_to_come_again_and_health_is_answered_all_the_same(outside: Outside):
    answers = [outside.get("/v1/status") for _ in range(80)]
    late = [each for each in answers if each.status_code == 429]
    assert late
    assert int(late[0].headers["retry-after"]) >= 1
    assert outside.get("/health/orders/primary").status_code == 200


def test_tokens_cannot_be_tried_out_at_will(outside: Outside):
    statuses = [outside.get("/v1/status", new_token()).status_code for _ in range(15)]
    assert statuses[:10] == [401] * 10
    assert statuses[10:] == [429] * 5
    assert outside.get("/v1/status").status_code == 200


def test_acts_are_bounded_by_person(outside: Outside):
    statuses = [outside.act("resume", OPERATOR).status_code for _ in range(12)]
    assert statuses[:10] == [409] * 10
    assert 429 in statuses
    assert outside.act("reject", CONFIRMER, proposal="x").status_code == 409


def test_a_body_longer_than_anything_that_a_person_says_is_refused(stub: StubNode, outside: Outside):
    answer = outside.act("pause", OPERATOR, reason="x" * 20_000)
    assert answer.status_code == 413
    assert stub.said.paused is None


# --- shapes ------------------------------------------------------------------------------------------------------------


def test_the_document_knows_every_path_and_act(stub: StubNode, outside: Outside):
    document = outside.get("/v1/openapi.json").json()
    served = {route.path for route in Api(stub.node, outside.door).app().routes}  # type: ignore[attr-defined]
    acts = {f"/v1/groups/{{group}}/{act}" for act in NEEDED}
    assert set(document["paths"]) == served - {"/v1/groups/{group}/{act}", "/v1/openapi.json", "/metrics"} | acts
    assert {act: right for act, (_, right) in openapi.ACTS.items()} == {act: right.name.lower() for act, right in NEEDED.items()}


@pytest.mark.parametrize("situation", ["well", "paused and asked", "nothing known"])
def test_what_is_told_has_the_published_shape(situation: str, stub: StubNode, outside: Outside):
    if situation == "paused and asked":
        stub.say(control(proposal=proposal(), paused=PAUSE))
    elif situation == "nothing known":
        stub.change(keeper=None)
    stub.tell("db1 serves", evidence=("it won the record",))
    for path, shape in (
        ("/v1/status", shapes.NodeTold),
        ("/v1/groups/orders", shapes.GroupTold),
        ("/v1/groups/orders/explain", shapes.Explanation),
        ("/v1/groups/orders/history", list[shapes.Sentence]),
        ("/health/orders/primary", shapes.Health),
    ):
        TypeAdapter(shape).validate_json(outside.get(path).content)


def test_an_answer_to_an_act_has_the_published_shape(outside: Outside):
    shapes.Said.model_validate_json(outside.act("pause", OPERATOR).content)
    shapes.Problem.model_validate_json(outside.act("pause", OPERATOR).content)
