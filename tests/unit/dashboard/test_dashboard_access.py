"""Who gets in: whoever has the printed address, and nobody else, neither another site nor another user."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from silo.dashboard.app import CONTENT_POLICY, MOST_STREAMS, Access, Guard, loopback_names
from silo.home import Home
from tests.cli.conftest import silo
from tests.unit.dashboard.serving import COMMAND, Answer, Served

Cookie = str


@pytest.fixture(scope="module", name="served")
def _served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    made = Home.create(tmp_path_factory.mktemp("homes") / "ulm", "ulm", display_name='<script>alert("Ulm")</script>')
    with made.log() as log:
        for number in range(3):
            log.append("fault", {"run": "heart-1", "what": f"<img src=x onerror=alert({number})>\u202e"})
    with Served(made.path) as running:
        yield running


@pytest.fixture
def cookie(served: Served) -> Cookie:
    return served.cookie()


def refused(answer: Answer, status: int = 403) -> bool:
    return answer.status == status and "Ulm" not in answer.body and "set-cookie" not in answer.headers


# The token


def test_the_address_opens_the_page_by_way_of_a_cookie(served: Served, cookie: Cookie) -> None:
    page = served.get(Cookie=cookie)
    assert page.status == 200
    assert "Ulm" in page.body
    assert served.token not in page.body
    given = served.get(f"{served.path}?token={served.token}").headers
    assert given["location"] == served.path  # the token leaves the address bar
    attributes = given["set-cookie"].lower().split("; ")
    assert {"httponly", "samesite=strict", f"path={served.path.lower()}"} <= set(attributes)


def test_without_token_or_cookie_nothing_is_told(served: Served, cookie: Cookie) -> None:
    name, _, session = cookie.partition("=")
    nobody = served.get()
    assert refused(nobody)
    for path in ("/", served.path, "/favicon.ico", f"{served.path}style.css", f"{served.path}events", "/x/../etc"):
        assert served.get(path).body == nobody.body, path
    for wrong in ("", "x", session[:-1], session + "x", session.swapcase(), served.token):
        assert refused(served.get(Cookie=f"{name}={wrong}")), wrong
    for query in ("", "?token=", f"?token={served.token[:-1]}", f"?token={session}", f"?token=x&token={served.token}"):
        assert refused(served.get(served.path + query)), query
    assert refused(served.get(f"/?token={served.token}"))
    assert refused(served.get("/", Cookie=cookie))  # the path is a secret too
    assert refused(served.get(Cookie=f"{name}=\xff\xfe"))


def test_secrets_are_long_differ_at_every_start_and_show_in_no_repr(served: Served) -> None:
    one, other = Access(), Access()
    drawn = [one.path, one.token, one.session, other.path, other.token, other.session]
    assert len(set(drawn)) == 6
    assert all(len(each) == 43 for each in drawn)  # 32 bytes in base64
    assert not any(each in repr(one) + repr(Guard(lambda *_: None, one, frozenset())) for each in drawn)  # type: ignore
    assert served.token != one.token


def test_secrets_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    import hmac

    compared: list[tuple[bytes, bytes]] = []
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((a, b)) or False)  # type: ignore
    access = Access()
    guard = Guard(lambda *_: None, access, frozenset({"127.0.0.1"}))  # type: ignore
    headers = [(b"host", b"127.0.0.1"), (b"cookie", b"silo-dashboard=mine")]
    scope = {"type": "http", "method": "GET", "path": f"/{access.path}/", "query_string": b"", "headers": headers}
    assert guard._opened(scope) is not None
    assert (access.path.encode(), access.path.encode()) in compared


def test_a_token_is_printed_once_and_logged_nowhere(tmp_path: Path) -> None:
    made = Home.create(tmp_path / "ulm", "ulm")
    with Served(made.path) as running:
        cookie = running.cookie()
        running.get(Cookie=cookie)
        running.get("/", method="POST")
        running.get(f"{running.path}?token=wrong")
        with socket.create_connection((running.host, running.port)) as rude:
            rude.sendall(b"\x00 not http " + running.token.encode() + b"\r\n\r\n")
            rude.recv(1000)
    session = cookie.partition("=")[2]
    for secret in (running.token, session, running.path.strip("/")):
        assert secret not in running.said
    assert "Traceback" not in running.said
    files = b"".join(path.read_bytes() for path in made.path.rglob("*") if path.is_file())
    assert running.token.encode() not in files


# Only looking


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "CONNECT", "FOO"])
def test_only_get(served: Served, cookie: Cookie, method: str) -> None:
    answer = served.get(method=method, Cookie=cookie)
    assert answer.status == 405
    assert answer.headers["allow"] == "GET"


def test_there_is_nothing_else_to_ask_for(served: Served, cookie: Cookie) -> None:
    for path in ("log.db", "../keys/passphrase", "%2e%2e/silo.toml", "docs", "openapi.json", "style.css/", "/page"):
        assert served.get(served.path + path, Cookie=cookie).status == 404, path


def test_a_web_socket_is_not_answered(served: Served, cookie: Cookie) -> None:
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec_WebSocket_Key": "x" * 24}
    assert served.get(f"{served.path}events/", Cookie=cookie, Sec_WebSocket_Version="13", **upgrade).status == 404


# Another site in the same browser


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "evil.example:80", "", "127.0.0.1@evil.example", "0.0.0.0"]
)
def test_a_rebound_name_is_turned_away(served: Served, cookie: Cookie, host: str) -> None:
    assert refused(served.get(Host=host, Cookie=cookie), 421)
    assert refused(served.get(f"{served.path}?token={served.token}", Host=host), 421)


def test_a_request_with_two_hosts_is_turned_away(served: Served, cookie: Cookie) -> None:
    with socket.create_connection((served.host, served.port)) as raw:
        hosts = f"Host: 127.0.0.1:{served.port}\r\nHost: evil.example"
        raw.sendall(f"GET {served.path} HTTP/1.1\r\n{hosts}\r\nCookie: {cookie}\r\n\r\n".encode())
        assert raw.recv(100).split()[1] in (b"400", b"421")


def test_who_comes_through_a_tunnel_is_let_in(served: Served, cookie: Cookie) -> None:
    for host in ("localhost:9000", "127.0.0.1:9000", "[::1]:9000", "LOCALHOST"):
        assert served.get(Host=host, Cookie=cookie).status == 200, host


@pytest.mark.parametrize("site", ["cross-site", "same-site", "nonsense"])
def test_another_site_or_another_port_gets_nothing_with_the_cookie(served: Served, cookie: Cookie, site: str) -> None:
    """A page of another port of this machine is "same-site" to a browser: SameSite cookies alone would let it in."""
    assert refused(served.get(Cookie=cookie, Sec_Fetch_Site=site))
    assert refused(served.get(f"{served.path}?token={served.token}", Sec_Fetch_Site=site))
    assert served.get(Cookie=cookie, Sec_Fetch_Site="same-origin").status == 200
    assert served.get(Cookie=cookie, Sec_Fetch_Site="none").status == 200


def test_another_origin_gets_nothing(served: Served, cookie: Cookie) -> None:
    for origin in ("https://evil.example", "null", f"http://{served.host}:1", f"https://{served.host}:{served.port}"):
        assert refused(served.get(Cookie=cookie, Origin=origin)), origin
    assert served.get(Cookie=cookie, Origin=f"http://{served.host}:{served.port}").status == 200


@pytest.mark.parametrize("path", ["", "style.css", "live.js", "nothing"])
def test_every_answer_forbids_what_it_can(served: Served, cookie: Cookie, path: str) -> None:
    for given in (served.get(served.path + path, Cookie=cookie), served.get(path=f"/{path}")):
        headers = given.headers
        assert headers["content-security-policy"] == CONTENT_POLICY
        assert headers["cache-control"] == "no-store"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["x-frame-options"] == "DENY"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert not headers.keys() & {"access-control-allow-origin", "server", "date"}


def test_the_policy_names_no_other_place_and_nothing_inline() -> None:
    assert "default-src 'none'" in CONTENT_POLICY
    assert not re.search(r"unsafe|\*|http|data:|blob:", CONTENT_POLICY)


def test_strangers_text_is_text(served: Served, cookie: Cookie) -> None:
    body = served.get(Cookie=cookie).body
    assert "&lt;script&gt;alert" in body
    assert "&lt;img src=x" in body
    assert "[U+202E]" in body
    assert re.findall(r"<script[^>]*>", body) == ['<script src="live.js" defer>']
    assert not re.search(r"<img|<\w[^>]*\s(on\w+|style)=|https?://", body)


# Another user of the machine


def test_it_listens_on_loopback_alone(served: Served) -> None:
    table = Path("/proc/net/tcp").read_text() if Path("/proc/net/tcp").exists() else ""
    listening = {line.split()[1] for line in table.splitlines()[1:] if line.split()[3] == "0A"}
    assert not table or f"0100007F:{served.port:04X}" in listening
    assert f"00000000:{served.port:04X}" not in listening
    assert loopback_names("127.0.0.1") == {"127.0.0.1", "[::1]", "localhost"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--address", "192.0.2.1"], "without encryption"),
        (["--address", "0.0.0.0", "--allow-remote"], "name one address"),
        (["--address", "::"], "name one address"),
        (["--address", "localhost"], "no IP address"),
        (["--address", "example.org"], "no IP address"),
    ],
)
def test_another_address_has_to_be_asked_for_and_is_argued_against(home: Home, words: list[str], says: str) -> None:
    assert says in silo("dashboard", "--home", home.path, *words, status=2).line


def test_a_taken_port_is_said(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port}" in silo("dashboard", "--home", home.path, "--port", port, status=3).line


def test_the_journal_is_no_place_for_a_token(home: Home) -> None:
    read, write = os.pipe()
    with os.fdopen(read), os.fdopen(write, "w") as out:
        found = os.fstat(out.fileno())
        done = subprocess.run(
            [sys.executable, "-c", COMMAND, "dashboard", "--home", str(home.path)],
            env={**os.environ, "JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"},
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            timeout=30,
        )
    assert done.returncode == 2
    assert "journal" in done.stderr


def test_ipv6_loopback_works_as_well(home: Home) -> None:
    if not socket.has_ipv6 or not Path("/proc/net/if_inet6").read_text().strip():
        pytest.skip("this machine has no IPv6")
    with Served(home.path, ("--address", "::1")) as running:
        assert running.address.startswith("http://[::1]:")
        assert running.get(Cookie=running.cookie()).status == 200


# The stream, and the facts once


def test_an_entry_of_another_process_comes_through_the_stream(home: Home) -> None:
    with Served(home.path) as running:
        cookie = running.cookie()
        connection = http.client.HTTPConnection(running.host, running.port, timeout=10)
        connection.request("GET", f"{running.path}events", headers={"Cookie": cookie})
        stream = connection.getresponse()
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert event(stream)["words"].endswith("the log has 4 entries.")
        with home.log() as log:  # this process is another one than the dashboard's
            log.append("run-finished", {"run": "heart-1"})
            told = event(stream)
        assert told["version"] == 2
        assert told["words"].endswith("the log has 5 entries.")
        assert "finished" in running.get(Cookie=cookie).body
        stream.close()
        connection.close()


def test_streams_are_counted_and_given_back(home: Home) -> None:
    with Served(home.path) as running:
        cookie, opened = running.cookie(), []
        for _ in range(MOST_STREAMS):
            connection = http.client.HTTPConnection(running.host, running.port, timeout=10)
            connection.request("GET", f"{running.path}events", headers={"Cookie": cookie})
            opened.append((connection, connection.getresponse()))
            event(opened[-1][1])
        assert running.get(f"{running.path}events", Cookie=cookie).status == 503
        assert running.get(Cookie=cookie).status == 200  # the page itself is still there
        for connection, stream in opened:
            stream.close()
            connection.close()
        for _ in range(100):
            connection = http.client.HTTPConnection(running.host, running.port, timeout=10)
            connection.request("GET", f"{running.path}events", headers={"Cookie": cookie})
            answer = connection.getresponse()
            status = answer.status
            answer.close()
            connection.close()
            if status == 200:
                break
            time.sleep(0.1)
        assert status == 200


def event(stream: http.client.HTTPResponse) -> dict[str, object]:
    while True:
        line = stream.readline().decode()
        assert line, "the stream ended"
        if line.startswith("data: "):
            value: dict[str, object] = json.loads(line.removeprefix("data: "))
            return value


def test_json_prints_the_same_facts_once(home: Home) -> None:
    facts = silo("dashboard", "--home", home.path, "--json").json
    assert facts["silo"] == "cleveland"
    assert facts["runs"][0]["state"] == "training"
    assert set(facts) >= {"alarms", "budgets", "decisions", "log", "taken"}


def test_no_home_is_said(tmp_path: Path) -> None:
    assert "silo init" in silo("dashboard", "--home", tmp_path / "none", status=3).line
