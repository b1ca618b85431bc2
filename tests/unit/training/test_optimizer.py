"""One step: clip each record, sum in float64, noise once, divide by a public number."""

import numpy as np
import pytest
import torch
from opacus.optimizers import DPOptimizer
from scipy import stats
from silo_crypto.randomness import Csprng
from torch import nn

from silo.training.optimizer import SiloOptimizer

RARE = 1e-6


def optimizer(
    shapes: list[tuple[int, ...]], *, noise: float = 1.0, norm: float = 1.0, batch: float = 10.0, rate: float = 1.0
) -> SiloOptimizer:
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    return SiloOptimizer(
        torch.optim.SGD(parameters, lr=rate),
        noise_multiplier=noise,
        clipping_norm=norm,
        expected_batch=batch,
        rng=Csprng(),
    )


def give(opt: SiloOptimizer, samples: list[np.ndarray]) -> None:
    for p, g in zip(opt.params, samples, strict=True):
        p.grad_sample = torch.from_numpy(g.astype(np.float32))


def summed(opt: SiloOptimizer) -> np.ndarray:
    opt.clip_and_accumulate()
    assert all(p.summed_grad.dtype == torch.float64 and p.summed_grad.shape == p.shape for p in opt.params)
    return np.concatenate([p.summed_grad.numpy().ravel() for p in opt.params])


@pytest.mark.parametrize("shapes", [[(3,)], [(7, 5), (7,)], [(1500, 3), (2048,), (1,)]])
def test_sums_of_clipped_gradients_are_float64_exact(shapes: list[tuple[int, ...]]) -> None:
    rng = np.random.default_rng(0)
    scale = np.array([1e-3, 0.1, 1.0, 1e4, 1e12])
    samples = [(rng.normal(size=(5, *s)).T * scale).T.astype(np.float32) for s in shapes]
    opt = optimizer(shapes, norm=2.5)
    give(opt, samples)
    flat = np.concatenate([g.reshape(5, -1) for g in samples], axis=1).astype(np.float64)
    clipped = flat * np.minimum(1, 2.5 / np.linalg.norm(flat, axis=1))[:, None]
    found = summed(opt)
    np.testing.assert_allclose(found, clipped.sum(0), rtol=1e-5, atol=1e-7)


def test_no_record_moves_the_sum_by_more_than_the_clipping_norm_and_its_margin() -> None:
    rng = np.random.default_rng(1)
    for scale in (1e-4, 1.0, 1e3, 1e18):
        opt = optimizer([(40_000,)], norm=1.0)
        give(opt, [scale * abs(rng.normal(size=(1, 40_000))) + scale])
        assert np.linalg.norm(summed(opt)) <= 1 + 2**-13


def test_a_long_gradient_does_not_fool_the_norm() -> None:
    # Measured: torch's float32 norm of ten million equal values is 0.8 % off, eight times accounting's margin.
    opt = optimizer([(10_000_000,)], norm=1.0)
    give(opt, [np.full((1, 10_000_000), 0.3, np.float32)])
    assert np.linalg.norm(summed(opt)) == pytest.approx(1, abs=2**-13)


def test_a_record_whose_gradient_is_not_finite_contributes_nothing() -> None:
    good = np.random.default_rng(2).normal(size=(3, 4))
    bad = np.vstack(
        [good[:1], [[np.nan, 1, 1, 1]], good[1:2], [[np.inf, 0, 0, 0]], [[3e38, 3e38, 3e38, 3e38]], good[2:]]
    )
    found, expected = optimizer([(4,)]), optimizer([(4,)])
    give(found, [bad])
    give(expected, [good])
    np.testing.assert_allclose(summed(found), summed(expected), rtol=1e-12)


def test_a_nan_in_one_layer_takes_the_record_out_of_all() -> None:
    opt = optimizer([(2,), (2,)])
    give(opt, [np.array([[0.1, 0.1], [0.2, 0.2]]), np.array([[0.1, 0.1], [np.nan, 0.2]])])
    np.testing.assert_allclose(summed(opt), 0.1, rtol=1e-6)


def test_it_sums_what_opacus_sums() -> None:
    samples = [np.random.default_rng(3).normal(size=(6, 5, 3)), np.random.default_rng(4).normal(size=(6, 5))]
    ours = optimizer([(5, 3), (5,)], norm=0.7)
    parameters = [nn.Parameter(torch.zeros(5, 3)), nn.Parameter(torch.zeros(5))]
    theirs = DPOptimizer(
        torch.optim.SGD(parameters, lr=1.0), noise_multiplier=1.0, max_grad_norm=0.7, expected_batch_size=10
    )
    give(ours, samples)
    give(theirs, samples)
    theirs.clip_and_accumulate()
    expected = np.concatenate([p.summed_grad.numpy().ravel() for p in theirs.params])
    np.testing.assert_allclose(summed(ours), expected, rtol=1e-4, atol=1e-6)


def test_a_step_divides_noise_of_sigma_by_the_public_batch() -> None:
    d, noise, norm, batch, rate = 60_000, 3.0, 0.5, 20.0, 0.1
    opt = optimizer([(d,)], noise=noise, norm=norm, batch=batch, rate=rate)
    give(opt, [np.zeros((0, d))])
    opt.step()
    moved = opt.params[0].detach().numpy().astype(np.float64)
    statistic = float((moved**2).sum()) / (rate * noise * norm / batch) ** 2
    assert stats.chi2.ppf(RARE, d) < statistic < stats.chi2.ppf(1 - RARE, d)
    assert (opt.steps, opt.noise_draws) == (1, 1)


@pytest.mark.parametrize("records", [0, 1, 50])
def test_the_divisor_does_not_know_how_many_records_there_are(records: int) -> None:
    opt = optimizer([(2,)], noise=1e-9, batch=20.0)
    give(opt, [np.full((records, 2), 0.3)])
    opt.step()
    np.testing.assert_allclose(opt.params[0].detach().numpy(), -0.3 * records / 20, atol=1e-7)


def test_noise_is_drawn_once_per_step_and_differs() -> None:
    opt = optimizer([(50,), (7,)])
    seen = set()
    for step in range(1, 6):
        give(opt, [np.zeros((1, 50)), np.zeros((1, 7))])
        opt.step()
        seen.add(opt.params[0].grad.numpy().tobytes())
        opt.zero_grad()
        assert (opt.steps, opt.noise_draws) == (step, step)
    assert len(seen) == 5


def test_a_closure_is_refused() -> None:
    with pytest.raises(ValueError, match="no closure"):
        optimizer([(2,)]).step(lambda: 0.0)  # type: ignore[arg-type]
