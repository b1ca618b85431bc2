"""The root of the command tree and the options every command shares."""

from __future__ import annotations

from typing import Annotated

import typer

from silo import __version__
from silo.cli import (
    agent,
    aggregator,
    approve,
    audit,
    budget,
    consortium,
    dashboard,
    data,
    demo,
    doctor,
    experiment,
    init,
    keys,
    policy,
    privacy,
    report,
    running,
)

app = typer.Typer(
    name="silo",
    help="Train one model across institutions that may not share records: encrypted, private, under policy, on record.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"silo {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")] = False,
) -> None:
    """Options before the command."""


app.command("demo")(demo.demo)
app.command("init")(init.init)
app.command("doctor")(doctor.doctor)
app.add_typer(keys.app, name="keys")
app.add_typer(consortium.app, name="consortium")
app.add_typer(data.app, name="data")
app.add_typer(policy.app, name="policy")
app.add_typer(experiment.app, name="experiment")
app.command("approve")(approve.approve)
app.command("agent")(agent.agent)
app.add_typer(aggregator.app, name="aggregator")
app.add_typer(budget.app, name="budget")
app.add_typer(privacy.app, name="privacy")
app.add_typer(audit.app, name="audit")
app.command("status")(running.status)
app.command("runs")(running.runs)
app.command("stop")(running.stop)
app.command("dashboard")(dashboard.dashboard)
app.command("report")(report.report)
