"""The page in a real Chromium, over TLS, in front of a real group; and the API as the network sees it.

With TANIST_SCREENSHOTS=DIRECTORY the pictures of the guide are taken on the way.
"""

import json
import os
import shutil
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from orchestrator.config.tokens import Right
from orchestrator.lab.group import GROUP, PAGE_PORT, Host, LabGroup, LabSettings
from tests.system.redis_servers import wait_for
from tests.system.test_group import Hands, running, stays

LEASE = 0.5
SHOWN_WITHIN = 10.0
PICTURES = os.environ.get("TANIST_SCREENSHOTS")


class TlsGroup(LabGroup):
    """Every node's API speaks TLS, with a certificate of its own making."""

    def _configuration(self) -> dict[str, Any]:
        made = super()._configuration()
        certificate, key = self.directory / "api.crt", self.directory / "api.key"
        names = ",".join(f"IP:{host.address}" for host in self.hosts.values())
        make = "openssl req -x509 -nodes -days 1 -subj /CN=tanist-test -newkey ec -pkeyopt ec_paramgen_curve:P-256"
        more = ["-addext", f"subjectAltName={names}", "-keyout", str(key), "-out", str(certificate)]
        subprocess.run([*make.split(), *more], check=True, capture_output=True)
        made["api"] |= {"tls": {"certificate": str(certificate), "key": str(key)}, "anonymous": "none"}
        return made


@pytest.fixture(scope="module")
def asking() -> Iterator[Hands]:
    policy = {"automation": "confirm", "proposal_expires": "10m"}
    with running(TlsGroup(LabSettings(lease=LEASE, page=True, policy=policy))) as hands:
        yield hands


def page_of(host: Host) -> str:
    return f"https://{host.address}:{PAGE_PORT}"


class Browser:
    def __init__(self, directory: Path) -> None:
        options = webdriver.ChromeOptions()
        program = shutil.which("chromium")
        assert program is not None
        options.binary_location = program
        given = ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", "window-size=1100,1300")
        for each in (*given, f"user-data-dir={directory}", "no-proxy-server", "disable-background-networking"):
            options.add_argument(f"--{each}")
        options.set_capability("acceptInsecureCerts", True)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))

    def end(self) -> None:
        self.driver.quit()

    def open(self, address: str) -> None:
        self.driver.get(address)

    def sign_in(self, host: Host, token: str) -> None:
        self.open(f"{page_of(host)}/sign-in")
        self.driver.find_element(By.NAME, "token").send_keys(token)
        self.driver.find_element(By.CSS_SELECTOR, "button.go").click()
        self.shows("h1", "")

    def shows(self, selector: str, words: str) -> str:
        """Once it does, without being loaded again."""

        def stands(driver: webdriver.Chrome) -> str | None:
            found = driver.execute_script("return document.querySelector(arguments[0])?.innerText ?? null", selector)
            return found if found is not None and words in found else None

        return str(WebDriverWait(self.driver, SHOWN_WITHIN, 0.02).until(stands, f"{selector} does not show {words!r}"))

    def take_picture(self, name: str, *, dark: bool = False, phone: bool = False) -> None:
        if PICTURES is None:
            return
        shape = {"width": 390, "height": 1500, "deviceScaleFactor": 2, "mobile": True}
        wide = {"width": 1100, "height": 1250, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", shape if phone else wide)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
        self.driver.save_screenshot(str(Path(PICTURES) / f"{name}.png"))
        self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    def type(self, selector: str, text: str) -> None:
        self.driver.find_element(By.CSS_SELECTOR, selector).send_keys(text)

    def click(self, selector: str) -> None:
        self.driver.find_element(By.CSS_SELECTOR, selector).click()

    def complaints(self) -> list[str]:
        """What the browser itself found wrong: scripts that failed, parts that the page's own rules forbid."""
        return [each["message"] for each in self.driver.get_log("browser") if each["level"] == "SEVERE"]


@pytest.fixture
def browsers(tmp_path: Path) -> Iterator[Any]:
    if shutil.which("chromium") is None or shutil.which("chromedriver") is None:
        pytest.skip("no Chromium here: apt install chromium chromium-driver")
    made: list[Browser] = []

    def make() -> Browser:
        made.append(Browser(tmp_path / f"browser{len(made)}"))
        return made[-1]

    yield make
    for each in made:
        each.end()


HEADLINE, PROPOSAL = f"#facts-{GROUP} .headline", f"#acts-{GROUP} .proposal"
CONFIRM = f'form[action="/page/{GROUP}/confirm"]'


def test_a_proposal_appears_is_confirmed_in_the_browser_and_the_real_service_switches(asking: Hands, browsers: Any):
    hands, primary = asking, asking.primary()
    watching = hands.others(primary)[0]
    epoch = hands.epoch(primary)
    hands.ask(primary, "SET", "before", "1")
    wait_for(lambda: all(hands.ask(host, "GET", "before") == "1" for host in hands.group.members))
    ann, bob = browsers(), browsers()
    ann.sign_in(watching, hands.group.let_in("ann", Right.CONFIRM))
    bob.sign_in(watching, hands.group.let_in("bob", Right.CONFIRM))
    ann.shows("#live", "Live.")
    assert "Well." in ann.shows(HEADLINE, f"{primary.name} serves")
    ann.take_picture("page-light")
    hands.kill_service(primary)
    asked = ann.shows(PROPOSAL, "become primary?")
    assert "nothing that is known of" in asked, "what the primary had is known although it is dead"
    assert f"the service on {primary.name} is dead. A decision waits for a person." in ann.shows(HEADLINE, "Bad.")
    bob.shows(PROPOSAL, "become primary?")
    bob.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    bob.open(page_of(watching))
    ann.take_picture("page-proposal-light")
    ann.take_picture("page-proposal-dark", dark=True)
    ann.take_picture("page-proposal-phone", phone=True)
    ann.type(f"{CONFIRM} input[name=typed]", "nonsense")
    ann.click(f"{CONFIRM} button")
    assert f"type the group's name, {GROUP}" in ann.shows(".told", "Not done")
    stays(lambda: hands.epoch(watching) == epoch, 3 * LEASE)
    ann.type(f"{CONFIRM} input[name=typed]", GROUP)
    ann.click(f"{CONFIRM} button")
    ann.shows(".told", "your word stands")
    wait_for(lambda: hands.epoch(watching) == epoch + 1)
    after = hands.primary()
    assert after is not primary
    ann.shows(HEADLINE, f"{after.name} serves")
    assert hands.ask(after, "GET", "before") == "1"
    assert hands.ask(after, "SET", "after", "1") == "OK"
    assert "by the word of ann" in hands.report(after)["reason"]
    # Bob's page still shows the proposal: without scripts it is as old as it was when it was loaded.
    bob.type(f"{CONFIRM} input[name=typed]", GROUP)
    bob.click(f"{CONFIRM} button")
    body = bob.driver.find_element(By.TAG_NAME, "body").text
    assert "Not done: there is no open proposal" in body
    assert f"{after.name} serves" in body, "it can be read without scripts"
    assert hands.epoch(after) == epoch + 1
    foreign = [each for each in ann.complaints() if "422" not in each]
    assert foreign == []


def test_what_is_being_typed_stays_while_the_page_lives_on(asking: Hands, browsers: Any):
    hands, primary = asking, asking.primary()
    browser = browsers()
    browser.sign_in(primary, hands.group.token)
    browser.click(f"#acts-{GROUP} summary")
    field = f'form[action="/page/{GROUP}/pause"] input[name=reason]'
    browser.type(field, "new di")
    before = browser.shows(".as-of time", "")
    wait_for(lambda: browser.shows(".as-of time", "") != before)
    browser.type(field, "sks")
    browser.click(f'form[action="/page/{GROUP}/pause"] button')
    assert "new disks" in browser.shows(f"#facts-{GROUP}", "Paused by lab")
    browser.driver.switch_to.active_element.send_keys("")
    browser.click(f"#acts-{GROUP} summary")
    browser.click(f'form[action="/page/{GROUP}/resume"] button')
    browser.shows(HEADLINE, "Well.")
    assert browser.complaints() == []


# --- the API as the network sees it ------------------------------------------------------------------------------------


def asked(hands: Hands, host: Host, path: str, token: str | None = None, word: dict[str, Any] | None = None) -> tuple[int, str]:
    context = ssl.create_default_context(cafile=str(hands.group.directory / "api.crt"))
    headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
    body = json.dumps(word).encode() if word is not None else None
    request = urllib.request.Request(f"{page_of(host)}{path}", body, headers)
    try:
        with urllib.request.urlopen(request, context=context, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_a_reading_token_reads_and_cannot_act_and_no_secret_is_found_anywhere(asking: Hands):
    hands, primary = asking, asking.primary()
    epoch, reader = hands.epoch(primary), hands.group.let_in("rita", Right.READ)
    key = (hands.group.directory / "key").read_text().strip()
    assert asked(hands, primary, "/v1/status")[0] == 401
    status, text = asked(hands, primary, "/v1/status", reader)
    assert (status, json.loads(text)["groups"][GROUP]["serving"]) == (200, primary.name)
    for act in ("switchover", "failover", "pause", "adopt"):
        assert asked(hands, primary, f"/v1/groups/{GROUP}/{act}", reader, {})[0] == 403
    assert asked(hands, primary, f"/health/{GROUP}/primary")[0] == 200
    assert hands.epoch(primary) == epoch
    logs = "".join(path.read_text(errors="replace") for path in hands.group.directory.rglob("*.log"))
    arguments = "".join(
        path.read_bytes().decode(errors="replace")
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if path.exists() and _ours(path)
    )
    for secret in (reader, hands.group.token, key):
        assert not any(secret in each for each in (text, logs, arguments))


def _ours(path: Path) -> bool:
    try:
        return b"orchestrator" in path.read_bytes()
    except OSError:
        return False
