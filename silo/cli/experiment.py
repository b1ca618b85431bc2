"""`silo experiment`: what a researcher does with an experiment file."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from silo.cli.common import JsonOption, KeyOption, console, now, print_json, read_file, say, table_of, until
from silo.errors import ConfigError, UsageError

app = typer.Typer(no_args_is_help=True, help="Experiments: begin one, try it, sign it for silos to review.")


@app.callback()
def experiment() -> None:
    """Experiments: begin one, try it, sign it for silos to review."""


@app.command()
def new(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder, named as the experiment.")],
    schema: Annotated[
        Path | None, typer.Option("--schema", help="The silos' columns (TOML or YAML); the heart records if left out.")
    ] = None,
    label: Annotated[
        str | None, typer.Option("--label", help="The column to predict; the schema's last if left out.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Begin an experiment from a template that runs as it is.

    Example: silo experiment new my-study --schema schema.toml --label outcome
    """
    from silo.api.experiment import NAME
    from silo.cli import template
    from silo.data.table import read_table

    name = folder.absolute().name
    if not NAME.fullmatch(name):
        raise UsageError(f"{name!r} cannot be an experiment's name", where="DIR", fix="use a-z, 0-9 and -")
    if folder.exists():
        raise ConfigError("something is already there", where=str(folder), fix="choose a new folder")
    files = {template.FILE: template.heart(name).encode()}
    if schema is not None:
        table = read_table(schema)
        files = {template.FILE: template.for_table(name, table, label).encode()}
        files[template.SCHEMA if schema.suffix == ".toml" else f"schema{schema.suffix}"] = read_file(schema)
    elif label is not None:
        raise UsageError("--label goes with --schema", where="--label", fix="give the silos' schema")
    write_folder(folder, files)
    if as_json:
        print_json({"folder": str(folder), "files": sorted(files)})
        return
    option = next((f" --schema {folder / each}" for each in files if each != template.FILE), "")
    console().print(f"wrote {folder / template.FILE}", soft_wrap=True)
    console().print(f"next: silo experiment check {folder / template.FILE}{option}", soft_wrap=True)


@app.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The experiment's Python file; it is executed here.")],
    schema: Annotated[
        Path | None, typer.Option("--schema", help="The silos' columns (TOML or YAML); the heart records if left out.")
    ] = None,
    silos: Annotated[int, typer.Option("--silos", min=3, max=32, help="How many silos to try it with.")] = 3,
    as_json: JsonOption = False,
) -> None:
    """Try an experiment on made-up records, before anybody is asked: what it costs in privacy, bytes and time.

    Plays the first rounds with real policies, encryption and messages. No silo's data are touched, so how good the
    model gets is not told.

    Example: silo experiment check my-study/experiment.py
    """
    from dataclasses import asdict

    from silo.api import load_experiment
    from silo.data.table import read_table
    from silo.demo.trial import try_out

    bundle = read_file(file)
    loaded, digest = load_experiment(file)
    table = read_table(schema) if schema is not None else None
    trial = try_out(loaded, bundle, digest, table=table, silos=silos, progress=lambda _: None)
    if as_json:
        print_json(asdict(trial))
        return
    out, asked = console(), trial.asked
    per = f"per {asked['unit']}, for adding or removing one"
    out.print(f"{loaded.name} runs: {trial.parameters} parameters, {trial.silos} silos, made-up records")
    out.print(f"privacy: epsilon {asked['epsilon']:g} at delta {asked['delta']:g} {per}; accountant {trial.accountant}")
    out.print(
        f"         {asked['mechanism']}, noise multiplier {trial.noise_multiplier:.3g}, {trial.steps} steps in "
        f"{trial.rounds} rounds"
    )
    out.print(f"bytes:   {trial.bytes_up_a_round:,} up, {trial.bytes_down_a_round:,} down a silo and round")
    out.print(f"         {trial.bytes_up:,} up, {trial.bytes_down:,} down a silo in all; without TLS")
    out.print(
        f"time:    about {trial.seconds:.0f} s here, without a network; {trial.seconds_a_round:.2g} s a round "
        f"({trial.rounds_played} were played)"
    )
    out.print("a silo will be asked:")
    out.print(f"  its steward: to approve the code {asked['code_digest']}")
    out.print(f"  its policies: purpose {asked['purpose']}, custody {asked['custody']}")
    out.print(f"  its budget: epsilon {asked['epsilon']:g} per {asked['unit']} of its population")
    out.print(f"  to release: {', '.join(asked['releases']) or 'nothing'}")
    out.print(f"next: silo experiment sign {file} --consortium FILE --key DIR --out {loaded.name}-1", soft_wrap=True)


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
    write_folder(out, Submission(agreement.newest, signed, source).parts())
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


FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="The submission's folder, from `experiment sign`.")]


@app.command()
def submit(
    folder: FolderArgument,
    aggregator: Annotated[str, typer.Option("--aggregator", help="HOST:PORT of the consortium's aggregator.")],
    key: KeyOption = None,
    root_certificate: Annotated[
        Path | None,
        typer.Option("--root-certificate", help="PEM of the authority behind its certificate, if not a public one."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Send a signed experiment to the aggregator, which asks the silos. Sending it again changes nothing.

    Example: silo experiment submit heart-1 --aggregator fl.example.org:9443 --root-certificate authority.crt --key rita
    """
    from silo.cli.keys import load_person
    from silo.client import submit as send

    identity, _ = load_person(key, "researcher")
    if root_certificate is not None:
        read_file(root_certificate)
    run = send(folder, key=identity, aggregator=aggregator, root_certificate=root_certificate).run
    if as_json:
        print_json({"run": run, "folder": str(folder), "aggregator": aggregator})
    else:
        console().print(f"submitted {run}; next: silo experiment watch {folder}", soft_wrap=True)


@app.command()
def watch(
    folder: FolderArgument,
    key: KeyOption = None,
    timeout: Annotated[float | None, typer.Option("--timeout", help="Seconds to wait at most.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Follow a submitted run to its end: decisions, rounds, faults. Ends as the run does: 0, or what ended it.

    Ctrl-C stops watching, not the run.

    Example: silo experiment watch heart-1 --key keys/rita
    """
    from silo.cli.keys import load_person
    from silo.client import submitted

    remote = submitted(folder, load_person(key, "researcher")[0])
    for event in remote.events(timeout=timeout):
        say(told(event))
    if as_json:
        print_json(remote.state())
    else:
        console().print(f"{remote.run} has finished; next: silo experiment results {folder}", soft_wrap=True)


@app.command()
def results(folder: FolderArgument, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """Fetch what a finished run left, check it, open the model with your key, and show it.

    Keeps DIR/results/ (for silo.load_result) and the model's weights in DIR/results/model.npy, float32.

    Example: silo experiment results heart-1 --key keys/rita
    """
    import io

    import numpy as np

    from silo.cli.keys import load_person
    from silo.client import submitted
    from silo.client.result import RESULTS
    from silo.storage import write_atomically

    result = submitted(folder, load_person(key, "researcher")[0]).results()
    weights = None
    if result.weights is not None:
        content = io.BytesIO()
        np.save(content, result.weights)
        weights = folder / RESULTS / "model.npy"
        write_atomically(weights, content.getvalue())
    facts = {"run": result.run, "decisions": result.decisions, "epsilon": result.epsilon, "privacy": result.privacy}
    if as_json:
        print_json({**facts, "history": result.history, "metrics": result.metrics, "weights": weights and str(weights)})
        return
    table = table_of("silo", "decision", "epsilon", "metrics before and after")
    for name, decision in result.decisions.items():
        epsilon = f"{result.epsilon[name]:.3g}" if name in result.epsilon else "-"
        rows = [row for row in result.metrics if row["silo"] == name]
        table.add_row(name, decision, epsilon, ", ".join(_metric(row) for row in rows))
    console().print(table)
    console().print(result.privacy)
    console().print(f"model: {weights}" if weights else "model: not released", soft_wrap=True)


def told(event: dict[str, Any]) -> str:
    """Return one line for an event. Its words come from others: nothing in it reaches the terminal but text."""
    kind, known = str(event.get("event")), {"event", "at", "reasons"}
    reasons = "; ".join(str(each.get("message", "")).strip() for each in event.get("reasons") or ())
    shown = {name: f"{value:.3g}" if isinstance(value, float) else value for name, value in event.items()}
    rest = " ".join(f"{name}={value}" for name, value in shown.items() if name not in known)
    line = f"{kind} {rest}" + (f": {reasons}" if reasons else "")
    return "".join(sign if sign.isprintable() else "?" for sign in line)[:1000]


def _metric(row: dict[str, Any]) -> str:
    before, after = ("-" if row[when] is None else f"{row[when]:.3f}" for when in ("before", "after"))
    return f"{row['metric']} {before} -> {after}"


def write_folder(out: Path, parts: dict[str, bytes]) -> None:
    """Write a new folder of files, whole or not at all."""
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
        raise ConfigError(f"cannot write the folder: {error.strerror}", where=str(out), fix="choose another") from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
