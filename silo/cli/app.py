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


# By who types it; in this order the help lists them.
ADMIN, OFFICER, RESEARCHER, AUDITOR = "Silo admin", "Compliance officer and steward", "Researcher", "Auditor"
EVERYBODY, AGGREGATOR = "Everybody", "Aggregator"

app.command("demo", rich_help_panel=EVERYBODY)(demo.demo)
app.add_typer(keys.app, name="keys", rich_help_panel=EVERYBODY)
app.add_typer(consortium.app, name="consortium", rich_help_panel=EVERYBODY)
app.command("init", rich_help_panel=ADMIN)(init.init)
app.command("doctor", rich_help_panel=ADMIN)(doctor.doctor)
app.add_typer(data.app, name="data", rich_help_panel=ADMIN)
app.command("agent", rich_help_panel=ADMIN)(agent.agent)
app.command("status", rich_help_panel=ADMIN)(running.status)
app.command("runs", rich_help_panel=ADMIN)(running.runs)
app.command("stop", rich_help_panel=ADMIN)(running.stop)
app.command("dashboard", rich_help_panel=ADMIN)(dashboard.dashboard)
app.add_typer(budget.app, name="budget", rich_help_panel=ADMIN)
app.add_typer(policy.app, name="policy", rich_help_panel=OFFICER)
app.command("approve", rich_help_panel=OFFICER)(approve.approve)
app.add_typer(experiment.app, name="experiment", rich_help_panel=RESEARCHER)
app.add_typer(privacy.app, name="privacy", rich_help_panel=AUDITOR)
app.add_typer(audit.app, name="audit", rich_help_panel=AUDITOR)
app.command("report", rich_help_panel=AUDITOR)(report.report)
app.add_typer(aggregator.app, name="aggregator", rich_help_panel=AGGREGATOR)
