"""A researcher's client against an edge that is only just there."""

from __future__ import annotations

import json

import httpx
import pytest
from silo_crypto.keys import Identity

from silo.deploy import client as module
from silo.deploy.client import ResearcherClient
from silo.errors import PeerError, PolicyDenied


@pytest.mark.parametrize(("busy", "asked"), [(0, 1), (1, 2), (2, 3), (9, 3)])
def test_it_asks_again_while_the_edge_is_busy(monkeypatch: pytest.MonkeyPatch, busy: int, asked: int) -> None:
    """An edge refuses what was signed before it started; each further request is signed anew."""
    monkeypatch.setattr(module, "AGAIN_SECONDS", 0.0)
    seen: list[str] = []

    def edge(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["silo-nonce"])
        if len(seen) <= busy:
            told = {"error": "the aggregator has only just started", "where": "", "fix": "", "exit_code": 7}
            return httpx.Response(503, content=json.dumps(told))
        return httpx.Response(200, content=b'{"runs": []}')

    with ResearcherClient("fl.example.org:9443", None, Identity.generate("rita"), "otto") as client:
        client._client.close()
        client._client = httpx.Client(base_url="https://fl.example.org", transport=httpx.MockTransport(edge))
        if busy < 3:
            assert client.runs() == []
        else:
            with pytest.raises(PeerError, match="only just started"):
                client.runs()
    assert len(seen) == len(set(seen)) == asked


def test_a_refusal_is_final(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def edge(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        told = {"error": "no", "where": "", "fix": "", "exit_code": 4}
        return httpx.Response(403, content=json.dumps(told))

    with ResearcherClient("fl.example.org:9443", None, Identity.generate("rita"), "otto") as client:
        client._client.close()
        client._client = httpx.Client(base_url="https://fl.example.org", transport=httpx.MockTransport(edge))
        with pytest.raises(PolicyDenied):
            client.runs()
    assert len(asked) == 1
