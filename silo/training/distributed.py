"""A silo's part of DistributedDP: one clipped, Poisson-sampled gradient sum a round, with its share of the noise.

Invariant: what :meth:`DistributedTrainer.run` returns is a draw of the discrete Gaussian around the scaled sum, for an
empty batch too, and every field lies in [0, 2^value_bits). Samples and noise are drawn anew each time; nothing of them
is kept, so no attempt can be repeated. Alone a share hides little: it must go into a sum that at least
``minimum_silos`` silos are in, which is the encryption's part.

Source: PROTOCOL section 5, "DistributedDP".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from silo_crypto.protocol import Fields, Sums
from silo_crypto.randomness import Csprng

from silo.errors import BudgetExceeded, VerificationFailed
from silo.training.distributed_plan import DistributedPlan
from silo.training.gradients import Gradients, OnGradients
from silo.training.optimizer import clipped_sums
from silo.training.shares import ShareSampler


@dataclass(frozen=True)
class Share:
    """What one round gives: ``values`` are the noised, offset integers, uint32 (d,); ``steps`` were taken."""

    values: Fields
    steps: int


class DistributedTrainer(OnGradients[DistributedPlan]):
    """Draws one silo's shares and keeps the count of steps over the rounds of a run. Not for two threads at once.

    ``features`` (n, ...) and ``targets`` (n,) are the silo's; n may be 0. ``seed`` is the public seed of the model;
    ``patients``, str (n,), says whose each row is, where the plan protects patients.
    """

    def _begin(self, gradients: Gradients, plan: DistributedPlan, name: str) -> None:
        self._name = name
        self._plan = plan
        self._rng = Csprng()
        self._gradients = gradients
        self._sampler = ShareSampler(plan.share_sigma)
        self.steps = 0

    def resume(self, steps: int) -> None:
        """Count on from ``steps``, which an earlier process took and charged."""
        self.steps = self._sampler.draws = steps

    @property
    def noise_draws(self) -> int:
        """Noise vectors drawn so far: one for every step."""
        return self._sampler.draws

    def run(self, start: NDArray[np.float32]) -> Share:
        """Return the share of one round at the weights ``start``, float32 (d,).

        Raises :class:`~silo.errors.BudgetExceeded` when all planned steps are taken, and
        :class:`~silo.errors.ConfigError` if the experiment's code fails.
        """
        if self.steps >= self._plan.steps:
            raise BudgetExceeded(
                f"{self._plan.steps} private steps were planned, and all are taken",
                where=f"experiment {self._name!r}",
                fix="start a new run: its budget is its own",
            )
        plan = self._plan
        with self._gradients.at(start):
            self._gradients.sample(plan.sample_rate, self._rng)
            sums = clipped_sums(self._gradients.parameters, plan.clipping_norm)
            self._gradients.clear()
        centres = torch.cat([part.reshape(-1) for part in sums]).numpy() * plan.scale
        np.clip(centres, -plan.clamp, plan.clamp, out=centres)
        drawn = self._sampler.draw(centres, self._rng)
        self.steps += 1
        return Share((drawn + plan.offset).astype(np.uint32), 1)


def gradient_of(plan: DistributedPlan, sums: Sums, uploads: int) -> NDArray[np.float64]:
    """Return the noised mean gradient, float64 (d,), from the opened sums of ``uploads`` shares, int64 (d,).

    Raises :class:`~silo.errors.VerificationFailed` for fewer than the plan's minimum: their noise is not enough.
    """
    if uploads < plan.minimum_silos:
        raise VerificationFailed(
            f"a sum of {uploads} uploads was opened; the noise is that of {plan.minimum_silos}",
            where="DistributedDP",
            fix="the minimum of the run must be at least that of its noise",
        )
    return np.asarray((sums - uploads * plan.offset) / (plan.scale * plan.expected_batch), dtype=np.float64)
