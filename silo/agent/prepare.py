"""An approved experiment and this silo's records, made ready in two steps, with the policy's decision between them.

Invariant: the caller has checked the submission and found the code approved. :func:`examine` runs the experiment on
made-up records only; no code of an experiment sees a record before :func:`prepare`, which only a permit allows. None
of it ever runs in this process: both speak to a confined child (:mod:`silo.sandbox`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from silo_policies import RunManifest

from silo.agent.facts import Measured
from silo.api import Records
from silo.errors import SiloError, VerificationFailed
from silo.home import DataSet, Home
from silo.submission import Submission

if TYPE_CHECKING:
    from silo.sandbox import Confined
    from silo.training.mechanism import AnyPlan, Mechanism

REGISTERED, PYTHON = "uci-heart:", "python:"


class DataError(SiloError):
    """This silo's records cannot be used; the text is for the silo's own people, because it may say which row."""

    exit_code = 3


@dataclass(frozen=True)
class Examined:
    """What can be known before the policy decides: no code of the experiment has seen a record.

    ``confined`` is the child in which it runs; ``initial`` the public initial weights, float32 (d,); ``records`` were
    read by the silo's own code.
    """

    confined: Confined
    plan: AnyPlan
    initial: NDArray[np.float32]
    records: Records
    measured: Measured


@dataclass(frozen=True)
class Prepared:
    """What a permitted run trains with: ``trained_on`` records, or patients, of the training part; ``labels`` are the
    test part's targets, float64."""

    mechanism: Mechanism
    trained_on: int
    labels: NDArray[np.float64]


def confine(home: Home) -> Confined:
    """Start the child in which one run's experiment will live; whoever asks for it closes it."""
    from silo.sandbox import Confined, Limits

    allowed = home.settings.sandbox
    return Confined(Limits(memory_mib=allowed.memory_mib, seconds=allowed.seconds), [home.path])


def examine(submission: Submission, dataset: DataSet, home: Path, confined: Confined) -> Examined:
    """Load an approved experiment into its child, try it on made-up records, check every claim of the manifest, and
    count records.

    Raises :class:`DataError` for what depends on the records, :class:`~silo.errors.ConfigError` for the rest.
    """
    from silo.data import load
    from silo.training.mechanism import plan_of

    run = submission.run.body
    check_claims(run, dataset)
    plan = plan_of(run)
    try:
        records = load(source_of(dataset, home), schema=dataset.schema_of, patients=dataset.patients)
    except SiloError as error:
        raise DataError(error.what, where=error.where, fix=error.fix) from error
    initial = confined.examine(submission.bundle, run.code_digest, records.schema, seed=run.model.seed)
    measured = Measured(epsilon=plan.epsilon_after(plan.steps), model_size=len(initial), records=_units(records))
    return Examined(confined, plan, initial, records, measured)


def prepare(submission: Submission, dataset: DataSet, examined: Examined) -> Prepared:
    """Hand the records to the experiment's ``tensors``, split them, and make the mechanism. Only after a permit.

    Raises :class:`DataError`, whatever fails: the experiment has seen records, so what it does stays in the silo.
    """
    from silo.data import split_each, split_rows
    from silo.sandbox import RemoteGradients
    from silo.training.mechanism import mechanism_for
    from silo.training.units import units_of

    run, confined, plan = submission.run.body, examined.confined, examined.plan
    try:
        targets, patients = confined.tensors(examined.records), examined.records.patients
        if dataset.public and patients is None:
            train, test = split_rows(targets, dataset.split_seed)
        else:
            train, test = split_each(examined.records, dataset.split_seed)
        confined.split(train, test)
        units = units_of(plan.unit, plan.records_per_patient, None if patients is None else patients[train], len(train))
        gradients = RemoteGradients(confined, units, parameters=plan.parameters)
        mechanism = mechanism_for(run, plan, gradients)
    except SiloError as error:
        raise DataError(error.what, where=error.where, fix=error.fix) from error
    return Prepared(mechanism, _units(examined.records.take(train)), targets[test].astype(np.float64))


def _units(records: Records) -> int:
    """Return how many there are of what the privacy is promised to: records, or patients where these are declared."""
    return len(records) if records.patients is None else len(np.unique(records.patients))


def check_claims(run: RunManifest, dataset: DataSet) -> None:
    """Return if the manifest says of this mechanism what this code does with this data set, its unit included.

    Raises :class:`~silo.errors.VerificationFailed` naming the first claim that is not so.
    """
    from silo.training.accounting import ACCOUNTANT

    privacy = run.privacy
    claims = {
        "privacy.unit": (privacy.unit, dataset.unit),
        "privacy.adjacency": (privacy.adjacency, "add-remove"),
        "privacy.accountant": (privacy.accountant, ACCOUNTANT),
        "aggregation.weighting": (run.aggregation.weighting, "uniform"),
    }
    if privacy.mechanism == "distributed-dp":
        claims["encryption.custody"] = (run.encryption.custody, "threshold")
    for name, (claimed, done) in claims.items():
        if claimed != done:
            raise VerificationFailed(
                f"the run claims {name} {claimed!r}; this silo does {done!r}",
                where=f"run {run.run}",
                fix="propose it anew",
            )


def source_of(dataset: DataSet, home: Path) -> str:
    """Return the data set's source; a relative path is relative to the silo's home."""
    if dataset.source.startswith((REGISTERED, PYTHON)):
        return dataset.source
    return str(home / dataset.source)  # an absolute path stays what it is
