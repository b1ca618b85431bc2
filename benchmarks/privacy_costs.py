"""What privacy costs in time and memory: a DP-SGD step beside plain Opacus, and the protocol of a distributed round.

Both sides take the same steps on the same records and model, in turn, in one process; the ratio is that of the medians.
Ours samples, clips in float64 by factors where the layer allows it (:mod:`silo.training.per_record`), draws noise from
the CSPRNG on a grid, and counts; Opacus's default does none of this. Peak memory is that of a process of its own.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Row = dict[str, Any]
BATCH, STEPS, REPEATS = 64, 4, 5


def mlp() -> nn.Module:
    """Return a perceptron of 1.0 million parameters."""
    return nn.Sequential(nn.Linear(784, 1000), nn.ReLU(), nn.Linear(1000, 200), nn.ReLU(), nn.Linear(200, 10))


def convolutional() -> nn.Module:
    """Return a convolutional network of 1.0 million parameters, 55 thousand of them in convolutions."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)),
        nn.Conv2d(1, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(1024, 900),
        nn.ReLU(),
        nn.Linear(900, 10),
    )


def wide() -> nn.Module:
    """Return a perceptron of 6.6 million parameters."""
    return nn.Sequential(nn.Linear(784, 2000), nn.ReLU(), nn.Linear(2000, 2500), nn.ReLU(), nn.Linear(2500, 10))


MODELS: dict[str, Callable[[], nn.Module]] = {"mlp": mlp, "convolutional": convolutional, "wide": wide}


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return one cross-entropy for each record."""
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


def records() -> tuple[Tensor, Tensor]:
    """Return one batch of made-up records."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(BATCH, 784, generator=generator), torch.randint(0, 10, (BATCH,), generator=generator)


def ours(model: str) -> Callable[[], None]:
    """Return what takes :data:`STEPS` steps with the product's trainer."""
    from silo.api import Experiment, LocalDP
    from silo.training.accounting import Plan
    from silo.training.model import build_model, count, flatten
    from silo.training.trainer import LocalTrainer

    privacy = LocalDP(
        epsilon=20.0, delta=1e-5, clipping_norm=1, sample_rate=1, steps_per_round=STEPS, expected_batch=BATCH,
        learning_rate=0.01,
    )  # fmt: skip
    experiment = Experiment(
        name="step", purpose="benchmark", model=MODELS[model], loss=loss, metrics={}, rounds=1, privacy=privacy,
        tensors=lambda records: (torch.empty(0, 1), torch.empty(0)),
    )  # fmt: skip
    weights = flatten(build_model(experiment, 0))
    plan = Plan(
        epsilon=20.0, delta=1e-5, clipping_norm=1.0, noise_multiplier=1.0, sample_rate=1.0, steps_per_round=STEPS,
        expected_batch=BATCH, learning_rate=0.01, rounds=1000, parameters=count(build_model(experiment, 0)),
    )  # fmt: skip
    trainer = LocalTrainer(experiment, plan, *records(), seed=0)
    return lambda: _discard(trainer.run(weights))


def opacus(model: str, *, ghost: bool = False) -> Callable[[], None]:
    """Return what takes the same steps with plain Opacus, or with its ghost clipping (two backward passes)."""
    from opacus import GradSampleModule
    from opacus.grad_sample import GradSampleModuleFastGradientClipping
    from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
    from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping

    torch.manual_seed(0)
    net = MODELS[model]()
    features, targets = records()
    sgd = torch.optim.SGD(net.parameters(), lr=0.01)
    numbers = {"noise_multiplier": 1.0, "max_grad_norm": 1.0, "expected_batch_size": BATCH}
    if ghost:
        wrapped = GradSampleModuleFastGradientClipping(net, max_grad_norm=1.0, use_ghost_clipping=True)
        optimizer = DPOptimizerFastGradientClipping(sgd, **numbers)
        criterion = DPLossFastGradientClipping(wrapped, optimizer, nn.CrossEntropyLoss())
    else:
        wrapped, optimizer, criterion = GradSampleModule(net), DPOptimizer(sgd, **numbers), nn.CrossEntropyLoss()

    def steps() -> None:
        for _ in range(STEPS):
            optimizer.zero_grad()
            criterion(wrapped(features), targets).backward()
            optimizer.step()

    return steps


def _discard(_: object) -> None:
    return None


SIDES: dict[str, Callable[[str], Callable[[], None]]] = {
    "ours": ours,
    "opacus": opacus,
    "opacus ghost": lambda model: opacus(model, ghost=True),
}


def peak(side: str, model: str) -> float:
    """Return the peak memory, MB, of a process that takes the steps: libraries and model included."""
    code = (
        "import resource, sys; from benchmarks import privacy_costs as c; side, model = sys.argv[1:];"
        "c.quiet(c.quiet(c.SIDES[side], model)); print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    done = subprocess.run([sys.executable, "-c", code, side, model], check=True, capture_output=True, text=True)
    return int(done.stdout) / 1000


def quiet(act: Callable[..., Any], *rest: Any) -> Any:
    """Call without torch's remarks on hooks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return act(*rest)


def step_rows() -> list[Row]:
    """Return the time of a step on each model of a million parameters, and the memory on a wider one."""
    rows = []
    for model in ("mlp", "convolutional"):
        sides = {name: quiet(make, model) for name, make in SIDES.items()}
        times: dict[str, list[float]] = {name: [] for name in sides}
        for turn in range(REPEATS + 1):
            for name, steps in sides.items():
                started = time.perf_counter()
                quiet(steps)
                if turn:  # the first warms up
                    times[name].append((time.perf_counter() - started) / STEPS)
        medians = {name: statistics.median(each) for name, each in times.items()}
        rows += [row(f"step, {model}, {name}", round(each * 1000, 1), "ms") for name, each in medians.items()]
        rows.append(row(f"step, {model}, ours / opacus", round(medians["ours"] / medians["opacus"], 2), "x", 1.1))
    rows += [row(f"memory of a step, wide, {name}", round(peak(name, "wide")), "MB") for name in SIDES]
    return rows


def row(name: str, value: float, unit: str, target: float | None = None) -> Row:
    """Return one row; ``ok`` says whether ``value`` is at most ``target``."""
    return {
        "name": name,
        "value": value,
        "unit": unit,
        "target": target,
        "ok": None if target is None else value <= target,
    }


if __name__ == "__main__":
    print(json.dumps(step_rows(), indent=1))
