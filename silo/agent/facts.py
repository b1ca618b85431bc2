"""What a silo tells its policies, and the gate it asks.

Every fact is measured here, or stands in a manifest whose signatures were checked, or was declared by this silo's own
people in ``data.toml``. Nothing is the researcher's word where the silo can compute it.
"""

from __future__ import annotations

from dataclasses import dataclass

from silo_policies import DatasetFacts, Facts, Gate, Layer, ReleaseFacts, Signed, SiloFacts, Waiver

from silo.custody import security_bits
from silo.errors import ConfigError
from silo.home import DataSet, Home
from silo.ledger import Ledger, Reservation
from silo.sandbox import means
from silo.submission import Submission, keyring
from silo.training.mechanism import AnyPlan


@dataclass(frozen=True)
class Measured:
    """What only a prepared run knows: the code was approved, so it was loaded and the records were counted."""

    epsilon: float
    model_size: int
    records: int


def choose_dataset(home: Home, purpose: str) -> DataSet:
    """Return the one data set of the home, or the first that may serve ``purpose``."""
    datasets = home.data()
    if not datasets:
        raise ConfigError("the silo has no data set", where=str(home.path), fix="add one to data.toml")
    return next((each for each in datasets if purpose in each.permitted_purposes), datasets[0])


def reserve(ledger: Ledger, dataset: DataSet, plan: AnyPlan, *, run: str, code: str, data: str) -> Reservation:
    """Hold the whole run's budget. The event is the mechanism as accounted for: a little less noise than is drawn."""
    return ledger.reserve(
        dataset.population,
        run,
        plan.event(),
        plan.steps,
        delta=plan.delta,
        code_digest=code,
        data_digest=data,
        unit=plan.unit,
    )


def gather(
    home: Home,
    ledger: Ledger,
    submission: Submission,
    dataset: DataSet,
    measured: Measured | None,
    *,
    round_number: int,
    release: ReleaseFacts | None,
) -> Facts:
    """Return the facts for one moment; what is not known stays unknown, which denies where a rule asks for it."""
    # The newest manifest this home joined, not the one the run was written for: who left it is no member any more.
    consortium, run = home.consortium().body, submission.run.body
    approvers = home.approvers(run.code_digest)
    member = next((each for each in consortium.members if each.name == home.name), None)
    budget = ledger.spent(dataset.population)
    held = _held_by(ledger, dataset.population, run.run)
    confinement = means()
    facts = run.facts(
        consortium,
        # Without approval the code is not loaded and these stay unknown; any placeholder would be a claim.
        epsilon=measured.epsilon if measured else run.privacy.epsilon,
        model_size=measured.model_size if measured else run.model.parameters,
        security_bits=security_bits(run.encryption),
        code_digest=run.code_digest,
        code_approved=bool(approvers),
        code_signers=approvers,
        round_number=round_number,
    )
    if measured is None:
        facts = facts.model_copy(update={"epsilon": None, "model_size": None})
    return Facts(
        run=facts,
        dataset=DatasetFacts(
            name=dataset.name,
            population=dataset.population,
            categories=dataset.categories,
            permitted_purposes=dataset.permitted_purposes,
            legal_basis=dataset.legal_basis,
            consent_expires=dataset.consent_expires,
            retention_until=dataset.retention_until,
            records=measured.records if measured else None,
            public=dataset.public,
            deidentification=dataset.deidentification,
            evidence=dataset.evidence,
            epsilon_cap=dataset.epsilon_cap,
            # What this run itself holds is not spent by others: rules compare it with what is left besides.
            epsilon_spent=max(0.0, budget.committed - held),
            epsilon_left=min(dataset.epsilon_cap, budget.left + held),
            delta=dataset.delta,
        ),
        silo=SiloFacts(
            name=home.name,
            jurisdiction=member.jurisdiction if member else None,
            organisation_type=member.organisation_type if member else None,
            member=member is not None,
            isolation=confinement.isolation,
            isolation_means=confinement.in_force,
            encrypted_at_rest=True,  # a home's keys are written no other way, and loading them checks it
            log_retention_days=home.settings.log_retention_days,
            evidence=home.settings.evidence,
        ),
        consortium=consortium.facts(),
        release=release or ReleaseFacts(),
    )


def gate_of(home: Home) -> tuple[Gate, tuple[Signed[Waiver], ...]]:
    """Return the gate with the consortium's packs and the silo's own, and the waivers on file."""
    consortium = home.consortium().body
    gate = Gate(
        Layer(home.federation_packs(), consortium.packs),
        Layer(home.packs(), home.pins()),
        approvers=consortium.people_of(home.name, keyring, "officer"),
    )
    return gate, home.waivers()


def _held_by(ledger: Ledger, population: str, run: str) -> float:
    """Return the epsilon that this run itself has reserved; 0 before it has."""
    return sum(each.epsilon for each in ledger.reservations(population) if each.run == run)
