"""Models as vectors: the same model at every silo, and one float32 vector for what is sent.

Invariant: building, training and scoring leave torch's global generator as they found it. torch has one generator a
process, and the local engine runs several silos in threads, so everything that lets a model draw from it holds one
lock. Nothing secret is ever drawn from it.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from silo.api import Experiment
from silo.errors import ConfigError

_LOCK = threading.RLock()


@contextmanager
def torch_generator(seed: int) -> Iterator[None]:
    """Hold torch's global CPU generator, seeded with ``seed``, and give it back as it was."""
    with _LOCK, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


@contextmanager
def ignored_warnings(message: str = "", category: type[Warning] = Warning) -> Iterator[None]:
    """Ignore warnings that begin with the pattern ``message``, one thread at a time.

    Python keeps one list of filters a process; two threads that each put it aside and back lose one another's.
    """
    with _LOCK, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message, category)
        yield


def build_model(experiment: Experiment, seed: int) -> nn.Module:
    """Return the experiment's model with the initial weights that every silo starts from, in training mode.

    ``seed`` is public, 0 <= seed < 2^63. Raises :class:`~silo.errors.ConfigError` when the factory fails or returns
    something that has no float32 parameters to train.
    """
    where = f"experiment {experiment.name!r}, model"
    try:
        with torch_generator(seed):
            model = experiment.model()
    except Exception as error:
        raise ConfigError(f"the model factory failed with {type(error).__name__}: {error}", where=where) from error
    if not isinstance(model, nn.Module):
        raise ConfigError(f"the factory returned a {type(model).__name__}", where=where, fix="return a torch.nn.Module")
    trained = trainable(model)
    if not trained:
        raise ConfigError("no parameter requires a gradient", where=where, fix="leave something to train")
    if any(p.dtype != torch.float32 or p.device.type != "cpu" for p in trained):
        raise ConfigError("a parameter is not float32 on the CPU", where=where, fix="build with torch's default dtype")
    return model.train()


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that are trained and sent, in the model's order, each once."""
    return [p for p in model.parameters() if p.requires_grad]


def count(model: nn.Module) -> int:
    """Return d, the length of the flat vector."""
    return sum(p.numel() for p in trainable(model))


def flatten(model: nn.Module) -> NDArray[np.float32]:
    """Return a copy of all trainable parameters as one vector, float32 (d,)."""
    return np.concatenate([p.detach().numpy().ravel() for p in trainable(model)])


def unflatten(model: nn.Module, vector: NDArray[np.float32]) -> None:
    """Write a flat vector, float32 (d,), into the model's parameters, bit for bit.

    Raises :class:`~silo.errors.ConfigError` when shape or dtype is another, or a value is NaN or infinite.
    """
    if vector.shape != (count(model),) or vector.dtype != np.float32:
        raise ConfigError(
            f"the model's vector has shape {vector.shape} and dtype {vector.dtype}",
            where="model",
            fix=f"it must be float32 of shape ({count(model)},): all silos must run the same experiment",
        )
    if not np.isfinite(vector).all():
        raise ConfigError("the model's vector holds NaN or infinity", where="model", fix="lower the learning rate")
    position = 0
    for p in trainable(model):
        p.detach().numpy()[...] = vector[position : position + p.numel()].reshape(p.shape)
        position += p.numel()
