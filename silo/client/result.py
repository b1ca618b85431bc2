"""A finished run as its researcher has it: who took part, what it cost, how good the model is, and the model.

Invariant: the weights are opened only with the researcher's key, and only if every silo that released signed for the
same ones; the decisions' signatures were checked. What else stands in ``result.json`` (metrics, sizes, times) is the
aggregator's word: the report and the log are the evidence.
"""

from __future__ import annotations

import hashlib
import hmac
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from silo_crypto.errors import CryptoError
from silo_crypto.keys import Identity

from silo.agent.release import DIGEST_INFO, MODEL_INFO, release_info
from silo.aggregator import RESULT
from silo.errors import ConfigError, VerificationFailed
from silo.submission import RUN, Submission

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame
    from torch import nn

RESULTS = "results"  # in a submission's folder: what was fetched
MAX_RESULT = 64 << 20
Row = dict[str, Any]


@dataclass(frozen=True)
class RunResult:
    """One finished run.

    ``facts`` is ``result.json``; ``weights`` the released model, float32 (d,), or None if no key was given or nothing
    was released. In a notebook it shows itself as a table.
    """

    submission: Submission
    facts: Mapping[str, Any]
    weights: NDArray[np.float32] | None = None

    @property
    def run(self) -> str:
        """The run's id."""
        return self.submission.run.body.run

    @property
    def decisions(self) -> dict[str, str]:
        """Each invited silo's signed decision: permit or deny."""
        return {name: document["body"]["decision"] for name, document in sorted(self.facts["decisions"].items())}

    @property
    def epsilon(self) -> dict[str, float]:
        """What the run cost at each silo that finished, at the run's delta and unit (:attr:`privacy`)."""
        return {name: float(told["epsilon"]) for name, told in sorted(self.facts["silos"].items())}

    @property
    def privacy(self) -> str:
        """What epsilon means: its delta, unit, adjacency and accountant."""
        spec = self.submission.run.body.privacy
        return (
            f"epsilon {spec.epsilon:g} at delta {spec.delta:g} per {spec.unit}, {spec.adjacency} adjacency, "
            f"accountant {spec.accountant}"
        )

    @property
    def history(self) -> list[Row]:
        """One row a round: silos in its sum and those that dropped out, seconds, and bytes of one upload."""
        return [
            {
                "round": each["round"],
                "silos": len(each["participants"]),
                "dropped": len(each["dropped"]),
                "seconds": each["seconds"],
                "upload_bytes": each["upload_bytes"],
            }
            for each in self.facts["rounds"]
        ]

    @property
    def metrics(self) -> list[Row]:
        """One row a silo and metric, before the first round and after the last, as far as policies released them."""
        first = self.facts["rounds"][0]["metrics"] if self.facts["rounds"] else {}
        rows: list[Row] = []
        for silo, told in sorted(self.facts["silos"].items()):
            before, after = _values(first.get(silo)), _values(told.get("metrics"))
            rows += [
                {"silo": silo, "metric": name, "before": before.get(name), "after": after.get(name)}
                for name in sorted(before.keys() | after.keys())
            ]
        return rows

    def frame(self) -> DataFrame:
        """Return :attr:`history` as a pandas frame, indexed by round; needs ``silo-fl[notebook]``."""
        return _pandas().DataFrame(self.history).set_index("round")

    def metrics_frame(self) -> DataFrame:
        """Return :attr:`metrics` as a pandas frame; needs ``silo-fl[notebook]``."""
        return _pandas().DataFrame(self.metrics, columns=["silo", "metric", "before", "after"])

    def plot(self) -> Figure:
        """Return a figure: each metric before and after by silo, and the seconds of each round."""
        from matplotlib.figure import Figure

        names = sorted({row["metric"] for row in self.metrics})
        figure = Figure(figsize=(4.0 * (len(names) + 1), 3.2), layout="constrained")
        axes = figure.subplots(1, len(names) + 1, squeeze=False)[0]
        for axis, name in zip(axes, names, strict=False):
            rows = [row for row in self.metrics if row["metric"] == name]
            places = np.arange(len(rows))
            for shift, when in ((-0.2, "before"), (0.2, "after")):
                heights = [np.nan if row[when] is None else row[when] for row in rows]
                axis.bar(places + shift, heights, 0.4, label=when)
            axis.set_xticks(places, [row["silo"] for row in rows], rotation=30, ha="right")
            axis.set_title(name)
            axis.legend()
        last = axes[-1]
        last.plot([row["round"] for row in self.history], [row["seconds"] for row in self.history], marker="o")
        last.set_xlabel("round")
        last.set_title("seconds a round")
        return figure

    def model(self) -> nn.Module:
        """Return the trained model, ready to use. Executes the experiment's code: your own, by its digest."""
        from silo.api import load_experiment_bytes
        from silo.training.model import build_model, unflatten

        if self.weights is None:
            raise ConfigError("the model was not opened", where=f"run {self.run}", fix="give the researcher's key")
        body = self.submission.run.body
        experiment = load_experiment_bytes(self.submission.bundle, body.code_digest)
        model = build_model(experiment, body.model.seed)
        unflatten(model, self.weights)
        return model.eval()

    def __repr__(self) -> str:
        permits = sum(decision == "permit" for decision in self.decisions.values())
        return f"RunResult({self.run!r}, {permits} of {len(self.decisions)} silos, {len(self.history)} rounds)"

    def _repr_html_(self) -> str:
        """Return the table that a notebook shows; every text in it is escaped."""
        spent = self.epsilon
        head = ("silo", "decision", "epsilon", "metric", "before", "after")
        rows: list[Sequence[Any]] = []
        for silo, decision in self.decisions.items():
            own = [row for row in self.metrics if row["silo"] == silo] or [{}]
            for row in own:
                numbers = [_shown(row.get(when)) for when in ("before", "after")]
                rows.append((silo, decision, _shown(spent.get(silo)), row.get("metric", ""), *numbers))
        cells = "".join(_row("td", row) for row in rows)
        caption = html.escape(f"{self.run}: {len(self.history)} rounds, {self.privacy}")
        return f"<table><caption>{caption}</caption><thead>{_row('th', head)}</thead><tbody>{cells}</tbody></table>"


def load_result(folder: str | Path, key: str | Path | Identity | None = None) -> RunResult:
    """Return the result of a finished run.

    ``folder`` is what `silo demo` wrote, a submission whose results were fetched (`silo experiment results`), or a
    run's folder. ``key`` is the researcher's folder of keys (or the keys themselves), which opens the model.

    Raises :class:`ConfigError` if no result is there, :class:`VerificationFailed` if signatures or weights do not hold.
    """
    folder = Path(folder)
    directory = _directory(folder)
    submission = Submission.load(directory if (directory / RUN).is_file() else folder)
    facts = _facts(directory / RESULT)
    try:
        for name, document in facts["decisions"].items():
            submission.decision(document, name)
        weights = None if key is None else open_release(directory, submission, identity_of(key), facts)
        result = RunResult(submission, facts, weights)
        repr((result, result.metrics, result.epsilon))  # whatever is missing is missed here, and not in a notebook
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"the result is not one of this version: {error!r}", where=str(directory / RESULT), fix="fetch it again"
        ) from error
    return result


def open_release(
    directory: Path, submission: Submission, researcher: Identity, facts: Mapping[str, Any]
) -> NDArray[np.float32]:
    """Open, as the researcher, what the silos sealed: the model, and every silo's digest of it, which must agree.

    Returns the weights, float32 (d,). Raises :class:`ConfigError` if none were released,
    :class:`VerificationFailed` if they are not the run's or not what every silo holds.
    """

    def opened(blob: str, label: bytes, silo: str) -> bytes:
        path = directory / f"{blob}.{silo}.sealed"
        if not path.exists():
            raise ConfigError("no model was released", where=silo, fix='ask for it: releases=["model", ...]')
        info = release_info(label, submission.digest, silo, researcher.name)
        try:
            return researcher.open(info, path.read_bytes())
        except CryptoError as error:
            raise VerificationFailed(
                "this was not sealed to these keys, for this run", where=str(path), fix="give the key that signed it"
            ) from error

    releaser = str(facts["releaser"])
    if not {releaser, *facts["silos"]} <= set(submission.run.body.members):
        raise VerificationFailed("the result names silos that the run did not invite", where=str(directory))
    weights = opened("model", MODEL_INFO, releaser)
    found = hashlib.sha256(weights).digest()
    for silo in facts["silos"]:
        if not hmac.compare_digest(found, opened("digest", DIGEST_INFO, silo)):
            raise VerificationFailed(f"{silo} holds another model than {releaser} released")
    if len(weights) != 4 * submission.run.body.model.parameters:
        raise VerificationFailed("the weights are not those of the run's model", where=str(directory))
    return np.frombuffer(weights, dtype="<f4").astype(np.float32)


def _directory(folder: Path) -> Path:
    """Return where ``result.json`` is."""
    demo = sorted(path.parent for path in (folder / "homes" / "aggregator" / "runs").glob(f"*/{RESULT}"))
    for place in (folder, folder / RESULTS, *demo[:1]):
        if (place / RESULT).is_file():
            return place
    raise ConfigError(
        "there is no result", where=str(folder), fix="name a demo's folder, or fetch it: silo experiment results"
    )


def _facts(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_RESULT + 1)
        if len(content) > MAX_RESULT:
            raise ValueError("it is too large")
        facts = json.loads(content)
        if not isinstance(facts, dict):
            raise ValueError("it is no object")
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"cannot read the result: {error}", where=str(path), fix="fetch it again") from error
    return facts


def identity_of(key: str | Path | Identity) -> Identity:
    """Return the keys in a folder, or the keys themselves."""
    from silo.home.keys import load_identity

    return key if isinstance(key, Identity) else load_identity(Path(key))


def _values(told: Mapping[str, Any] | None) -> dict[str, float]:
    return dict(told["values"]) if told else {}


def _pandas() -> Any:
    try:
        import pandas
    except ImportError as error:
        raise ConfigError(
            "a frame needs pandas, which is not installed", where="RunResult", fix="pip install 'silo-fl[notebook]'"
        ) from error
    return pandas


def _shown(number: float | None) -> str:
    return "" if number is None else f"{number:.3f}"


def _row(tag: str, cells: Sequence[Any]) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"
