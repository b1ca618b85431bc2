"""`silo demo`: the whole path in a minute, on real records."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from silo.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from silo.report import Report

MAX_SEED = 2**53 - 1  # it stands in signed JSON, which is exact up to there


def demo(
    out: Annotated[
        Path, typer.Option("--out", help="Where report and homes go; an earlier demo there is replaced.")
    ] = Path("silo-demo"),
    seed: Annotated[
        int, typer.Option("--seed", min=0, max=MAX_SEED, help="Fixes splits and initial weights; never noise.")
    ] = 0,
    rounds: Annotated[int | None, typer.Option("--rounds", help="Rounds, instead of the experiment's.")] = None,
    epsilon: Annotated[
        float | None, typer.Option("--epsilon", help="Epsilon asked for, instead of the experiment's.")
    ] = None,
    experiment: Annotated[
        Path | None, typer.Option("--experiment", help="Another experiment file on the heart-disease schema.")
    ] = None,
    policy: Annotated[
        Path | None, typer.Option("--policy", help="A policy pack (YAML) every hospital adds to its own.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="A folder with cleveland.csv, hungary.csv, ... instead of the shipped data."),
    ] = None,
    custody: Annotated[
        str | None, typer.Option("--custody", help="shared or threshold, instead of the experiment's.")
    ] = None,
    prepare: Annotated[
        bool, typer.Option("--prepare", help="Stop before the run, so that you can try policies on it.")
    ] = False,
    resume: Annotated[
        Path | None, typer.Option("--resume", help="Run what --prepare left in this folder, as you changed it.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the facts as JSON on stdout, and nothing else there.")
    ] = False,
) -> None:
    """Train one private model across [b]four real hospitals[/b] and write a report.

    A fifth, fictional hospital refuses, and the run goes on without it.

    Example: silo demo --epsilon 1 --rounds 5 --out my-demo
    """
    from rich.console import Console

    from silo.sandbox import warm

    warm()  # the process that runs the experiment loads its libraries while this one does the same
    from silo.demo import Options, prepare_demo, resume_demo, run_demo

    talk = Console(stderr=True)
    if resume is not None and (
        prepare or any(each is not None for each in (experiment, data, policy, custody, rounds, epsilon))
    ):
        raise UsageError("a prepared demo runs as it was prepared", where="--resume", fix="leave the other options out")
    options = Options(
        out=out,
        experiment=experiment,
        data=data,
        policy=policy,
        seed=seed,
        rounds=rounds,
        epsilon=epsilon,
        custody=custody,
    )
    if prepare:
        with _Progress(talk) as progress:
            setting = prepare_demo(options, progress)
        _print_stage(options.out, setting.run, sorted(setting.homes), as_json)
        return
    with _Progress(talk) as progress:
        report, page = run_demo(options, progress) if resume is None else resume_demo(resume, progress)
    if as_json:
        import json

        facts = json.loads(report.model_dump_json())
        typer.echo(json.dumps({**facts, "report": str(page)}, indent=2))
        return
    _print_tables(Console(), report, page)


def _print_stage(out: Path, run: str, silos: list[str], as_json: bool) -> None:
    """Say what was prepared, and how to go on."""
    import json

    if as_json:
        typer.echo(json.dumps({"run": run, "silos": silos, "homes": str(out / "homes"), "people": str(out / "people")}))
        return
    typer.echo(f"prepared run {run}: homes in {out / 'homes'}, the keys of their people in {out / 'people'}")
    typer.echo(f"what would a hospital decide?  silo policy check --home {out / 'homes' / silos[0]}")
    typer.echo(f"run it:                        silo demo --resume {out}")


class _Progress:
    """Shows the run's events on a terminal: what happens now, rounds done, seconds left."""

    def __init__(self, console: Console) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeRemainingColumn,
        )

        self._console = console
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,  # in a file or a pipe only the sentences are wanted
        )
        self._task = self._bar.add_task("starting", total=None)

    def __enter__(self) -> _Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "decision":
            self._say_decision(event)
        elif kind == "inviting":
            self._bar.update(self._task, description="asking the silos", total=event["rounds"])
        elif kind == "keys":
            self._say(f"keys dealt to {len(event['members'])} silos; the aggregator has none")
        elif kind == "round":
            self._bar.update(self._task, description=f"{len(event['silos'])} silos training", completed=event["round"])
        elif kind == "fault":
            self._say(f"[yellow]{event['silo']}: {event['what']}[/yellow]")
        elif kind in _DOING:
            self._bar.update(self._task, description=_DOING[kind])

    def _say_decision(self, event: dict[str, Any]) -> None:
        if event["decision"] == "permit":
            self._say(f"{event['silo']}: [green]permits[/green] the run")
        else:
            reasons = "; ".join(f"{each['message'].strip()} ({each['pack']}/{each['id']})" for each in event["reasons"])
            self._say(f"{event['silo']}: [red]refuses[/red]: {reasons}")

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False)


_DOING = {
    "preparing": "making keys and signing manifests",
    "finished": "opening the released model",
    "baseline": "non-private baselines on the public data",
    "report": "writing the report",
}


def _print_tables(console: Console, report: Report, page: Path) -> None:
    from rich.table import Table

    silos = Table(title=f"{report.name}: who took part", title_justify="left")
    for heading in ("silo", "decision", "records", "epsilon spent", "local AUC before", "local AUC after (95 %)"):
        silos.add_column(heading, justify="left" if heading in ("silo", "decision") else "right")
    for each in report.silos:
        before = each.local_auc_before
        after = each.local_auc_after
        silos.add_row(
            each.display_name,
            each.decision,
            "-" if each.records is None else str(each.records),
            f"{each.epsilon:.2f}" if each.decision == "permit" else "0",
            "n/a" if before is None else f"{before.value:.3f}",
            "n/a" if after is None else f"{after.value:.3f} ({after.low:.2f} to {after.high:.2f})",
        )
    console.print(silos)
    for each in report.refused:
        for reason in each.reasons:
            console.print(
                f"{each.display_name} refused: {reason.message} [{reason.pack}/{reason.rule}; {reason.citation}]",
                markup=False,
            )
    auc = Table(title="AUC on all test records together (non-private evaluation of public data)", title_justify="left")
    for heading in ("all records pooled, no privacy", "federated, private", "one silo alone, no privacy"):
        auc.add_column(heading, justify="right")
    auc.add_row(
        *(
            "n/a" if value is None else f"{value:.3f}"
            for value in (report.auc.pooled, report.auc.federated, report.auc.silo_only)
        )
    )
    console.print(auc)
    e, p = report.encryption, report.privacy
    console.print(
        f"privacy: epsilon {p.epsilon:g} at delta {p.delta:g} per {p.unit}; adjacency: {p.adjacency}; "
        f"accountant: {p.accountant}",
        highlight=False,
    )
    console.print(
        f"bytes a silo sends in a round: {e.upload_bytes:,} encrypted, {e.plain_bytes:,} as plain float32, "
        f"ratio {e.ratio:.1f}: {e.ratio_reason}",
        highlight=False,
    )
    console.print(f"report: {page}", highlight=False)
