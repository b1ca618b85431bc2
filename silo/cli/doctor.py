"""`silo doctor`: is this machine, and this home, fit to take part; and what to do where not."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from silo.cli.common import HomeOption, JsonOption, console, print_json, read_file

MARKS = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}


def doctor(
    aggregator: Annotated[
        str | None, typer.Option("--aggregator", help="HOST:PORT to try, instead of the configured one.")
    ] = None,
    root_certificate: Annotated[
        Path | None, typer.Option("--root-certificate", help="PEM of the authority behind its certificate.")
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check Python, packages, keys, disk, ledger, log, consortium, packs, data, aggregator and clock; change nothing.

    A line each: ok, warn or FAIL, and what to do. Ends with 0 unless something failed, else with 3.

    Example: silo doctor
    """
    from silo.cli.checks import examine, unreadable
    from silo.errors import ConfigError
    from silo.home import Home, default_path

    root = read_file(root_certificate) if root_certificate is not None else None
    try:
        place = Home.open(home)
    except ConfigError as error:
        findings = list(unreadable(Path(home or default_path()), error))
    else:
        address = aggregator or place.settings.aggregator
        findings = list(examine(place, address, root or place.aggregator_root()))
    failed = any(each.state == "fail" for each in findings)
    if as_json:
        print_json({"ok": not failed, "findings": [asdict(each) for each in findings]})
    else:
        out = console()
        for each in findings:
            out.print(f"{MARKS[each.state]}  {each.name}: {each.found}", soft_wrap=True)
            if each.fix and each.state != "ok":
                out.print(f"      {each.fix}", soft_wrap=True)
    if failed:
        raise typer.Exit(ConfigError.exit_code)
