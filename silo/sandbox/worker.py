"""The child's side: the only place where a researcher's code runs at a silo.

Everything here shares a process with that code, so nothing here can be relied on once it was loaded: the agent
believes no answer beyond its dtype, shape and size (:mod:`silo.sandbox.remote`). What this module does is what honest
code needs: it loads the experiment, tries it on made-up records, makes tensors of the silo's records, and gives the
gradients of single records at the weights and rows it is told.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from silo.api import Experiment, Records, Schema, load_experiment_bytes
from silo.errors import ConfigError, SiloError
from silo.sandbox.channel import Array, Channel, ChannelFault
from silo.sandbox.schema import schema_from_json
from silo.training.check import check_experiment
from silo.training.evaluate import measured, scores
from silo.training.gradients import RecordGradients
from silo.training.model import build_model, count, flatten
from silo.training.trainer import to_tensors

_SECONDS = 3600.0  # to hand over an answer; the agent has a shorter limit of its own
_NO_MEMORY = "can't allocate memory"  # torch's words, in a RuntimeError
Answer = tuple[dict[str, Any], dict[str, Array]]


class Worker:
    """One experiment in one child; the methods are the requests, in the order a run makes them."""

    def __init__(self) -> None:
        self._seed = 0
        self._experiment: Experiment | None = None
        self._schema: Schema | None = None
        self._tensors: tuple[Tensor, Tensor] | None = None
        self._test: tuple[Tensor, Tensor] | None = None
        self._gradients: RecordGradients | None = None

    def examine(self, head: Mapping[str, Any], arrays: Mapping[str, Array]) -> Answer:
        """Load the bundle, try it on made-up records, and return the initial weights and the metrics' names."""
        self._experiment = load_experiment_bytes(arrays["bundle"].tobytes(), head["digest"])
        self._schema, self._seed = schema_from_json(json.loads(arrays["schema"].tobytes())), head["seed"]
        check_experiment(self._experiment, self._schema)
        initial = flatten(build_model(self._experiment, self._seed))
        gc.collect()  # Opacus's hooks are cycles: what was tried would stay beside the model that trains
        return {"metrics": sorted(self._experiment.metrics)}, {"initial": initial}

    def tensors(self, head: Mapping[str, Any], arrays: Mapping[str, Array]) -> Answer:
        """Make tensors of the records, and return the targets, which a public data set is split by."""
        experiment, schema = self._loaded
        columns = {name.removeprefix("column/"): array for name, array in arrays.items()}
        self._tensors = to_tensors(experiment, Records(schema, columns, source=head["source"]))
        return {}, {"targets": self._tensors[1].numpy()}

    def split(self, head: Mapping[str, Any], arrays: Mapping[str, Array]) -> Answer:
        """Take note of which rows train and which test."""
        experiment, _ = self._loaded
        features, targets = self._tensors or _out_of_turn()
        train, test = arrays["train"], arrays["test"]
        self._test = features[test], targets[test]
        parameters = count(build_model(experiment, self._seed))
        self._gradients = RecordGradients(
            experiment, features[train], targets[train], parameters=parameters, seed=self._seed, whole=True
        )
        return {}, {}

    def gradients(self, head: Mapping[str, Any], arrays: dict[str, Array]) -> Answer:
        """Return the gradient of each training record at ``rows``, float32 (m, d), at the weights given last."""
        gradients, rows = self._gradients or _out_of_turn(), arrays["rows"]
        if "weights" in arrays:
            gradients.place(arrays.pop("weights"))  # and they are kept once, in the model
        with gradients.at(None):
            gradients.take(rows)
            samples: list[Tensor] = [p.grad_sample for p in gradients.parameters]  # type: ignore[union-attr]
            gradients.clear()
        parts = [each.reshape(len(rows), -1).numpy() for each in samples]
        return {}, {"gradients": parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)}

    def scores(self, head: Mapping[str, Any], arrays: Mapping[str, Array]) -> Answer:
        """Return the model's outputs on the test rows at the given weights."""
        experiment, _ = self._loaded
        features, _ = self._test or _out_of_turn()
        return {}, {"scores": scores(experiment, arrays["weights"], features, seed=self._seed)}

    def measure(self, head: Mapping[str, Any], arrays: Mapping[str, Array]) -> Answer:
        """Return the metrics of the given outputs and labels."""
        experiment, _ = self._loaded
        return {"values": measured(experiment, arrays["outputs"], arrays["labels"])}, {}

    @property
    def _loaded(self) -> tuple[Experiment, Schema]:
        return (self._experiment or _out_of_turn()), (self._schema or _out_of_turn())


def _out_of_turn() -> Any:
    raise ConfigError("a request came out of turn", where="sandbox")


def serve(channel: Channel) -> None:
    """Answer requests until the agent closes the channel."""
    worker = Worker()
    while _answered(worker, channel):
        pass  # nothing of a request, or of its answer, is kept here until the next one


def _answered(worker: Worker, channel: Channel) -> bool:
    """Answer one request; tell whether there was one."""
    try:
        head, arrays = channel.receive_any()
    except ChannelFault:
        return False
    act: Callable[..., Answer] = getattr(worker, head["do"])
    try:
        answer, found = act(head, arrays)
        channel.send({"ok": True, **answer}, found, seconds=_SECONDS)
    except Exception as error:
        channel.send({"ok": False, **_told(error)}, seconds=_SECONDS)
    return True


def _told(error: Exception) -> dict[str, str]:
    """Return an error as text; what the agent repeats of it, and when, is the agent's decision."""
    # An error of foreign code is the cause of ours; its type is what helps.
    foreign = error.__cause__ or error
    kind = type(foreign).__name__
    fix = error.fix if isinstance(error, SiloError) else ""
    if isinstance(foreign, MemoryError) or _NO_MEMORY in str(foreign):
        fix = "a smaller model, or a larger memory_mib in this silo's [sandbox]: some 50 bytes for each parameter"
    if isinstance(error, SiloError):
        return {"kind": kind, "what": error.what[:2000], "where": error.where[:500], "fix": fix[:500]}
    return {"kind": kind, "what": f"the experiment failed with {kind}: {error}"[:2000], "where": "", "fix": fix}
