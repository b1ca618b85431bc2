"""`silo experiment`: what a researcher does with an experiment file."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from silo.cli.common import JsonOption, KeyOption, console, now, print_json, read_file, until
from silo.errors import ConfigError, UsageError

app = typer.Typer(no_args_is_help=True, help="Experiments: sign one, so that silos can review and accept it.")


@app.callback()
def experiment() -> None:
    """Experiments: sign one, so that silos can review and accept it."""


@app.command()
def sign(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The experiment's Python file; it is executed here.")],
    consortium: Annotated[Path, typer.Option("--consortium", help="The consortium's file, signed by its members.")],
    out: Annotated[Path, typer.Option("--out", help="A new folder for the submission.")],
    key: KeyOption = None,
    members: Annotated[
        str | None, typer.Option("--members", help="Silos to invite, separated by commas; all if left out.")
    ] = None,
    run: Annotated[str | None, typer.Option("--run", help="The run's id; made up if left out.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Fixes the initial weights; public.")] = 0,
    days: Annotated[int, typer.Option("--days", help="For how long the run may be accepted and go on.")] = 30,
    as_json: JsonOption = False,
) -> None:
    """Sign an experiment for a consortium: its digest, what it asks for, and whom it invites.

    The folder then holds consortium.json, run.json and experiment.py. Whoever changes a byte of the code has other
    code: silos refuse it.

    Example: silo experiment sign experiment.py --consortium heart.json --key keys/rita --out heart-1
    """
    from silo_policies import parse_agreement, sign, verify_run

    from silo.api.load import digest_of, load_experiment_bytes
    from silo.cli.keys import load_person
    from silo.proposal import propose
    from silo.submission import Submission, keyring
    from silo.training.check import check_model

    if out.exists():
        raise ConfigError("something is already there", where=str(out), fix="choose a new folder")
    identity, person = load_person(key, "researcher")
    agreement = parse_agreement(read_file(consortium), where=str(consortium))
    start = now()
    manifest = agreement.verified(keyring, now=start)
    if person not in manifest.people:
        raise UsageError(
            f"the consortium names no researcher {person.name} with these keys",
            where=str(consortium),
            fix="its members add you with: silo consortium amend --add person.json",
        )
    source = read_file(file)
    digest = digest_of(source)
    loaded = load_experiment_bytes(source, digest)
    proposal = propose(
        loaded,
        manifest,
        code_digest=digest,
        model_size=check_model(loaded, seed=seed),
        researcher=person.name,
        created=start,
        expires=min(until(start, days), manifest.expires),
        seed=seed,
        members=[name.strip() for name in members.split(",")] if members is not None else None,
        run=run,
    )
    signed = sign(proposal, identity)
    verify_run(signed, manifest, keyring, now=start)
    _write(out, Submission(agreement.newest, signed, source).parts())
    body = signed.body
    if as_json:
        print_json({"folder": str(out), "digest": body.digest, **body.to_dict()})
        return
    printer = console()
    printer.print(f"signed run {body.run}: {out}")
    printer.print(f"code     {body.code_digest}\nmanifest {body.digest}")
    privacy = body.privacy
    printer.print(
        f"asks {len(body.members)} silos for {body.rounds} rounds: epsilon {privacy.epsilon:g} at delta "
        f"{privacy.delta:g} per {privacy.unit}, {privacy.adjacency} adjacency, accountant {privacy.accountant}"
    )


def _write(out: Path, parts: dict[str, bytes]) -> None:
    """Write the submission's folder, whole or not at all."""
    from silo.storage import write_atomically

    scratch: Path | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        for name, content in parts.items():
            write_atomically(scratch / name, content, mode=0o644)
        scratch.chmod(0o755)
        scratch.rename(out)
    except OSError as error:
        raise ConfigError(
            f"cannot write the submission: {error.strerror}", where=str(out), fix="check --out"
        ) from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
