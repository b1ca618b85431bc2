"""A silo's share of a round: private whatever the records are, silent about them, and right when shares are added."""

import logging
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from silo.api import DistributedDP, Experiment
from silo.errors import BudgetExceeded, ConfigError, VerificationFailed
from silo.training import distributed
from silo.training.distributed import DistributedTrainer, Share, gradient_of
from silo.training.distributed_plan import DistributedPlan, make_distributed_plan
from silo.training.model import build_model, flatten
from tests.unit.training.training_support import linear, make

RARE = 1e-6
PRIVACY = DistributedDP(
    epsilon=5, delta=1e-4, clipping_norm=1, sample_rate=1, expected_batch=20, learning_rate=1, minimum_silos=3
)


def plan(rounds: int = 4, parameters: int = 5, **changes: object) -> DistributedPlan:
    return make_distributed_plan(replace(PRIVACY, **changes), rounds, parameters, 16)  # type: ignore[arg-type]


def data(n: int = 40, d: int = 4) -> tuple[Tensor, Tensor]:
    x = torch.rand(n, d, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return x, x.sum(1)


def trainer(p: DistributedPlan | None = None, experiment: Experiment | None = None, n: int = 40) -> DistributedTrainer:
    return DistributedTrainer(experiment or make(), p or plan(), *data(n), seed=0)


START = flatten(build_model(make(), 0))


@pytest.fixture
def centres(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """The real centres that shares are drawn around, which never leave the trainer."""
    seen: list[np.ndarray] = []
    draw = distributed.ShareSampler.draw

    def recording(self: distributed.ShareSampler, c: np.ndarray, rng: object) -> np.ndarray:
        seen.append(c.copy())
        return draw(self, c, rng)  # type: ignore[arg-type]

    monkeypatch.setattr(distributed.ShareSampler, "draw", recording)
    return seen


def test_noise_is_drawn_once_a_step_and_steps_end_with_the_plan() -> None:
    one = trainer(plan(rounds=3))
    for step in (1, 2, 3):
        share = one.run(START)
        assert (share.steps, one.steps, one.noise_draws) == (1, step, step)
    with pytest.raises(BudgetExceeded, match="3 private steps"):
        one.run(START)
    assert (one.steps, one.noise_draws) == (3, 3)


def test_the_centre_is_the_scaled_sum_of_clipped_gradients(centres: list[np.ndarray]) -> None:
    p = plan(clipping_norm=0.5)
    trainer(p).run(START)
    features, targets = data()
    expected = np.zeros(5)
    for x, y in zip(features, targets, strict=True):
        model = build_model(make(), 0)
        torch.square(model(x[None])[0] - y).backward()
        g = np.concatenate([parameter.grad.numpy().ravel() for parameter in model.parameters()]).astype(np.float64)
        expected += g * min(1, 0.5 / np.linalg.norm(g))
    np.testing.assert_allclose(centres[0], p.scale * expected, rtol=1e-5)


@pytest.mark.parametrize("norm", [0.01, 1.0, 1e4])
def test_one_record_moves_the_centre_by_at_most_s_times_c(norm: float, centres: list[np.ndarray]) -> None:
    p = plan(clipping_norm=norm)
    features, targets = data(20)
    targets[3] = 1e9
    everybody = DistributedTrainer(make(), p, features, targets, seed=0)
    rest = [i for i in range(20) if i != 3]
    without = DistributedTrainer(make(), p, features[rest], targets[rest], seed=0)
    everybody.run(START)
    without.run(START)
    moved = np.linalg.norm(centres[0] - centres[1])
    assert moved == pytest.approx(p.scale * norm, rel=1e-4)
    assert moved <= p.scale * norm * (1 + 2**-10)


def test_shares_add_up_to_the_gradient_with_the_noise_that_is_accounted_for() -> None:
    wide = linear(20_000)
    p = plan(parameters=20_001, epsilon=3)
    x = torch.rand(30, 20_000, generator=torch.Generator().manual_seed(1)) * 2 - 1
    parts = [slice(0, 5), slice(5, 30), slice(30, 30)]
    start = flatten(build_model(make(wide), 0))
    shares = [DistributedTrainer(make(wide), p, x[s], x[s, 0], seed=0).run(start) for s in parts]
    summed = np.sum([share.values.astype(np.int64) for share in shares], axis=0)
    found = gradient_of(p, summed, 3) * p.scale * p.expected_batch
    exact = np.zeros(20_001)
    model = build_model(make(wide), 0)
    for row in x:
        model.zero_grad()
        torch.square(model(row[None])[0] - row[0]).backward()
        g = np.concatenate([parameter.grad.numpy().ravel() for parameter in model.parameters()]).astype(np.float64)
        exact += g * min(1, 1 / np.linalg.norm(g))
    error = found - p.scale * exact
    assert RARE < stats.chi2.cdf(np.sum(error**2) / (3 * 32.0**2), len(error)) < 1 - RARE
    assert abs(np.mean(error)) < 6 * 32 * np.sqrt(3 / len(error))


@pytest.mark.parametrize(("n", "rate"), [(0, 1.0), (0, 0.5), (1, 1e-9)])
def test_no_records_and_empty_batches_skip_the_model_and_still_send_noise(n: int, rate: float) -> None:
    called = []

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        called.append(len(targets))
        return (outputs - targets) ** 2

    one = trainer(replace(plan(), sample_rate=rate), make(loss=loss), n=n)
    drawn = np.concatenate([one.run(START).values.astype(np.int64) - 2**15 for _ in range(4)])
    assert not called
    assert one.noise_draws == 4
    assert RARE < stats.chi2.cdf(np.sum(drawn**2) / 32.0**2, len(drawn)) < 1 - RARE


def test_records_without_a_finite_gradient_contribute_nothing_and_nothing_is_said(
    centres: list[np.ndarray], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    features, targets = data(10)
    bad = torch.stack([torch.full((4,), v) for v in (torch.nan, torch.inf, 3e38)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clean = DistributedTrainer(make(), plan(), features, targets, seed=0).run(START)
        dirty = DistributedTrainer(
            make(), plan(), torch.cat([features, bad]), torch.cat([targets, torch.zeros(3)]), seed=0
        ).run(START)
    np.testing.assert_allclose(centres[0], centres[1], rtol=1e-6)
    assert (dirty.steps, dirty.values.dtype, dirty.values.shape) == (clean.steps, clean.values.dtype, (5,))
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


def test_sums_that_exceed_a_field_are_clamped_and_never_overflow() -> None:
    p = plan(rounds=1, epsilon=20, clipping_norm=1.0)
    n = int(3 * p.value_bound)
    one = DistributedTrainer(make(), p, torch.ones(n, 4), torch.full((n,), 1e6), seed=0)
    values = one.run(START).values
    assert values.dtype == np.uint32
    assert values.max() < 2**16
    far = np.abs(values.astype(np.int64) - 2**15)
    assert far.min() > p.clamp - 12 * 32


def test_a_researchers_seed_repeats_neither_sample_nor_noise() -> None:
    def seeding() -> nn.Module:
        torch.manual_seed(0)
        np.random.seed(0)
        return linear()()

    seen, batches = set(), set()

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        torch.manual_seed(0)
        batches.add(targets.numpy().tobytes())
        return (outputs - targets) ** 2

    for _ in range(2):
        torch.manual_seed(7)
        one = trainer(plan(sample_rate=0.5), make(seeding, loss=loss))
        seen |= {one.run(START).values.tobytes() for _ in range(2)}
    assert len(seen) == len(batches) == 4


def test_a_failing_loss_quotes_no_record() -> None:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        raise RuntimeError(f"Jane-Doe {targets}")

    with pytest.raises(ConfigError) as caught:
        trainer(experiment=make(loss=loss)).run(START)
    assert "Jane" not in str(caught.value)


def test_a_sum_of_fewer_silos_than_the_noise_needs_is_refused() -> None:
    p = plan()
    sums = np.full(5, 2 * p.offset, dtype=np.int64)
    with pytest.raises(VerificationFailed, match="a sum of 2 uploads was opened; the noise is that of 3"):
        gradient_of(p, sums, 2)
    assert not gradient_of(p, np.full(5, 5 * p.offset, dtype=np.int64), 5).any()


def test_a_share_is_frozen() -> None:
    share = trainer().run(START)
    assert isinstance(share, Share)
    with pytest.raises(AttributeError):
        share.steps = 0  # type: ignore[misc]
