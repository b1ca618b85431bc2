"""An approved experiment and this silo's records, made ready: the first moment at which foreign code runs.

Invariant: the caller has checked the submission and found the code approved. What this returns was measured here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from silo.agent.facts import Measured
from silo.api import Experiment, load_experiment_bytes
from silo.errors import SiloError
from silo.home import DataSet
from silo.submission import Submission

if TYPE_CHECKING:
    from torch import Tensor

    from silo.training.mechanism import AnyPlan, Mechanism

REGISTERED = "uci-heart:"


class DataError(SiloError):
    """This silo's records cannot be used; the text is for the silo's own people, because it may say which row."""

    exit_code = 3


@dataclass(frozen=True)
class Prepared:
    """Everything a run needs from this silo. ``test`` is (features, targets) of the test part; ``initial`` the public
    initial weights, float32 (d,); ``data_digest`` that of the bytes the records were read from."""

    experiment: Experiment
    plan: AnyPlan
    mechanism: Mechanism
    test: tuple[Tensor, Tensor]
    initial: NDArray[np.float32]
    measured: Measured
    data_digest: str


def prepare(submission: Submission, dataset: DataSet, home: Path) -> Prepared:
    """Load the experiment, verify that its noise keeps the promise, read and split the records.

    Raises :class:`DataError` for what depends on the records, :class:`~silo.errors.ConfigError` for the rest.
    """
    from silo.data import load, split_rows
    from silo.training.check import check_model
    from silo.training.mechanism import mechanism_for, plan_of
    from silo.training.model import build_model, flatten
    from silo.training.trainer import to_tensors

    run = submission.run.body
    experiment = load_experiment_bytes(submission.bundle, run.code_digest)
    plan = plan_of(run)
    check_model(experiment)
    try:
        records = load(source_of(dataset, home))
        features, targets = to_tensors(experiment, records)
    except SiloError as error:
        raise DataError(error.what, where=error.where, fix=error.fix) from error
    train, test = split_rows(targets.numpy(), dataset.split_seed)
    mechanism = mechanism_for(run, plan, experiment, features[train], targets[train])
    initial = flatten(build_model(experiment, run.model.seed))
    return Prepared(
        experiment=experiment,
        plan=plan,
        mechanism=mechanism,
        test=(features[test], targets[test]),
        initial=initial,
        measured=Measured(epsilon=plan.epsilon_after(plan.steps), model_size=len(initial), records=len(train)),
        data_digest=records.source,
    )


def source_of(dataset: DataSet, home: Path) -> str:
    """Return the data set's source; a relative path is relative to the silo's home."""
    if dataset.source.startswith(REGISTERED):
        return dataset.source
    return str(home / dataset.source)  # an absolute path stays what it is
