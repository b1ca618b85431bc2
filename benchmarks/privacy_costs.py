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


ROUNDS = 5
MILLION = """

import dataclasses

from silo import DistributedDP

experiment = dataclasses.replace(
    experiment,
    name="million",
    model=lambda: torch.nn.Sequential(
        torch.nn.Linear(31, 31250), torch.nn.ReLU(), torch.nn.Linear(31250, 1), torch.nn.Flatten(0)
    ),
    rounds=%d,
    privacy=DistributedDP(
        epsilon=0.5, delta=1e-6, clipping_norm=1, sample_rate=0.5, expected_batch=340, learning_rate=1,
        minimum_silos=4,
    ),
    encryption=Encryption(custody="threshold"),
    releases=["model"],
)
"""


def round_rows() -> list[Row]:
    """Return the time of a distributed round's protocol: 1.03 million parameters, 4 silos, threshold custody.

    Real agents and the real aggregator over the local engine, two nodes at a time, as its default is. Each silo draws
    its share once and gives the same one in every round (which would void epsilon, and only a benchmark can do), so
    what is timed is the protocol alone: policy, ledger, encryption, signatures, confirmations, shares, opening, log.
    """
    import tempfile
    from pathlib import Path

    from silo.aggregator import RESULT, Aggregator
    from silo.api.load import digest_of, load_experiment_bytes
    from silo.demo.hospitals import REFUSER, cast
    from silo.demo.run import shipped_experiment
    from silo.demo.setting import set_the_stage
    from silo.flower import client_app
    from silo.flower.engine import LocalGrid
    from silo.flower.server_app import GridExchange
    from silo.training.mechanism import Contribution, DistributedMechanism
    from silo.training.model import build_model, count

    bundle = shipped_experiment().read_bytes() + (MILLION % ROUNDS).encode()
    digest = digest_of(bundle)
    experiment = load_experiment_bytes(bundle, digest)
    size = count(build_model(experiment, 0))
    draw, drawn, taken, processor = DistributedMechanism.contribute, {}, [], []

    def once(self: DistributedMechanism, model: Any) -> Contribution:
        processor.append(time.process_time())
        if id(self) not in drawn:
            started = time.perf_counter()
            drawn[id(self)] = draw(self, model)
            taken.append(time.perf_counter() - started)
        return drawn[id(self)]

    with tempfile.TemporaryDirectory() as directory:
        hospitals = [each for each in cast(None) if each.name != REFUSER]
        setting = set_the_stage(
            Path(directory), hospitals, experiment, bundle, code_digest=digest, model_size=size, seed=0
        )
        nodes = {i: {"silo-home": str(home.path)} for i, home in enumerate(setting.homes.values(), start=1)}
        grid = LocalGrid(client_app.app, nodes)
        DistributedMechanism.contribute = once  # type: ignore[method-assign]
        try:
            Aggregator(setting.aggregator, setting.submission).run(GridExchange(grid))
        finally:
            DistributedMechanism.contribute = draw  # type: ignore[method-assign]
            grid.close()
            client_app.forget_agents()
        folder = setting.aggregator.run_directory(setting.submission.run.body.run)
        rounds = json.loads((folder / RESULT).read_bytes())["rounds"]
    # From the second on a round opens the sum of the one before; the first also draws the shares.
    seconds = statistics.median(each["seconds"] for each in rounds[1:])
    silos = len(setting.homes)
    used = (processor[-silos] - processor[silos]) / (ROUNDS - 2)  # from the second round's first share to the last's
    return [
        row(f"round, {size} parameters, {silos} silos, threshold", round(seconds, 2), "s of protocol", 2.0),
        row("processor time of a round's protocol, all parties", round(used, 2), "s"),
        row("upload of a round, per silo", round(rounds[-1]["upload_bytes"] / 1e6, 2), "MB"),
        row("sampling, gradients and noise of a round, per silo", round(statistics.median(taken), 2), "s"),
    ]


def row(name: str, value: float, unit: str, target: float | None = None) -> Row:
    """Return one row; ``ok`` says whether ``value`` is at most ``target``."""
    return {
        "name": name,
        "value": value,
        "unit": unit,
        "target": target,
        "ok": None if target is None else value <= target,
    }
