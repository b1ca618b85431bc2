"""`silo aggregator`: the server side of a consortium, from a home to a running service."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path
from typing import Annotated, Any

import typer

from silo.cli.common import HomeOption, JsonOption, console, open_home, print_json, say, table_of
from silo.errors import ConfigError, UsageError

app = typer.Typer(no_args_is_help=True, help="The aggregator: make its home, bring it up, see how it is.")


@app.callback()
def aggregator() -> None:
    """The aggregator: make its home, bring it up, see how it is."""


@app.command()
def init(
    host: Annotated[
        list[str], typer.Option("--host", help="A name or address that silos and researchers use; repeat it for more.")
    ],
    name: Annotated[str, typer.Option("--name", help="1 to 32 of a-z, 0-9 and -.")] = "aggregator",
    listen: Annotated[str, typer.Option("--listen", help="ADDRESS:PORT of the edge.")] = "0.0.0.0:9443",
    certificate: Annotated[
        Path | None, typer.Option("--certificate", help="PEM, your own; one is made if left out.")
    ] = None,
    key: Annotated[Path | None, typer.Option("--key", help="PEM, the certificate's private key.")] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make an aggregator's home: keys, a log, and everything its transport needs.

    Without --certificate a small authority is made too; its certificate goes to silos and researchers.

    Example: silo aggregator init --host fl.example.org
    """
    from silo.deploy.place import Place
    from silo.home import Home, default_path

    if (certificate is None) != (key is None):
        raise UsageError("a certificate and its key belong together", where="--certificate", fix="give both")
    address, port = _listen(listen)
    path = Path(home) if home is not None else default_path()
    made = Home.open(path) if (path / "silo.toml").exists() else Home.create(path, name, organisation_type="aggregator")
    given = (certificate, key) if certificate is not None and key is not None else None
    place = Place.create(made, hosts=host, listen=(address, port), given=given)
    root = place.root_certificate
    if as_json:
        print_json({"home": str(made.path), "root_certificate": str(root) if root else None, **made.public().to_json()})
        return
    out = console()
    out.print(f"made the home of {made.name} in {made.path}")
    if root is not None:
        out.print(f"silos and researchers need {root}")
    out.print("next: silo keys show --as aggregator > aggregator.json, and hand it to the consortium")
    out.print("then: silo consortium join, and silo aggregator up")


@app.command()
def up(home: HomeOption = None) -> None:
    """Bring the aggregator up, in the foreground, until stopped with Ctrl-C or SIGTERM.

    Starts Flower's SuperLink and SuperExec on loopback and the edge in front of them, lets the members' nodes connect,
    and starts every run that researchers submit; a run that was cut off goes on where it was.

    Example: silo aggregator up --home /srv/silo
    """
    from silo.deploy.place import Place
    from silo.deploy.supervisor import Supervisor

    opened = open_home(home)
    body = opened.consortium().body
    if body.aggregator.name != opened.name or opened.public().to_json()["keys"] != body.aggregator.keys.to_dict():
        raise ConfigError(
            f"the consortium's aggregator is {body.aggregator.name}, with other keys", where=str(opened.path)
        )
    opened.identity()  # a passphrase that is missing is missed now, not at the first run
    stop = threading.Event()

    def ended(number: int, _: object) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ended)
    Supervisor(Place.open(opened), lambda text: say(f"{opened.name}: {text}")).serve(stop)


@app.command()
def status(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Say whether the aggregator is up, which silos are connected, and which runs go on.

    Example: silo aggregator status --json
    """
    from silo.deploy.place import Place
    from silo.storage import is_held

    place = Place.open(open_home(home))
    path = place.path("status.json")
    told: dict[str, Any] = {"state": "never up", "silos": {}, "open_runs": []}
    if path.exists():
        told = json.loads(path.read_bytes())
    lock = place.path("up.lock")
    if not (lock.exists() and is_held(lock)) and told["state"] != "never up":
        told |= {"state": "stopped", "silos": dict.fromkeys(told["silos"], False)}
    if as_json:
        print_json(told)
        return
    out = console()
    out.print(f"{place.home.name}: {told['state']}, edge {place.settings.listen_host}:{place.settings.listen_port}")
    table = table_of("silo", "connected")
    for name, connected in sorted(told["silos"].items()):
        table.add_row(name, "yes" if connected else "no")
    if told["silos"]:
        out.print(table)
    out.print("open runs: " + (", ".join(told["open_runs"]) or "none"))


def _listen(text: str) -> tuple[str, int]:
    address, _, port = text.rpartition(":")
    if not address or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise UsageError(f"{text!r} is no ADDRESS:PORT", where="--listen", fix="such as 0.0.0.0:9443")
    return address, int(port)
