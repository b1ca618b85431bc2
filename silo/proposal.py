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

from silo_policies import ConsortiumManifest, EncryptionSpec, ModelSpec, RunManifest
from silo_policies.signing import parse_body

from silo.api import Experiment
from silo.custody import SCHEMES, choose
from silo.errors import ConfigError
from silo.training.accounting import Plan, check_value_range
from silo.training.mechanism import minimum_silos, plan_for, privacy_spec, value_bound
from silo.training.server import aggregation_spec


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
    weights and is public. Raises :class:`ConfigError` where experiment and consortium do not fit, or the range of
    encrypted values does not fit the noise, and :class:`~silo_policies.DocumentError` naming a field that is wrong.
    """
    encryption = experiment.encryption
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
    plan = plan_for(experiment, model_size)
    if isinstance(plan, Plan):
        check_value_range(plan, encryption.value_bound, encryption.value_bits)
    values = {
        "run": run or f"{experiment.name[:40]}-{secrets.token_hex(4)}",
        "consortium": consortium.digest,
        "name": experiment.name,
        "purpose": experiment.purpose,
        "code_digest": code_digest,
        "researcher": researcher,
        "rounds": experiment.rounds,
        "privacy": privacy_spec(plan),
        "encryption": EncryptionSpec(
            custody=encryption.custody,
            scheme=SCHEMES[encryption.custody],
            parameters=choice.parameters,
            security_bits=choice.security_bits,
            threshold=choice.threshold,
            value_bits=encryption.value_bits,
            value_bound=value_bound(experiment, plan),
            max_additions=choice.max_additions,
        ),
        "aggregation": aggregation_spec(experiment.aggregation),
        "model": ModelSpec(parameters=model_size, seed=seed),
        "releases": tuple(sorted(experiment.releases)),
        "members": tuple(invited),
        "minimum_silos": minimum_silos(experiment, consortium.minimum_silos),
        "created": created,
        "expires": expires,
    }
    return parse_body(RunManifest, values, where=where)
