"""What can be said about an experiment before any record is touched: it runs on made-up records of the public schema.

Invariant: nothing here sees a silo's data, so what goes wrong may be said in full. The checks catch honest mistakes
that would break per-record privacy or training: layers and losses that mix the records of a batch, features scaled by
statistics of the data, models that differ from silo to silo. They do not make hostile code safe; approving a digest
does (PROTOCOL section 1, adversary 4).
"""

from __future__ import annotations

import copy
import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from silo.api import Experiment, Numeric, Records, Schema
from silo.errors import ConfigError
from silo.training.accounting import Plan
from silo.training.evaluate import scores
from silo.training.model import build_model, count, flatten, ignored_warnings, torch_generator, trainable
from silo.training.trainer import LocalTrainer, to_tensors

# Batch statistics, in train or eval mode, tie records to each other; so does anything that keeps running statistics.
_BATCH_NORM = (nn.modules.batchnorm._BatchNorm,)
_INSTANCE_NORM = (nn.modules.instancenorm._InstanceNorm,)
_SYNTHETIC = 12


def check_model(experiment: Experiment, *, seed: int = 0) -> int:
    """Return d, the number of trained parameters, if the model can be trained with per-record clipping.

    Raises :class:`~silo.errors.ConfigError` naming the layer and the fix.
    """
    from opacus import GradSampleModule
    from opacus.validators import ModuleValidator

    where = f"experiment {experiment.name!r}, model"
    model = build_model(experiment, seed)
    for name, layer in model.named_modules():
        kind = type(layer).__name__
        # InstanceNorm derives from the batch norms' base class too.
        if isinstance(layer, _INSTANCE_NORM):
            if layer.track_running_stats:
                raise ConfigError(
                    f"layer {name!r} ({kind}) keeps running statistics of the records",
                    where=where,
                    fix="give it track_running_stats=False",
                )
        elif isinstance(layer, _BATCH_NORM):
            channels = int(layer.num_features)
            raise ConfigError(
                f"layer {name!r} is {kind}, which mixes the records of a batch: none of them could be clipped alone",
                where=where,
                fix=f"use torch.nn.GroupNorm instead, for example GroupNorm({_groups(channels)}, {channels})",
            )
    problems = ModuleValidator.validate(model, strict=False)
    if problems:
        raise ConfigError(f"Opacus cannot train it: {problems[0]}", where=where, fix="replace that layer")
    try:
        GradSampleModule(copy.deepcopy(model), loss_reduction="sum").to_standard_module()
    except Exception as error:
        raise ConfigError(f"Opacus cannot train it: {error}", where=where, fix="replace that layer") from error
    first, again = trainable(model), trainable(build_model(experiment, seed))
    if len(first) != len(again) or not all(map(torch.equal, map(_bits, first), map(_bits, again))):
        raise ConfigError(
            "two models built from one seed differ",
            where=where,
            fix="draw initial weights from torch's generator only, and do not seed it: every silo must start alike",
        )
    return count(model)


def check_experiment(experiment: Experiment, schema: Schema, *, seed: int = 0) -> int:
    """Return d after running tensors, model and loss on made-up records of ``schema`` and checking the model.

    Raises :class:`~silo.errors.ConfigError` when a shape is wrong, or when what one record yields depends on others.
    """
    parameters = check_model(experiment, seed=seed)
    where = f"experiment {experiment.name!r}"
    records = made_up(schema, _SYNTHETIC)
    part = np.arange(0, _SYNTHETIC, 5)  # other means and another balance of classes than the whole
    features, targets = to_tensors(experiment, records)
    alone, alone_targets = to_tensors(experiment, records.take(part))
    if not (_same(features[part], alone) and _same(targets[part], alone_targets)):
        raise ConfigError(
            "a record's tensors change with the other records",
            where=f"{where}, tensors",
            fix="scale by public ranges (Records.features), never by means, maxima or ranks of the data",
        )
    _check_loss(experiment, features, targets, part, seed)
    _check_step(experiment, features, targets, parameters, seed)
    _check_metrics(experiment, features, targets, seed)
    return parameters


def _check_loss(experiment: Experiment, features: Tensor, targets: Tensor, part: NDArray[np.int64], seed: int) -> None:
    where = f"experiment {experiment.name!r}"
    # In evaluation mode, so that dropout does not make records look mixed.
    model = build_model(experiment, seed).eval()
    try:
        with torch_generator(seed), torch.no_grad(), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            losses = experiment.loss(model(features), targets)
            alone = experiment.loss(model(features[part]), targets[part])
    except Exception as error:
        what = f"model or loss failed on made-up records with {type(error).__name__}: {error}"
        raise ConfigError(what, where=where, fix="make model, tensors and loss fit each other") from error
    broadcast = [str(w.message) for w in caught if "broadcast" in str(w.message)]
    if broadcast:
        raise ConfigError(broadcast[0], where=f"{where}, loss", fix="give outputs and targets one shape, (n,)")
    if not isinstance(losses, Tensor) or losses.shape != (len(targets),):
        found = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
        raise ConfigError(
            f"the loss of {len(targets)} records is {found}, not ({len(targets)},)",
            where=f"{where}, loss",
            fix="use reduction='none' and return one loss per record",
        )
    if not torch.isfinite(losses).any():  # one of a missing target may be NaN: such a record counts as none
        raise ConfigError(
            "the loss of no made-up record is finite",
            where=f"{where}, model or loss",
            fix="start from finite weights; keep logarithms and divisions away from 0",
        )
    if not _same(losses[part], alone):
        raise ConfigError(
            "a record's loss changes with the other records of its batch",
            where=f"{where}, model or loss",
            fix="compute each record's loss from that record alone",
        )


def _check_step(experiment: Experiment, features: Tensor, targets: Tensor, parameters: int, seed: int) -> None:
    """Take one private step: every trained parameter must get a gradient for each record."""
    plan = Plan(
        epsilon=1,
        delta=1e-6,
        clipping_norm=1,
        noise_multiplier=1,
        sample_rate=1,
        steps_per_round=1,
        expected_batch=1,
        learning_rate=1e-3,
        rounds=1,
        parameters=parameters,
    )
    trainer = LocalTrainer(experiment, plan, features, targets, seed=seed)
    trainer.run(flatten(build_model(experiment, seed)))


def _check_metrics(experiment: Experiment, features: Tensor, targets: Tensor, seed: int) -> None:
    """Call each metric once; where a metric has no value for these labels it may be NaN, but not fail."""
    outputs = scores(experiment, flatten(build_model(experiment, seed)), features, seed=seed)
    for name, metric in experiment.metrics.items():
        where = f"experiment {experiment.name!r}, metric {name!r}"
        try:
            with ignored_warnings():
                float(metric(outputs, targets.double().numpy()))
        except Exception as error:
            what = f"it failed on made-up records with {type(error).__name__}: {error}"
            raise ConfigError(what, where=where, fix="a metric takes (scores, labels), in this order") from error


def made_up(schema: Schema, n: int) -> Records:
    """Return n records drawn from the schema's public ranges and categories, every sixth value missing."""
    generator = np.random.Generator(np.random.PCG64(0))
    columns: dict[str, NDArray[np.generic]] = {}
    for column in schema.columns:
        absent = generator.random(n) < 1 / 6
        if isinstance(column, Numeric):
            values = generator.integers(round(column.low), round(column.high), n, endpoint=True).astype(np.float64)
            columns[column.name] = np.where(absent, np.nan, values)
        else:
            columns[column.name] = np.where(absent, "", generator.choice(np.array(column.values), n))
    return Records(schema, columns)


def _same(a: Tensor, b: Tensor) -> bool:
    """Tell whether two tensors agree up to rounding (kernels may sum in another order for another batch size)."""
    return a.shape == b.shape and torch.allclose(a.double(), b.double(), rtol=1e-4, atol=1e-5, equal_nan=True)


def _bits(p: Tensor) -> Tensor:
    """Return the bits of a float32 tensor: the same NaN is the same."""
    return p.detach().contiguous().view(torch.int32)


def _groups(features: int) -> int:
    return next(g for g in (8, 4, 2, 1) if features % g == 0)
