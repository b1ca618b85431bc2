"""The experiment that `silo experiment new` writes: the shipped heart example, or one for a schema of the silos' own.

Both run as they are: `silo experiment check` on what was written is a test of this module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from silo.errors import UsageError

if TYPE_CHECKING:
    from silo.data.table import ColumnSpec, Table

FILE, SCHEMA = "experiment.py", "schema.toml"

OWN = '''\
"""{name}: logistic regression on the silos' own columns. Change what you like; then: silo experiment check."""

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from silo import Encryption, Experiment, FedAvg, LocalDP, Records

USED = [
{used}
]
LABEL = "{label}"


def model() -> torch.nn.Module:
    # {width} features: two of a number (scaled value, missing flag), one of each category.
    return torch.nn.Sequential(torch.nn.Linear({width}, 1), torch.nn.Flatten(0))


def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    # One loss per record: reduction="none".
    return torch.nn.functional.binary_cross_entropy_with_logits(outputs, targets, reduction="none")


def tensors(records: Records) -> tuple[torch.Tensor, torch.Tensor]:
    # Row i from record i alone: scale by public ranges (features does), never by means of the data.
    return torch.from_numpy(records.features(USED)), torch.from_numpy({target}).float()


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    return float(roc_auc_score(labels, scores))


experiment = Experiment(
    name="{name}",
    purpose="{name}-research",  # as the silos' policies name it
    model=model,
    loss=loss,
    tensors=tensors,
    metrics={{"auc": auc}},
    rounds=10,
    # expected_batch is a public guess of sample_rate x records of one silo, never a count.
    privacy=LocalDP(
        epsilon=3, delta=1e-5, clipping_norm=1, sample_rate=0.5, steps_per_round=1, expected_batch=75, learning_rate=5
    ),
    encryption=Encryption(custody="shared", value_bits=16, value_bound=64.0),
    aggregation=FedAvg(weighting="uniform"),
    releases=["model", "metrics", "records"],
)
'''


def heart(name: str) -> str:
    """Return the shipped example under another name."""
    from silo.demo.run import shipped_experiment

    text = shipped_experiment().read_text()
    before = '    name="heart-disease",\n'
    assert before in text
    return text.replace(before, f'    name="{name}",\n')


def for_table(name: str, table: Table, label: str | None) -> str:
    """Return an experiment on the columns of ``table`` that predicts ``label``, its last column if None."""
    columns = {each.name: each for each in table.columns}
    label = table.columns[-1].name if label is None else label
    if label not in columns:
        raise UsageError(f"the schema has no column {label!r}", where="--label", fix=f"one of {', '.join(columns)}")
    used = [each for each in table.columns if each.name != label]
    if not used:
        raise UsageError("the schema has one column", where="--schema", fix="a label needs others to be told from")
    return OWN.format(
        name=name,
        label=label,
        used="\n".join(f"    {each.name!r}," for each in used).replace("'", '"'),
        width=sum(_width(each) for each in used),
        target=_target(columns[label]),
    )


def _width(column: ColumnSpec) -> int:
    return 2 if column.values is None else len(column.values)


def _target(column: ColumnSpec) -> str:
    if column.values is not None:
        return f'records[LABEL] == "{column.values[-1]}"'
    low, high = column.range or (0.0, 1.0)
    return f"records.numbers(LABEL) > {(low + high) / 2:g}"
