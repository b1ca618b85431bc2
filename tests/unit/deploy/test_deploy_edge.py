"""The edge passes on nine calls, answers researchers, and everything else does not exist."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from silo_crypto.keys import Identity

from silo.deploy import edge
from silo.deploy.requests import Gatekeeper, signed_headers
from silo.deploy.runs import Runs
from silo.home import Home


@pytest.fixture
def seen() -> list[httpx.Request]:
    return []


@pytest.fixture
def app(aggregator: Home, seen: list[httpx.Request]) -> Any:
    """The edge in front of a SuperLink that answers every path there is, as the worst one would."""

    async def answer() -> AsyncIterator[bytes]:
        yield b"ans"
        yield b"wer"

    async def superlink(request: httpx.Request) -> httpx.Response:
        await request.aread()
        seen.append(request)
        return httpx.Response(200, content=answer(), headers={"content-type": "application/x-protobuf"})

    gate = Gatekeeper(lambda: aggregator.consortium().body)
    gate._started -= 5
    client = httpx.AsyncClient(base_url="https://superlink", transport=httpx.MockTransport(superlink))
    return edge.make_edge(client, gate, Runs(aggregator))


def send(app: Any, method: str, path: str, **given: Any) -> httpx.Response:
    async def exchange() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="https://edge") as client:
            return await client.request(method, path, **given)

    return asyncio.run(exchange())


@pytest.mark.parametrize("call", sorted(edge.FLEET_CALLS))
def test_the_calls_of_an_agent_pass(app: Any, seen: list[httpx.Request], call: str) -> None:
    answer = send(app, "POST", edge.FLEET + call, content=b"body", headers={"flower-signature": "s"})
    assert (answer.status_code, answer.content) == (200, b"answer")
    assert (seen[0].url.path, seen[0].content) == (edge.FLEET + call, b"body")
    assert seen[0].headers["flower-signature"] == "s"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/fleet/register-node", "/v1/fleet/unregister-node", "/v1/fleet/get-fab",
        "/v1/control/start-run", "/v1/control/register-node", "/v1/control/list-nodes",
        "/v1/runtime/acquire-task", "/v1/runtime/pull-messages", "/v1/fleet", "/v1/fleet/",
        "/v1/fleet/../control/start-run", "/v1/fleet/pull-messages/../../control/start-run",
        "/v1/fleet/..%2fcontrol%2fstart-run", "/v1/fleet/%2e%2e/control/start-run", "//v1/control/start-run",
        "/health", "/", "/docs", "/openapi.json",
    ],
)  # fmt: skip
def test_nothing_else_exists(app: Any, seen: list[httpx.Request], path: str) -> None:
    for method in ("POST", "GET"):
        assert send(app, method, path, content=b"").status_code in (404, 405), path
    assert not seen


def test_other_methods_do_not_pass(app: Any, seen: list[httpx.Request]) -> None:
    for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS"):
        assert send(app, method, "/v1/fleet/pull-messages").status_code == 405
    assert not seen


def test_a_body_is_cut_off_at_the_limit(app: Any, seen: list[httpx.Request], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "MAX_FLEET_BODY", 100)

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 64

    assert send(app, "POST", "/v1/fleet/push-object", content=b"x" * 101).status_code == 413
    assert send(app, "POST", "/v1/fleet/push-object", content=endless()).status_code == 413
    assert send(app, "POST", "/v1/fleet/push-object", content=b"x" * 100).status_code == 200
    assert len(seen) == 1


def test_who_sends_slowly_is_dropped(app: Any, seen: list[httpx.Request], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "BODY_SECONDS", 0.05)

    async def slow() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.sleep(5)
        yield b"x"

    assert send(app, "POST", "/v1/fleet/push-object", content=slow()).status_code == 503
    assert not seen


def test_unsigned_requests_learn_nothing(app: Any, aggregator: Home) -> None:
    for method, path in (("POST", "/silo/v1/runs"), ("GET", "/silo/v1/runs"), ("GET", "/silo/v1/runs/x")):
        answer = send(app, method, path)
        assert answer.status_code == 401
        assert "no researcher" in answer.json()["error"]
        assert str(aggregator.path) not in answer.text


def test_what_is_no_submission_is_refused_and_kept_nowhere(
    app: Any, aggregator: Home, people: dict[str, Identity]
) -> None:
    for body in (b"", b"{", b'{"parts": {}}', b'{"parts": {"run.json": "e30="}}', b"[" * 5000):
        headers = signed_headers(people["rita"], "aggregator", "POST", "/silo/v1/runs", body)
        answer = send(app, "POST", "/silo/v1/runs", content=body, headers=headers)
        assert (answer.status_code, answer.json()["exit_code"]) == (400, 3)
    assert list((aggregator.path / "runs").iterdir()) == []


@pytest.mark.parametrize("run", ["nothing", "..", "%2e%2e", "a%2fb", "x" * 200])
def test_a_run_that_is_not_mine_is_not_there(app: Any, people: dict[str, Identity], run: str) -> None:
    path = f"/silo/v1/runs/{run}"
    url = httpx.URL(f"https://edge{path}")
    headers = signed_headers(people["rita"], "aggregator", "GET", url.path, b"")
    assert send(app, "GET", path, headers=headers).status_code in (400, 404)


def test_no_file_but_results_is_given(aggregator: Home, tmp_path: Path) -> None:
    from silo.errors import ConfigError

    for name in ("serving.lock", "../../silo.toml", "events.jsonl", "experiment.py", "model..sealed"):
        with pytest.raises(ConfigError):
            Runs(aggregator).result("rita", "nothing", name)
