"""From what the parties kept (decisions, ledgers, logs, sealed model) to the report's facts."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray
from silo_policies import Decision
from silo_policies import Pack as SourcePack

from silo.api import Experiment
from silo.audit import open_parties
from silo.audit.described import (
    EARLY_STOPPING,
    access_of,
    encryption_of,
    policies_of,
    privacy_of,
    reasons_of,
    waivers_of,
)
from silo.audit.parties import Party
from silo.audit.rebuild import rebuild
from silo.demo.baseline import Baseline
from silo.demo.hospitals import REFUSER
from silo.demo.setting import Setting
from silo.report import Report
from silo.report.facts.evidence import Evidence, Package, Versions
from silo.report.facts.governance import Disclosure, Fault, Processing, Unprotected
from silo.report.facts.parties import Aggregator, Estimate, Round, Silo, Verdict
from silo.report.facts.utility import Auc
from silo.training.evaluate import FEWEST_PER_CLASS, interval_of

PACKAGES = (
    "silo-fl",
    "torch",
    "opacus",
    "tenseal",
    "flwr",
    "dp-accounting",
    "pycryptodome",
    "cel-expr-python",
    "numpy",
)


@dataclass(frozen=True)
class Played:
    """Everything the demo has in hand when the run is over."""

    setting: Setting
    experiment: Experiment
    result: dict[str, Any]
    baseline: Baseline
    federated_auc: float
    weights: NDArray[np.float32]
    started: str
    finished: str


def build_report(played: Played) -> Report:
    """Return the report's facts: what the parties recorded, the non-private AUC, and the log entries behind them."""
    homes = [*played.setting.homes.values(), played.setting.aggregator]
    with open_parties([home.path for home in homes]) as parties:
        return rebuild(_facts(played, parties), parties).report


def _facts(played: Played, parties: Sequence[Party]) -> Report:
    setting, result = played.setting, played.result
    run = setting.submission.run.body
    decisions = {name: setting.submission.decision(doc, name) for name, doc in result["decisions"].items()}
    rounds = tuple(_round(each) for each in result["rounds"])
    upload = max((each.upload_bytes_per_silo or 0 for each in rounds), default=0)
    started = [(each.name, entry) for each in parties for entry in each.log.entries("run-started", run=run.run)]
    return Report(
        run=run.run,
        name=run.name,
        purpose=run.purpose,
        researcher=run.researcher,
        started=played.started,
        finished=played.finished,
        verdict=Verdict(
            outcome="completed",
            rounds_planned=run.rounds,
            rounds_completed=len(rounds),
            minimum_silos=run.minimum_silos,
        ),
        silos=tuple(_silo(played, name, decisions[name]) for name in setting.homes),
        aggregator=Aggregator(
            name=setting.submission.consortium.body.aggregator.name,
            has_secret_key=bool(result["secrets_held"]),
            evidence="every object the aggregator held at the end of the run was searched for decryption keys; keys "
            "travelled sealed to the silos' public keys",
        ),
        privacy=privacy_of(run, _taken(result)),
        encryption=encryption_of(run, upload),
        auc=Auc(
            pooled=played.baseline.pooled,
            federated=played.federated_auc,
            silo_only=played.baseline.silo_only,
            how_pooled="same model and loss on all training records together, without clipping or noise, to "
            "convergence; scored on the union of the test parts",
            how_federated="the released model, scored on the union of the test parts of the silos that took part",
            how_silo_only="mean over the silos of a non-private model trained on that silo's records alone, scored "
            "on the union of the test parts",
        ),
        rounds=rounds,
        unprotected=_unprotected(played),
        processing=Processing(
            data_categories="health data, publicly released (UCI Heart Disease, CC BY 4.0)",
            lawful_basis="public data; each silo declares its own basis in data.toml",
            recipients="the silos that took part; the researcher, as the policies released",
            deidentification="removed by the data's publishers before publication",
        ),
        policies=policies_of(decisions, _packs(setting)),
        waivers=tuple(waivers_of(decisions)),
        faults=tuple(Fault(round=each["round"], party=each["party"], what=each["what"]) for each in result["faults"]),
        access=access_of(started),
        evidence=Evidence(
            code_digest=run.code_digest,
            consortium_digest=setting.submission.consortium.body.digest,
            manifest_digest=run.digest,
        ),
        versions=Versions(
            python=platform.python_version(),
            packages=tuple(Package(name=name, version=metadata.version(name)) for name in PACKAGES),
        ),
    )


def _silo(played: Played, name: str, decision: Decision) -> Silo:
    run = played.setting.submission.run.body
    home = played.setting.homes[name]
    finished: Mapping[str, Any] | None = played.result["silos"].get(name)
    took_part = [each for each in played.result["rounds"] if name in each["participants"]]
    dataset = home.data()[0]
    with home.ledger() as ledger:
        spent = ledger.spent(dataset.population)
    epsilon = float(finished["epsilon"]) if finished else 0.0
    before = next((each["metrics"].get(name) for each in took_part if each["metrics"]), None)
    after = finished["metrics"] if finished else None
    return Silo(
        name=name,
        display_name=home.settings.display_name,
        jurisdiction=home.settings.jurisdiction,
        fictional=name == REFUSER,
        records=finished["records"] if finished else None,
        epsilon=epsilon,
        delta=run.privacy.delta,
        decision=decision.decision,
        reasons=reasons_of(decision),
        epsilon_cap=dataset.epsilon_cap,
        epsilon_before=max(0.0, spent.committed - epsilon),
        epsilon_left=spent.left,
        local_auc_before=_estimate(before),
        local_auc_after=_estimate(after),
        local_auc_missing=None if _estimate(after) else _why_missing(after, decision),
        rounds_taken_part=len(took_part),
        upload_bytes=max((each["upload_bytes"] for each in took_part), default=None),
    )


def _estimate(metrics: Mapping[str, Any] | None) -> Estimate | None:
    if metrics is None or metrics["values"].get("auc") is None:
        return None
    found = interval_of(metrics["values"]["auc"], metrics["positives"], metrics["negatives"])
    return None if found is None else Estimate(value=found.value, low=found.low, high=found.high)


def _why_missing(metrics: Mapping[str, Any] | None, decision: Decision) -> str:
    if decision.decision == "deny":
        return "took no part"
    if metrics is None:
        return "not released"
    fewest = min(metrics["positives"], metrics["negatives"])
    kind = "negatives" if metrics["negatives"] <= metrics["positives"] else "positives"
    return f"{fewest} {kind} in the test part, fewer than {FEWEST_PER_CLASS}"


def _round(each: Mapping[str, Any]) -> Round:
    return Round(
        round=each["round"],
        attempt=each["attempt"],
        participants=tuple(each["participants"]),
        dropped=tuple(each["dropped"]),
        seconds=each["seconds"],
        upload_bytes_per_silo=each["upload_bytes"],
        verified=True,  # a run in which a silo's check failed has no result
    )


def _unprotected(played: Played) -> Unprotected:
    silos = played.result["silos"]
    metrics = any(each["metrics"] for each in silos.values())
    counts = any(each["records"] is not None for each in silos.values())
    noised = [
        f"{name} (epsilon {each['metrics']['epsilon']:g})"
        for name, each in sorted(silos.items())
        if each["metrics"] and each["metrics"]["epsilon"]
    ]
    coarse = [f"{name} (to {each['rounding']})" for name, each in sorted(silos.items()) if each["rounding"] > 1]
    return Unprotected(
        metrics=Disclosure(
            released=metrics,
            detail="local AUC before the first and after the last round, on public data; pooled, federated and "
            "silo-only AUC by a separate non-private step" + (f"; noised by {', '.join(noised)}" if noised else ""),
        ),
        records_per_silo=Disclosure(
            released=counts,
            detail="training records per silo; the data are public"
            + (f"; rounded by {', '.join(coarse)}" if coarse else ""),
        ),
        early_stopping=Disclosure(released=False, detail=EARLY_STOPPING),
        tuning=Disclosure(
            released=True, detail="the example's constants were chosen by its authors on the same public data"
        ),
    )


def _taken(result: Mapping[str, Any]) -> dict[str, list[int]]:
    """Return the rounds that each member took part in."""
    return {
        name: [each["round"] for each in result["rounds"] if name in each["participants"]] for name in result["members"]
    }


def _packs(setting: Setting) -> dict[str, SourcePack]:
    packs = {pack.digest: pack for pack in setting.packs.values()}
    for home in setting.homes.values():
        packs |= {pack.digest: pack for pack in home.packs()}
    return packs
