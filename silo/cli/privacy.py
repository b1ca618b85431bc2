"""`silo privacy`: evidence, beside the proof, that what trains here is as private as the accountant says.

Invariant: no option of a command here weakens noise, clipping or sampling; a command can only look. An audit of an
experiment on the silo's own records is a release: it runs only code that a steward approved, and it is charged.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from silo.cli.common import HomeOption, JsonOption, console, open_home, print_json, say, table_of
from silo.errors import ConfigError, UsageError, VerificationFailed

if TYPE_CHECKING:
    from silo.home import DataSet, Home
    from silo.training.audit import Audit
    from silo.training.audit_release import Account

app = typer.Typer(no_args_is_help=True, help="Evidence beside the proof: audits of the privacy that is promised.")

HARNESS_CANARIES, RELEASE_CANARIES = 1_000, 200


@app.callback()
def privacy() -> None:
    """Evidence beside the proof: audits of the privacy that is promised."""


@app.command()
def audit(
    experiment: Annotated[
        Path | None,
        typer.Argument(
            metavar="[EXPERIMENT]", help="Audit this file on the home's records, charged.", show_default=False
        ),
    ] = None,
    canaries: Annotated[
        int | None, typer.Option("--canaries", help="1000, or 200 on records.", show_default=False)
    ] = None,
    dimensions: Annotated[
        int | None, typer.Option("--dimensions", help="Parameters trained (4096; 1000 or more).", show_default=False)
    ] = None,
    epsilon: Annotated[
        float | None, typer.Option("--epsilon", help="Epsilon asked for (3).", show_default=False)
    ] = None,
    delta: Annotated[float | None, typer.Option("--delta", help="Its delta (1e-5).", show_default=False)] = None,
    sample_rate: Annotated[
        float | None, typer.Option("--sample-rate", help="Of the Poisson sampler (0.5).", show_default=False)
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Optimiser steps (10).", show_default=False)] = None,
    repeat: Annotated[int, typer.Option("--repeat", min=1, max=1000, help="Audits one after another.")] = 1,
    charge: Annotated[
        bool, typer.Option("--charge", help="With EXPERIMENT: train, and spend what it costs of the budget.")
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train once with canaries and guess which were in: a lower bound on epsilon, beside the proven one.

    Without EXPERIMENT the product's own sampler, clipping and noise train on made-up gradients; no record is touched.
    With EXPERIMENT it trains on the home's records, which is a release: without --charge you only see its price.
    Exits with 6 if the bound is above what is proven. It cannot see an error of a few per cent in the noise.

    Example: silo privacy audit --canaries 1000
    """
    chosen = {
        "dimensions": dimensions,
        "epsilon": epsilon,
        "delta": delta,
        "sample_rate": sample_rate,
        "steps": steps,
    }
    given = {name: value for name, value in chosen.items() if value is not None}
    if experiment is None:
        if charge:
            raise UsageError("made-up gradients cost no budget", where="--charge", fix="name an experiment")
        _audit_harness(given, HARNESS_CANARIES if canaries is None else canaries, repeat, as_json)
        return
    if given or repeat != 1:
        named = [f"--{name.replace('_', '-')}" for name in given] or ["--repeat"]
        raise UsageError("the experiment's own constants are audited, once", where=named[0], fix="leave it out")
    _audit_experiment(open_home(home), experiment, RELEASE_CANARIES if canaries is None else canaries, charge, as_json)


def _audit_harness(given: dict[str, Any], canaries: int, repeat: int, as_json: bool) -> None:
    from silo.training.audit_harness import Setting, audit_product

    setting = Setting(canaries=canaries)
    setting = replace(setting, dimensions=max(setting.dimensions, canaries)) if "dimensions" not in given else setting
    setting = replace(setting, **given)
    audits = [audit_product(setting) for _ in range(repeat)]
    facts = {"on": "made-up gradients", "dimensions": setting.dimensions, "charged": None, "unit": "record"}
    _report(audits, facts, as_json)


def _audit_experiment(home: Home, path: Path, canaries: int, charge: bool, as_json: bool) -> None:
    """Load only approved code; say what it costs; with ``charge``, reserve, train, charge and report."""
    import secrets

    from silo.agent.facts import choose_dataset
    from silo.agent.prepare import source_of
    from silo.api import LocalDP
    from silo.api.load import digest_of, load_experiment_bytes
    from silo.cli.common import read_file
    from silo.data import load
    from silo.training.accounting import make_plan
    from silo.training.audit_release import Account, audit_release, price_of
    from silo.training.check import check_experiment
    from silo.training.trainer import to_tensors

    code = read_file(path)
    digest = digest_of(code)
    if not home.approved(digest):
        raise ConfigError(
            "no steward approved this code here, so it is not run",
            where=str(path),
            fix=f"review it, then: silo approve {digest}",
        )
    experiment = load_experiment_bytes(code, digest)
    dataset = choose_dataset(home, experiment.purpose)
    records = load(source_of(dataset, home.path), schema=dataset.schema_of, patients=dataset.patients)
    if not isinstance(experiment.privacy, LocalDP):
        raise ConfigError(
            f"{experiment.privacy.mechanism} noise is whole only in the sum over silos",
            where=str(path),
            fix="audit LocalDP here; what one silo adds is checked by the conformance tests",
        )
    parameters = check_experiment(experiment, records.schema)
    plan = make_plan(experiment.privacy, experiment.rounds, parameters)
    account = Account(dataset.population, f"audit-{secrets.token_hex(6)}", digest, records.source)
    price = price_of(plan)
    if not charge:
        _quote(home, dataset, price, plan.delta, as_json)
        return
    data = to_tensors(experiment, records)  # all of them: nothing is tested, and a split is one more thing to get wrong
    with home.ledger() as ledger:
        found = audit_release(
            ledger, account, experiment, plan, data, records.schema, canaries=canaries, patients=records.patients
        )
    _log(home, account, found)
    charged = {"population": account.population, "run": account.run, "epsilon": price, "delta": plan.delta}
    facts = {"on": f"experiment {experiment.name}", "dimensions": parameters, "charged": charged, "unit": plan.unit}
    _report([found], facts, as_json)


def _quote(home: Home, dataset: DataSet, price: float, delta: float, as_json: bool) -> None:
    with home.ledger() as ledger:
        left = ledger.spent(dataset.population).left
    if as_json:
        quote = {"population": dataset.population, "epsilon": price, "delta": delta, "left": left}
        print_json({"would_charge": quote, "charged": None})
        return
    console().print(
        f"this audit would charge epsilon {price:g} at delta {delta:g} to {dataset.population}, "
        f"which has {left:g} left; add --charge to run it"
    )


def _log(home: Home, account: Account, found: Audit) -> None:
    """Record what was spent, as for any other run, and what came of it: reports of runs of this code quote it."""
    spent = {"run": account.run, "population": account.population, "epsilon": found.proven, "delta": found.delta}
    with home.log() as log:
        log.append("budget-reserved", spent)
        outcome = {
            "code_digest": account.code_digest,
            "canaries": found.canaries,
            "guesses": found.guesses,
            "correct": found.correct,
            "epsilon_lower_bound": found.bound,
            "confidence": found.confidence,
        }
        log.append("budget-settled", {**spent, "audit": outcome})


def _report(audits: list[Audit], facts: dict[str, Any], as_json: bool) -> None:
    from silo.training.audit import canaries_for, ceiling

    first = audits[0]
    refuted = [each for each in audits if each.refuted]
    if as_json:
        print_json(
            {
                **facts,
                "method": "one-run audit (Steinke, Nasr, Jagielski 2023)",
                "adjacency": "add/remove",
                "accountant": "pld",
                "proven_epsilon": first.proven,
                "delta": first.delta,
                "confidence": first.confidence,
                "canaries": first.canaries,
                "ceiling_of_canaries": ceiling(first.canaries),
                "ceiling_of_guesses": first.ceiling,
                "can_refute": first.can_refute,
                "refuted": len(refuted),
                "audits": [
                    {"guesses": each.guesses, "correct": each.correct, "epsilon_lower_bound": each.bound}
                    for each in audits
                ],
            }
        )
    else:
        _print_tables(audits, facts)
    if facts["on"] != "made-up gradients" and facts["dimensions"] < first.canaries:
        say(f"{first.canaries} canaries share {facts['dimensions']} parameters and hide each other: the bound is weak")
    if not first.can_refute:
        needed = canaries_for(1.1 * first.proven)
        say(f"{first.canaries} canaries cannot refute epsilon {first.proven:g}; take {needed} or more")
    if refuted:
        worst = max(each.bound for each in refuted)
        raise VerificationFailed(
            f"epsilon is above {worst:.3f} with {first.confidence:.0%} confidence, and {first.proven:.3f} was proven "
            f"({len(refuted)} of {len(audits)} audits)",
            where="privacy audit",
            fix="train nothing with this installation; report noise, clipping or sampling as broken",
        )


def _print_tables(audits: list[Audit], facts: dict[str, Any]) -> None:
    from silo.training.audit import ceiling

    first = audits[0]
    console().print(f"one-run privacy audit, {facts['on']}")
    table = table_of("canaries", "guessed", "right", "epsilon at least (95 %)", "epsilon proven", "delta")
    for each in audits:
        table.add_row(
            str(each.canaries),
            str(each.guesses),
            str(each.correct),
            f"{each.bound:.3f}",
            f"{each.proven:.3f}",
            f"{each.delta:g}",
        )
    console().print(table)
    console().print(
        f"the most that {first.guesses} guesses can show is {first.ceiling:.2f}, {first.canaries} would show "
        f"{ceiling(first.canaries):.2f}; per {facts['unit']}, add/remove adjacency, accountant pld, "
        f"{facts['dimensions']} parameters"
    )
    charged = facts["charged"]
    if charged:
        console().print(
            f"charged to {charged['population']}: epsilon {charged['epsilon']:g} at delta {charged['delta']:g} "
            f"(run {charged['run']})"
        )
