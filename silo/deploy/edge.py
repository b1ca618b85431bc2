"""The edge: the only port of an aggregator that others reach. An ASGI app behind TLS.

    POST /v1/fleet/...        the nine calls a silo's agent makes, passed on to the SuperLink on loopback
    POST /silo/v1/runs        a researcher submits a run
    GET  /silo/v1/runs        the researcher's runs
    GET  /silo/v1/runs/RUN    how one goes on: its state and its events
    GET  /silo/v1/runs/RUN/FILE   what it left: result.json and what the silos sealed to the researcher

Invariant: a path that is not in this list does not exist, whatever the SuperLink behind offers: not Flower's control
API, not its runtime API, not the registering of nodes. Bodies are counted while they arrive and cut off at a limit;
whoever sends slowly is dropped. A request of a researcher is read by nobody before its signature held.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from silo.deploy.requests import Gatekeeper
from silo.deploy.runs import Runs
from silo.errors import ConfigError, PeerError, SiloError

if TYPE_CHECKING:
    import httpx
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

FLEET = "/v1/fleet/"
FLEET_CALLS = frozenset(
    {
        "activate-node",
        "deactivate-node",
        "send-node-heartbeat",
        "pull-messages",
        "push-messages",
        "get-run",
        "pull-object",
        "push-object",
        "confirm-message-received",
    }
)
MAX_FLEET_BODY = 16 << 20  # Flower cuts arrays at 5 MiB; a head and a consortium's documents fit beside
MAX_SUBMISSION = 8 << 20
BODY_SECONDS = 60.0
UPSTREAM_SECONDS = 60.0
_HOP = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "keep-alive", "te", "trailer", "upgrade", "expect"}
)
_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_STATUS = {2: 400, 3: 400, 4: 403, 5: 403, 6: 401, 7: 503}


def make_edge(superlink: httpx.AsyncClient, gatekeeper: Gatekeeper, runs: Runs) -> Starlette:
    """Return the app. ``superlink`` has the SuperLink's base URL and trusts its certificate."""
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse, Response, StreamingResponse
    from starlette.routing import Route

    async def fleet(request: Request) -> Response:
        if request.path_params["call"] not in FLEET_CALLS:
            return Response("not exposed", 404)
        body = await _body(request, MAX_FLEET_BODY)
        headers = [(key, value) for key, value in request.headers.items() if key not in _HOP]
        message = superlink.build_request("POST", FLEET + request.path_params["call"], content=body, headers=headers)
        try:
            answer = await superlink.send(message, stream=True)
        except _network_errors() as error:
            raise PeerError("the SuperLink does not answer") from error
        return StreamingResponse(
            _passed_on(answer),
            answer.status_code,
            headers={key: value for key, value in answer.headers.items() if key not in _HOP},
        )

    async def submit(request: Request) -> Response:
        body = await _body(request, MAX_SUBMISSION)
        person = _admitted(request, body)
        run = await asyncio.to_thread(runs.submit, person.name, body)
        return JSONResponse({"run": run}, 201)

    async def listed(request: Request) -> Response:
        person = _admitted(request, await _body(request, 0))
        return JSONResponse({"runs": await asyncio.to_thread(runs.listed, person.name)})

    async def state(request: Request) -> Response:
        person = _admitted(request, await _body(request, 0))
        return JSONResponse(await asyncio.to_thread(runs.state, person.name, _run_of(request)))

    async def result(request: Request) -> Response:
        person = _admitted(request, await _body(request, 0))
        content = await asyncio.to_thread(runs.result, person.name, _run_of(request), request.path_params["file"])
        return Response(content, media_type="application/octet-stream")

    def _admitted(request: Request, body: bytes) -> Any:
        path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return gatekeeper.admit(request.headers, request.method, path, body)

    async def failed(_: Request, error: Exception) -> Response:
        if not isinstance(error, SiloError):
            return JSONResponse({"error": "internal error"}, 500)
        status = 413 if isinstance(error, _TooLarge) else 404 if isinstance(error, _NotThere) else None
        told = {"error": error.what, "where": error.where, "fix": error.fix, "exit_code": error.exit_code}
        return JSONResponse(told, status or _STATUS.get(error.exit_code, 500))

    return Starlette(
        routes=[
            Route(FLEET + "{call}", fleet, methods=["POST"]),
            Route("/silo/v1/runs", submit, methods=["POST"]),
            Route("/silo/v1/runs", listed, methods=["GET"]),
            Route("/silo/v1/runs/{run}", state, methods=["GET"]),
            Route("/silo/v1/runs/{run}/{file}", result, methods=["GET"]),
        ],
        exception_handlers={SiloError: failed},
    )


class _TooLarge(ConfigError):
    pass


class _NotThere(ConfigError):
    pass


async def _body(request: Request, limit: int) -> bytes:
    """Return the whole body; raise if it has more than ``limit`` bytes, or takes too long to arrive."""

    async def read() -> bytes:
        content = bytearray()
        async for chunk in request.stream():
            content += chunk
            if len(content) > limit:
                raise _TooLarge(f"more than {limit} bytes were sent")
        return bytes(content)

    declared = request.headers.get("content-length", "0")
    if not declared.isdigit() or int(declared) > limit:
        raise _TooLarge(f"more than {limit} bytes were announced")
    try:
        return await asyncio.wait_for(read(), BODY_SECONDS)
    except TimeoutError as error:
        raise PeerError("the request did not arrive in time") from error


async def _passed_on(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for chunk in answer.aiter_raw():
            yield chunk
    finally:
        await answer.aclose()


def _run_of(request: Request) -> str:
    run = str(request.path_params["run"])
    if not _RUN.fullmatch(run):
        raise _NotThere("there is no such run")
    return run


def _network_errors() -> type[Exception]:
    import httpx

    return httpx.HTTPError
