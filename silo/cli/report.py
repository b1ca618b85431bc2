"""`silo report`: the report of a finished run, checked against the logs again and printed in one of six formats."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from silo.cli.common import console, open_home, print_json, read_file, say
from silo.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from silo.report import Report

FACTS = "report.json"


class Format(StrEnum):
    """What the report can be printed as."""

    HTML = "html"
    JSON = "json"
    OSCAL = "oscal"
    REGISTRY = "registry"
    INTOTO = "intoto"
    PDF = "pdf"


def report(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run's id in a home, a folder with report.json, or such a file.")
    ],
    form: Annotated[Format, typer.Option("--format", help="What to print it as.")] = Format.HTML,
    out: Annotated[Path | None, typer.Option("--out", help="Where to; stdout if left out (pdf: RUN.pdf).")] = None,
    proofs: Annotated[
        bool, typer.Option("--proofs", help="Also write a proof of each entry beside it, and link them. Needs --out.")
    ] = False,
    home: Annotated[
        list[Path] | None,
        typer.Option(
            "--home", envvar="SILO_HOME", help="A home, or a folder of homes, whose logs are read. Repeat it."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Say on stdout what was written, as JSON. Needs --out.")
    ] = False,
) -> None:
    """Print the report of a run, finished or failed, after checking every entry behind it against the logs given.

    Its facts are those of a report.json if there is one, else what the homes given kept of the run. A statement whose
    entry no log has reads "not evidenced". A statement that a log contradicts ends this with 6.

    Example: silo report silo-demo --format oscal --out run.oscal.json
    """
    from silo.audit import open_parties
    from silo.audit.facts import facts_of
    from silo.audit.rebuild import PROOFS, rebuild
    from silo.report.text import NOT_EVIDENCED
    from silo.storage import write_atomically

    if (proofs or as_json) and out is None:
        raise UsageError("needs a file to write to", where="--proofs, --json", fix="give --out")
    homes = _homes(run, home)
    facts = _facts(run, homes)
    with open_parties(homes) as parties:
        made = rebuild(facts_of(run, parties) if facts is None else facts, parties, with_proofs=proofs)
    for what in made.unconfirmed:
        say(f"{NOT_EVIDENCED}: {what}")
    content = _render(made.report, form, homes)
    if form is Format.PDF and out is None:
        out = Path(f"{made.report.run}.pdf")
    if out is None:
        typer.echo(content.decode(), nl=False)
        return
    for name, proof in made.proofs.items():
        (out.parent / PROOFS).mkdir(exist_ok=True)
        write_atomically(out.parent / name, str(proof).encode(), mode=0o644)
    write_atomically(out, content, mode=0o644)
    if as_json:
        print_json(
            {
                "report": str(out),
                "run": made.report.run,
                "proofs": sorted(made.proofs),
                "unconfirmed": list(made.unconfirmed),
            }
        )
    else:
        console().print(f"{out}: {made.report.run}, {len(content)} bytes", soft_wrap=True)


def _homes(run: str, given: list[Path] | None) -> list[Path]:
    """Return the homes to read: those given, else those that lie in the folder, else the default one."""
    from silo.home.home import default_path

    if given:
        return given
    folder = Path(run) if Path(run).is_dir() else Path(run).parent if Path(run).is_file() else None
    if folder is not None and any(folder.glob("homes/*/silo.toml")):
        return [folder]
    return [default_path()]


def _facts(run: str, homes: list[Path]) -> Report | None:
    """Return the report that somebody wrote; None if ``run`` is an id and the homes keep none of it."""
    from pydantic import ValidationError

    from silo.audit.parties import expand
    from silo.report import Report

    path = Path(run)
    if path.is_dir():
        path = path / FACTS
    elif not path.is_file():
        if "/" in run or run in (".", ".."):
            raise ConfigError("no such folder or file", where=run, fix="give a run's id or a folder with report.json")
        kept = [each / "runs" / run / FACTS for each in expand(homes)]
        path = next((each for each in kept if each.is_file()), path / FACTS)
        if not path.is_file():
            return None
    if not path.is_file():
        raise ConfigError(
            f"no {FACTS} with the facts of this run",
            where=run,
            fix="give the folder that `silo demo --out` wrote, or a run's id with --home",
        )
    try:
        return Report.model_validate_json(read_file(path))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "report"
        raise ConfigError(f"not a report: {place}: {first['msg']}", where=str(path)) from error


def _render(facts: Report, form: Format, homes: list[Path]) -> bytes:
    from silo import report as rendering
    from silo.audit.parties import expand

    match form:
        case Format.HTML:
            return rendering.render_html(facts).encode()
        case Format.JSON:
            return rendering.render_json(facts).encode()
        case Format.OSCAL:
            return rendering.render_oscal(facts).encode()
        case Format.REGISTRY:
            return rendering.render_registry(facts).encode()
        case Format.PDF:
            return rendering.render_pdf(facts)
        case Format.INTOTO:
            return rendering.render_intoto(facts, open_home(_vouching(facts, expand(homes))).identity()).encode()


def _vouching(facts: Report, homes: list[Path]) -> Path:
    """Return the home that signs: the only one given, or among several the aggregator's, which saw every silo."""
    if len(homes) == 1:
        return homes[0]
    for home in homes:
        if home.name == facts.aggregator.name:
            return home
    raise UsageError("which home signs the statement?", where="--home", fix="give exactly one")
