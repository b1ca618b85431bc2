"""The agent's side: asks a confined child for what only the researcher's code can say, and believes only its form.

Invariant: an answer becomes arrays of the dtype, shape and size that were asked for, finite where numbers have to be,
or a :class:`ConfigError` whose words are ours once the child has seen a record. What is decided on it (sampling,
clipping, noise, steps, budget) is decided here, from numbers that a child may choose but not exceed: each record's
gradient is clipped, whatever it is.

What a child can still do, once approved: make the gradient of one record depend on others, for it sees them all. The
bound for a single record therefore rests on the approval; that a batch moves the weights by at most its size times
the clipping norm, under noise that the child cannot know, rests on nothing but this module's callers (SECURITY.md).
"""

from __future__ import annotations

import builtins
import json
import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from silo_crypto.randomness import Csprng
from torch import nn

from silo.api import Records
from silo.api.experiment import METRIC_NAME
from silo.errors import ConfigError
from silo.sandbox import server
from silo.sandbox.channel import NUMBERS, Array, ChannelFault, Shape
from silo.sandbox.confine import Limits
from silo.sandbox.schema import schema_to_json
from silo.training.per_record import Streamed
from silo.training.sampling import poisson_sample
from silo.training.units import Units, sum_by_owner

MAX_PARAMETERS = 1 << 28
MAX_METRICS = 64
MAX_OUTPUTS = 1 << 12
# Targets, or outputs, of all records: what a child can make this process hold at once.
_MOST_BYTES = 1 << 29
# Gradients asked for at a time: what lies in the channel and in the child stays this small, whatever the batch.
_CHUNK_BYTES = 64 << 20
# What our own code in the child says of an experiment that does not fit the records; other words are not repeated.
_KNOWN = frozenset(
    {
        "it must return two tensors",
        "it must return one row per record",
        "the loss does not give one number per record",
        "a parameter took no part in the loss",
        "features and targets differ in length",
    }
)
Vector = NDArray[np.float32]


class Confined:
    """One experiment in one confined child, from its first look to the end of the run. Not for two threads at once."""

    def __init__(self, limits: Limits, hidden: Collection[Path]) -> None:
        """Start the child. ``hidden`` are directories that it may not see wherever they lie (this silo's home).

        Raises :class:`ConfigError` if less is in force in it than policies were told.
        """
        self._limits = limits
        self._child = server.start(limits, hidden)
        lost = set(server.means().in_force) - set(self.means.in_force)
        if lost:
            self._child.end()
            raise ConfigError(
                f"the process for the researcher's code lacks what was there before: {', '.join(sorted(lost))}",
                where="sandbox",
                fix="restart the agent, which then finds out anew what this system lets be put in force",
            )
        self._seen_records = False
        self._fault = ""
        self.metrics: tuple[str, ...] = ()
        self.size = 0

    def __enter__(self) -> Confined:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def means(self) -> server.Means:
        """What is in force in this very child."""
        return self._child.means

    def close(self) -> None:
        """Kill the child; its directory and everything it held are gone."""
        self._fault = self._fault or "it was stopped"
        self._child.end()

    def examine(self, bundle: bytes, digest: str, schema: Any, *, seed: int) -> Vector:
        """Have the bundle loaded and tried on made-up records; return the initial weights, float32 (d,)."""
        arrays = {
            "bundle": np.frombuffer(bundle, dtype=np.uint8),
            "schema": np.frombuffer(json.dumps(schema_to_json(schema)).encode(), dtype=np.uint8),
        }
        expected = {"initial": Shape(("float32",), (None,), most=4 * MAX_PARAMETERS)}
        head, found = self._ask({"do": "examine", "digest": digest, "seed": seed}, arrays, expected)
        names, initial = head.get("metrics"), found["initial"]
        if not isinstance(names, list) or len(names) > MAX_METRICS or names != sorted(set(map(str, names))):
            raise self._refuse("it sent no list of metrics")
        if not all(METRIC_NAME.fullmatch(name) for name in names):
            raise self._refuse("it sent a metric without a name")
        if not len(initial) or not np.isfinite(initial).all():
            raise self._refuse("it sent initial weights that are not finite")
        self.metrics, self.size = tuple(names), len(initial)
        return initial

    def tensors(self, records: Records) -> Array:
        """Hand the records over; return the targets, (n,) or (n, k). From here on the child's words stay here."""
        self._seen_records = True
        # Whose a row is stays here: units are sampled and summed in this process.
        arrays = {f"column/{name}": records[name] for name in records.schema.names}
        shape = Shape(NUMBERS, (len(records),), most=min(1024 * len(records), _MOST_BYTES), further=True)
        return self._ask({"do": "tensors", "source": records.source}, arrays, {"targets": shape})[1]["targets"]

    def split(self, train: NDArray[np.int64], test: NDArray[np.int64]) -> None:
        """Say which rows train and which test."""
        self._ask({"do": "split"}, {"train": train, "test": test}, {})

    def gradients(self, weights: Vector, rows: NDArray[np.int64]) -> Iterator[Vector]:
        """Yield what the child says are the gradients of the training records at ``rows``, float32 (m_i, d) at a time.

        They are of the right shape and may be anything else, NaN and infinity included.
        """
        step = max(1, _CHUNK_BYTES // (4 * self.size))
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            expected = {"gradients": Shape(("float32",), (len(part), self.size))}
            arrays: dict[str, Array] = {"rows": part} if start else {"rows": part, "weights": weights}
            yield self._ask({"do": "gradients"}, arrays, expected)[1]["gradients"]

    def scores(self, weights: Vector, records: int) -> NDArray[np.float64]:
        """Return the model's outputs on the test rows, ``records`` of them: float64 (n,) or (n, k), of any values."""
        most = min(8 * MAX_OUTPUTS * max(records, 1), _MOST_BYTES)
        shape = Shape(("float64",), (records,), most=most, further=True)
        return self._ask({"do": "scores"}, {"weights": weights}, {"scores": shape})[1]["scores"]

    def measure(self, outputs: NDArray[np.float64], labels: NDArray[np.float64]) -> dict[str, float | None]:
        """Return each metric of these outputs and labels; None where it has no value."""
        values = self._ask({"do": "measure"}, {"outputs": outputs, "labels": labels}, {})[0].get("values")
        if not isinstance(values, dict) or tuple(sorted(values)) != self.metrics:
            raise self._refuse("it sent other metrics than it has")
        if not all(value is None or (type(value) is float and math.isfinite(value)) for value in values.values()):
            raise self._refuse("it sent a metric that is no number")
        return values

    def _ask(
        self, head: Mapping[str, Any], arrays: Mapping[str, Array], expected: Mapping[str, Shape]
    ) -> tuple[dict[str, Any], dict[str, Array]]:
        if self._fault:
            raise self._refuse(self._fault)
        channel, seconds = self._child.channel, self._limits.seconds
        try:
            channel.send(head, arrays, seconds=seconds)
            answer, found = channel.receive(expected, seconds=seconds)
        except ChannelFault as error:
            raise self._refuse(str(error)) from error
        if answer.get("ok") is True:
            return answer, found
        raise self._told(answer)

    def _refuse(self, why: str) -> ConfigError:
        """End the child: what gave one answer that was not asked for is asked nothing more."""
        self._fault = why
        self._child.end()
        return ConfigError(
            f"the experiment's process was stopped: {why}",
            where="sandbox",
            fix="review the experiment; its limits stand in silo.toml, [sandbox]",
        )

    def _told(self, answer: Mapping[str, Any]) -> ConfigError:
        """Return the child's own error: in its words before it saw a record, in ours afterwards."""
        words = {name: answer.get(name) for name in ("kind", "what", "where", "fix")}
        if not all(isinstance(word, str) and len(word) <= 2000 for word in words.values()):
            return self._refuse("it sent an error that is none")
        if not self._seen_records:
            return ConfigError(_plain(words["what"]), where=_plain(words["where"]), fix=_plain(words["fix"]))
        if words["what"] in _KNOWN:
            return ConfigError(str(words["what"]), where="experiment", fix="try it on made-up records")
        kind = words["kind"]
        known = isinstance(getattr(builtins, str(kind), None), type) and str(kind).endswith(("Error", "Exception"))
        return ConfigError(
            f"the experiment failed on this silo's records with {kind if known else 'an error of its own'}",
            where="experiment",
            fix="try it on made-up records of the same schema",
        )


def _plain(text: object) -> str:
    """Return foreign text without control characters: it is shown in terminals."""
    return "".join(sign if sign.isprintable() else " " for sign in str(text))


class RemoteGradients:
    """Per-record gradients from a confined child, as :class:`~silo.training.gradients.Gradients`.

    The batch is drawn here, the weights are kept here, and the parameters that the optimiser clips, noises and moves
    are one flat tensor of this process.
    """

    def __init__(self, confined: Confined, units: Units, *, parameters: int) -> None:
        """``units`` are the records or patients that train; ``parameters`` the d that the plan was made for."""
        if confined.size != parameters:
            raise ConfigError(
                f"the model has {confined.size} parameters and the plan {parameters}",
                where="experiment, model",
                fix="submit the run again: the manifest was made for another model",
            )
        self._confined, self._units = confined, units
        self._flat = nn.Parameter(torch.zeros(parameters))

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The flat vector as one parameter."""
        return [self._flat]

    @property
    def noised(self) -> Vector:
        """Its gradient, float32 (d,), as the optimiser left it: no copy."""
        return torch.empty(0).numpy() if self._flat.grad is None else self._flat.grad.numpy()

    @contextmanager
    def at(self, start: Vector) -> Iterator[None]:
        """Set the weights, float32 (d,)."""
        self.place(start)
        yield

    def place(self, weights: Vector) -> None:
        """Set the weights, float32 (d,); raises where one is not finite."""
        if weights.shape != self._flat.shape or not np.isfinite(weights).all():
            raise ConfigError("the model's vector is not finite", where="model", fix="lower the learning rate")
        self._flat.detach().numpy()[:] = weights

    def sample(self, rate: float, rng: Csprng) -> None:
        """Draw a batch, each unit with probability ``rate``, and set ``grad_sample``, (m, d) for m units.

        Gradients of records are asked for while they are clipped; a patient's have to be summed first.
        """
        batch = self._units.batch(poisson_sample(len(self._units), rate, rng))
        parts = map(torch.from_numpy, self._confined.gradients(self._flat.detach().numpy(), batch.rows))
        if batch.owners is None:
            self._flat.grad_sample = Streamed(parts)  # type: ignore[attr-defined]
            return
        self._flat.grad_sample = torch.cat([torch.empty(0, self._flat.numel()), *parts])  # type: ignore[attr-defined]
        sum_by_owner(self.parameters, batch)

    def clear(self) -> None:
        """Forget the gradients."""
        self._flat.grad = self._flat.grad_sample = None  # type: ignore[attr-defined]
