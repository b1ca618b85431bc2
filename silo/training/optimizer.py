"""The DP-SGD step on Opacus's per-record gradients, with the silo's own clipping sums, noise and counters.

Invariant: each step releases sum of clipped gradients + noise, divided by a public constant; the noise is drawn once
per step from the CSPRNG, an empty batch included. Opacus would draw it from torch's generator, which an experiment
can seed (PROTOCOL section 5: measured, its noise then repeats bit for bit).

Source: Abadi et al. 2016, algorithm 1; Opacus ``DPOptimizer``, whose ``clip_and_accumulate`` and ``add_noise`` are
replaced.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from opacus.optimizers import DPOptimizer
from silo_crypto.randomness import Csprng

from silo.training.noise import add_gaussian
from silo.training.per_record import PerRecord, Streamed, per_record

_CHUNK = 1 << 20  # values noised at a time: the sampler takes some 60 bytes for each


def clipped_sums(parameters: Sequence[torch.nn.Parameter], clipping_norm: float) -> list[torch.Tensor]:
    """Return for each parameter the sum of its per-record gradients, float64 of its shape.

    Each record's gradient, in ``p.grad_sample`` (m, *p.shape), as factors or part by part, is clipped to L2 norm
    ``clipping_norm`` over all parameters. A record whose gradient is not finite, or too large to have a finite norm,
    contributes 0.
    """
    found = [p.grad_sample for p in parameters]  # type: ignore[attr-defined]
    if not any(isinstance(each, Streamed) for each in found):
        return _clipped([per_record(p) for p in parameters], clipping_norm)
    (parts,), total = found, torch.zeros(parameters[0].shape, dtype=torch.float64)
    for part in parts:
        part.add_weighted(total, *_factors([part], clipping_norm))
        del part  # before the next one comes: of a large model each is a few hundred MB
    return [total]


def _clipped(samples: Sequence[PerRecord], clipping_norm: float) -> list[torch.Tensor]:
    factors, rows = _factors(samples, clipping_norm)
    return [each.weighted_sum(factors, rows) for each in samples]


def _factors(samples: Sequence[PerRecord], clipping_norm: float) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return what each good record's gradient is multiplied by, float64 (k,), and which are good, or None for all."""
    norms = torch.stack([each.squared_norms() for each in samples]).sum(0).sqrt()
    good = torch.isfinite(norms)
    factors = torch.where(good, clipping_norm / norms.clamp(min=clipping_norm), 0.0)
    return (factors, None) if bool(good.all()) else (factors[good], good)


class SiloOptimizer(DPOptimizer):  # type: ignore[misc]
    """One gradient step per :meth:`step`: clip, sum in float64, add Gaussian noise on a grid, divide, descend.

    ``steps`` counts optimiser steps and ``noise_draws`` the noise vectors drawn; they are equal after every step.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        noise_multiplier: float,
        clipping_norm: float,
        expected_batch: float,
        rng: Csprng,
    ) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=noise_multiplier,
            max_grad_norm=clipping_norm,
            expected_batch_size=expected_batch,
            loss_reduction="mean",
        )
        self.steps = 0
        self.noise_draws = 0
        self._rng = rng

    def clip_and_accumulate(self) -> None:
        """Set ``p.summed_grad`` to the sums of :func:`clipped_sums`.

        Gradients of an earlier batch are never accumulated: one step, one batch, one event for the accountant.
        """
        for p, summed in zip(self.params, clipped_sums(self.params, self.max_grad_norm), strict=True):
            p.summed_grad = summed

    def add_noise(self) -> None:
        """Set ``p.grad``, float32, to the noised sums; one draw for the whole vector."""
        parts = [p.summed_grad.numpy().ravel() for p in self.params]
        for p in self.params:
            p.summed_grad = None
        sums = parts[0] if len(parts) == 1 else np.concatenate(parts)
        del parts
        noised = np.empty(len(sums), dtype=np.float32)
        for start in range(0, len(sums), _CHUNK):
            part = slice(start, start + _CHUNK)
            noised[part] = add_gaussian(sums[part], self.noise_multiplier * self.max_grad_norm, self._rng)
        self.noise_draws += 1
        for p, grad in zip(
            self.params, torch.split(torch.from_numpy(noised), [p.numel() for p in self.params]), strict=True
        ):
            p.grad = grad.view_as(p)

    def pre_step(self, closure: None = None) -> bool:
        """Clip, add noise and divide. (Opacus's would look for whole per-record gradients first.)"""
        self.clip_and_accumulate()
        self.add_noise()
        self.scale_grad()
        return True

    def scale_grad(self) -> None:
        """Divide by the public expected batch."""
        for p in self.params:
            p.grad /= self.expected_batch_size

    def step(self, closure: None = None) -> None:
        """Take one step on the gradients of the last backward pass and count it."""
        if closure is not None:
            raise ValueError("a private step takes no closure: it would compute gradients more than once")
        super().step()
        self.steps += 1
