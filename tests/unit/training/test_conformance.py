"""What no audit can see: that each step samples, clips, draws noise and is charged exactly as the accountant assumes.

A one-run audit notices missing noise, not noise that is 2 % short. These tests watch a real :class:`LocalTrainer` and a
real ledger from outside: draws, steps and charges are counted where they happen, batches as the loss sees them, and
noise as it arrives in the update. Each check is also shown something broken, so that it is known to be able to fail.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from silo_crypto.codec import FixedPoint
from silo_crypto.randomness import Csprng
from torch import Tensor, nn

import silo.training.gradients as gradients_module
import silo.training.optimizer as optimizer_module
from silo.agent.facts import reserve
from silo.home import DataSet
from silo.ledger import Ledger
from silo.training.accounting import Plan, make_plan
from silo.training.model import build_model, flatten
from silo.training.optimizer import SiloOptimizer
from silo.training.trainer import LocalTrainer
from tests.unit.training.training_support import PRIVACY, linear, make, plan

RARE = 1e-6  # how often a sound product would fail one of these by chance
CODE, DATA = "sha256:" + "0" * 64, "sha256:" + "1" * 64
DATASET = DataSet(
    name="table",
    population="patients",
    source="table.csv",
    categories=("health",),
    permitted_purposes=("test",),
    epsilon_cap=10.0,
    delta=1e-3,
)


def likely(statistic: float, freedom: int) -> bool:
    """Tell whether a chi-square statistic lies where all but RARE at either end lie."""
    return bool(stats.chi2.ppf(RARE, freedom) < statistic < stats.chi2.isf(RARE, freedom))


# -- draws = steps = events -------------------------------------------------------------------------------------------


class Counts:
    """Counts calls where they happen: the sampler, the noise, torch's own step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.samples, self.steps, self.draws = 0, 0, []
        sample, step, noise = gradients_module.poisson_sample, torch.optim.SGD.step, optimizer_module.add_gaussian

        def sampled(*args: object) -> object:
            self.samples += 1
            return sample(*args)

        def stepped(*args: object, **named: object) -> object:
            self.steps += 1
            return step(*args, **named)

        def noised(sums: NDArray[np.float64], sigma: float, rng: Csprng) -> NDArray[np.float64]:
            self.draws.append((sums.size, sigma))
            return noise(sums, sigma, rng)

        monkeypatch.setattr(gradients_module, "poisson_sample", sampled)
        monkeypatch.setattr(torch.optim.SGD, "step", stepped)
        monkeypatch.setattr(optimizer_module, "add_gaussian", noised)


def whole_run(tmp_path: Path, n: int = 40) -> tuple[LocalTrainer, Plan, Ledger]:
    """Train a whole run as the agent does: reserve, then train and charge round by round, then settle."""
    experiment = make(rounds=4, privacy=PRIVACY)
    public = make_plan(PRIVACY, rounds=4, parameters=5)
    ledger = Ledger(tmp_path / "ledger.db")
    ledger.open_population("patients", DATASET.epsilon_cap, DATASET.delta)
    held = reserve(ledger, DATASET, public, run="run-1", code=CODE, data=DATA)
    trainer = LocalTrainer(experiment, public, torch.rand(n, 4), torch.rand(n), seed=0)
    weights = flatten(build_model(experiment, 0))
    for number in range(1, public.rounds + 1):
        update = trainer.run(weights)
        ledger.charge(held, number, 1, update.steps, upload_digest=f"sha256:{number:064x}")
        weights = weights + update.vector
    ledger.settle(held)
    return trainer, public, ledger


@pytest.mark.parametrize("n", [0, 1, 40])
def test_noise_draws_are_optimiser_steps_are_ledger_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    counts = Counts(monkeypatch)
    trainer, public, ledger = whole_run(tmp_path, n)
    with ledger:
        held = ledger.reservation("patients", "run-1")
        charged = [event.body["steps"] for event in ledger.history() if event.kind == "charged"]
    steps = public.rounds * public.steps_per_round
    assert steps == 12
    assert counts.samples == counts.steps == len(counts.draws) == sum(charged) == held.steps == trainer.steps == steps
    assert charged == [public.steps_per_round] * public.rounds
    # One draw is one vector over all parameters, at the noise that the plan declares and the ledger does not exceed.
    assert set(counts.draws) == {(5, public.noise_multiplier * public.clipping_norm)}
    assert held.mechanism.noise_multiplier <= public.noise_multiplier
    assert held.mechanism.sampling_probability == public.sample_rate
    assert trainer.epsilon == public.epsilon_after(steps) <= PRIVACY.epsilon
    assert held.epsilon_charged == held.epsilon <= PRIVACY.epsilon


class UnsafeNoiseOnceARound(SiloOptimizer):
    """Draws noise in the first of a round's steps only: epsilon is void."""

    def add_noise(self) -> None:
        if self.steps % 3 == 0:
            super().add_noise()
            return
        for p in self.params:
            p.grad = p.summed_grad.to(p.dtype).view_as(p)


def test_noise_once_a_round_is_caught_by_counting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = Counts(monkeypatch)
    monkeypatch.setattr(optimizer_module, "SiloOptimizer", UnsafeNoiseOnceARound)
    trainer, _, ledger = whole_run(tmp_path)
    ledger.close()
    assert len(counts.draws) == 4 != trainer.steps


# -- the sampler, as the loss sees it ---------------------------------------------------------------------------------

N, RATE, STEPS = 40, 0.3, 1_500


def batches() -> NDArray[np.bool_]:
    """Return which records took part in which step of a real run, bool (STEPS, N). Targets are row numbers."""
    seen: list[NDArray[np.int64]] = []

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        seen.append(targets.numpy().astype(np.int64))
        return outputs.flatten() * 0

    experiment = make(linear(1), loss=loss)
    public = plan(2, sample_rate=RATE, steps_per_round=STEPS, rounds=1)
    trainer = LocalTrainer(experiment, public, torch.zeros(N, 1), torch.arange(N).float(), seed=0)
    trainer.run(flatten(build_model(experiment, 0)))
    joined = np.zeros((STEPS, N), dtype=np.bool_)  # an empty batch, one in a million, would stay away
    for row, members in zip(joined, seen, strict=False):
        row[members] = True
    return joined


def sizes_vary(joined: NDArray[np.bool_]) -> bool:
    """Batch sizes have mean n q and variance n q (1 - q)."""
    sizes, variance = joined.sum(1), N * RATE * (1 - RATE)
    central = abs(sizes.mean() - N * RATE) < stats.norm.isf(RARE / 2) * np.sqrt(variance / STEPS)
    return bool(central) and likely(float(((sizes - N * RATE) ** 2).sum() / variance), STEPS)


def alike(joined: NDArray[np.bool_]) -> bool:
    """Every record joins at the public rate."""
    return likely(float(((joined.sum(0) - STEPS * RATE) ** 2 / (STEPS * RATE * (1 - RATE))).sum()), N)


def independent(joined: NDArray[np.bool_]) -> bool:
    """No two records, and no record's consecutive steps, are correlated."""
    z = (joined - RATE) / np.sqrt(RATE * (1 - RATE))
    pairs = (z.T @ z)[np.triu_indices(N, 1)] / np.sqrt(STEPS)
    lagged = (z[1:] * z[:-1]).sum(0) / np.sqrt(STEPS - 1)
    return all(float(abs(x).max()) < stats.norm.isf(RARE / 2 / len(x)) for x in (pairs, lagged))


def test_batches_are_poisson_samples_of_the_records() -> None:
    joined = batches()
    assert sizes_vary(joined)
    assert alike(joined)
    assert independent(joined)


def fixed_size(n: int, rate: float, rng: Csprng) -> NDArray[np.int64]:
    """Every batch has n q records: what shuffling loaders do."""
    return np.sort(np.argsort(rng.uint64(n))[: round(n * rate)])


def neighbours(n: int, rate: float, rng: Csprng) -> NDArray[np.int64]:
    """Records join in pairs."""
    return np.flatnonzero(np.repeat(rng.uint64((n + 1) // 2) < np.uint64(int(rate * 2**64)), 2)[:n])


def favourites(n: int, rate: float, rng: Csprng) -> NDArray[np.int64]:
    """The first record joins more often, and the others make up for it."""
    rates = np.full(n, rate - 0.2 / (n - 1))
    rates[0] += 0.2
    return np.flatnonzero(rng.uint64(n) / 2**64 < rates)


class Sticky:
    """Every second batch repeats the one before."""

    def __init__(self) -> None:
        self._last: NDArray[np.int64] | None = None

    def __call__(self, n: int, rate: float, rng: Csprng) -> NDArray[np.int64]:
        again, self._last = self._last, None
        if again is not None:
            return again
        self._last = np.flatnonzero(rng.uint64(n) < np.uint64(int(rate * 2**64)))
        return self._last


@pytest.mark.parametrize(
    ("sampler", "caught_by"),
    [(fixed_size, sizes_vary), (neighbours, independent), (favourites, alike), (Sticky(), independent)],
    ids=["fixed size", "in pairs", "a favourite", "repeated"],
)
def test_another_sampler_is_caught(
    sampler: Callable[..., object], caught_by: Callable[..., bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gradients_module, "poisson_sample", sampler)
    assert not caught_by(batches())


# -- the noise, as it arrives in the update ---------------------------------------------------------------------------

D = 300_000


def arrived(rounds: int = 1, steps: int = 2) -> tuple[list[NDArray[np.float64]], float]:
    """Return the updates of a silo without records, and the standard deviation that the plan declares for them."""
    experiment = make(lambda: nn.Linear(D, 1, bias=False))
    public = plan(D, noise_multiplier=1.7, clipping_norm=0.6, steps_per_round=steps, rounds=rounds)
    trainer = LocalTrainer(experiment, public, torch.zeros(0, D), torch.zeros(0), seed=0)
    weights = np.zeros(D, dtype=np.float32)
    updates = [trainer.run(weights).vector.astype(np.float64) for _ in range(rounds)]
    step = public.learning_rate * public.noise_multiplier * public.clipping_norm / public.expected_batch
    return updates, step * np.sqrt(steps)


def test_the_noise_in_an_update_has_the_variance_and_the_shape_that_was_declared() -> None:
    (first, second), sigma = arrived(rounds=2)
    for update in (first, second):
        assert likely(float((update**2).sum()) / sigma**2, D)
        assert stats.kstest(update[:50_000] / sigma, "norm").pvalue > RARE
        assert abs(float(update[1:] @ update[:-1])) / sigma**2 < stats.norm.isf(RARE / 2) * np.sqrt(D)
    assert abs(float(first @ second)) / sigma**2 < stats.norm.isf(RARE / 2) * np.sqrt(D)


def test_what_the_encoder_makes_of_it_still_carries_all_the_noise() -> None:
    (update,), sigma = arrived()
    codec = FixedPoint(bound=16 * sigma, value_bits=16)
    sums = codec.encode(update.astype(np.float32), Csprng()).astype(np.int64)
    decoded = codec.decode_mean(sums, 1).astype(np.float64)
    step = 32 * sigma / (2**16 - 1)
    assert float(abs(decoded - update).max()) <= 1.01 * step
    # Stochastic rounding adds at most a quarter of a squared step: less than 1e-7 of the variance.
    assert likely(float((decoded**2).sum()) / sigma**2, D)


class UnsafeQuieter(SiloOptimizer):
    """Two per cent less noise than declared: epsilon is void, and no audit would ever notice."""

    def add_noise(self) -> None:
        declared = self.noise_multiplier
        self.noise_multiplier = 0.98 * declared
        super().add_noise()
        self.noise_multiplier = declared


class UnsafeSameNoise(SiloOptimizer):
    """Adds one vector again and again: two updates subtracted are free of noise."""

    def add_noise(self) -> None:
        if self.steps == 0:
            super().add_noise()
            self.kept = [p.grad.clone() for p in self.params]
        for p, noise in zip(self.params, self.kept, strict=True):
            p.grad = noise.clone()


def test_noise_two_per_cent_short_is_caught_by_its_variance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizer_module, "SiloOptimizer", UnsafeQuieter)
    (update,), sigma = arrived()
    assert not likely(float((update**2).sum()) / sigma**2, D)


def test_repeated_noise_is_caught_by_its_correlation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizer_module, "SiloOptimizer", UnsafeSameNoise)
    (first, second), sigma = arrived(rounds=2, steps=1)
    assert float(first @ second) / sigma**2 > stats.norm.isf(RARE / 2) * np.sqrt(D)
