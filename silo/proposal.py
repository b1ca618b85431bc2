"""What a researcher asks of a consortium: the run manifest that belongs to an experiment.

Invariant: a proposal asks for the custody and threshold its consortium agreed on, and its noise is calibrated here,
from the epsilon that the experiment asks for. A silo believes none of it: it checks the signature and computes every
number again (:mod:`silo.agent`).

Source: PROTOCOL section 4, step 1.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection
from datetime import datetime

from silo_policies import AggregationSpec, ConsortiumManifest, EncryptionSpec, ModelSpec, PrivacySpec, RunManifest
from silo_policies.signing import parse_body

from silo.api import Experiment
from silo.custody import SCHEMES, choose
from silo.errors import ConfigError
from silo.training.accounting import ACCOUNTANT, make_plan


def propose(
    experiment: Experiment,
    consortium: ConsortiumManifest,
    *,
    code_digest: str,
    model_size: int,
    researcher: str,
    created: datetime,
    expires: datetime,
    seed: int = 0,
    members: Collection[str] | None = None,
    run: str | None = None,
) -> RunManifest:
    """Return the unsigned run manifest of an experiment whose model trains ``model_size`` parameters.

    ``members`` are the silos invited, all if None; ``run`` is the id, made up if None; ``seed`` fixes the initial
    weights and is public. Raises :class:`ConfigError` where experiment and consortium do not fit, and
    :class:`~silo_policies.DocumentError` naming a field that is wrong.
    """
    privacy, encryption = experiment.privacy, experiment.encryption
    where = f"experiment {experiment.name!r}"
    if encryption.custody != consortium.custody:
        raise ConfigError(
            f"it asks for {encryption.custody} custody, the consortium agreed on {consortium.custody}",
            where=where,
            fix=f'set encryption=Encryption(custody="{consortium.custody}", ...)',
        )
    if encryption.threshold not in (None, consortium.threshold):
        raise ConfigError(
            f"it asks for a threshold of {encryption.threshold}, the consortium agreed on {consortium.threshold}",
            where=where,
            fix="leave the threshold out",
        )
    invited = sorted(consortium.names if members is None else set(members))
    choice = choose(
        encryption.custody, silos=len(invited), value_bits=encryption.value_bits, threshold=consortium.threshold
    )
    plan = make_plan(privacy, experiment.rounds, model_size)
    values = {
        "run": run or f"{experiment.name[:40]}-{secrets.token_hex(4)}",
        "consortium": consortium.digest,
        "name": experiment.name,
        "purpose": experiment.purpose,
        "code_digest": code_digest,
        "researcher": researcher,
        "rounds": experiment.rounds,
        "privacy": PrivacySpec(
            mechanism="local-dp",
            epsilon=float(privacy.epsilon),
            delta=float(privacy.delta),
            unit=privacy.unit,
            adjacency="add-remove",
            accountant=ACCOUNTANT,
            clipping_norm=float(privacy.clipping_norm),
            noise_multiplier=plan.noise_multiplier,
            sample_rate=float(privacy.sample_rate),
            steps_per_round=privacy.steps_per_round,
            expected_batch=float(privacy.expected_batch),
            learning_rate=float(privacy.learning_rate),
        ),
        "encryption": EncryptionSpec(
            custody=encryption.custody,
            scheme=SCHEMES[encryption.custody],
            parameters=choice.parameters,
            security_bits=choice.security_bits,
            threshold=choice.threshold,
            value_bits=encryption.value_bits,
            value_bound=float(encryption.value_bound),
            max_additions=choice.max_additions,
        ),
        "aggregation": AggregationSpec(rule=experiment.aggregation.rule, weighting=experiment.aggregation.weighting),
        "model": ModelSpec(parameters=model_size, seed=seed),
        "releases": tuple(sorted(experiment.releases)),
        "members": tuple(invited),
        "minimum_silos": consortium.minimum_silos,
        "created": created,
        "expires": expires,
    }
    return parse_body(RunManifest, values, where=where)
