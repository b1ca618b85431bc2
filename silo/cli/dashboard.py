"""`silo dashboard`: a page on loopback that shows the admin what this home holds, live, and can change nothing."""

from __future__ import annotations

import ipaddress
import os
import socket
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from silo.cli.common import HomeOption, JsonOption, open_home, print_json, say
from silo.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from silo.dashboard import Watcher

LOOPBACK, PORT = "127.0.0.1", 8470


def dashboard(
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = PORT,
    address: Annotated[str, typer.Option("--address", help="The address of this machine to listen on.")] = LOOPBACK,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Allow an address that other machines reach: unencrypted HTTP.")
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show runs, budgets, decisions, log and warnings of this home on a page in your browser; Ctrl-C ends it.

    The printed address holds a token and opens the page for whoever has it, until you end the command. From another
    machine, come through ssh -L 8470:127.0.0.1:8470. --json prints the same facts once.

    Example: silo dashboard --home silo-demo/homes/cleveland
    """
    from silo.dashboard import Watcher

    place = open_home(home)
    if as_json:
        print_json(asdict(Watcher(place).look()))
        return
    listen = _checked(address, allow_remote)
    _refuse_a_journal()
    with _socket(listen, port) as listening:
        _serve(Watcher(place), listen, listening)


def _checked(address: str, allow_remote: bool) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError as error:
        raise UsageError(f"{address!r} is no IP address", where="--address", fix=f"leave it out: {LOOPBACK}") from error
    if parsed.is_unspecified:
        raise UsageError("every address at once is more than anybody needs", where="--address", fix="name one address")
    if not parsed.is_loopback and not allow_remote:
        raise UsageError(
            f"{address} can be reached from other machines, and this is HTTP without encryption: whoever is on the way "
            "reads the page, takes the token and sees all that this silo does",
            where="--address",
            fix="come through ssh -L; or, on a network you trust, add --allow-remote",
        )
    return parsed.compressed


def _refuse_a_journal() -> None:
    """Raise if stdout goes to systemd's journal, which would keep the token for everybody who may read it."""
    journal = os.environ.get("JOURNAL_STREAM", "")
    try:
        out = os.fstat(1)
    except OSError:
        return
    if journal == f"{out.st_dev}:{out.st_ino}":
        raise UsageError(
            "the token would stay in the journal", where="stdout", fix="start it from a terminal, when you need it"
        )


def _socket(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address, port))
        listening.listen()  # before the address is printed: who is quick must not be turned away
    except OSError as error:
        listening.close()
        raise ConfigError(
            f"cannot listen: {error.strerror}", where=f"{address} port {port}", fix="choose another with --port, or 0"
        ) from error
    return listening


def _serve(watcher: Watcher, address: str, listening: socket.socket) -> None:
    import uvicorn

    from silo.dashboard.app import Access, loopback_names, make_app

    access = Access()
    app, board = make_app(watcher, access, loopback_names(address))
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,  # requests are logged nowhere: their paths are half of the key
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            limit_concurrency=64,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=2,
        )
    )
    board.closing = lambda: server.should_exit
    port = listening.getsockname()[1]
    if not ipaddress.ip_address(address).is_loopback:
        say("silo: other machines reach this page, unencrypted; end it as soon as you can")
    say("Open this address; it is the key to the page, so give it to nobody. Ctrl-C ends the page and the key.")
    typer.echo(access.address(address, port))
    server.run(sockets=[listening])
