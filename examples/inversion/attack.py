"""Gradient inversion: a digit read back from one training step, and not from what the aggregator really gets.

    python examples/inversion/attack.py [--out DIRECTORY] [--seed N] [--json]

One silo takes one step on one record, a handwritten digit of 8 x 8 pixels (scikit-learn's, shipped with it), and the
attacker knows everything but the record: the code, the model, the learning rate. What the attacker is given:

- a plain update, as federated averaging sends it. In softmax regression the gradient is an outer product with the
  record, so one division gives the digit back (Geiping et al. 2020, proposition 3.1). In a convolutional network the
  attack searches for a record whose gradient points the same way (Zhu, Liu, Han 2019; Geiping et al. 2020);
- the upload of the `shared` custody, byte for byte what the aggregator stores: its words are read as numbers;
- the private update itself, as if the encryption were broken: clipped, with the noise of LocalDP.

Nothing secret is played with: the training, the noise, the encoding, the MAC and the encryption are the product's own.
"""

# ruff: noqa: T201  (what it prints is what it is for)
from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from silo_crypto.codec import FixedPoint
from silo_crypto.parameters import shared_for
from silo_crypto.protocol import Header
from silo_crypto.randomness import Csprng
from silo_crypto.shared import SharedEncryptor, SharedKey
from silo_crypto.verification import protect
from torch import Tensor, nn

from silo import Experiment, LocalDP
from silo.training.accounting import make_plan
from silo.training.model import build_model, flatten
from silo.training.trainer import LocalTrainer

SIDE, CLASSES, CHANNELS = 8, 10, 8
PIXELS = SIDE * SIDE
RATE = 0.1  # learning rate; public, as everything in a run manifest
PRIVACY = LocalDP(
    epsilon=3, delta=1e-5, clipping_norm=1, sample_rate=1, steps_per_round=1, expected_batch=1, learning_rate=RATE
)
SILOS = ("alpha", "beta", "gamma")
RECOVERED = 0.9
"""Above it a digit counts as recovered, by correlation of the pixels; unrelated pictures stay within 0.4 of 0."""

Image = NDArray[np.float64]
Update = NDArray[np.float32]


def softmax() -> nn.Module:
    """Multinomial logistic regression, 650 parameters."""
    return nn.Linear(PIXELS, CLASSES)


def network() -> nn.Module:
    """A small convolutional network, 5,210 parameters: its filters mix the pixels, so there is nothing to divide by."""
    return nn.Sequential(
        nn.Unflatten(1, (1, SIDE, SIDE)),
        nn.Conv2d(1, CHANNELS, 3, padding=1),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(CHANNELS * PIXELS, CLASSES),
    )


MODELS = {"softmax": softmax, "network": network}


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the cross entropy of each record, shape (n,)."""
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


def digit(index: int) -> tuple[Tensor, Tensor]:
    """Return one digit, (pixels in [0, 1] of shape (1, 64), label of shape (1,))."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return torch.tensor(data.data[index : index + 1] / 16, dtype=torch.float32), torch.tensor(data.target[index])[None]


# What is sent ---------------------------------------------------------------------------------------------------------


def plain_update(kind: str, pixels: Tensor, label: Tensor, seed: int) -> Update:
    """Return new minus old weights of one step of plain SGD, float32 (d,): what FedAvg without protection sends."""
    model = build_model(_experiment(kind), seed)
    before = flatten(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    loss(model(pixels), label).sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return flatten(model) - before


def private_update(kind: str, pixels: Tensor, label: Tensor, seed: int) -> Update:
    """Return the update of the same step as the product takes it: clipped and noised, epsilon 3 at delta 1e-5."""
    experiment = _experiment(kind)
    start = flatten(build_model(experiment, seed))
    plan = make_plan(PRIVACY, rounds=1, parameters=len(start))
    return LocalTrainer(experiment, plan, pixels, label, seed=seed).run(start).vector


def encrypted_upload(update: Update) -> bytes:
    """Return what the aggregator gets for an update: encoded, with presence and MAC, encrypted under `shared`."""
    parameters = shared_for(value_bits=16, silos=len(SILOS))
    header = Header(bytes(32), "inversion", 1, 1, 1, SILOS)
    key = SharedKey.generate(parameters, header)
    values = FixedPoint(bound=1.0, value_bits=16).encode(update, Csprng())
    fields = protect(key.group, header, SILOS[0], values, parameters.value_bits)
    return SharedEncryptor(key).encrypt(header, fields)


def as_numbers(upload: bytes, d: int) -> Update:
    """Return the attacker's reading of an upload as an update, float32 (d,): its words, scaled to [-1, 1]."""
    words = np.frombuffer(upload[: len(upload) // 2 * 2], dtype="<u2").astype(np.float64)
    return (np.resize(words, d) / 2**15 - 1).astype(np.float32)


def _experiment(kind: str) -> Experiment:
    return Experiment(
        name="inversion",
        purpose="demonstration",
        model=MODELS[kind],
        loss=loss,
        tensors=lambda records: (torch.empty(0, PIXELS), torch.empty(0)),
        metrics={},
        rounds=1,
        privacy=PRIVACY,
    )


# The attacks ----------------------------------------------------------------------------------------------------------


def invert(kind: str, update: Update, seed: int) -> Image:
    """Return the attacker's best guess of the record, float64 (64,) in [0, 1]."""
    gradient = torch.from_numpy(-update / RATE)
    return _divide(gradient) if kind == "softmax" else _search(gradient, seed)


def _divide(gradient: Tensor) -> Image:
    """Softmax regression: dL/dW = (p - y) x^T and dL/db = p - y, so x is a row of the one over the entry of the other.

    Of the rows the least noisy combination is taken: weights (p - y), the least squares solution.
    """
    weights = gradient[: CLASSES * PIXELS].view(CLASSES, PIXELS).double()
    biases = gradient[CLASSES * PIXELS :].double()
    return _image(biases @ weights / (biases @ biases))


def _search(gradient: Tensor, seed: int, starts: int = 2, steps: int = 120) -> Image:
    """Find a record whose gradient points the way of ``gradient``: cosine distance, Adam, several starts."""
    model = build_model(_experiment("network"), seed)
    parameters = list(model.parameters())
    generator = torch.Generator().manual_seed(seed)
    label = _label(gradient)
    best, shortest = torch.zeros(PIXELS), float("inf")
    for _ in range(starts):
        x = torch.rand(1, PIXELS, generator=generator).requires_grad_()
        optimizer = torch.optim.Adam([x], lr=0.1)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, total_iters=steps)
        for _ in range(steps):
            optimizer.zero_grad()
            value = loss(model(x), label).sum()
            found = torch.cat([g.flatten() for g in torch.autograd.grad(value, parameters, create_graph=True)])
            distance = 1 - torch.nn.functional.cosine_similarity(found, gradient, dim=0)
            distance.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                x.clamp_(0, 1)
        if distance.item() < shortest:
            best, shortest = x.detach()[0].clone(), distance.item()
    return _image(best)


def _label(gradient: Tensor) -> Tensor:
    """Return the label, shape (1,): the one class whose bias has a negative gradient, p - 1 (Zhao et al. 2020)."""
    return gradient[-CLASSES:].argmin()[None]


def _image(pixels: Tensor) -> Image:
    """Return the pixels in [0, 1], stretched into it if they lie outside."""
    found = pixels.detach().double().numpy()
    low, high = min(found.min(), 0.0), max(found.max(), 1.0)
    return np.asarray((found - low) / (high - low))


# What came of it ------------------------------------------------------------------------------------------------------


def correlation(a: Image, b: Image) -> float:
    """Return the correlation of the pixels, -1 to 1; 0 if one image is of one grey."""
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm > 1e-12 else 0.0


def similarity(a: Image, b: Image) -> float:
    """Return the structural similarity over the whole image, at most 1 (Wang et al. 2004, equation 13, range 1)."""
    c1, c2 = 0.01**2, 0.03**2
    covariance = float(((a - a.mean()) * (b - b.mean())).mean())
    top = (2 * a.mean() * b.mean() + c1) * (2 * covariance + c2)
    return float(top / ((a.mean() ** 2 + b.mean() ** 2 + c1) * (a.var() + b.var() + c2)))


@dataclass(frozen=True)
class Result:
    """One attack: ``given`` is what the attacker got; ``image`` what came of it, float64 (64,) in [0, 1]."""

    model: str
    given: str
    index: int
    correlation: float
    similarity: float
    image: Image


GIVEN = ("plain update", "encrypted upload", "private update")


def attack(kind: str, index: int, seed: int) -> list[Result]:
    """Attack one digit three times: the plain update, what the aggregator gets, and the private update."""
    pixels, label = digit(index)
    truth = pixels[0].double().numpy()
    plain = plain_update(kind, pixels, label, seed)
    private = private_update(kind, pixels, label, seed)
    # What travels is the private update, encrypted. The attacker is better off with the plain one in it, so: that.
    updates = (plain, as_numbers(encrypted_upload(plain), len(plain)), private)
    results = []
    for given, update in zip(GIVEN, updates, strict=True):
        image = invert(kind, update, seed)
        scores = correlation(truth, image), similarity(truth, image)
        results.append(Result(kind, given, index, *scores, image))
    return results


def draw(results: list[Result], path: Path) -> None:
    """Write a PNG: one row for each digit and model, the record first, then what each attack made of it."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rows = list(dict.fromkeys((each.model, each.index) for each in results))
    figure, axes = plt.subplots(len(rows), 4, figsize=(6.4, 1.8 * len(rows)), squeeze=False)
    for line, (model, index) in zip(axes, rows, strict=True):
        shown = [("record", digit(index)[0][0].numpy())]
        for each in results:
            if (each.model, each.index) == (model, index):
                shown.append((f"{each.given}\ncorrelation {each.correlation:.2f}", each.image))
        for cell, (title, image) in zip(line, shown, strict=True):
            cell.imshow(image.reshape(SIDE, SIDE), cmap="gray_r", vmin=0, vmax=1)
            cell.set_title(title, fontsize=7)
            cell.set_xticks([])
            cell.set_yticks([])
        line[0].set_ylabel(model, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def run(out: Path, seed: int = 0) -> list[Result]:
    """Attack ten digits in softmax regression and three in the network; write ``out``/inversion.png."""
    results = [result for index in range(10) for result in attack("softmax", index, seed)]
    results += [result for index in range(3) for result in attack("network", index, seed)]
    out.mkdir(parents=True, exist_ok=True)
    draw([each for each in results if each.index in (0, 2)], out / "inversion.png")
    return results


def main() -> None:
    """Run the attacks and print what came of each."""
    parser = argparse.ArgumentParser(description="Gradient inversion, with and without protection.")
    parser.add_argument("--out", type=Path, default=Path("inversion-demo"), help="where inversion.png goes")
    parser.add_argument("--seed", type=int, default=0, help="of initial weights and of the search; never of noise")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)  # the models are so small that threads only wait for each other
    began = time.perf_counter()
    results = run(options.out, options.seed)
    seconds = time.perf_counter() - began
    rows = []
    for kind in MODELS:
        for given in GIVEN:
            chosen = [each for each in results if (each.model, each.given) == (kind, given)]
            found = [each.correlation for each in chosen]
            rows.append(
                {
                    "model": kind,
                    "given": given,
                    "digits": len(chosen),
                    "correlation": float(np.mean(found)),
                    "lowest": min(found),
                    "highest": max(found),
                    "similarity": float(np.mean([each.similarity for each in chosen])),
                    "recovered": sum(each > RECOVERED for each in found),
                }
            )
    if options.json:
        print(json.dumps({"rows": rows, "seconds": seconds}, indent=2))
        return
    print(f"{'model':9} {'the attacker has':17} {'digits':>6} {'recovered':>9} {'correlation (range)':>24} {'SSIM':>6}")
    for row in rows:
        spread = f"{row['correlation']:.3f} ({row['lowest']:.2f} to {row['highest']:.2f})"
        print(
            f"{row['model']:9} {row['given']:17} {row['digits']:6} {row['recovered']:9} {spread:>24} "
            f"{row['similarity']:6.3f}"
        )
    print(
        f"private update: epsilon {PRIVACY.epsilon:g} at delta {PRIVACY.delta:g} per record, add/remove adjacency, pld"
    )
    print(f"{options.out / 'inversion.png'}, {seconds:.1f} s")


if __name__ == "__main__":
    main()
