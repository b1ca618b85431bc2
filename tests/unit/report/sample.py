"""A report as a real run would give it: four hospitals train, a fictional fifth refuses."""

from __future__ import annotations

import hashlib

from silo.report.facts.evidence import Entry, Evidence, Log, Package, Versions
from silo.report.facts.governance import Access, Disclosure, Outcome, Pack, Policies, Processing, Unprotected
from silo.report.facts.parties import Aggregator, Estimate, Reason, Round, Silo, Verdict
from silo.report.facts.protection import (
    Encryption,
    EpsilonSeries,
    Parameter,
    Privacy,
    SpentAfter,
    openings,
)
from silo.report.facts.utility import Auc
from silo.report.model import Report

HOSPITALS = (
    ("cleveland", "Cleveland Clinic Foundation", "US-OH", 227, 0.874),
    ("hungary", "Hungarian Institute of Cardiology, Budapest", "HU", 221, 0.861),
    ("switzerland", "University Hospitals Zurich and Basel", "CH", 92, None),
    ("va-long-beach", "V.A. Medical Center, Long Beach", "US-CA", 150, 0.742),
)


def digest(of: str) -> str:
    return "sha256:" + hashlib.sha256(of.encode()).hexdigest()


def estimate(value: float, width: float = 0.05) -> Estimate:
    return Estimate(value=value, low=round(value - width, 4), high=round(min(1.0, value + width), 4))


def sample(rounds: int = 12, silos: int = 4) -> Report:
    """A report of `rounds` rounds; more than four silos are invented."""
    hospitals = HOSPITALS + tuple((f"hospital-{n}", f"Hospital {n}", "DE", 100 + n, 0.8) for n in range(5, silos + 1))
    names = tuple(name for name, *_ in hospitals)
    took = [
        Silo(
            name=name,
            display_name=display,
            jurisdiction=place,
            records=records,
            epsilon=2.9612,
            delta=1e-4,
            decision="permit",
            epsilon_cap=10.0,
            epsilon_before=0.0,
            epsilon_left=7.0388,
            local_auc_before=estimate(score - 0.02) if score else None,
            local_auc_after=estimate(score) if score else None,
            local_auc_missing=None if score else "8 negatives in all, too few for an interval",
            rounds_taken_part=rounds,
            upload_bytes=33_412,
        )
        for name, display, place, records, score in hospitals
    ]
    refused = Silo(
        name="lakeside",
        display_name="Lakeside General (fictional)",
        jurisdiction="US-WA",
        fictional=True,
        epsilon=0.0,
        delta=1e-4,
        decision="deny",
        epsilon_cap=1.0,
        reasons=(
            Reason(
                pack="lakeside-house-rules",
                rule="epsilon-at-most-1",
                message="This hospital takes part in research only up to epsilon 1; the run asks for 3.",
                citation="House rules on secondary use, section 4",
                remediation="Propose the run with epsilon 1.0 or less.",
            ),
        ),
    )
    curve = [round(2.9612 * ((at / rounds) ** 0.55), 4) for at in range(1, rounds + 1)]
    parties = (*names, "lakeside")
    subjects = (
        "consortium",
        "manifest",
        *(f"decision/{name}" for name in parties),
        "keys",
        *(f"round/{at}" for at in range(1, rounds + 1)),
        *(f"budget/{name}" for name in names),
    )
    return Report(
        run="7d1f0c52a9b34e18",
        name="Heart disease from routine findings",
        purpose="Predict angiographic heart disease from routine clinical findings",
        researcher="r-adler",
        started="2025-11-21T10:15:02Z",
        finished="2025-11-21T10:15:39Z",
        verdict=Verdict(outcome="completed", rounds_planned=rounds, rounds_completed=rounds, minimum_silos=3),
        silos=(*took, refused),
        aggregator=Aggregator(
            has_secret_key=False,
            evidence="key material was sealed to the silos' public keys; the aggregator process loads parameters only",
        ),
        privacy=Privacy(
            mechanism="local-dp: DP-SGD inside each silo (Opacus), FedAvg of noised updates",
            epsilon=3.0,
            delta=1e-4,
            unit="record",
            adjacency="add or remove one record",
            accountant="dp_accounting PLD, rounded up",
            composition="steps compose within a silo; silos are disjoint (parallel composition)",
            contribution_bound="one record, clipped to the norm below in every step it is sampled in",
            clipping_norm=1.0,
            noise_multiplier=1.173828125,
            sample_rate=0.25,
            expected_batch=40.0,
            steps_per_round=5,
            rounds=rounds,
            random_source="AES-256-CTR under a fresh operating-system seed for each attempt",
            floating_point="float64 clipped sums, Gaussian noise on a fixed grid, then cast to float32",
            spent=tuple(
                EpsilonSeries(
                    silo=name, points=tuple(SpentAfter(round=at, epsilon=value) for at, value in enumerate(curve, 1))
                )
                for name in names
            ),
        ),
        encryption=Encryption(
            scheme="BFV (TenSEAL, Microsoft SEAL)",
            custody="shared",
            parameters=(
                Parameter(name="parameter set", value="bfv-4096-3x20"),
                Parameter(name="ring dimension", value="4096"),
                Parameter(name="coefficient modulus", value="41 + 41 + 19 bits"),
                Parameter(name="plaintext modulus", value="2^60 - 16383"),
            ),
            security_bits=128,
            failure_probability=0.0,
            failure_reason="noise and overflow bounds are checked before anything is encrypted",
            upload_bytes=33_412,
            plain_bytes=96,
            ratio=348.0,
            ratio_reason="The model has 24 values and a ciphertext holds 12,288: at a million values the ratio is "
            "1.04.",
            who_can_open=openings("shared"),
        ),
        auc=Auc(
            pooled=0.8842,
            federated=0.8771,
            silo_only=0.8315,
            pooled_interval=estimate(0.8842, 0.041),
            federated_interval=estimate(0.8771, 0.042),
            silo_only_interval=estimate(0.8315, 0.052),
            how_pooled="logistic regression on all training records together, no noise, in a separate baseline step",
            how_federated="the released model on the union of the test parts",
            how_silo_only="mean over silos of a model trained on that silo alone, on the union of the test parts",
            interval_method="95 % by stratified bootstrap, 2,000 resamples",
        ),
        rounds=tuple(
            Round(
                round=at,
                participants=names,
                seconds=1.4 + 0.01 * at,
                upload_bytes_per_silo=33_412,
                verified=True,
                auc=round(0.8771 - 0.22 * (0.72**at), 4),
            )
            for at in range(1, rounds + 1)
        ),
        unprotected=Unprotected(
            metrics=Disclosure(released=True, detail="AUC before and after, on public test data"),
            records_per_silo=Disclosure(released=True, detail="training records per silo; the data is public"),
            early_stopping=Disclosure(released=False, detail="the number of rounds was fixed in the manifest"),
            tuning=Disclosure(released=False, detail="the parameters were fixed in the experiment"),
        ),
        processing=Processing(lawful_basis="public data, CC BY 4.0", data_categories="health data, publicly released"),
        policies=Policies(
            packs=(
                Pack(id="research-baseline", version="1.0.0", digest=digest("baseline"), jurisdiction="any"),
                Pack(id="lakeside-house-rules", version="0.3.0", digest=digest("house"), jurisdiction="US-WA"),
            ),
            outcomes=(
                *(
                    Outcome(silo=silo, pack="research-baseline", rule=rule, result="true", citation=source)
                    for rule, source in (
                        ("epsilon-at-most-5", "NIST SP 800-226 2.2"),
                        ("aggregator-without-key", "GDPR 32(1)(a)"),
                        ("purpose-permitted", "GDPR 5(1)(b)"),
                    )
                    for silo in parties
                ),
                Outcome(silo="lakeside", pack="lakeside-house-rules", rule="epsilon-at-most-1", result="false"),
            ),
        ),
        waivers=(),
        faults=(),
        access=Access(
            signatures="Ed25519",
            sealing="HPKE, X25519 (RFC 9180)",
            keys_at_rest="PKCS#8, scrypt and AES-256-GCM, mode 0600",
        ),
        evidence=Evidence(
            logs=tuple(
                Log(
                    holder=holder,
                    origin=f"silo.example/{holder}",
                    size=len(subjects),
                    checkpoint=f"silo.example/{holder}\n{len(subjects)}\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
                    f"— silo.example/{holder} az6Gc2Vx0yHkQm8u1PlL0o5hAd3bJrX7c9WnT4eIvSfKqZ2=\n",
                    entries=tuple(
                        Entry(subject=subject, index=at, hash=digest(f"{holder}{subject}"))
                        for at, subject in enumerate(subjects)
                        if "/" not in subject or subject.startswith("round/") or subject.endswith(f"/{holder}")
                    ),
                )
                for holder in (*parties, "aggregator")
            ),
            code_digest=digest("code"),
            consortium_digest=digest("consortium"),
            manifest_digest=digest("manifest"),
        ),
        versions=Versions(
            python="3.11.9",
            packages=tuple(
                Package(name=name, version=version)
                for name, version in (("dp-accounting", "0.6.0"), ("flwr", "1.41.0"), ("opacus", "1.6.0"))
            ),
        ),
    )
