"""The dashboard in a real browser: every page is clicked through, on a full, a half-finished and an empty store.

Needs Debian's ``chromium`` and ``chromium-driver``; skipped, with the reason, where they are missing. With
``GFL_LAB_SHOTS=FOLDER`` each page is also saved as a picture.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dashboard.pages import PAGES
from gfl_lab.report.writers.claim_page import to_claim_page
from tests.support.claims import fake_claim, longest
from tests.support.fake_runs import HOSTILE_TEXT, write_fake_tree
from tests.support.fake_search_tree import MIXED, write_fake_search
from tests.support.waiting import holds_within, wait_until

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="needs Debian's chromium and chromium-driver (apt-get install chromium chromium-driver)"
    ),
]
ROOT = Path(__file__).resolve().parent.parent
TITLES = (*(entry.title for entry in PAGES[1:]), PAGES[0].title)
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --disable-dev-shm-usage --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()


@contextlib.contextmanager
def served(root: Path) -> Iterator[str]:
    """The dashboard over ``root``, as a user starts it; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", str(ROOT / "dashboard" / "app.py"), "--server.port", str(port)]
    log = (root / "server.log").open("wb")
    server = subprocess.Popen(command, cwd=root, env=os.environ | {"GFL_LAB_HOME": str(root)}, stdout=log, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{port}"
    try:

        def answers() -> bool:
            assert server.poll() is None, (root / "server.log").read_text()
            with contextlib.suppress(OSError):
                urllib.request.urlopen(address + "/_stcore/health", timeout=2).close()
                return True
            return False

        wait_until(answers)
        yield address
    finally:
        server.terminate()
        server.wait(20)
        log.close()
    text = (root / "server.log").read_text()
    assert "Traceback" not in text, text


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    """One chromium for all tests of the module."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def browser(chromium):
    """The browser on an empty page, with an empty log."""
    chromium.get("about:blank")
    chromium.get_log("browser")
    return chromium


@pytest.fixture(scope="module")
def full(tmp_path_factory) -> Iterator[str]:
    """Address of a dashboard over a finished experiment."""
    home = tmp_path_factory.mktemp("full")
    write_fake_tree(home, seeds=(0, 1), epochs=6, val_images=8)
    with served(home) as address:
        yield address


def size(browser, width: int, height: int, dark: bool = False) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    )
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def find(browser, selector: str) -> list:
    return browser.find_elements("css selector", selector)


MISSING = """
const there = [], heads = Array.from(document.querySelectorAll('.gfl h1')).map(e => e.textContent)
for (const part of ['[data-testid=stSkeleton]', '[data-stale=true]'])
  if (document.querySelector(part)) there.push(part + ': ' + document.querySelector(part).outerHTML.slice(0, 300))
const state = document.querySelector('[data-testid=stApp]')?.dataset.testScriptState
if (state !== 'notRunning') there.push('script ' + state)
if (!heads.some(head => head.includes(arguments[0]))) there.push('headings ' + heads)
return there.join('; ')
"""
"""What a page of that heading still lacks; "" once it is drawn."""


def settle(browser, heading: str) -> None:
    """Wait until the page of that heading has been drawn in full, and stays so for two looks."""
    looks = ["not looked at"]

    def drawn() -> bool:
        looks.append(browser.execute_script(MISSING, heading))
        return looks[-2:] == ["", ""]

    if not holds_within(drawn, 60, every=0.15):
        page = browser.find_element("css selector", "body").text[:600]
        raise AssertionError(f"{heading!r} was not drawn ({looks[-1]}); the page says: {page}")


def check(browser) -> None:
    """No exception box, no severe console error, nothing asked from another host, no script run from a name."""
    assert [box.text for box in find(browser, '[data-testid="stException"]')] == []
    severe = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    # On a deep link Streamlit's client first asks for its endpoints below the page's own address.
    severe = [message for message in severe if not ("_stcore/" in message and "404" in message)]
    assert severe == []
    foreign = browser.execute_script(
        "return performance.getEntriesByType('resource').map(e => e.name)"
        ".filter(n => !n.startsWith(location.origin) && /^(https?|wss?):/.test(n))"
    )
    assert foreign == []


def shoot(browser, name: str) -> None:
    if folder := os.environ.get("GFL_LAB_SHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        browser.save_screenshot(str(Path(folder) / f"{name}.png"))


Look = Callable[[str], None]
"""What is asked of each page once it is drawn, by its title."""


def click_through(
    browser, address: str, question: str, name: str, empty: bool = False, look: Look | None = None, titles: tuple[str, ...] = TITLES
) -> None:
    headings = {entry.title: entry.heading or question for entry in PAGES}
    browser.get(address)
    settle(browser, "Experiments")
    check(browser)
    for title in titles:
        links = [link for link in find(browser, '[data-testid="stTopNavLink"], [data-testid="stSidebarNavLink"]') if title in link.text]
        assert links, f"no link to {title}"
        links[0].click()
        if empty and title not in ("Overview", "Guide"):
            wait_until(lambda: "No experiment yet" in browser.find_element("css selector", "body").text)
        else:
            settle(browser, headings[title])
        check(browser)
        shoot(browser, f"{name}-{title.lower().replace(' ', '-')}")
        if look:
            look(title)


QUESTION = "What do QFL and DFL each add to ATSS?"
BACKGROUND = {False: "rgb(255, 255, 255)", True: "rgb(20, 23, 27)"}
"""The page's, by whether it is dark: see .streamlit/config.toml."""


def fits(browser, dark: bool) -> bool:
    """Whether the page has its theme's background and nothing beyond its right edge."""
    return browser.execute_script(
        "const root = document.documentElement, app = document.querySelector('[data-testid=stApp]')\n"
        "return root.scrollWidth <= root.clientWidth && getComputedStyle(app).backgroundColor === arguments[0]",
        BACKGROUND[dark],
    )


@pytest.mark.parametrize(("width", "dark"), [(1280, False), pytest.param(820, True, marks=pytest.mark.exhaustive)])
def test_full_store(browser, full, width, dark):
    """In a wide window; the half-finished store below is walked through in a narrow and dark one."""
    size(browser, width, 1500, dark)

    def look(title: str) -> None:
        wait_until(lambda: fits(browser, dark))

    click_through(browser, full, QUESTION, f"full-{width}{'-dark' if dark else ''}", look=look)
    # a view is its URL: opened afresh it shows the same box
    browser.get(f"{full}/boxes?experiment=table3_qfl_dfl%2Fdesk&variant=qfl%3Doff+dfl%3Don&beside=none&seed=1&image=3&box=3&zoom=0")
    settle(browser, "Learned box distributions")
    assert "variant=qfl%3Doff+dfl%3Don" in browser.current_url and "seed=1" in browser.current_url and "image=3" in browser.current_url
    assert len(find(browser, ".js-plotly-plot")) == 2
    check(browser)


def test_half_finished_store_of_hostile_names_follows_running_trials_and_runs_nothing(browser, tmp_path):
    states = {(1, 0): "running", (1, 1): "planned", (2, 0): "failed", (2, 1): "interrupted"}
    tree = write_fake_tree(tmp_path, hostile=True, seeds=(0, 1), states=states, epochs=6, val_images=4)
    size(browser, 820, 1400, dark=True)
    with served(tmp_path) as address:

        def look(title: str) -> None:
            wait_until(lambda: fits(browser, dark=True))

        # the title shows exactly the text; an alert would stop selenium
        click_through(browser, address, HOSTILE_TEXT, "hostile", look=look)
        text = browser.find_element("css selector", "body").text
        assert "1 running" in text and "1 planned" in text and "**fake** <i>shapes</i>" in text
        assert not find(browser, '[data-testid="stMain"] script, [data-testid="stMain"] img[src="x"]')
        running = next(trial for trial in tree.trials() if trial.lease_alive())
        before = browser.execute_script("return document.querySelector('.gfl h1')")
        with running.file("metrics.jsonl").open("a") as file:
            line = {"kind": "val", "step": 60, "epoch": 5, "time": time.time(), "metrics": {"AP": 12.3}}
            file.write(json.dumps(line) + "\n")
        wait_until(lambda: "12.3 so far" in browser.find_element("css selector", "body").text)
        assert before.is_displayed()  # the rest of the page was not drawn again
        check(browser)


@pytest.mark.parametrize("dark", [False, pytest.param(True, marks=pytest.mark.exhaustive)])
def test_empty_store_and_then_a_search_that_is_ranked_downloaded_and_followed(browser, tmp_path, dark):
    home, downloads = tmp_path / "home", tmp_path / "downloads"
    home.mkdir()
    size(browser, 1280, 800, dark)
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(downloads)})
    with served(home) as address:
        # test_dashboard_pages.py opens every page of an empty store; these two are asked of the browser
        click_through(browser, address, QUESTION, "empty", empty=True, titles=("Table", "Overview"))
        tree = write_fake_search(home, states=(*MIXED, "running"))
        size(browser, 1280, 1400, dark)
        name = f"search{'-dark' if dark else ''}"
        click_through(browser, address, "Which settings", name)
        size(browser, 1280, 3000, dark)
        browser.get(f"{address}/table?experiment=search_desk%2Fdesk")
        settle(browser, "Which settings")
        assert len(find(browser, ".js-plotly-plot")) == 1 + 4
        assert browser.execute_script("return document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
        for count, button in enumerate(find(browser, '[data-testid="stDownloadButton"] button'), 1):
            button.click()
            wait_until(lambda count=count: len([path for path in downloads.glob("*") if path.suffix != ".crdownload"]) >= count)
        expected = {f"search_desk-desk.{form}" for form in ("json", "md", "csv", "html")}
        wait_until(lambda: expected <= {path.name for path in downloads.glob("*")})
        assert expected == {path.name for path in downloads.glob("*")}
        assert json.loads((downloads / "search_desk-desk.json").read_text())["kind"] == "search"
        ledger = tree.experiment("search_desk", "desk") / "search.json"
        ledger.write_text(ledger.read_text().replace('"trials": 40', '"trials": 41'))
        wait_until(lambda: "of 41 trials" in browser.find_element("css selector", "body").text)
        check(browser)


# --- the page of a claim --------------------------------------------------------------------------


def test_a_claims_page_prints_on_one_sheet_and_fits_a_phone(browser, tmp_path: Path) -> None:
    tree = write_fake_tree(tmp_path / "runs", seeds=tuple(range(9)), val_images=4, train_images=2, epochs=1)
    claim = fake_claim(tree)
    for name, each in (("plain", claim), ("longest", longest(claim))):
        file = tmp_path / f"{name}.html"
        file.write_text(to_claim_page(each), encoding="utf-8")
        browser.get(file.as_uri())
        printed = browser.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True, "printBackground": True})
        pdf = base64.b64decode(printed["data"])
        sheets = re.findall(rb"/MediaBox \[0 0 ([0-9.]+) ([0-9.]+)\]", pdf)
        assert len(re.findall(rb"/Type /Page\b", pdf)) == 1, name
        assert {(round(float(w)), round(float(h))) for w, h in sheets} <= {(595, 842), (596, 842), (595, 841), (594, 841)}, sheets
        for dark in (False, True):
            size(browser, 360, 800, dark)
            assert browser.execute_script("return document.documentElement.scrollWidth") <= 360, name
            shade = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
            assert (shade == "rgb(255, 255, 255)") is not dark
            if shots := os.environ.get("GFL_LAB_SHOTS"):
                browser.save_screenshot(str(Path(shots) / f"claim-{name}-{'dark' if dark else 'light'}.png"))
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
