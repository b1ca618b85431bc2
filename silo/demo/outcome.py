"""From what the parties kept (decisions, ledgers, logs, sealed model) to the report's facts."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray
from silo_crypto import parameters
from silo_crypto.threshold import parameters as threshold_parameters
from silo_policies import Decision, RunManifest, format_instant
from silo_policies.decision import DecidedRule

from silo.api import Experiment
from silo.demo.baseline import Baseline
from silo.demo.hospitals import REFUSER
from silo.demo.setting import Setting
from silo.home import Home
from silo.log import Entry as LogEntry
from silo.log import Log as PartyLog
from silo.report import Report
from silo.report.facts.evidence import Entry, Evidence, Log, Package, Versions
from silo.report.facts.governance import (
    Access,
    Disclosure,
    Fault,
    Outcome,
    Pack,
    Policies,
    Processing,
    Unprotected,
    Waiver,
)
from silo.report.facts.parties import Aggregator, Estimate, Reason, Round, Silo, Verdict
from silo.report.facts.protection import Collusion, Encryption, EpsilonSeries, Parameter, Privacy, SpentAfter, openings
from silo.report.facts.utility import Auc
from silo.training.distributed_plan import DistributedPlan
from silo.training.evaluate import FEWEST_PER_CLASS, interval_of
from silo.training.mechanism import plan_of

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
    """Return the report's facts: what the parties recorded, and the non-private AUC."""
    setting, result = played.setting, played.result
    run = setting.submission.run.body
    decisions = {name: setting.submission.decision(doc, name) for name, doc in result["decisions"].items()}
    rounds = tuple(_round(each) for each in result["rounds"])
    upload = max((each.upload_bytes_per_silo or 0 for each in rounds), default=0)
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
        privacy=_privacy(played),
        encryption=_encryption(played, upload),
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
        policies=_policies(played, decisions),
        waivers=tuple(_waivers(decisions)),
        faults=tuple(Fault(round=each["round"], party=each["party"], what=each["what"]) for each in result["faults"]),
        access=Access(
            signatures="Ed25519 over every message, decision, upload and log head",
            sealing="HPKE (RFC 9180): X25519, HKDF-SHA256, AES-256-GCM",
            keys_at_rest="PKCS#8, scrypt and AES-256-GCM, file mode 0600",
            rotation="one encryption key for each run",
        ),
        evidence=_evidence(played),
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
        reasons=tuple(
            Reason(
                pack=reason.pack,
                rule=reason.id,
                message=reason.message,
                citation=f"{reason.cite.instrument}, {reason.cite.article}" if reason.cite else None,
                remediation=reason.remediation,
            )
            for reason in decision.reasons
            if decision.decision == "deny"
        ),
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


def _privacy(played: Played) -> Privacy:
    run = played.setting.submission.run.body
    spec = run.privacy
    plan = plan_of(run)
    distributed = isinstance(plan, DistributedPlan)
    series = []
    for name in played.result["members"]:
        taken = [each["round"] for each in played.result["rounds"] if name in each["participants"]]
        points = tuple(
            SpentAfter(round=number, epsilon=plan.epsilon_after(index * spec.steps_per_round))
            for index, number in enumerate(taken, start=1)
        )
        series.append(EpsilonSeries(silo=name, points=points))
    return Privacy(
        mechanism="distributed-dp: one clipped gradient sum a silo and round, each with a share of the noise; only "
        "sums are opened"
        if distributed
        else "local-dp: DP-SGD inside each silo (Opacus gradients, the silo's own sampling and noise)",
        epsilon=spec.epsilon,
        delta=spec.delta,
        unit=spec.unit,
        adjacency=f"add or remove one {spec.unit}",
        accountant="dp_accounting PLD, pessimistic, rounded up",
        composition="rounds compose, over the sampled union of the silos' records"
        if distributed
        else "steps compose within a silo; silos hold different records (parallel composition)",
        contribution_bound="one record, its gradient clipped to the norm below in every step it is sampled in"
        if spec.unit == "record"
        else f"the first {spec.records_per_patient} records of one patient, the sum of their gradients clipped once to "
        "the norm below in every step the patient is sampled in",
        clipping_norm=spec.clipping_norm,
        noise_multiplier=spec.noise_multiplier,
        sample_rate=spec.sample_rate,
        expected_batch=spec.expected_batch,
        steps_per_round=spec.steps_per_round,
        rounds=run.rounds,
        random_source="AES-256-CTR under fresh 32-byte keys from the operating system, in the silo's process",
        floating_point="clipped sums in float64, "
        + (
            "discrete Gaussian noise around a real centre"
            if distributed
            else "discretised Gaussian noise on a fixed grid"
        )
        + ", sensitivity widened by 2^-10 for arithmetic",
        collusion=tuple(Collusion(silos=c, epsilon=epsilon) for c, epsilon in plan.collusion())
        if isinstance(plan, DistributedPlan)
        else (),
        spent=tuple(series),
    )


def _encryption(played: Played, upload: int) -> Encryption:
    run = played.setting.submission.run.body
    plain = run.model.parameters * 4
    details = _shared_details if run.encryption.custody == "shared" else _threshold_details
    scheme, named, beside = details(run)
    return Encryption(
        scheme=scheme,
        custody=run.encryption.custody,
        threshold=run.encryption.threshold,
        parameters=tuple(Parameter(name=name, value=value) for name, value in named.items()),
        security_bits=run.encryption.security_bits,
        failure_probability=0.0,
        failure_reason="noise and field bounds are hard bounds, computed for this many silos before anything is "
        "encrypted",
        upload_bytes=upload,
        plain_bytes=plain,
        ratio=upload / plain,
        ratio_reason=f"the model has only {run.model.parameters} values; beside them an upload carries {beside}. At a "
        "million values the ratio is below 1.05.",
        who_can_open=openings(run.encryption.custody, run.encryption.threshold),
    )


def _shared_details(run: RunManifest) -> tuple[str, dict[str, str], str]:
    spec = run.encryption
    chosen = parameters.shared(spec.parameters, value_bits=spec.value_bits, max_additions=spec.max_additions)
    named = {
        "parameter set": chosen.name,
        "ring dimension": str(parameters.DEGREE),
        "ciphertext modulus": " x ".join(str(prime) for prime in parameters.PRIMES),
        "plaintext modulus": "2^60 - 16383",
        "fields": f"{chosen.fields} of {chosen.field_bits} bits a coefficient",
        "uploads a sum may hold": str(chosen.max_additions),
        "source of the security claim": parameters.SECURITY_SOURCE,
    }
    beside = "presence and MAC fields, a 64-byte seed and a signed envelope"
    return "BFV (Microsoft SEAL through TenSEAL), exact integer sums", named, beside


def _threshold_details(run: RunManifest) -> tuple[str, dict[str, str], str]:
    spec = run.encryption
    chosen = threshold_parameters.named(spec.parameters)
    named = {
        "parameter set": chosen.name,
        "ring dimension": str(chosen.degree),
        "ciphertext modulus": f"{chosen.modulus.bit_length()} bits, {len(chosen.primes)} primes",
        "plaintext modulus": f"2^{chosen.plaintext_bits}",
        "fields": f"{chosen.fields} of {chosen.field_bits} bits a coefficient",
        "flood bound": f"2^{chosen.flood_bits}",
        "uploads a sum may hold": str(chosen.max_silos),
        "source of the security claim": chosen.source,
    }
    scheme = "T-of-n opening of sums over a ring (after LERNA, ASIACRYPT 2023), our own code, not audited by others"
    return scheme, named, "presence and MAC fields and a signed envelope, and a coefficient is 390 bits wide"


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
        early_stopping=Disclosure(released=False, detail="the number of rounds stands in the signed manifest"),
        tuning=Disclosure(
            released=True, detail="the example's constants were chosen by its authors on the same public data"
        ),
    )


def _policies(played: Played, decisions: Mapping[str, Decision]) -> Policies:
    packs = {pack.digest: pack for pack in played.setting.packs.values()}
    for home in played.setting.homes.values():
        packs |= {pack.digest: pack for pack in home.packs()}

    def citation(decision: Decision, rule: DecidedRule) -> str | None:
        pack = packs.get(decision.packs.get(rule.pack, ""))
        cite = pack.rules[rule.id].cite if pack else None
        return f"{cite.instrument}, {cite.article}" if cite else None

    return Policies(
        packs=tuple(
            Pack(id=pack.id, version=pack.document.version, digest=digest, jurisdiction=pack.document.jurisdiction)
            for digest, pack in sorted(packs.items(), key=lambda item: item[1].id)
        ),
        outcomes=tuple(
            Outcome(silo=name, pack=rule.pack, rule=rule.id, result=rule.result, citation=citation(decision, rule))
            for name, decision in sorted(decisions.items())
            for rule in decision.rules
        ),
    )


def _waivers(decisions: Mapping[str, Decision]) -> Iterator[Waiver]:
    """Yield every waiver that a silo's signed decision names."""
    for name, decision in sorted(decisions.items()):
        for each in decision.waivers:
            yield Waiver(
                id=each.waiver,
                silo=name,
                pack=each.pack,
                rule=each.id,
                approver=each.approver,
                justification=each.reason,
                expires=format_instant(each.expires),
            )


def _evidence(played: Played) -> Evidence:
    submission = played.setting.submission
    parties = [*played.setting.homes.items(), (played.setting.aggregator.name, played.setting.aggregator)]
    return Evidence(
        logs=tuple(_log(name, home, submission.run.body.run) for name, home in parties),
        code_digest=submission.run.body.code_digest,
        consortium_digest=submission.consortium.body.digest,
        manifest_digest=submission.run.body.digest,
    )


def _log(name: str, home: Home, run: str) -> Log:
    with home.log() as log:
        return Log(
            holder=name,
            origin=log.origin,
            size=len(log),
            checkpoint=log.checkpoint(home.identity()),
            entries=tuple(_entries(log, run)),
        )


def _entries(log: PartyLog, run: str) -> Iterator[Entry]:
    for entry in log.entries(run=run):
        subject = _subject(entry)
        if subject is not None:
            yield Entry(subject=subject, index=entry.index, hash="sha256:" + entry.hash.hex())


def _subject(entry: LogEntry) -> str | None:
    """Return what an entry backs in the report, or None for one that backs no statement of its own."""
    body = entry.body
    match str(entry.kind):
        case "manifest":
            return "manifest"
        case "decision" if body.get("moment", "accept") == "accept":
            return f"decision/{body['silo']}"
        case "key-epoch":
            return "keys"
        case "aggregate":
            return f"round/{body['round']}"
        case "release":
            return f"release/{body['what']}"
    return None
