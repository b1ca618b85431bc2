"""Per-record gradients without their tensors, where the layer allows it: ghost clipping of linear layers.

The gradient of one record in a linear layer's weight is a sum of outer products, b_t a_t^T, of what came into the layer
and of what came back. Its norm, and the clipped sum over all records, follow from these factors: m (in + out) numbers
instead of m x in x out. Other layers, and layers used more than once, get Opacus's per-record gradients as they are.

Invariant: what is clipped by is never below the true norm but by rounding that the accountant's margin covers: rounding
in the inner products is bounded and added. Sums are taken in float64, as for whole gradients.

Source: Goodfellow 2015 ("Efficient per-example gradient computations"); Li et al. 2022, section 4 (ghost clipping); Bu
et al. 2023 (book-keeping: no second backward pass).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from opacus import GradSampleModule
from torch import Tensor, nn

# Values summed at a time: float64 copies of per-record gradients stay in the cache.
_CHUNK = 1 << 18
# Values whose squares are added in float32, before float64 takes over: the relative error stays below 2^-14 even if
# every addition rounds the same way. (torch's float32 norm of 10^7 values was measured 0.8 % off.)
_RUN = 1 << 10
_UNIT = 2.0**-52


class Whole:
    """Per-record gradients as a tensor, (m, *shape)."""

    def __init__(self, samples: Tensor) -> None:
        self._shape = samples.shape[1:]
        self._rows = samples.reshape(len(samples), self._shape.numel())

    def squared_norms(self) -> Tensor:
        """Return the squared L2 norm of each record's gradient, float64 (m,)."""
        g = self._rows
        runs = g.shape[1] // _RUN
        whole = g[:, : runs * _RUN].reshape(len(g), runs, _RUN).norm(2, dim=2)
        rest = g[:, runs * _RUN :].norm(2, dim=1, keepdim=True)
        return torch.cat([whole, rest], dim=1).double().square().sum(1)

    def add_weighted(self, total: Tensor, factors: Tensor, good: Tensor | None) -> None:
        """Add to ``total``, float64 (d,), the sum of factors[i] x gradient i over the records ``good`` (all if None).

        Beside ``total`` this takes a few MiB, however long the gradients are.
        """
        g = self._rows if good is None else self._rows[good]
        width = max(1, _CHUNK // max(1, len(g)))
        for into, part in zip(torch.split(total, width), torch.split(g, width, dim=1), strict=True):
            into += factors @ part.double()

    def weighted_sum(self, factors: Tensor, good: Tensor | None) -> Tensor:
        """Return the sum that :meth:`add_weighted` adds, float64 of the shape."""
        total = torch.zeros(self._shape.numel(), dtype=torch.float64)
        self.add_weighted(total, factors, good)
        return total.view(self._shape)


class Outer:
    """Per-record gradients of a linear layer's weight by their factors: ``came_in`` (m, t, in), ``came_back``
    (m, t, out), both float64."""

    def __init__(self, came_in: Tensor, came_back: Tensor) -> None:
        self._in, self._back = came_in, came_back

    def __len__(self) -> int:
        return len(self._in)

    def squared_norms(self) -> Tensor:
        """Return the squared L2 norm of each record's gradient, or a hair more, float64 (m,)."""
        a, b = self._in, self._back
        most = a.square().sum((1, 2)) * b.square().sum((1, 2))  # by Cauchy-Schwarz
        if a.shape[1] == 1:
            return most
        inner = (torch.bmm(a, a.mT) * torch.bmm(b, b.mT)).sum((1, 2))
        # What the sums may have lost to rounding where terms cancel.
        operations = a.shape[1] ** 2 + a.shape[2] + b.shape[2]
        return inner.clamp(min=0) + operations * _UNIT * most

    def weighted_sum(self, factors: Tensor, good: Tensor | None) -> Tensor:
        """Return the sum of factors[i] x gradient i over the records ``good`` (all if None), float64 (out, in)."""
        a, b = (self._in, self._back) if good is None else (self._in[good], self._back[good])
        return (b * factors[:, None, None]).reshape(-1, b.shape[2]).T @ a.reshape(-1, a.shape[2])


PerRecord = Whole | Outer


class Streamed:
    """Per-record gradients of one flat parameter that come in ``parts``, float32 (m_i, d), and are never all here.

    Iterating takes them, once: what was clipped is what is summed.
    """

    def __init__(self, parts: Iterable[Tensor]) -> None:
        self._parts = iter(parts)

    def __iter__(self) -> Iterator[Whole]:
        return map(Whole, self._parts)


def per_record(p: nn.Parameter) -> PerRecord:
    """Return the per-record gradients that the last backward pass left at a parameter."""
    samples: Any = p.grad_sample  # type: ignore[attr-defined]
    return samples if isinstance(samples, Outer) else Whole(samples)


class PerRecordModule(GradSampleModule):  # type: ignore[misc]
    """Opacus's module, which keeps the factors of linear layers (:class:`Outer`) instead of their gradients.

    With ``ghost`` false every layer's gradients are whole, as whoever sums over several records needs them.
    """

    def __init__(self, model: nn.Module, *, ghost: bool = True) -> None:
        super().__init__(model, loss_reduction="sum")
        self._ghost = ghost

    def capture_backprops_hook(
        self, module: Any, _forward_input: Any, forward_output: Any, loss_reduction: str, batch_first: bool
    ) -> None:
        """Keep the factors of a linear layer that is used once; leave everything else to Opacus."""
        if self.hooks_enabled and self._ghost and type(module) is nn.Linear and module.weight.requires_grad:
            activations: Any = module.activations
            came_in, came_back = activations[-1][0], forward_output[0].detach()
            places = came_in.shape[1:-1].numel()
            small = places * (module.in_features + module.out_features) <= module.weight.numel()
            if small and all(_used_once(p) for p in module.parameters() if p.requires_grad):
                activations.pop()
                _keep(module, came_in, came_back, places)
                return
        super().capture_backprops_hook(module, _forward_input, forward_output, loss_reduction, batch_first)


def _used_once(p: Any) -> bool:
    return p._forward_counter == 1 and getattr(p, "_current_grad_sample", None) is None


def _keep(layer: Any, came_in: Tensor, came_back: Tensor, places: int) -> None:
    """Set ``weight.grad_sample`` to factors, and the bias's to its few numbers."""
    a = came_in.double().reshape(len(came_back), places, layer.in_features)
    b = came_back.double().reshape(len(came_back), places, layer.out_features)
    layer.weight.grad_sample = Outer(a, b)
    layer.weight._forward_counter -= 1
    if layer.bias is not None and layer.bias.requires_grad:
        layer.bias.grad_sample = b.sum(1)
        layer.bias._forward_counter -= 1
