"""Sets the stage: homes for every party, a consortium all members sign, a run the researcher signs, approvals.

Everything is what the parties of a deployment would make, with keys from the operating system; only that one process
plays all of them is the demo's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from silo_crypto.keys import Identity
from silo_policies import Aggregator, ConsortiumManifest, Keys, Member, Pack, Person, parse_pack, shipped_pack, sign

from silo.agent.prepare import source_of
from silo.api import Experiment
from silo.custody import choose
from silo.data import load
from silo.demo.hospitals import REFUSER, Hospital, write_made_up_records
from silo.home import DataSet, Home
from silo.home.keys import load_identity, save_person
from silo.proposal import propose
from silo.submission import RUN, Submission

AGGREGATOR, RESEARCHER, PEOPLE = "aggregator", "researcher", "people"
MINIMUM_SILOS = 3
RUN_DAYS = 7
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
    extra_pack: tuple[Pack, bytes] | None = None,
    keep_people: bool = False,
) -> Setting:
    """Create ``directory/homes/NAME`` for every party, and everything they sign.

    ``extra_pack`` (and its text) is added to every hospital's own. With ``keep_people`` the keys of researcher,
    stewards and officers are left under ``directory/people/NAME``; else they are forgotten when the demo ends.
    """
    homes = {each.name: _home_of(each, directory / "homes", experiment, extra_pack, seed) for each in hospitals}
    aggregator = Home.create(directory / "homes" / AGGREGATOR, AGGREGATOR, display_name="Aggregator")
    people = {name: Identity.generate(name) for name in (RESEARCHER, *_people_of(homes))}
    researcher = people[RESEARCHER]
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
                node=homes[each.name].node_public_key(),
            )
            for each in sorted(hospitals, key=lambda each: each.name)
        ),
        aggregator=Aggregator(name=AGGREGATOR, keys=_keys(aggregator.identity())),
        people=(
            Person(name=RESEARCHER, role="researcher", keys=_keys(researcher)),
            *(
                Person(name=name, role=role, keys=_keys(people[name]), silo=silo)
                for name, (role, silo) in sorted(_people_of(homes).items())
            ),
        ),
        custody=experiment.encryption.custody,
        threshold=choice.threshold,
        minimum_silos=MINIMUM_SILOS,
        packs={name: pack.digest for name, pack in packs.items()},
        amendment_quorum=len(homes) // 2 + 1,
        witness_quorum=MINIMUM_SILOS,  # a run with the minimum of silos can reach it: the aggregator is a witness too
        created=now,
        expires=now + timedelta(days=365),
    )
    signed_consortium = sign(consortium, *(home.identity() for _, home in sorted(homes.items())))
    proposal = propose(
        experiment,
        consortium,
        code_digest=code_digest,
        model_size=model_size,
        researcher=RESEARCHER,
        created=now,
        expires=now + timedelta(days=RUN_DAYS),
        seed=seed,
    )
    submission = Submission(signed_consortium, sign(proposal, researcher), bundle)
    for name, home in homes.items():
        home.join(signed_consortium, packs.values())
        # The steward has read the experiment: it is the demo's own. In a deployment this is `silo approve DIGEST`.
        home.approve(code_digest, people[_called(name, "steward")], note="read for the demo")
        home.add_submission(proposal.run, submission.parts())
    aggregator.join(signed_consortium, packs.values())
    aggregator.add_submission(proposal.run, submission.parts())
    if keep_people:
        for person in consortium.people:
            save_person(directory / PEOPLE / person.name, people[person.name], person)
    return Setting(homes, aggregator, researcher, submission, packs)


def load_the_stage(directory: Path) -> Setting:
    """Return the stage that :func:`set_the_stage` left with ``keep_people``, as its people have changed it since."""
    aggregator = Home.open(directory / "homes" / AGGREGATOR)
    (run,) = (path.parent for path in (aggregator.path / "runs").glob(f"*/{RUN}"))
    submission = Submission.load(run)
    names = sorted(submission.run.body.members, key=lambda name: (name == REFUSER, name))
    homes = {name: Home.open(directory / "homes" / name) for name in names}
    packs = {pack.id: pack for pack in aggregator.federation_packs()}
    researcher = load_identity(directory / PEOPLE / RESEARCHER)
    return Setting(homes, aggregator, researcher, submission, packs)


def _people_of(silos: Iterable[str]) -> dict[str, tuple[Literal["steward", "officer"], str]]:
    """Return the stewards and officers by name, each with the silo they act for."""
    roles: tuple[Literal["steward", "officer"], ...] = ("steward", "officer")
    return {_called(silo, role): (role, silo) for silo in silos for role in roles}


def _called(silo: str, role: str) -> str:
    return f"{silo[:24]}-{role}"


def _home_of(
    hospital: Hospital, homes: Path, experiment: Experiment, extra: tuple[Pack, bytes] | None, seed: int
) -> Home:
    home = Home.create(
        homes / hospital.name,
        hospital.name,
        display_name=hospital.display_name,
        organisation_type="hospital",
        jurisdiction=hospital.jurisdiction,
    )
    if hospital.fictional:
        write_made_up_records(home.path)
    dataset = hospital.dataset or DataSet(
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
    # As `silo data add` does: what cannot be read is refused before anything runs.
    load(source_of(dataset, home.path), schema=dataset.schema_of, patients=dataset.patients)
    home.add_dataset(dataset)
    if hospital.own_pack:
        home.add_pack(parse_pack(hospital.own_pack, f"{hospital.name}.yaml"), hospital.own_pack.encode())
    if extra is not None:
        home.add_pack(*extra)
    return home


def _keys(identity: Identity) -> Keys:
    return Keys(**identity.public().to_json()["keys"])
