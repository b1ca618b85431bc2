"""Whom one step samples and clips: records, or patients with all records of theirs that count.

Invariant: what a unit contributes depends on that unit's own rows alone, and which of them count never changes. So
adding or removing a patient, with any number of rows, changes one term of the clipped sum.

Source: PROTOCOL section 5, "Patient unit".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from silo.errors import ConfigError


@dataclass(frozen=True)
class Batch:
    """The sampled units' rows, int64 (m,), and whose each is, int64 (m,) below ``units``; None if each is its own."""

    rows: NDArray[np.int64]
    owners: NDArray[np.int64] | None
    units: int


class Records:
    """n units of one row each."""

    def __init__(self, n: int) -> None:
        self._n = n

    def __len__(self) -> int:
        return self._n

    def batch(self, chosen: NDArray[np.int64]) -> Batch:
        """Return the rows of the chosen units."""
        return Batch(chosen, None, len(chosen))


class Patients:
    """The distinct values of ``keys``, str (n,), each with the rows that carry it: the first ``most`` of the table."""

    def __init__(self, keys: NDArray[np.str_], most: int) -> None:
        _, owner = np.unique(keys, return_inverse=True)
        order = np.argsort(owner, kind="stable").astype(np.int64)
        counts = np.bincount(owner) if len(owner) else np.empty(0, dtype=np.int64)
        starts = np.cumsum(counts) - counts
        rank = np.arange(len(order)) - np.repeat(starts, counts)
        self._rows = order[rank < most]
        self._counts = np.minimum(counts, most).astype(np.int64)
        self._starts = np.cumsum(self._counts) - self._counts

    def __len__(self) -> int:
        return len(self._counts)

    def batch(self, chosen: NDArray[np.int64]) -> Batch:
        """Return the rows of the chosen units."""
        counts = self._counts[chosen]
        owners = np.repeat(np.arange(len(chosen), dtype=np.int64), counts)
        within = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
        return Batch(self._rows[np.repeat(self._starts[chosen], counts) + within], owners, len(chosen))


Units = Records | Patients


def units_of(unit: str, most: int | None, patients: NDArray[np.str_] | None, n: int) -> Units:
    """Return the units of n rows as a plan asks for them; ``patients`` says whose each row is, or is None.

    Raises :class:`~silo.errors.ConfigError` where a plan protects patients and nothing says who they are.
    """
    if unit == "record":
        return Records(n)
    if patients is None or most is None or len(patients) != n:
        raise ConfigError(
            "the run protects each patient, and the table does not say whose its rows are",
            where="data set",
            fix="name the column as `patients` in data.toml, with unit patient",
        )
    return Patients(patients, most)


def sum_by_owner(parameters: list[nn.Parameter], batch: Batch) -> None:
    """Replace ``p.grad_sample``, a gradient for each row, by one for each unit: the sum over the unit's rows.

    A row whose gradient is not finite counts as none; clipping comes after, once for each unit.
    """
    if batch.owners is None:
        return
    owners = torch.from_numpy(batch.owners)
    samples = [p.grad_sample.reshape(len(owners), p.numel()) for p in parameters]  # type: ignore[attr-defined]
    good = torch.stack([torch.isfinite(each).all(1) for each in samples]).all(0)
    for p, each in zip(parameters, samples, strict=True):
        summed = each.new_zeros((batch.units, p.numel())).index_add_(0, owners[good], each[good])
        p.grad_sample = summed.reshape(batch.units, *p.shape)  # type: ignore[attr-defined]
