"""Ghost clipping: norms and clipped sums from factors are those of whole gradients, and never smaller."""

import resource

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from silo.training.model import trainable
from silo.training.optimizer import clipped_sums
from silo.training.per_record import Outer, PerRecordModule, Streamed, Whole, per_record

# torch says that the inputs themselves need no gradient; only those of the layers are wanted.
pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")


class Sequence(nn.Module):
    """A linear layer over t places, one used twice, and one whose weight a second layer shares."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.twice, self.out = nn.Linear(40, 30), nn.Linear(30, 30), nn.Linear(30, 20)
        self.first, self.second = nn.Linear(20, 20), nn.Linear(20, 20)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.embed(x))
        hidden = torch.tanh(self.twice(torch.tanh(self.twice(hidden))))
        hidden = self.out(hidden.mean(1) if hidden.ndim == 3 else hidden)
        return self.second(torch.tanh(self.first(hidden))).sum(1)  # type: ignore[no-any-return]


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(40, 50), nn.ReLU(), nn.Linear(50, 30), nn.Tanh(), nn.Linear(30, 8), nn.Flatten(1))


def convolutional() -> nn.Module:
    return nn.Sequential(nn.Conv1d(1, 4, 5), nn.ReLU(), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(144, 40))


CASES = {
    "mlp": (mlp, (40,), 3),
    "sequence": (Sequence, (6, 40), 2),  # embed's and out's weights by factors; the shared ones whole
    "convolutional": (convolutional, (1, 40), 1),
    "frozen bias": (lambda: nn.Sequential(nn.Linear(40, 30, bias=False), nn.Linear(30, 9)), (40,), 2),
}


def gradients(name: str, ghost: bool, inputs: Tensor) -> list[nn.Parameter]:
    torch.manual_seed(1)
    module = CASES[name][0]()
    outputs = PerRecordModule(module, ghost=ghost)(inputs)
    outputs.reshape(len(inputs), -1).square().sum().backward()
    return trainable(module)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("norm", [0.5, 1e6])
def test_ghost_clipping_is_clipping(name: str, norm: float) -> None:
    torch.manual_seed(0)
    inputs = torch.randn(12, *CASES[name][1]) * torch.logspace(-3, 2, 12).reshape(12, *[1] * len(CASES[name][1]))
    ghost, whole = (gradients(name, each, inputs) for each in (True, False))
    assert sum(isinstance(per_record(p), Outer) for p in ghost) == CASES[name][2]
    assert not any(isinstance(per_record(p), Outer) for p in whole)
    for a, b in zip(ghost, whole, strict=True):
        norms, expected = per_record(a).squared_norms(), per_record(b).squared_norms()
        np.testing.assert_allclose(norms.numpy(), expected.numpy(), rtol=1e-4, atol=1e-12)
    for x, y in zip(clipped_sums(ghost, norm), clipped_sums(whole, norm), strict=True):
        np.testing.assert_allclose(x.numpy(), y.detach().numpy(), rtol=1e-4, atol=1e-5 * float(y.abs().max()))


def test_gradients_that_come_in_parts_are_clipped_each_by_itself() -> None:
    torch.manual_seed(0)
    p, q = nn.Parameter(torch.zeros(40)), nn.Parameter(torch.zeros(40))
    p.grad_sample = torch.randn(12, 40) * torch.logspace(-3, 2, 12)[:, None]
    p.grad_sample[5] = torch.nan
    q.grad_sample = Streamed(torch.split(p.grad_sample, 5))
    np.testing.assert_allclose(clipped_sums([q], 1.0)[0].numpy(), clipped_sums([p], 1.0)[0].numpy(), rtol=1e-12)
    assert not clipped_sums([q], 1.0)[0].any(), "they come once"


def test_factors_are_kept_where_they_are_fewer() -> None:
    narrow = nn.Sequential(nn.Linear(40, 1))  # 41 factors for 40 weights
    PerRecordModule(narrow)(torch.randn(3, 40)).sum().backward()
    assert isinstance(per_record(trainable(narrow)[0]), Whole)


def test_norms_are_not_understated_where_terms_cancel() -> None:
    """Two places whose gradients cancel but for one part in 10^9: the inner products alone would lose it."""
    a = torch.tensor([[[1e9, 1.0], [1e9, 0.0]]], dtype=torch.float64)
    b = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]], dtype=torch.float64)
    true = float((b.mT @ a).square().sum())
    assert true == 1.0
    assert float(Outer(a, b).squared_norms()) >= true
    a *= 1e9
    assert float(Outer(a, b).squared_norms()) >= float((b.mT @ a).square().sum())


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_record_that_is_not_finite_counts_as_none(bad: float) -> None:
    inputs = torch.randn(6, 40)
    clean = clipped_sums(gradients("mlp", True, inputs), 1.0)
    dirty = clipped_sums(gradients("mlp", True, torch.cat([inputs, torch.full((2, 40), bad)])), 1.0)
    for x, y in zip(clean, dirty, strict=True):
        np.testing.assert_allclose(x.numpy(), y.numpy(), rtol=1e-5, atol=1e-6)


def test_whole_gradients_of_a_wide_layer_are_never_held() -> None:
    """256 records x 4 million weights would be 4 GiB."""
    wide = nn.Sequential(nn.Linear(2000, 2000), nn.Tanh(), nn.Linear(2000, 10))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    PerRecordModule(wide)(torch.randn(256, 2000)).square().sum().backward()
    sums = clipped_sums(trainable(wide), 1.0)
    assert sums[0].shape == (2000, 2000)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # KiB
