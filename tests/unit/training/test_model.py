"""One model, one vector, the same at every silo and in every thread, and torch's generator left alone."""

import threading

import numpy as np
import pytest
import torch
from torch import nn

from silo.errors import ConfigError
from silo.training.model import build_model, count, flatten, unflatten
from tests.unit.training.training_support import linear, make


def test_one_seed_gives_one_model_and_leaves_torchs_generator_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = flatten(build_model(make(), 5))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    np.testing.assert_array_equal(first, flatten(build_model(make(), 5)))
    assert not np.array_equal(first, flatten(build_model(make(), 6)))


def test_a_factory_that_seeds_torch_does_not_reach_further() -> None:
    def seeding() -> nn.Module:
        torch.manual_seed(0)
        return linear()()

    before = torch.get_rng_state()
    build_model(make(seeding), 5)
    assert torch.equal(torch.get_rng_state(), before)


def test_threads_build_the_same_model() -> None:
    def deep() -> nn.Module:
        return nn.Sequential(*[nn.Linear(30, 30) for _ in range(10)])

    expected, found = flatten(build_model(make(deep), 3)), []
    before = torch.get_rng_state()
    threads = [threading.Thread(target=lambda: found.append(flatten(build_model(make(deep), 3)))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert all(np.array_equal(vector, expected) for vector in found)
    assert torch.equal(torch.get_rng_state(), before)


def test_flatten_and_unflatten_are_exact_and_cover_what_is_trained() -> None:
    def frozen() -> nn.Module:
        model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
        model[0].weight.requires_grad_(False)
        return model

    model = build_model(make(frozen), 0)
    assert count(model) == 4 + 8 + 2
    vector = np.random.default_rng(0).normal(size=14).astype(np.float32)
    vector[:3] = [np.float32(1e-45), -0.0, 3.4e38]
    unflatten(model, vector)
    assert flatten(model).tobytes() == vector.tobytes()
    vector[5] = 7  # the model keeps a copy of its own
    assert flatten(model)[5] != 7


@pytest.mark.parametrize(
    "vector",
    [
        np.zeros(4, np.float32),
        np.zeros((5, 1), np.float32),
        np.zeros(5, np.float64),
        np.full(5, np.nan, np.float32),
        np.full(5, np.inf, np.float32),
    ],
)
def test_a_vector_of_another_shape_dtype_or_not_finite_is_refused(vector: np.ndarray) -> None:
    model = build_model(make(), 0)
    before = flatten(model)
    with pytest.raises(ConfigError, match="the model's vector"):
        unflatten(model, vector)
    np.testing.assert_array_equal(flatten(model), before)


def broken() -> nn.Module:
    raise RuntimeError("no weights here")


@pytest.mark.parametrize(
    ("factory", "says"),
    [
        (broken, "failed with RuntimeError: no weights here"),
        (lambda: "a model", "returned a str"),
        (nn.ReLU, "no parameter requires a gradient"),
        (lambda: nn.Linear(2, 1, dtype=torch.float64), "not float32"),
        (lambda: nn.Linear(2, 1, device="meta"), "not float32 on the CPU"),
    ],
)
def test_a_factory_that_gives_no_trainable_model_is_refused(factory: object, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        build_model(make(factory), 0)  # type: ignore[arg-type]
