"""A home in the middle of its life: one run trains, one was refused, budget is spent and held, people have work."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from dp_accounting import dp_event
from silo_policies import Decision, sign
from silo_policies.decision import DecidedRule, Reason
from silo_policies.pack import Citation

from silo.home import DataSet, Home
from silo.storage import write_atomically

DIGEST = "sha256:" + "ab" * 32
OTHER = "sha256:" + "cd" * 32


def data_set(name: str, population: str, cap: float, **more: object) -> DataSet:
    return DataSet.model_validate(
        {
            "name": name,
            "population": population,
            "source": "uci-heart:cleveland",
            "categories": ("health",),
            "permitted_purposes": ("research",),
            "epsilon_cap": cap,
            "delta": 1e-4,
            **more,
        }
    )


def lived_in(path: Path, display_name: str = "Cleveland Clinic Foundation") -> Home:
    """Make such a home."""
    soon = datetime.now(UTC) + timedelta(days=12)
    data = [
        data_set("heart", "cleveland-cardiology", 10.0, consent_expires=soon),
        data_set("lung-function-2019-to-2024", "cleveland-pulmonology-all-patients-since-2019", 4.0),
        data_set("stroke", "cleveland-neurology", 3.0),
    ]
    home = Home.create(path, "cleveland", display_name=display_name, data=data[:2])
    with home.ledger() as ledger, home.log() as log:
        step = dp_event.PoissonSampledDpEvent(0.1, dp_event.GaussianDpEvent(2.0))
        terms = {"delta": 1e-5, "code_digest": DIGEST, "data_digest": DIGEST}
        first = ledger.reserve("cleveland-cardiology", "heart-1", step, 10, **terms)
        ledger.charge(first, 1, 1, 10, upload_digest=DIGEST)
        ledger.settle(first)
        ledger.reserve("cleveland-cardiology", "heart-2", step, 40, **terms)
        dear = dp_event.GaussianDpEvent(1.15)
        used = ledger.reserve(
            "cleveland-pulmonology-all-patients-since-2019", "lung-1", dear, 1, **(terms | {"data_digest": OTHER})
        )
        ledger.charge(used, 1, 1, 1, upload_digest=DIGEST)
        _permit(home, log, "heart-2")
        log.append("run-started", {"run": "heart-2", "digest": DIGEST})
        for number in range(1, 8):
            place = {"run": "heart-2", "round": number, "attempt": 1, "digest": DIGEST}
            log.append("upload", {**place, "silo": "cleveland"})
            log.append("aggregate", {**place, "silos": ["cleveland", "hungary", "switzerland", "va-long-beach"]})
        log.append("manifest", {"digest": OTHER, "run": "stroke-outcomes-multicentre-2026-q4-9f31c2aa"})
        _refuse(home, log, "stroke-outcomes-multicentre-2026-q4-9f31c2aa")
        log.append("manifest", {"digest": OTHER, "run": "lung-1"})
        log.append("fault", {"run": "lung-1", "what": "training failed: row 17 of lung-function has no smoking status"})
    home.add_dataset(data[2])
    return home


def _permit(home: Home, log: object, run: str) -> None:
    log.append("manifest", {"digest": DIGEST, "run": run})  # type: ignore[attr-defined]
    body = {"run": run, "silo": "cleveland", "digest": DIGEST, "decision": "permit", "moment": "accept"}
    log.append("decision", body)  # type: ignore[attr-defined]


def _refuse(home: Home, log: object, run: str) -> None:
    rule = "whole-patient"
    cite = Citation(
        instrument="NIST SP 800-226",
        article="section 2.3, the unit of privacy",
        url="https://csrc.nist.gov/pubs/sp/800/226/final",
    )
    message = "The run protects one record, and a patient of this hospital may have several."
    decision = Decision(
        run=run,
        manifest=OTHER,
        silo="cleveland",
        decision="deny",
        moment="accept",
        packs={"ethics": OTHER},
        facts_hash=OTHER,
        rules=(DecidedRule(pack="ethics", id=rule, result="false"),),
        deciding=(f"ethics/{rule}",),
        reasons=(Reason(pack="ethics", id=rule, message=message, remediation="Ask for unit patient.", cite=cite),),
        waivers=(),
        time=datetime.now(UTC),
    )
    entry = log.append(  # type: ignore[attr-defined]
        "decision",
        {
            "run": run,
            "silo": "cleveland",
            "moment": "accept",
            "decision": "deny",
            "digest": decision.digest,
            "deciding": list(decision.deciding),
            "waivers": [],
        },
    )
    file = home.run_directory(run) / f"decision-{entry.index:06d}-accept.json"
    write_atomically(file, sign(decision, home.identity()).to_json().encode())
