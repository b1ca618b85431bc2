"""`silo audit`: read logs, verify them together, prove an entry, check a proof with public keys alone.

Nothing here changes a home. `check` reads no home at all: it runs on a machine that holds the evidence and keys only.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from silo.cli.common import HomeOption, JsonOption, console, count, open_home, print_json, read_file, say
from silo.errors import ConfigError, UsageError, VerificationFailed

if TYPE_CHECKING:
    from silo.audit import Trust
    from silo.home import Home
    from silo.log import Entry, Log, Proof
    from silo.report import Report

app = typer.Typer(no_args_is_help=True, help="The logs: what happened, whether it holds, and proofs of it.")

HomesOption = Annotated[
    list[Path] | None,
    typer.Option("--home", envvar="SILO_HOME", help="A home, or a folder of homes. Repeat it for several."),
]
KeysOption = Annotated[
    list[str] | None,
    typer.Option("--key", help="A public key as a vkey (name+id+base64), or a file of them. Repeatable."),
]
ConsortiumOption = Annotated[
    Path | None, typer.Option("--consortium", help="The consortium's manifest, for its public keys.")
]
RunOption = Annotated[str | None, typer.Option("--run", help="Entries of this run only.")]
SiloOption = Annotated[str | None, typer.Option("--silo", help="Entries about this silo only.")]
KindOption = Annotated[list[str] | None, typer.Option("--kind", help="Entries of this kind only. Repeatable.")]
PAUSE_SECONDS = 1.0


@app.command()
def show(
    run: RunOption = None,
    silo: SiloOption = None,
    kind: KindOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """List a home's log: number, time, kind, and what the entry says.

    Example: silo audit show --run heart-disease-1a2b3c4d --kind decision
    """
    place = open_home(home, read_only=True)
    with place.log() as log:
        entries = list(_chosen(log, run, silo, kind))
        if as_json:
            print_json({"origin": log.origin, "size": len(log), "entries": [_value(each) for each in entries]})
            return
        out = console()
        for each in entries:
            out.print(_line(each), soft_wrap=True)
        say(f"{count(len(entries), 'entry').replace('entrys', 'entries')} of {len(log)} in the log of {place.name}")


@app.command()
def verify(
    checkpoints: Annotated[
        list[Path] | None,
        typer.Option("--checkpoint", help="A checkpoint, proof or report kept from before: the log must extend it."),
    ] = None,
    home: HomesOption = None,
    key: KeysOption = None,
    as_json: JsonOption = False,
) -> None:
    """Verify logs whole: pages, entries, hashes, heads, signatures, ledgers, and the links between entries and logs.

    Ends with 0 if all that was checked holds, with 6 if anything is broken. What was not checked is listed.

    Example: silo audit verify --home silo-demo/homes --checkpoint kept-in-may.txt
    """
    from silo.audit import open_parties
    from silo.audit import verify as audit
    from silo.home.home import default_path

    notes = [note for path in checkpoints or () for note in _notes_in(path)]
    with open_parties(home or [default_path()], _trust(key, None)) as parties:
        found = audit(parties, notes)
    if as_json:
        heads = {name: {"size": head.size, "root": head.root.hex()} for name, head in found.heads.items()}
        print_json(
            {
                "holds": not found.broken,
                "heads": heads,
                "entries": found.entries,
                "runs": list(found.runs),
                "cosigned": {name: list(by) for name, by in found.cosigned.items()},
                "findings": [each.to_dict() for each in found.findings],
                "unchecked": list(found.unchecked),
            }
        )
    else:
        out = console()
        for name, head in sorted(found.heads.items()):
            by = ", ".join(found.cosigned.get(name, ())) or "nobody on record"
            out.print(
                f"{name}: {head.size} entries hold, root {head.root.hex()[:16]}, cosigned by {by}", soft_wrap=True
            )
        for each in found.findings:
            out.print(f"{each.severity.upper()}  {each}", soft_wrap=True)
        for what in found.unchecked:
            out.print(f"not checked: {what}", soft_wrap=True)
    if found.broken:
        first = found.broken[0]
        rest = f", and {len(found.broken) - 1} more" if len(found.broken) > 1 else ""
        raise VerificationFailed(f"{first}{rest}", fix="keep the files as evidence; ask the holder")
    if not as_json:
        console().print(
            f"{count(len(found.heads), 'log')}, {found.entries} entries, {count(len(found.runs), 'run')}: "
            "all that was checked holds"
        )


@app.command()
def prove(
    entry: Annotated[
        int, typer.Argument(metavar="ENTRY", min=0, help="The entry's number, as `silo audit show` has it.")
    ],
    out: Annotated[Path | None, typer.Option("--out", help="Where to; NAME-ENTRY.tlog-proof if left out.")] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the proof that an entry is in the log: a file that anybody can check offline, with public keys alone.

    The head that most others cosigned is used if it covers the entry, else a new one, signed now.

    Example: silo audit prove 37 --out settled.tlog-proof
    """
    from silo.log import prove as proof_of
    from silo.log.proof import EXTENSION
    from silo.storage import write_atomically

    place = open_home(home, read_only=True)
    with place.log() as log:
        proof = proof_of(log, entry, _best_note(place, log, entry))
        shown = log.entry(entry)
    path = out or Path(f"{place.name}-{entry}{EXTENSION}")
    write_atomically(path, str(proof).encode(), mode=0o644)
    if as_json:
        print_json({"proof": str(path), "origin": proof.origin, "entry": _value(shown)})
    else:
        console().print(f"{path}: {_line(shown)}", soft_wrap=True)


@app.command()
def check(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Proof files; a report.json beside them.")],
    key: KeysOption = None,
    consortium: ConsortiumOption = None,
    quorum: Annotated[int, typer.Option("--quorum", min=0, help="How many witnesses must have cosigned.")] = 0,
    page: Annotated[
        Path | None, typer.Option("--page", help="Also write the report that was checked as a page to read.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check proofs offline with public keys; with a report, also whether its statements are what the entries say.

    Ends with 0 if everything holds, with 6 if a proof, a signature or a statement does not.

    Example: silo audit check report.json settled.tlog-proof --consortium consortium.json
    """
    from silo.audit.offline import REST, confirmed, signed_heads, unproven
    from silo.log import check as check_proof

    trust = _trust(key, consortium)
    if not trust.logs:
        raise UsageError("no public key to check against", where="--key", fix="give --key or --consortium")
    report: Report | None = None
    proofs: list[tuple[Path, Proof]] = []
    for path in files:
        content = read_file(path)
        if content.lstrip()[:1] == b"{":
            if report is not None:
                raise UsageError("two reports", where=str(path), fix="check one at a time")
            report = _report(content, path)
        else:
            proofs.append((path, _proof(content, path)))
    rows: list[dict[str, Any]] = []
    for path, proof in proofs:
        key_of_log, others = trust.log(proof.origin), trust.others(proof.origin)
        try:
            checked = check_proof(proof, key_of_log, others, quorum=quorum)
        except VerificationFailed as error:
            raise VerificationFailed(
                error.what, where=f"{path} ({error.where or proof.origin})", fix=error.fix
            ) from error
        row: dict[str, Any] = {
            "file": str(path),
            "origin": proof.origin,
            "size": checked.checkpoint.size,
            "cosigned": sorted(checked.checkpoint.cosigned),
            "entry": _value(checked.entry),
        }
        if report is not None:
            row["backs"] = confirmed(report, proof.origin, checked.entry, where=str(path))
        rows.append(row)
    heads = signed_heads(report, trust) if report is not None else []
    if page is not None:
        _write_page(report, page)
    rest = unproven(report, [each for row in rows for each in row["backs"]]) if report is not None else []
    if as_json:
        print_json({"proofs": rows, "report": report.run if report else None, "heads": heads, "unproven": rest})
        return
    out = console()
    for row in rows:
        by = ", ".join(row["cosigned"]) or "nobody"
        out.print(
            f"{row['file']}: entry {row['entry']['index']} of {row['origin']} holds, cosigned by {by}", soft_wrap=True
        )
        out.print(f"  {row['entry']['time']} {row['entry']['kind']} {_said(row['entry']['body'])}", soft_wrap=True)
        for subject in row.get("backs", ()):
            out.print(f"  confirms the report: {subject}", soft_wrap=True)
        if report is not None and not row["backs"]:
            out.print("  the report states nothing of it", soft_wrap=True)
    for head in heads:
        out.print(f"report: {head}", soft_wrap=True)
    if report is None:
        return
    if rest:
        out.print(f"report: no proof was given for {', '.join(rest)}", soft_wrap=True)
    else:
        out.print("report: every statement that should have a log entry is confirmed by one", soft_wrap=True)
    out.print(f"report: {REST}", soft_wrap=True)


@app.command()
def export(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="Where to; files of an earlier export are completed.")
    ],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the log as static files that any tiled-log client reads (C2SP tlog-tiles).

    Example: silo audit export public-log
    """
    from silo.log.tiles import export as write

    place = open_home(home, read_only=True)
    with place.log() as log:
        head = write(log, _best_note(place, log, len(log) - 1), directory)
    if as_json:
        print_json({"directory": str(directory), "origin": head.origin, "size": head.size, "root": head.root.hex()})
    else:
        console().print(f"{directory}: {head.size} entries of {head.origin}, root {head.root.hex()[:16]}")


@app.command()
def watch(
    run: RunOption = None,
    silo: SiloOption = None,
    kind: KindOption = None,
    last: Annotated[int, typer.Option("--last", min=0, help="Begin with this many entries from before.")] = 10,
    once: Annotated[bool, typer.Option("--once", help="Stop after what is there now.")] = False,
    home: HomeOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON value a line.")] = False,
) -> None:
    """Follow the log: print each entry as it is appended, until you press Ctrl-C.

    Example: silo audit watch --kind fault --kind refusal
    """
    import json

    place = open_home(home, read_only=True)
    with place.log() as log:
        position = len(log)
        fresh = [each for each in _chosen(log, run, silo, kind) if each.index < position][-last:] if last else []
    while True:
        for each in fresh:
            typer.echo(json.dumps(_value(each), ensure_ascii=False) if as_json else _line(each))
        if once:
            return
        time.sleep(PAUSE_SECONDS)
        with place.log() as log:  # opened for one look at a time: what only reads does not follow a writer
            start, position = position, len(log)
            fresh = [each for each in _chosen(log, run, silo, kind, start=start) if each.index < position]


@app.command()
def key(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Print the home's public keys as C2SP vkeys: the one of its log, and the one it cosigns with as a witness.

    Example: silo audit key --home silo-demo/homes/cleveland
    """
    from silo.log import log_key, witness_key

    place = open_home(home, read_only=True)
    public = place.public()
    keys = {"log": str(log_key(place.origin, public)), "witness": str(witness_key(public))}
    if as_json:
        print_json(keys)
    else:
        for text in keys.values():
            typer.echo(text)


def _proof(content: bytes, path: Path) -> Proof:
    from silo.log import Proof

    try:
        return Proof.parse(_text(content, path))
    except VerificationFailed as error:
        raise VerificationFailed(error.what, where=str(path), fix=error.fix) from error


def _write_page(report: Report | None, path: Path) -> None:
    """Write the page of the facts that were checked: the page that came with them may say something else."""
    from silo.report import render_html
    from silo.storage import write_atomically

    if report is None:
        raise UsageError("there is no report to write", where="--page", fix="give report.json too")
    write_atomically(path, render_html(report).encode(), mode=0o644)


# What the commands share ---------------------------------------------------------------------------------------------


def _chosen(
    log: Log, run: str | None, silo: str | None, kinds: Sequence[str] | None, *, start: int = 0
) -> Iterator[Entry]:
    from silo.log import Kind

    for name in kinds or ():
        if name not in {str(each) for each in Kind}:
            raise UsageError(f"no kind {name!r}", where="--kind", fix=f"one of {', '.join(map(str, Kind))}")
    fields: dict[str, Any] = {"run": run} if run is not None else {}
    for entry in log.entries(*(kinds or ()), start=start, **fields):
        if silo is None or silo == entry.body.get("silo") or silo in entry.body.get("silos", ()):
            yield entry


def _value(entry: Entry) -> dict[str, Any]:
    return {
        "index": entry.index,
        "time": entry.time,
        "kind": str(entry.kind),
        "hash": f"sha256:{entry.hash.hex()}",
        "body": dict(entry.body),
    }


def _line(entry: Entry) -> str:
    return f"{entry.index:>6}  {entry.time}  {entry.kind:<15}  {_said(entry.body)}"


def _said(body: Any) -> str:
    from silo.report.text import readable

    said = []
    for name, value in sorted(body.items()):
        if isinstance(value, dict):
            text = f"({_said(value)})" if value else ""
        elif isinstance(value, list):
            text = ",".join(map(str, value))
        elif isinstance(value, str) and value.startswith("sha256:"):
            text = value[:19]
        else:
            text = str(value)
        if text:
            said.append(f"{name}={text}")
    return readable(" ".join(said)).replace("\n", " ")


def _trust(keys: Sequence[str] | None, consortium: Path | None) -> Trust:
    from silo.audit import Trust
    from silo.log import VerifierKey

    trust = Trust()
    for text in keys or ():
        path = Path(text)
        if path.is_file():
            trust = trust | Trust.of_file(read_file(path), where=text)
        else:
            trust = trust | Trust.of_keys([VerifierKey.parse(text)])
    if consortium is not None:
        trust = trust | Trust.of_file(read_file(consortium), where=str(consortium))
    return trust


def _notes_in(path: Path) -> list[str]:
    """Return the signed heads in a checkpoint file, a proof file or a report."""
    from silo.log import Proof
    from silo.log.proof import HEADER

    content = read_file(path)
    if content.lstrip()[:1] == b"{":
        logs = _report(content, path).evidence.logs
        return [log.checkpoint for log in logs if log.checkpoint is not None]
    text = _text(content, path)
    return [Proof.parse(text).note] if text.startswith(HEADER) else [text]


def _best_note(place: Home, log: Log, index: int) -> str:
    """Return the head to prove under: the largest cosigned one that covers the entry, else a new one signed now."""
    from silo_crypto.keys import SIGNING_FILE

    from silo.audit.parties import memory_of

    memory = memory_of(place)
    if memory is not None:
        with memory:
            for note in memory.cosigned(log.origin):
                if int(note.split("\n", 2)[1]) > index:
                    return note
    if not (place.identity_directory / SIGNING_FILE).exists():
        raise ConfigError(
            f"no cosigned head covers entry {index}, and this copy holds no key to sign a new head",
            where=str(place.path),
            fix="run it in the home itself, or ask its holder for the proof",
        )
    return log.checkpoint(place.identity())


def _report(content: bytes, path: Path) -> Report:
    from pydantic import ValidationError

    from silo.report import Report

    try:
        return Report.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "report"
        raise ConfigError(f"not a report: {place}: {first['msg']}", where=str(path)) from error


def _text(content: bytes, path: Path) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise VerificationFailed("it is not text", where=str(path), fix="ask for the file again") from error
