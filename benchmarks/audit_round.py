"""What the log costs a round: real agents and the real aggregator play a run, and every call into the log is timed.

Counted are appends, flushed to disk, and witnessing (heads, proofs, cosignatures, what is remembered), of all parties.
They work one after another here, so that no call into a log waits for another party's work: all their log time is set
against all their time, which is the share that the log has on a machine of one's own.
"""

from __future__ import annotations

import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from silo.aggregator import Aggregator
from silo.audit import Witnessing
from silo.log import Log

Call = tuple[float, float]  # when it ended, and how long it took
MILLION = """

import dataclasses

experiment = dataclasses.replace(
    experiment,
    name="million",
    model=lambda: torch.nn.Sequential(
        torch.nn.Linear(31, 31250), torch.nn.ReLU(), torch.nn.Linear(31250, 1), torch.nn.Flatten(0)
    ),
    rounds=5,
    releases=["model"],
)
"""


def played(suffix: str) -> tuple[int, list[float], list[float]]:
    """Play the heart example with ``suffix`` appended; return the model's size, and of each round from the second on
    its seconds and those that the log took."""
    from silo.api.load import digest_of, load_experiment_bytes
    from silo.demo.hospitals import REFUSER, cast
    from silo.demo.run import shipped_experiment
    from silo.demo.setting import set_the_stage
    from silo.flower import client_app
    from silo.flower.engine import LocalGrid
    from silo.flower.server_app import GridExchange
    from silo.training.model import build_model, count

    bundle = shipped_experiment().read_bytes() + suffix.encode()
    digest = digest_of(bundle)
    experiment = load_experiment_bytes(bundle, digest)
    size = count(build_model(experiment, 0))
    with tempfile.TemporaryDirectory() as directory:
        hospitals = [each for each in cast(None) if each.name != REFUSER]
        setting = set_the_stage(
            Path(directory), hospitals, experiment, bundle, code_digest=digest, model_size=size, seed=0
        )
        nodes = {i: {"silo-home": str(home.path)} for i, home in enumerate(setting.homes.values(), start=1)}
        grid = LocalGrid(client_app.app, nodes, parallel=1)
        try:
            with watched() as (calls, rounds):
                Aggregator(setting.aggregator, setting.submission).run(GridExchange(grid))
        finally:
            grid.close()
            client_app.forget_agents()
    logged = [sum(taken for ended, taken in calls if start < ended <= end) for start, end in rounds[1:]]
    return size, [end - start for start, end in rounds[1:]], logged


@contextmanager
def watched() -> Iterator[tuple[list[Call], list[tuple[float, float]]]]:
    """Time every call into a log, and every round, while the block runs."""
    calls: list[Call] = []
    rounds: list[tuple[float, float]] = []

    def timed(work: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(work)
        def call(self: Any, *rest: Any) -> Any:
            started = time.perf_counter()
            result = work(self, *rest)
            ended = time.perf_counter()
            calls.append((ended, ended - started))
            return result

        return call

    def one_round(self: Aggregator, *rest: Any, work: Callable[..., Any] = Aggregator._round) -> None:
        started = time.perf_counter()
        work(self, *rest)
        rounds.append((started, time.perf_counter()))

    with (
        patch.object(Log, "extend", timed(Log.extend)),
        patch.object(Witnessing, "packet", timed(Witnessing.packet)),
        patch.object(Witnessing, "receive", timed(Witnessing.receive)),
        patch.object(Aggregator, "_round", one_round),
    ):
        yield calls, rounds


def rows(*, quick: bool = False) -> Iterator[dict[str, Any]]:
    """Yield the log's share of a round of a million parameters, and of the shortest round there is.

    The second has no target: whatever it does, a round of 32 parameters and one step consists of what surrounds it.
    """
    for suffix, target in (("", None),) if quick else ((MILLION, 3.0), ("", None)):
        size, seconds, logged = played(suffix)
        share = 100 * sum(logged) / sum(seconds)
        what = f"round of {size} parameters, 4 silos"
        ok = None if target is None else share <= target
        yield {"name": what, "value": round(statistics.median(seconds), 4), "unit": "s", "target": None, "ok": None}
        yield {"name": f"log, {what}", "value": round(share, 2), "unit": "%", "target": target, "ok": ok}
