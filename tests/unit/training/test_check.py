"""What would break per-record privacy by an honest mistake is found on made-up records, with the fix."""

import gc
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from silo.api import Records, load_experiment
from silo.data import HEART
from silo.errors import ConfigError
from silo.training.check import check_experiment, check_model, made_up
from silo.training.model import ignored_warnings
from tests.unit.training.training_support import linear, make, squared

WIDTH = made_up(HEART, 2).features().shape[1]
EXAMPLE = Path(__file__).parents[3] / "examples" / "heart" / "experiment.py"


def good() -> Callable[[], nn.Module]:
    return linear(WIDTH)


class HomeMadeNorm(nn.BatchNorm1d):
    pass


def test_the_heart_example_passes() -> None:
    assert check_experiment(load_experiment(EXAMPLE)[0], HEART) == 32


def test_a_good_experiment_gives_its_number_of_parameters() -> None:
    assert check_experiment(make(good()), HEART) == WIDTH + 1


@pytest.mark.parametrize(
    ("layer", "fix"),
    [
        (lambda: nn.BatchNorm1d(16), r"GroupNorm\(8, 16\)"),
        (lambda: nn.BatchNorm1d(6, affine=False), r"GroupNorm\(2, 6\)"),
        (lambda: nn.BatchNorm1d(6, track_running_stats=False), r"GroupNorm\(2, 6\)"),
        (lambda: HomeMadeNorm(5), r"GroupNorm\(1, 5\)"),
        (lambda: nn.SyncBatchNorm(8), r"GroupNorm\(8, 8\)"),
        (lambda: nn.InstanceNorm1d(4, track_running_stats=True), "track_running_stats=False"),
    ],
)
def test_layers_that_mix_records_are_named_with_the_fix(layer: Callable[[], nn.Module], fix: str) -> None:
    with pytest.raises(ConfigError, match=rf"layer '1'.*{fix}"):
        check_model(make(lambda: nn.Sequential(nn.Linear(3, 3), layer())))


def test_layers_that_opacus_cannot_train_are_told() -> None:
    with pytest.raises(ConfigError, match=r"Opacus cannot train it.*LSTM"):
        check_model(make(lambda: nn.LSTM(3, 3)))
    with pytest.raises(ConfigError, match="Opacus cannot train it"):
        check_model(make(WithBuffer))


class WithBuffer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 1)
        self.weight = nn.Parameter(torch.zeros(1))
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x) * self.weight
        return out


def test_instance_norm_without_running_statistics_passes() -> None:
    assert check_model(make(lambda: nn.Sequential(nn.Conv1d(1, 4, 1), nn.InstanceNorm1d(4)))) == 8


def test_a_model_that_differs_from_silo_to_silo_is_refused() -> None:
    def unseeded() -> nn.Module:
        model = good()()
        with torch.no_grad():
            model[0].bias.fill_(float(np.random.default_rng().normal()))
        return model

    with pytest.raises(ConfigError, match=r"two models built from one seed differ.*torch's generator"):
        check_model(make(unseeded))


def standardised(records: Records) -> tuple[Tensor, Tensor]:
    x = torch.from_numpy(records.features())
    return (x - x.mean(0)) / (x.std(0) + 1), torch.from_numpy(records.numbers("num")).nan_to_num().float()


def test_features_scaled_by_the_data_are_refused() -> None:
    with pytest.raises(ConfigError, match="change with the other records"):
        check_experiment(make(good(), tensors=standardised), HEART)


class Centred(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x - x.mean(0)).flatten()
        return out


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model": Centred}, "changes with the other records of its batch"),
        ({"loss": lambda o, t: squared(o, t) / squared(o, t).sum()}, "changes with the other records of its batch"),
        ({"loss": lambda o, t: squared(o, t).mean()}, r"the loss of 12 records is \(\)"),
        ({"loss": lambda o, t: "a loss"}, "is str"),
        ({"model": linear(3)}, "failed on made-up records with RuntimeError"),
        ({"model": lambda: nn.Linear(WIDTH, 1)}, r"the loss of 12 records is \(12, 12\)"),
        ({"model": lambda: nn.Linear(WIDTH, 1), "loss": nn.MSELoss(reduction="none")}, "target size"),
        ({"metrics": {"m": lambda scores, labels: 1 / 0}}, r"metric 'm'.*ZeroDivisionError"),
    ],
)
def test_losses_models_and_metrics_that_do_not_fit_are_refused(change: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check_experiment(make(**{"model": good(), "tensors": plain, **change}), HEART)


def test_while_a_metric_is_tried_no_other_thread_changes_the_warning_filters() -> None:
    """Agents of one process check experiments side by side, and Python keeps one list of filters for all."""
    entered = threading.Event()

    def other() -> None:
        with ignored_warnings():
            entered.set()

    threads: list[threading.Thread] = []

    def metric(scores: NDArray[np.float64], labels: NDArray[np.float64]) -> float:
        threads.append(threading.Thread(target=other))
        threads[-1].start()
        seen.append(entered.wait(0.2))
        return 0.0

    seen: list[bool] = []
    check_experiment(make(good(), metrics={"m": metric}), HEART)
    threads[-1].join()
    assert seen == [False]
    assert entered.is_set()


def plain(records: Records) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(records.features()), torch.from_numpy(records.numbers("num")).nan_to_num().float()


def test_made_up_records_are_the_same_every_time_and_hold_every_kind() -> None:
    first, again = made_up(HEART, 60), made_up(HEART, 60)
    for name in HEART.names:
        assert str(first[name].tolist()) == str(again[name].tolist())
    assert np.isnan(first.numbers("age")).any()
    assert (first["sex"] == "").any()
    assert (first["sex"] == "Female").any()


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from proc(5)")
def test_trying_a_large_model_takes_a_few_times_its_size() -> None:
    def resident(name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))

    large = make(lambda: nn.Sequential(nn.Linear(WIDTH, 250_000), nn.ReLU(), nn.Linear(250_000, 1), nn.Flatten(0)))
    check_experiment(make(good()), HEART)  # what is loaded or made once
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    parameters = check_experiment(large, HEART)
    # The child in which a silo tries an experiment may use 4 GiB; at 97 bytes that was 40 million parameters.
    assert resident("VmHWM") - before < 60 * parameters
