"""Plays the demo from an empty directory to a report, and gives back the facts.

Invariant: everything is built in a scratch directory beside the target and moved there when it is whole, so a demo
that fails leaves nothing behind, and one that succeeds replaces only an earlier demo.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from silo_policies import RunManifest, parse_pack

from silo.agent.prepare import source_of
from silo.aggregator import RESULT, Follower
from silo.api import Experiment, load_experiment, load_experiment_bytes
from silo.canonical import utc_now
from silo.demo.hospitals import cast
from silo.demo.outcome import Played, build_report
from silo.demo.setting import Setting, load_the_stage, set_the_stage
from silo.errors import ConfigError, PeerError, UsageError
from silo.report import Report, render_html, render_json
from silo.storage import write_atomically

MARK, PREPARED, FINISHED = ".silo-demo", "prepared", "finished"
PAGE = "report.html"
PATIENCE = 10.0  # seconds in which the threads of an interrupted demo come to an end
Progress = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Options:
    """What a person may choose. ``rounds`` and ``epsilon`` replace the experiment's own; ``seed`` fixes splits and
    initial weights only."""

    out: Path
    experiment: Path | None = None
    data: Path | None = None
    policy: Path | None = None
    seed: int = 0
    rounds: int | None = None
    epsilon: float | None = None
    custody: str | None = None


def shipped_experiment() -> Path:
    """Return the heart example: in a checkout under ``examples/``, in an installed package beside this module."""
    here = Path(__file__).resolve()
    for place in (here.parent / "heart", here.parents[2] / "examples" / "heart"):
        if (place / "experiment.py").is_file():
            return place / "experiment.py"
    raise ConfigError("the heart example is missing", where=str(here.parent), fix="install the package again")


def run_demo(options: Options, progress: Progress) -> tuple[Report, Path]:
    """Run everything; return the report's facts and the path of the HTML file. ``progress`` is given each event."""
    with _scratch(options.out) as scratch:
        setting, experiment = _stage(scratch, options, progress, keep_people=False)
        report = _play(scratch, setting, experiment, progress)
        _finish(scratch, options.out, FINISHED)
    return report, options.out / PAGE


def prepare_demo(options: Options, progress: Progress) -> Setting:
    """Set the stage and stop before the run, so that people can try their policies on it; see :func:`resume_demo`."""
    with _scratch(options.out) as scratch:
        _stage(scratch, options, progress, keep_people=True)
        _finish(scratch, options.out, PREPARED)
    return load_the_stage(options.out)


def resume_demo(out: Path, progress: Progress) -> tuple[Report, Path]:
    """Run what :func:`prepare_demo` left in ``out``, as its people have changed it since.

    It plays on a copy, which replaces ``out`` when there is a report: if the run fails, nothing has changed.
    """
    mark = out / MARK
    if not mark.is_file() or mark.read_text() != PREPARED:
        raise UsageError(
            "there is no prepared demo that has not run", where=str(out), fix="make one: silo demo --prepare --out DIR"
        )
    with _scratch(out) as scratch:
        shutil.copytree(out, scratch, dirs_exist_ok=True)
        setting = load_the_stage(scratch)
        submission = setting.submission
        experiment = load_experiment_bytes(submission.bundle, submission.run.body.code_digest)
        report = _play(scratch, setting, _as_signed(experiment, submission.run.body), progress)
        _finish(scratch, out, FINISHED)
    return report, out / PAGE


def _stage(scratch: Path, options: Options, progress: Progress, *, keep_people: bool) -> tuple[Setting, Experiment]:
    path = options.experiment or shipped_experiment()
    experiment, code_digest = load_experiment(path)
    experiment = _overridden(experiment, options)
    extra = None
    if options.policy is not None:
        text = _read(options.policy)
        extra = parse_pack(text, options.policy.name), text
    model_size = _checked(experiment)
    progress({"event": "preparing"})
    setting = set_the_stage(
        scratch,
        cast(options.data),
        experiment,
        path.read_bytes(),
        code_digest=code_digest,
        model_size=model_size,
        seed=options.seed,
        extra_pack=extra,
        keep_people=keep_people,
    )
    return setting, experiment


def _play(scratch: Path, setting: Setting, experiment: Experiment, progress: Progress) -> Report:
    """Run the two apps on the stage, evaluate, and write the report into ``scratch``."""
    from silo.demo.baseline import run_baseline, union_auc

    started = utc_now()
    result = federate(setting, progress)
    silent = [name for name in setting.homes if name not in result["decisions"]]
    if silent:
        raise PeerError(
            "the silo did not answer its invitation", where=", ".join(silent), fix="can its home and keys be read?"
        )
    weights = open_release(setting, result)
    # From here on nothing is private: the records are public, and the report labels these numbers so.
    progress({"event": "baseline"})
    seed = setting.submission.run.body.model.seed
    sources = {name: source_of(setting.homes[name].data()[0], setting.homes[name].path) for name in result["members"]}
    baseline = run_baseline(experiment, sources, seed=seed)
    federated = union_auc(experiment, weights, sources, seed=seed)
    progress({"event": "report"})
    report = build_report(
        Played(
            setting=setting,
            experiment=experiment,
            result=result,
            baseline=baseline,
            federated_auc=federated,
            weights=weights,
            started=started,
            finished=utc_now(),
        )
    )
    write_atomically(scratch / "report.json", render_json(report).encode(), mode=0o644)
    write_atomically(scratch / PAGE, render_html(report).encode(), mode=0o644)
    return report


def federate(setting: Setting, progress: Progress, grid_of: Callable[..., Any] | None = None) -> dict[str, Any]:
    """Run the two Flower apps in the local engine while ``progress`` follows the run's events; return the result.

    ``grid_of(app, nodes)`` makes another grid than the engine's own, one that counts for instance.
    """
    from silo.flower import client_app, engine, server_app

    grid_of = grid_of or engine.LocalGrid

    nodes = {number: {"silo-home": str(home.path)} for number, home in enumerate(setting.homes.values(), start=101)}
    config = {"silo-home": str(setting.aggregator.path), "silo-run": setting.run}
    directory = setting.aggregator.run_directory(setting.run)
    follower = Follower(directory / "events.jsonl")
    failure: list[BaseException] = []

    def serve() -> None:
        try:
            engine.run_locally(server_app.app, grid_of(client_app.app, nodes), config)
        except BaseException as error:
            failure.append(error)
        finally:
            client_app.forget_agents()

    thread = threading.Thread(target=serve, name="silo-run")
    thread.start()
    while thread.is_alive():
        thread.join(0.05)
        for event in follower.new():
            progress(event)
    for event in follower.new():
        progress(event)
    if failure:
        raise failure[0]
    result: dict[str, Any] = json.loads((directory / RESULT).read_bytes())
    return result


def open_release(setting: Setting, result: dict[str, Any]) -> NDArray[np.float32]:
    """Open, as the researcher, what the silos sealed: the model, and every silo's digest of it, which must agree."""
    from silo.client.result import open_release as opened

    directory = setting.aggregator.run_directory(setting.run)
    return opened(directory, setting.submission, setting.researcher, result)


def _overridden(experiment: Experiment, options: Options) -> Experiment:
    """Return the experiment with the person's choices; a choice that makes no sense is the experiment's own error."""
    if options.epsilon is not None:
        privacy = dataclasses.replace(experiment.privacy, epsilon=options.epsilon)
        experiment = dataclasses.replace(experiment, privacy=privacy)
    if options.rounds is not None:
        experiment = dataclasses.replace(experiment, rounds=options.rounds)
    if options.custody is not None:
        threshold = experiment.encryption.threshold
        encryption = dataclasses.replace(
            experiment.encryption,
            custody=options.custody,  # type: ignore[arg-type]  # checked where it is built
            threshold=None if options.custody == "shared" else threshold,
        )
        experiment = dataclasses.replace(experiment, encryption=encryption)
    return experiment


def _checked(experiment: Experiment) -> int:
    """Return the model's size after checking that it can be trained privately at all."""
    from silo.data.schema import HEART
    from silo.training.check import check_experiment

    return check_experiment(experiment, HEART)


def _as_signed(experiment: Experiment, run: RunManifest) -> Experiment:
    """Return the experiment with what was overridden when the run was signed."""
    privacy = dataclasses.replace(experiment.privacy, epsilon=run.privacy.epsilon)
    encryption = dataclasses.replace(
        experiment.encryption, custody=run.encryption.custody, threshold=run.encryption.threshold
    )
    return dataclasses.replace(experiment, rounds=run.rounds, privacy=privacy, encryption=encryption)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"the policy cannot be read: {error.strerror}", where=str(path), fix="check the path"
        ) from error


@contextlib.contextmanager
def _scratch(out: Path) -> Iterator[Path]:
    """Give a directory beside ``out`` that is gone afterwards unless it was moved."""
    if out.exists() and not (out / MARK).exists():
        raise UsageError(
            "the output directory exists and is no earlier demo", where=str(out), fix="name another with --out"
        )
    made = [folder for folder in out.parents if not folder.exists()]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise ConfigError(
            f"cannot write there: {error.strerror}", where=str(out), fix="name another folder with --out"
        ) from error
    try:
        yield scratch
    finally:
        _remove(scratch)
        for folder in made if not out.exists() else ():
            with contextlib.suppress(OSError):  # somebody else put something there meanwhile
                folder.rmdir()


def _remove(scratch: Path) -> None:
    """Remove a directory into which threads of silos may still write: whoever interrupts a demo does not wait."""
    end = time.monotonic() + PATIENCE
    shutil.rmtree(scratch, ignore_errors=True)
    while scratch.exists() and time.monotonic() < end:
        time.sleep(0.1)
        shutil.rmtree(scratch, ignore_errors=True)


def _finish(scratch: Path, out: Path, state: str) -> None:
    """Put the whole directory in the place of an earlier demo."""
    (scratch / MARK).write_text(state)
    if out.exists():
        shutil.rmtree(out)
    scratch.rename(out)
