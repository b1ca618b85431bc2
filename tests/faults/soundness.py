"""What holds after every fault, of budget, log and model."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

import numpy as np

from silo.submission import Submission
from tests.e2e.deployment import Deployment


def assert_sound(
    deployment: Deployment, submission: Submission, state: dict[str, Any], *, missing: Collection[str]
) -> dict[str, Any]:
    """Assert it of a finished run, and return its result. ``missing`` may have missed rounds, or its end.

    Budget: each silo was charged once for each round it took part in, and for at most one that was lost with a process.
    Log: what a silo logged as uploaded was charged; the aggregator has added nothing else. Model: every silo sealed the
    same, and it is finite.
    """
    run, steps = submission.run.body.run, submission.run.body.privacy.steps_per_round
    assert state["state"] == "finished", state.get("failure")
    result = json.loads((deployment.aggregator.run_directory(run) / "result.json").read_bytes())
    assert np.isfinite(deployment.model(submission)).all()
    assert set(deployment.names) - set(missing) <= set(result["silos"])
    for name in deployment.names:
        charged = deployment.charged(name, run)
        rounds = [number for number, _ in charged]
        assert rounds == sorted(set(rounds)), "a round was charged twice"
        assert {each for _, each in charged} <= {steps}
        took_part = [each["round"] for each in result["rounds"] if name in each["participants"]]
        assert set(took_part) <= set(rounds), "an upload was added that was never charged"
        if name not in missing:
            assert len(took_part) >= submission.run.body.rounds - 1
        ours = [each["digest"] for each in deployment.logged(name, run, "upload")]
        theirs = [each["digest"] for each in deployment.logged("aggregator", run, "upload") if each["silo"] == name]
        assert len(set(theirs)) == len(theirs) == len(took_part)
        assert set(theirs) <= set(ours), "the aggregator added what the silo did not log"
        assert len(ours) <= len(rounds), "more left than was charged"
    return dict(result)
