"""`silo approve`: a steward's word on exactly these bytes of code."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from silo.cli.common import HomeOption, JsonOption, KeyOption, console, open_home, print_json, read_file
from silo.errors import ConfigError, UsageError


def approve(
    code: Annotated[
        str, typer.Argument(metavar="DIGEST|FILE", help="The digest that was reviewed, or the experiment's file.")
    ],
    note: Annotated[str, typer.Option("--note", help="What was looked at, for the record.")] = "reviewed",
    days: Annotated[int, typer.Option("--days", min=1, max=3650, help="How long the approval holds.")] = 365,
    key: KeyOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Approve code for this silo, as its steward; without --key the silo's own key signs.

    An approval names the code's digest: one changed byte is other code, which nobody approved. Code that is not
    approved is not executed, and the baseline pack denies the run.

    Example: silo approve experiment.py --key keys/sven --note "read all 40 lines"
    """
    from silo.canonical import is_digest
    from silo.cli.keys import load_named

    place = open_home(home)
    digest = code if is_digest(code) else _digest_of(Path(code))
    if not note.strip():
        raise UsageError("the note is empty", where="--note", fix="say what was looked at")
    signer = load_named(place, key, "steward") if key is not None else None
    approval = place.approve(digest, signer, note=note, days=days)
    body = approval.body
    with place.log() as log:
        log.append("approval", {"digest": body.digest, "code_digest": digest, "silo": place.name, "by": body.by})
    if as_json:
        print_json({**body.to_dict(), "digest": body.digest})
    else:
        console().print(f"{body.by} approved {digest} until {body.expires:%Y-%m-%d}")


def _digest_of(path: Path) -> str:
    from silo.api.load import digest_of

    if path.is_dir():
        raise ConfigError("this is a folder", where=str(path), fix="give the experiment's file, or its digest")
    return digest_of(read_file(path))
