"""Sets the stage: homes for every party, a consortium all members sign, a run the researcher signs, approvals.

Everything is what the parties of a deployment would make, with keys from the operating system; only that one process
plays all of them is the demo's.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from silo_crypto.keys import Identity
from silo_policies import (
    AggregationSpec,
    Aggregator,
    ConsortiumManifest,
    EncryptionSpec,
    Keys,
    Member,
    ModelSpec,
    Pack,
    Person,
    PrivacySpec,
    RunManifest,
    parse_pack,
    shipped_pack,
    sign,
)

from silo.api import Experiment
from silo.custody import SCHEMES, Choice, choose
from silo.data import load
from silo.demo.hospitals import Hospital
from silo.home import DataSet, Home
from silo.submission import Submission
from silo.training.accounting import ACCOUNTANT, make_plan

AGGREGATOR, RESEARCHER = "aggregator", "researcher"
MINIMUM_SILOS = 3
EPSILON_CAP = 10.0
FEDERATION_PACKS = ("baseline",)


@dataclass(frozen=True)
class Setting:
    """The stage: who is where, and what was signed."""

    homes: dict[str, Home]
    aggregator: Home
    researcher: Identity
    submission: Submission
    packs: dict[str, Pack]

    @property
    def run(self) -> str:
        """The run's id."""
        return self.submission.run.body.run


def set_the_stage(
    directory: Path,
    hospitals: Sequence[Hospital],
    experiment: Experiment,
    bundle: bytes,
    *,
    code_digest: str,
    model_size: int,
    seed: int,
    extra_pack: Pack | None = None,
) -> Setting:
    """Create ``directory/homes/NAME`` for every party, and everything they sign. ``extra_pack`` is added everywhere."""
    homes = {each.name: _home_of(each, directory / "homes", experiment, extra_pack, seed) for each in hospitals}
    aggregator = Home.create(directory / "homes" / AGGREGATOR, AGGREGATOR, display_name="Aggregator")
    researcher = Identity.generate(RESEARCHER)
    stewards = {name: Identity.generate(f"{name[:24]}-steward") for name in homes}
    packs = {name: shipped_pack(name) for name in FEDERATION_PACKS}
    now = datetime.now(UTC)
    choice = choose(
        experiment.encryption.custody,
        silos=len(homes),
        value_bits=experiment.encryption.value_bits,
        threshold=experiment.encryption.threshold,
    )
    consortium = ConsortiumManifest(
        name="heart-consortium",
        members=tuple(
            Member(
                name=each.name,
                organisation_type="hospital",
                jurisdiction=each.jurisdiction,
                keys=_keys(homes[each.name].identity()),
            )
            for each in sorted(hospitals, key=lambda each: each.name)
        ),
        aggregator=Aggregator(name=AGGREGATOR, keys=_keys(aggregator.identity())),
        people=(
            Person(name=RESEARCHER, role="researcher", keys=_keys(researcher)),
            *(
                Person(name=steward.name, role="steward", keys=_keys(steward), silo=name)
                for name, steward in sorted(stewards.items())
            ),
        ),
        custody=experiment.encryption.custody,
        threshold=choice.threshold,
        minimum_silos=MINIMUM_SILOS,
        packs={name: pack.digest for name, pack in packs.items()},
        amendment_quorum=len(homes) // 2 + 1,
        created=now,
        expires=now + timedelta(days=365),
    )
    signed_consortium = sign(consortium, *(home.identity() for _, home in sorted(homes.items())))
    run = sign(
        _manifest(experiment, consortium, choice, code_digest=code_digest, model_size=model_size, seed=seed, now=now),
        researcher,
    )
    submission = Submission(signed_consortium, run, bundle)
    for name, home in homes.items():
        home.join(signed_consortium, packs.values())
        # The steward has read the experiment: it is the demo's own. In a deployment this is `silo approve DIGEST`.
        home.approve(code_digest, stewards[name], note="read for the demo")
    aggregator.join(signed_consortium, packs.values())
    aggregator.add_submission(submission.run.body.run, submission.parts())
    return Setting(homes, aggregator, researcher, submission, packs)


def _manifest(
    experiment: Experiment,
    consortium: ConsortiumManifest,
    choice: Choice,
    *,
    code_digest: str,
    model_size: int,
    seed: int,
    now: datetime,
) -> RunManifest:
    privacy, encryption = experiment.privacy, experiment.encryption
    plan = make_plan(privacy, experiment.rounds, model_size)
    members = sorted(consortium.names)
    return RunManifest(
        run=f"{experiment.name[:40]}-{secrets.token_hex(4)}",
        consortium=consortium.digest,
        name=experiment.name,
        purpose=experiment.purpose,
        code_digest=code_digest,
        researcher=RESEARCHER,
        rounds=experiment.rounds,
        privacy=PrivacySpec(
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
        encryption=EncryptionSpec(
            custody=encryption.custody,
            scheme=SCHEMES[encryption.custody],
            parameters=choice.parameters,
            security_bits=choice.security_bits,
            threshold=choice.threshold,
            value_bits=encryption.value_bits,
            value_bound=float(encryption.value_bound),
            max_additions=choice.max_additions,
        ),
        aggregation=AggregationSpec(rule=experiment.aggregation.rule, weighting=experiment.aggregation.weighting),
        model=ModelSpec(parameters=model_size, seed=seed),
        releases=tuple(sorted(experiment.releases)),
        members=tuple(members),
        minimum_silos=MINIMUM_SILOS,
        created=now,
        expires=now + timedelta(days=1),
    )


def _home_of(hospital: Hospital, homes: Path, experiment: Experiment, extra: Pack | None, seed: int) -> Home:
    load(hospital.source)  # as `silo data add` does: a source that cannot be read is refused before anything is set up
    home = Home.create(
        homes / hospital.name,
        hospital.name,
        display_name=hospital.display_name,
        organisation_type="hospital",
        jurisdiction=hospital.jurisdiction,
    )
    home.add_dataset(
        DataSet(
            name="heart",
            population=f"{hospital.name}-cardiology",
            source=hospital.source,
            split_seed=seed,
            categories=("health",),
            permitted_purposes=(experiment.purpose,),
            legal_basis="public-data",
            public=True,
            epsilon_cap=EPSILON_CAP,
            delta=1e-3,
        )
    )
    if hospital.own_pack:
        home.add_pack(parse_pack(hospital.own_pack, f"{hospital.name}.yaml"), hospital.own_pack.encode())
    return home


def _keys(identity: Identity) -> Keys:
    return Keys(**identity.public().to_json()["keys"])
