"""The dashboard over HTTP: one page, its style, its script and an event stream, for whoever opened the printed address.

Invariants, each against somebody who tries (SECURITY.md):

1. Only GET, so nothing can be asked for but to look; the databases behind it are open read only.
2. The Host header is an address this server was told to listen on, or a name of loopback: a stranger's domain that was
   made to resolve to 127.0.0.1 (DNS rebinding) is turned away before anything else is looked at.
3. A browser's own word on who asks (Sec-Fetch-Site, Origin) must be: this very origin, or the person. Another port of
   this machine is another site's page here, although cookies count it as the same site.
4. The token is 256 bits of the system's CSPRNG, compared in constant time, and exchanged at once for a cookie with
   another 256 bits: HttpOnly, SameSite=Strict, and for a path that is secret as well. Cookies are not bound to a port,
   so without the path another user's server on this machine could be sent it.
5. The page may load from its own origin only, runs one script, and may be framed, cached or read by nobody.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request, cookie_parser
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from silo.dashboard.page import headline, render, script, style
from silo.dashboard.view import View
from silo.dashboard.watcher import Watcher

COOKIE = "silo-dashboard"
LOOK_SECONDS = 0.5
ANYWAY_SECONDS = 30.0
KEEP_ALIVE_SECONDS = 15.0
MOST_STREAMS = 16
_TOKEN_BYTES = 32

CONTENT_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "content-security-policy": CONTENT_POLICY,
    "cache-control": "no-store",
    "cross-origin-embedder-policy": "require-corp",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
_CLOSED = "Open the address that `silo dashboard` printed.\n"


class Access:
    """The three secrets of one start, from the system's CSPRNG; none is in its repr."""

    def __init__(self) -> None:
        self.path, self.token, self.session = (secrets.token_urlsafe(_TOKEN_BYTES) for _ in range(3))

    def address(self, host: str, port: int) -> str:
        """Return the address that opens the page, to be shown to one person once."""
        return f"http://{authority(host)}:{port}/{self.path}/?token={self.token}"

    def __repr__(self) -> str:
        return "Access(...)"


class Board:
    """The newest view and its number; looks again only when something was written, or every half minute."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self._lock = asyncio.Lock()
        self._signature: object = None
        self._view: View | None = None
        self._looked = 0.0
        self.version = 0
        self.streams = 0
        self.closing: Callable[[], bool] = lambda: False

    async def view(self) -> View:
        """Return what there is now."""
        async with self._lock:
            signature = await run_in_threadpool(self._watcher.signature)
            now = asyncio.get_running_loop().time()
            if self._view is not None and signature == self._signature and now - self._looked < ANYWAY_SECONDS:
                return self._view
            seen = await run_in_threadpool(self._watcher.look)
            if self._view is None or replace(self._view, taken=seen.taken) != seen:
                self.version += 1
            self._view, self._signature, self._looked = seen, signature, now
            return seen


def make_app(watcher: Watcher, access: Access, hosts: frozenset[str]) -> tuple[ASGIApp, Board]:
    """Return the guarded application and its board; ``hosts`` are the host names it answers to."""
    board = Board(watcher)

    async def page(_: Request) -> Response:
        view = await board.view()
        return HTMLResponse(render(view, board.version))

    async def sheet(_: Request) -> Response:
        return Response(style(), media_type="text/css")

    async def live(_: Request) -> Response:
        return Response(script(), media_type="text/javascript")

    async def events(_: Request) -> Response:
        if board.streams >= MOST_STREAMS:
            return PlainTextResponse("too many pages are open\n", status_code=503)
        return StreamingResponse(_stream(board), media_type="text/event-stream")

    routes = [
        Route(f"/{access.path}{name}", endpoint, methods=["GET"])
        for name, endpoint in (("/", page), ("/style.css", sheet), ("/live.js", live), ("/events", events))
    ]
    app = Starlette(routes=routes)
    app.router.redirect_slashes = False  # such a redirect repeats the Host header
    return Guard(app, access, hosts), board


async def _stream(board: Board) -> AsyncIterator[str]:
    """Yield an event for each view that differs from the one before, beginning with the one there is."""
    board.streams += 1
    told, spoke = -1, 0.0
    try:
        while not board.closing():
            view = await board.view()
            now = asyncio.get_running_loop().time()
            if board.version != told:
                told, spoke = board.version, now
                yield f"event: view\ndata: {json.dumps({'version': told, 'words': headline(view)})}\n\n"
            elif now - spoke > KEEP_ALIVE_SECONDS:
                spoke = now
                yield ": still here\n\n"
            await asyncio.sleep(LOOK_SECONDS)
    finally:
        board.streams -= 1


class Guard:
    """Everything that is checked before a request reaches the page, in the order of the module's invariants."""

    def __init__(self, app: ASGIApp, access: Access, hosts: frozenset[str]) -> None:
        self._app = app
        self._access = access
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it; a web socket is closed."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        if scope["type"] != "http":
            return
        answer = self._refused(scope) or self._opened(scope)
        await (answer or self._app)(scope, receive, _with_headers(send))

    def _refused(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if scope["method"] != "GET":
            return PlainTextResponse("only GET\n", status_code=405, headers={"allow": "GET"})
        hosts = headers.getlist("host")
        if len(hosts) != 1 or _name(hosts[0]) not in self._hosts:
            return PlainTextResponse("this server does not go by that name\n", status_code=421)
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return PlainTextResponse("another site asked; paste the address into the browser\n", status_code=403)
        if headers.get("origin", f"http://{hosts[0]}") != f"http://{hosts[0]}":
            return PlainTextResponse("another site asked\n", status_code=403)
        return None

    def _opened(self, scope: Scope) -> Response | None:
        """Return None for a request that carries the cookie, else the answer that gives it, or refuses."""
        first, _, rest = str(scope["path"]).removeprefix("/").partition("/")
        known = _same(first, self._access.path)
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])
        if known and not rest and len(given) == 1 and _same(given[0], self._access.token):
            answer = RedirectResponse(f"/{self._access.path}/", status_code=303)
            answer.set_cookie(
                COOKIE, self._access.session, httponly=True, samesite="strict", path=f"/{self._access.path}/"
            )
            return answer
        cookies = cookie_parser(Headers(scope=scope).get("cookie", ""))
        if not known or not _same(cookies.get(COOKIE, ""), self._access.session):
            return PlainTextResponse(_CLOSED, status_code=403)
        return None


def _with_headers(send: Send) -> Callable[[Message], Awaitable[None]]:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers[name] = value
        await send(message)

    return sending


def authority(host: str) -> str:
    """Return an address as it stands in a URL."""
    return f"[{host}]" if ":" in host else host


def loopback_names(host: str) -> frozenset[str]:
    """Return the host names a server on ``host`` goes by; the names of loopback too, for who comes through a tunnel."""
    return frozenset({authority(ipaddress.ip_address(host).compressed), "127.0.0.1", "[::1]", "localhost"})


def _name(host: str) -> str:
    """Return a Host header without its port, in small letters."""
    name, colon, port = host.lower().rpartition(":")
    return name if colon and port.isdigit() else host.lower()


def _same(given: str, due: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), due.encode())
