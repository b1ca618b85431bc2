"""`silo init`: a home for one party."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from silo.cli.common import HomeOption, JsonOption, console, print_json


def init(
    name: Annotated[str, typer.Option("--name", help="1 to 32 of a-z, 0-9 and -.")],
    display_name: Annotated[str, typer.Option("--display-name", help="As it reads in reports.")] = "",
    organisation_type: Annotated[
        str, typer.Option("--organisation-type", help="Such as hospital, university, bank.")
    ] = "organisation",
    jurisdiction: Annotated[
        str, typer.Option("--jurisdiction", help="ISO 3166, such as DE or US-CA; ZZ is unknown.")
    ] = "ZZ",
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a home: keys, an empty policy folder, a ledger and a log, readable by their owner only.

    With $SILO_PASSPHRASE set the keys are encrypted under it, else under a random one that lies beside them.

    Example: silo init --name riverside --organisation-type hospital --jurisdiction US-CA
    """
    from silo.home import Home, default_path

    path = Path(home) if home is not None else default_path()
    made = Home.create(
        path, name, display_name=display_name, organisation_type=organisation_type, jurisdiction=jurisdiction
    )
    if as_json:
        print_json({"home": str(made.path), **made.public().to_json()})
        return
    out = console()
    out.print(f"made the home of {made.settings.display_name} in {made.path}")
    out.print(f"next: silo keys show > {name}.json, and hand that file to the consortium")
