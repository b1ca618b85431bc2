"""`silo init`: a home for one party, by flags or, on a terminal, by answering questions."""

from __future__ import annotations

import re
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer

from silo.cli.common import HomeOption, JsonOption, console, print_json, say
from silo.errors import UsageError

NAME = re.compile(r"[a-z0-9-]{1,32}")


def init(
    name: Annotated[str | None, typer.Option("--name", help="1 to 32 of a-z, 0-9 and -.")] = None,
    display_name: Annotated[str | None, typer.Option("--display-name", help="As it reads in reports.")] = None,
    organisation_type: Annotated[
        str | None, typer.Option("--organisation-type", help="Such as hospital, university, bank.")
    ] = None,
    jurisdiction: Annotated[
        str | None, typer.Option("--jurisdiction", help="ISO 3166, such as DE or US-CA; ZZ is unknown.")
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a home: keys, an empty policy folder, a ledger and a log, readable by their owner only.

    On a terminal it asks for what you leave out. With $SILO_PASSPHRASE set the keys are encrypted under it, else
    under a random one that lies beside them.

    Example: silo init --name riverside --organisation-type hospital --jurisdiction US-CA
    """
    from silo.home import Home, default_path

    path = Path(home) if home is not None else default_path()
    if name is None:
        if not sys.stdin.isatty() or as_json:
            raise UsageError("the home needs a name", where="--name", fix="give it; on a terminal you are asked")
        name, display_name, organisation_type, jurisdiction = _asked(
            path, display_name, organisation_type, jurisdiction
        )
    made = Home.create(
        path,
        name,
        display_name=display_name or name,
        organisation_type=organisation_type or "organisation",
        jurisdiction=jurisdiction or "ZZ",
    )
    if as_json:
        print_json({"home": str(made.path), **made.public().to_json()})
        return
    out = console()
    out.print(f"made the home of {made.settings.display_name} in {made.path}", soft_wrap=True)
    out.print(f"next: silo keys show > {name}.json, and hand that file to the consortium")
    out.print("then: silo data add, silo consortium join, silo doctor")


def _asked(
    path: Path, display_name: str | None, organisation_type: str | None, jurisdiction: str | None
) -> tuple[str, str, str, str]:
    """Ask on the terminal; Enter takes what stands in brackets."""
    say(f"A home in {path}. Enter takes what stands in brackets.")
    name = ""
    while not NAME.fullmatch(name):
        name = typer.prompt("Short name, a-z 0-9 -", default=_suggested(), err=True).strip()
    display_name = display_name or typer.prompt("Name as it reads in reports", default=name, err=True)
    organisation_type = organisation_type or typer.prompt("Kind of organisation", default="hospital", err=True)
    jurisdiction = jurisdiction or typer.prompt("Jurisdiction, ISO 3166 such as DE", default="ZZ", err=True)
    return name, str(display_name), str(organisation_type), str(jurisdiction)


def _suggested() -> str:
    host = re.sub(r"[^a-z0-9-]+", "-", socket.gethostname().partition(".")[0].lower()).strip("-")
    return host[:32] or "silo"
