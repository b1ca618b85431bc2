"""The report as a record for OpenDP's registry of differential privacy deployments (YAML).

Invariant: only facts of the report; a field that nothing backs says "Not evidenced." where the registry wants a text
and is left out where it may be. The record is a draft: who submits it adds authors and sources, and answers for it.

Source: opendp/deployments-registry-data, the form of its records in 2026 (product, dp_flavor, privacy_loss, model,
accounting, implementation, resources).
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from silo.report import text
from silo.report.model import Report
from silo.report.sections.verdict import highest

_MISSING = "Not evidenced."


def render_registry(report: Report) -> str:
    """The report as a registry record, YAML text."""
    record = {
        "url_slug": re.sub(r"[^a-z0-9]+", "-", report.run.lower()).strip("-") or "run",
        "status": "Draft",
        "tier": 3,
        "deployment": {
            "product": _product(report),
            "dp_flavor": _flavor(report),
            "privacy_loss": _loss(report),
            "model": _model(report),
            "accounting": {
                "post_processing": "Averaging, evaluation and everything done with the model after training.",
                "composition": _said(report.privacy.composition),
            },
            "implementation": _implementation(report),
            "resources": {
                "sources": f"Silo report of run {text.readable(report.run)}, with log proofs.",
                "registry_authors": [text.readable(report.researcher or "Not evidenced")],
            },
        },
    }
    return yaml.safe_dump(record, sort_keys=False, allow_unicode=True, width=100)


def _product(report: Report) -> dict[str, Any]:
    places = sorted({silo.jurisdiction for silo in report.permitted if silo.jurisdiction})
    return {
        "name": text.readable(report.name),
        "data_curators": [text.readable(silo.display_name) for silo in report.permitted] or [_MISSING],
        "intended_use": text.readable(report.purpose),
        "data_product_type": "Machine learning model",
        "data_product_region": ", ".join(places) or _MISSING,
        "description": f"A model trained by {text.counted(len(report.permitted), 'institution')} in "
        f"{text.counted(report.verdict.rounds_completed, 'round')} on encrypted updates; run {report.verdict.outcome}.",
        "publication_date": (report.finished or report.started)[:10],
    }


def _flavor(report: Report) -> dict[str, Any]:
    released = [
        f"{name}: {text.readable(each.detail)}"
        for name, each in (
            ("metrics", report.unprotected.metrics),
            ("records per silo", report.unprotected.records_per_silo),
            ("early stopping", report.unprotected.early_stopping),
            ("tuning", report.unprotected.tuning),
        )
        if each is not None and each.released
    ]
    return {
        "name": "Approximate DP",
        "input_metric": report.privacy.adjacency,
        "data_domain": _said(report.processing.data_categories),
        "unprotected_quantities": "; ".join(released) or _MISSING,
    }


def _loss(report: Report) -> dict[str, Any]:
    privacy, most = report.privacy, highest(report)
    loss: dict[str, Any] = {
        "privacy_unit": f"{privacy.unit}-level",
        "privacy_unit_description": f"Neighbours: {privacy.adjacency}. {_said(privacy.contribution_bound)}",
    }
    if privacy.void is not None:
        loss["privacy_parameters_description"] = f"VOID: {text.readable(privacy.void)}"
    elif most is not None:
        # What was spent and not what was asked: the registry's readers compare promises that were kept.
        loss["privacy_parameters"] = {"epsilon": most, "delta": privacy.delta}
        loss["privacy_parameters_description"] = (
            f"The largest epsilon of any institution; {text.given(privacy.epsilon)} was asked. Institutions hold "
            "different records, so one record pays one of them. Accountant: " + _said(privacy.accountant)
        )
    else:
        loss["privacy_parameters_description"] = "Nothing was spent."
    return loss


def _model(report: Report) -> dict[str, Any]:
    actors = [f"- {each.who}: {each.what}" for each in report.encryption.who_can_open]
    return {
        "model_name": "Federated",
        "model_name_description": f"Noise is added in each institution before encryption. {report.privacy.mechanism}",
        "actors": "\n".join(map(text.readable, actors)) or _MISSING,
        "release_type": "One release",
        "data_source_type": "Static",
        "access_type": "Non-interactive",
    }


def _implementation(report: Report) -> dict[str, Any]:
    privacy, tuning = report.privacy, report.unprotected.tuning
    packages = ", ".join(
        f"{each.name} {each.version}" for each in (report.versions.packages if report.versions else ())
    )
    numbers = (
        ("clipping norm", privacy.clipping_norm),
        ("noise multiplier", privacy.noise_multiplier),
        ("sample rate", privacy.sample_rate),
        ("steps per round", privacy.steps_per_round),
        ("rounds", privacy.rounds),
    )
    return {
        "pre_processing_eda_hyperparameter_tuning": _said(tuning.detail if tuning else None),
        "mechanisms": "\n".join(
            f"- {each}"
            for each in (
                text.readable(privacy.mechanism),
                "; ".join(f"{name} {value}" for name, value in numbers if value is not None) or _MISSING,
                f"Random source: {_said(privacy.random_source)}",
                f"Floating point: {_said(privacy.floating_point)}",
                f"Security: {text.readable(report.encryption.scheme)}, {report.encryption.custody} custody",
                f"Versions: {packages or _MISSING}",
            )
        ),
        "justification": "The parameters stand in the run manifest that the researcher signed and each institution's "
        "policy permitted.",
    }


def _said(fact: str | None) -> str:
    return _MISSING if fact is None else text.readable(fact)
