"""A round of training: private whatever the records and the experiment's seeds are, and silent about them."""

import threading
import traceback

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from silo.api import Experiment
from silo.data import HEART
from silo.errors import BudgetExceeded, ConfigError
from silo.training.accounting import Plan
from silo.training.check import made_up
from silo.training.model import build_model, flatten
from silo.training.trainer import LocalTrainer, to_tensors
from tests.unit.training.training_support import linear, make, plan

SECRET = "Jane-Doe-1962"


def data(n: int = 40, d: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n, d, generator=generator) * 2 - 1
    return x, x.sum(1)


def trainer(experiment: Experiment | None = None, p: Plan | None = None, n: int = 40) -> LocalTrainer:
    return LocalTrainer(experiment or make(), p or plan(), *data(n), seed=0)


def start(experiment: Experiment | None = None) -> np.ndarray:
    return flatten(build_model(experiment or make(), 0))


def test_an_update_is_the_change_of_the_weights_in_float32() -> None:
    update = trainer().run(start())
    assert update.vector.dtype == np.float32
    assert update.vector.shape == (5,)
    assert update.steps == 3


def test_training_learns() -> None:
    quiet = plan(noise_multiplier=0.2, learning_rate=0.3, steps_per_round=150, expected_batch=20.0)
    weights = start()
    weights = weights + trainer(p=quiet).run(weights).vector
    np.testing.assert_allclose(weights, [1, 1, 1, 1, 0], atol=0.1)


def test_a_researchers_seed_repeats_neither_sample_nor_noise() -> None:
    def seeding() -> nn.Module:
        torch.manual_seed(0)
        np.random.seed(0)
        return linear()()

    def seeded_loss(outputs: Tensor, targets: Tensor) -> Tensor:
        torch.manual_seed(0)
        return (outputs - targets) ** 2

    experiment = make(seeding, loss=seeded_loss)
    seen = set()
    for _ in range(2):
        torch.manual_seed(7)
        one = trainer(experiment)
        for _ in range(2):
            seen.add(one.run(start(experiment)).vector.tobytes())
    assert len(seen) == 4


def test_sampling_alone_is_not_repeated_either() -> None:
    sizes: list[int] = []

    def counting(outputs: Tensor, targets: Tensor) -> Tensor:
        sizes.append(hash(targets.numpy().tobytes()))
        return (outputs - targets) ** 2

    for _ in range(2):
        torch.manual_seed(3)
        trainer(make(loss=counting)).run(start())
    assert len(set(sizes)) == 6


@pytest.mark.parametrize("fails", [False, True])
def test_torchs_generator_threads_and_modes_are_left_as_they_were(fails: bool) -> None:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        torch.manual_seed(4)
        torch.rand(3)
        if fails:
            raise RuntimeError
        return (outputs - targets) ** 2

    def dropout() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 1), nn.Dropout(0.5), nn.Flatten(0))

    before = torch.get_rng_state(), torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
    one = trainer(make(dropout, loss=loss))
    if fails:
        with pytest.raises(ConfigError):
            one.run(start())
    else:
        one.run(start())
    after = torch.get_rng_state(), torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


@pytest.mark.parametrize(("n", "rate"), [(0, 0.5), (0, 1.0), (1, 1e-9)])
def test_no_records_and_empty_batches_send_noise_and_count(n: int, rate: float) -> None:
    one = trainer(p=plan(sample_rate=rate), n=n)
    update = one.run(start())
    assert np.count_nonzero(update.vector) == 5
    assert update.steps == one.steps == one._optimizer.noise_draws == 3


def test_a_nan_record_changes_nothing_but_its_own_part() -> None:
    quiet = plan(noise_multiplier=1e-6, sample_rate=1.0)
    features, targets = data(20)
    clean = LocalTrainer(make(), quiet, features, targets, seed=0).run(start()).vector
    dirty = torch.cat([features, torch.full((2, 4), torch.nan)]), torch.cat([targets, torch.tensor([1.0, torch.nan])])
    found = LocalTrainer(make(), quiet, *dirty, seed=0).run(start()).vector
    np.testing.assert_allclose(found, clean, atol=1e-5)


def test_a_loss_that_is_always_nan_gives_noise_alone() -> None:
    one = trainer(make(loss=lambda outputs, targets: outputs * torch.nan))
    assert np.isfinite(one.run(start()).vector).all()


def test_one_record_moves_an_update_by_at_most_its_clipped_gradient() -> None:
    quiet = plan(noise_multiplier=1e-6, sample_rate=1.0, steps_per_round=1, clipping_norm=0.5)
    features, targets = data(20)
    without = LocalTrainer(make(), quiet, features, targets, seed=0).run(start()).vector
    more = torch.cat([features, torch.full((1, 4), 1e6)]), torch.cat([targets, torch.tensor([-1e6])])
    with_it = LocalTrainer(make(), quiet, *more, seed=0).run(start()).vector
    moved = float(np.linalg.norm(with_it.astype(np.float64) - without))
    assert moved == pytest.approx(0.5 * quiet.learning_rate / quiet.expected_batch, rel=1e-3)


def test_steps_beyond_the_plan_are_refused_before_they_are_taken() -> None:
    one = trainer(p=plan(rounds=2))
    one.run(start())
    one.run(start())
    with pytest.raises(BudgetExceeded, match="6 private steps were planned and 6 are taken"):
        one.run(start())
    assert one.steps == 6


def test_epsilon_follows_the_steps_taken() -> None:
    one = trainer()
    assert one.epsilon == 0
    one.run(start())
    assert one.epsilon == plan().epsilon_after(3)


def test_weights_that_are_not_finite_are_refused_and_overflow_is_told() -> None:
    with pytest.raises(ConfigError, match="NaN or infinity"):
        trainer().run(np.full(5, np.nan, np.float32))
    with pytest.raises(ConfigError, match=r"left the range of float32.*learning_rate"):
        trainer(p=plan(expected_batch=1e-44)).run(start())


def test_a_model_of_another_size_than_the_plan_is_refused() -> None:
    with pytest.raises(ConfigError, match="5 parameters and the plan 6"):
        trainer(p=plan(parameters=6))


def raising(outputs: Tensor, targets: Tensor) -> Tensor:
    raise ValueError(f"bad record {SECRET}")


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (raising, "failed on this silo's records with ValueError"),
        (lambda outputs, targets: ((outputs - targets) ** 2).mean(), "one number per record"),
        (lambda outputs, targets: 3.0, "one number per record"),
        (lambda outputs, targets: targets, "RuntimeError"),
    ],
)
def test_a_loss_that_fails_is_told_without_what_it_said(loss: object, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        trainer(make(loss=loss), plan(sample_rate=1.0)).run(start())
    assert SECRET not in str(caught.value)
    assert (SECRET in "".join(traceback.format_exception(caught.value))) == (loss is raising)  # for the silo's --debug


class Idle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(4, 1), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.used(x).flatten()
        return out


def test_a_parameter_without_a_gradient_is_refused() -> None:
    with pytest.raises(ConfigError, match="took no part"):
        trainer(make(Idle), plan(parameters=10, sample_rate=1.0)).run(start(make(Idle)))


def test_silos_in_threads_train_without_disturbing_each_other() -> None:
    found: list[np.ndarray] = []
    quiet = plan(noise_multiplier=1e-6, sample_rate=1.0, rounds=40)

    def work() -> None:
        weights, one = start(), trainer(p=quiet)
        for _ in range(10):
            weights = weights + one.run(weights).vector
        found.append(weights)

    before = torch.get_rng_state()
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for weights in found[1:]:
        np.testing.assert_allclose(weights, found[0], atol=1e-4)
    assert torch.equal(torch.get_rng_state(), before)


def test_layers_beyond_linear_train() -> None:
    def model() -> nn.Module:
        return nn.Sequential(
            nn.Unflatten(1, (1, 4)),
            nn.Conv1d(1, 4, 3),
            nn.GroupNorm(2, 4),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(8, 1),
            nn.Flatten(0),
        )

    experiment = make(model)
    d = len(start(experiment))
    assert np.isfinite(trainer(experiment, plan(parameters=d)).run(start(experiment)).vector).all()


def test_tensors_of_records_are_checked() -> None:
    records = made_up(HEART, 6)
    features, targets = to_tensors(make(), records)
    assert (features.shape[0], targets.shape) == (6, (6,))

    def quoting(records: object) -> tuple[Tensor, Tensor]:
        raise KeyError(SECRET)

    cases = [
        (quoting, "failed on this silo's records with KeyError"),
        (lambda records: torch.zeros(6, 2), "two tensors"),
        (lambda records: (torch.zeros(6, 2), np.zeros(6)), "two tensors"),
        (lambda records: (torch.zeros(5, 2), torch.zeros(6)), "one row per record"),
        (lambda records: (torch.zeros(6), torch.zeros(6)), "one row per record"),
        (lambda records: (torch.zeros(6, 2), torch.zeros(7)), "one row per record"),
        (lambda records: (records["bmi"], 0), "no column 'bmi'"),
    ]
    for tensors, says in cases:
        with pytest.raises(ConfigError, match=says) as caught:
            to_tensors(make(tensors=tensors), records)
        assert SECRET not in str(caught.value)


class _Smuggler(nn.Module):
    """Writes the first record it sees into its weights, where an update made of weights would carry it out."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            self.linear.weight.copy_(1e3 * x[:1])
        return self.linear(x)


def test_what_a_forward_pass_writes_into_the_weights_does_not_leave() -> None:
    experiment = make(lambda: nn.Sequential(_Smuggler(), nn.Flatten(0)))
    features, targets = torch.ones(20, 4), torch.zeros(20)
    quiet = plan(noise_multiplier=0.2, sample_rate=1.0, learning_rate=0.1, expected_batch=20.0)
    start = np.zeros(5, dtype=np.float32)
    update = LocalTrainer(experiment, quiet, features, targets, seed=0).run(start)
    # Three steps, each of at most C + noise over the expected batch; the smuggled weights are 1000.
    assert np.abs(update.vector).max() < 1.0
