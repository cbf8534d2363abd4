"""The page: what it says, and that its buttons do no more than what was shown."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest
from scenarios import PAUSE, control, peer, peers_of, proposal
from stub import Asked, StubNode
from test_access import BEARERS, CONFIRMER, OPERATOR, READER

from orchestrator.api.access import COOKIE, Door, Tokens
from orchestrator.api.app import Api
from orchestrator.api.page.paths import Page
from orchestrator.config.tokens import save_tokens
from orchestrator.daemon.clock import wall

SOON = wall() + 600.0
PROPOSAL = proposal(expires_wall=SOON)


@pytest.fixture
def stub(tmp_path: Path) -> StubNode:
    return StubNode(tmp_path)


class Browser:
    """Keeps its cookie, and follows nothing by itself."""

    def __init__(self, stub: StubNode, directory: Path, **more: Any) -> None:
        self.path = directory / "tokens.yaml"
        save_tokens(self.path, BEARERS)
        door = Door(local=False, tokens=Tokens(self.path, lambda text: None), **more)
        self._asked = Asked(Api(stub.node, door, Page(stub.node, door).routes()).app())
        self.cookies: dict[str, str] = {}

    def get(self, path: str = "/") -> httpx.Response:
        return self._asked.get(path, cookies=self.cookies)

    def send(self, path: str, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
        answer = self._asked.post(path, data=fields, headers=headers or {}, cookies=self.cookies)
        if (cookie := answer.cookies.get(COOKIE)) is not None:
            self.cookies[COOKIE] = cookie
        return answer

    def sign_in(self, token: str) -> httpx.Response:
        return self.send("/sign-in", token=token)

    @property
    def csrf(self) -> str:
        found = re.search(r'name="csrf" value="([^"]+)"', self.get().text)
        assert found is not None
        return found[1]


@pytest.fixture
def browser(stub: StubNode, tmp_path: Path) -> Browser:
    return Browser(stub, tmp_path)


def confirming(browser: Browser, **changes: Any) -> dict[str, Any]:
    return {"csrf": browser.csrf, "proposal": PROPOSAL.id, "epoch": 3, "typed": "orders", **changes}


# --- reading -----------------------------------------------------------------------------------------------------------


def test_it_says_in_words_how_each_group_stands(stub: StubNode, browser: Browser):
    text = browser.get().text
    assert "Well." in text
    assert "db1 serves, and db2 and db3 could take over at once." in text
    stub.change(keeper=None)
    assert "Look." in browser.get().text or "Bad." in browser.get().text


@pytest.mark.parametrize(
    ("peers", "words"),
    [
        ({"db2": peer("db2", silent_since=1.0)}, "db2 could not take over now"),
        ({"db2": peer("db2", silent_since=1.0), "db3": peer("db3", silent_since=1.0)}, "nobody could take over"),
    ],
)
def test_it_says_who_is_missing(peers: dict[str, Any], words: str, stub: StubNode, browser: Browser):
    known = stub.runner.state.keeper
    assert known is not None
    stub.change(keeper=replace(known, peers=peers_of("db1", **peers)))
    assert words in browser.get().text


def test_what_others_say_is_shown_as_text_and_never_as_markup(stub: StubNode, browser: Browser):
    bad = "<script>alert(1)</script>"
    stub.tell(bad, evidence=(bad,))
    stub.say(control(proposal=proposal(situation=bad, evidence=(bad,)), paused=PAUSE))
    for path in ("/", "/page/groups"):
        text = browser.get(path).text
        assert bad not in text
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_nothing_from_elsewhere_and_nothing_inline_is_run_or_framed(browser: Browser):
    answer = browser.get()
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["cache-control"] == "no-store"
    assert not re.search(r"\son\w+=|style=|<style|<script(?! src=\"/static/)", answer.text)


class Outline(HTMLParser):
    """Which elements are open, and whether every field has a label."""

    VOID = frozenset({"meta", "link", "input", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.unlabelled: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if given.get("id"):
            self.ids.append(str(given["id"]))
        if tag in ("input", "select") and given.get("type") != "hidden" and "label" not in self.open:
            self.unlabelled.append(str(given))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_it_is_well_formed_and_every_field_has_a_label(stub: StubNode, browser: Browser):
    browser.sign_in(OPERATOR)
    stub.say(control(proposal=PROPOSAL))
    for text in (browser.get().text, browser.get("/sign-in").text):
        outline = Outline()
        outline.feed(text)
        assert (outline.open, outline.unlabelled) == ([], [])
        assert len(set(outline.ids)) == len(outline.ids)


def test_who_hears_whom_is_a_table_of_words(stub: StubNode, browser: Browser):
    known = stub.runner.state.keeper
    assert known is not None
    said = peer("db2").statement
    assert said is not None
    stub.change(keeper=replace(known, peers=peers_of("db1", db2=peer("db2", statement=replace(said, hears=("db1",))))))
    rows = dict(re.findall(r'<tr><th scope="row">(\w+)</th>(<td class.*?)</tr>', browser.get().text))
    assert re.findall(r">(\w+)<", rows["db2"]) == ["hears", "itself", "silent", "silent"]


def test_where_nobody_reads_unknown_one_is_led_to_sign_in(stub: StubNode, tmp_path: Path):
    browser = Browser(stub, tmp_path, anonymous="none")
    assert (browser.get().status_code, browser.get().headers["location"]) == (303, "/sign-in")
    assert browser.get("/page/groups").status_code == 401
    assert browser.get("/page/events").status_code == 401
    assert browser.get("/sign-in").status_code == 200
    browser.sign_in(READER)
    assert "db1 serves" in browser.get().text


@pytest.mark.parametrize("name", ["style.css", "live.js", "icon.svg"])
def test_its_parts_are_served(name: str, browser: Browser):
    assert browser.get(f"/static/{name}").status_code == 200
    assert browser.get("/static/../paths.py").status_code == 404


# --- signing in --------------------------------------------------------------------------------------------------------


def test_a_wrong_token_is_not_let_in_and_is_not_shown(browser: Browser):
    answer = browser.sign_in("tanist_wrong")
    assert answer.status_code == 401
    assert "unknown, revoked or expired" in answer.text
    assert "tanist_wrong" not in answer.text
    assert not browser.cookies


def test_the_cookie_is_out_of_reach_of_scripts_and_of_other_pages(browser: Browser):
    cookie = browser.sign_in(OPERATOR).headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert OPERATOR not in cookie


def test_a_session_ends_with_its_token_and_by_signing_out(browser: Browser):
    browser.sign_in(OPERATOR)
    assert "Sign out" in browser.get().text
    save_tokens(browser.path, [each for each in BEARERS if each.name != "olga"])
    assert "Sign out" not in browser.get().text
    save_tokens(browser.path, BEARERS)
    csrf = browser.csrf
    assert browser.send("/sign-out", csrf=csrf).status_code == 303
    assert "Sign out" not in browser.get().text
    assert browser.send("/page/orders/pause", csrf=csrf).status_code == 403


# --- acting ------------------------------------------------------------------------------------------------------------


def test_a_proposal_is_shown_with_its_evidence_and_confirmed_by_typing(stub: StubNode, browser: Browser):
    stub.say(control(proposal=PROPOSAL))
    browser.sign_in(CONFIRMER)
    text = browser.get().text
    assert PROPOSAL.situation in text
    assert all(each in text for each in PROPOSAL.evidence)
    assert "Expected loss" in text
    answer = browser.send("/page/orders/confirm", **confirming(browser))
    assert answer.status_code == 303, answer.text
    assert stub.said.request is not None
    assert (stub.said.request.by, stub.said.request.proposal) == ("carl", PROPOSAL.id)
    assert "your word stands" in browser.get().text
    assert "your word stands" not in browser.get().text, "told once"


@pytest.mark.parametrize("typed", ["", "order", "Orders", "payments"])
def test_nothing_is_confirmed_that_was_not_typed(typed: str, stub: StubNode, browser: Browser):
    stub.say(control(proposal=PROPOSAL))
    browser.sign_in(CONFIRMER)
    answer = browser.send("/page/orders/confirm", **confirming(browser, typed=typed))
    assert answer.status_code == 422
    assert stub.said.request is None


@pytest.mark.parametrize("changes", [{"epoch": 2}, {"proposal": "orders-2-host_down-db3"}, {"epoch": ""}, {"epoch": "3x"}])
def test_a_page_that_is_out_of_date_confirms_nothing_and_says_so(changes: dict[str, Any], stub: StubNode, browser: Browser):
    stub.say(control(proposal=PROPOSAL))
    browser.sign_in(CONFIRMER)
    answer = browser.send("/page/orders/confirm", **confirming(browser, **changes))
    assert answer.status_code in (409, 422)
    assert "Not done: " in answer.text
    assert stub.said.request is None
    assert stub.said.proposal is not None


def test_a_second_click_confirms_nothing_more(stub: StubNode, browser: Browser):
    stub.say(control(proposal=PROPOSAL))
    browser.sign_in(CONFIRMER)
    word = confirming(browser)
    assert browser.send("/page/orders/confirm", **word).status_code == 303
    stands = stub.said
    assert browser.send("/page/orders/confirm", **word).status_code == 409
    assert stub.said == stands


@pytest.mark.parametrize(
    "headers", [{"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}]
)
def test_a_form_of_another_page_does_nothing(headers: dict[str, str], stub: StubNode, browser: Browser):
    browser.sign_in(OPERATOR)
    answer = browser.send("/page/orders/pause", headers, csrf=browser.csrf)
    assert answer.status_code == 403
    assert stub.said.paused is None


@pytest.mark.parametrize("csrf", ["", "guessed", "é"])
def test_a_form_without_the_pages_own_secret_does_nothing(csrf: str, stub: StubNode, browser: Browser):
    browser.sign_in(OPERATOR)
    assert browser.send("/page/orders/pause", csrf=csrf).status_code == 403
    assert stub.said.paused is None


def test_a_form_of_somebody_elses_session_does_nothing(stub: StubNode, browser: Browser):
    browser.sign_in(OPERATOR)
    other = browser.csrf
    browser.cookies.clear()
    browser.sign_in(OPERATOR)
    assert browser.send("/page/orders/pause", csrf=other).status_code == 403
    assert stub.said.paused is None


@pytest.mark.parametrize("token", [READER, CONFIRMER])
@pytest.mark.parametrize("act", ["switchover", "pause", "resume"])
def test_a_button_needs_the_same_right_as_the_act(token: str, act: str, stub: StubNode, browser: Browser):
    stub.say(control(proposal=PROPOSAL))
    before = stub.store.read("orders")
    browser.sign_in(token)
    csrf = browser.csrf
    assert f'action="/page/orders/{act}"' not in browser.get().text
    assert browser.send(f"/page/orders/{act}", csrf=csrf, typed="orders", target="db2").status_code == 403
    assert stub.store.read("orders") == before


@pytest.mark.parametrize("act", ["adopt", "failover", "explode"])
def test_what_has_no_button_is_not_done_by_a_form(act: str, stub: StubNode, browser: Browser):
    before = stub.store.read("orders")
    browser.sign_in(OPERATOR)
    assert browser.send(f"/page/orders/{act}", csrf=browser.csrf, typed="orders", target="db2").status_code == 404
    assert stub.store.read("orders") == before


def test_switching_over_and_pausing_are_the_apis_acts(stub: StubNode, browser: Browser):
    browser.sign_in(OPERATOR)
    word = {"csrf": browser.csrf, "typed": "orders", "target": "db3"}
    assert browser.send("/page/orders/switchover", **word).status_code == 303
    assert stub.said.request is not None
    assert (stub.said.request.target, stub.said.request.by) == ("db3", "olga")
    stub.say(control())
    assert browser.send("/page/orders/pause", csrf=browser.csrf, reason="disks").status_code == 303
    assert stub.said.paused is not None
    assert stub.said.paused.reason == "disks"
    assert browser.send("/page/orders/resume", csrf=browser.csrf).status_code == 303
    assert stub.said.paused is None
