"""`silo agent`: serve the aggregator from a home, in the foreground."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from silo.cli.common import HomeOption, open_home, read_file, say
from silo.errors import UsageError


def agent(
    aggregator: Annotated[
        str | None, typer.Option("--aggregator", help="HOST:PORT of the aggregator; remembered once it was given.")
    ] = None,
    root_certificate: Annotated[
        Path | None,
        typer.Option("--root-certificate", help="PEM of the authority behind its certificate; remembered as well."),
    ] = None,
    home: HomeOption = None,
) -> None:
    """Connect to the aggregator and answer it, until stopped with Ctrl-C or SIGTERM.

    Every message must be signed by the aggregator that the consortium names; the home's policies decide on each run.
    When the connection breaks, the agent connects again. One agent serves a home at a time.

    Example: silo agent --aggregator fl.example.org:9443 --root-certificate authority.crt
    """
    from silo.flower.node import Node

    opened = open_home(home)
    opened.consortium()  # who joined none has nothing to answer
    if aggregator is not None or root_certificate is not None:
        opened.remember_aggregator(aggregator, read_file(root_certificate) if root_certificate else None)
    address = opened.settings.aggregator
    if address is None:
        raise UsageError("no aggregator was ever given", where="--aggregator", fix="give HOST:PORT")
    stop = threading.Event()

    def ended(number: int, _: object) -> None:
        if stop.is_set():  # asked twice: now
            os._exit(128 + number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ended)
    Node(opened, address, opened.aggregator_root(), _status_line(opened.name)).serve(stop)


class _status_line:  # noqa: N801  it is called like a function
    """Says each change on stderr: one line that is written over on a terminal, a line each elsewhere."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._terminal = os.isatty(2)
        self._last = ""

    def __call__(self, state: str, detail: str) -> None:
        text = f"{self._name}: {state}" + (f" ({detail})" if detail else "")
        if text == self._last or (state == "working" and not self._terminal):
            return
        self._last = text
        if self._terminal:
            typer.echo(f"\r\x1b[K{text}", err=True, nl=state in ("stopped", "waiting"))
        else:
            say(text)
