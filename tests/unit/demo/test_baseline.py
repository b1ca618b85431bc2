"""The baselines are strong, and what the federation reaches beside them is measured on the same records."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from silo.api import load_experiment
from silo.data import HEART, HOSPITALS
from silo.demo.baseline import open_all, run_baseline, train_plain, union_auc
from silo.errors import ConfigError
from silo.training.accounting import make_plan
from silo.training.check import check_experiment
from silo.training.model import build_model, flatten
from silo.training.trainer import LocalTrainer

EXPERIMENT, _ = load_experiment(Path(__file__).parents[3] / "examples" / "heart" / "experiment.py")
SOURCES = {name: f"uci-heart:{name}" for name in HOSPITALS}


def test_pooled_training_converges_to_what_scikit_learn_finds() -> None:
    parts = open_all(EXPERIMENT, SOURCES, seed=0)
    x = np.concatenate([part.train[0].numpy() for part in parts.values()])
    y = np.concatenate([part.train[1].numpy() for part in parts.values()])
    # The same penalty on every weight: a column of ones stands for the bias.
    padded = np.hstack([x, np.ones((len(x), 1))])
    theirs = LogisticRegression(C=1.0, fit_intercept=False, max_iter=5000, tol=1e-8).fit(padded, y)
    pooled = run_baseline(EXPERIMENT, SOURCES, seed=0)
    tests = np.concatenate([part.test[0].numpy() for part in parts.values()])
    labels = np.concatenate([part.test[1].numpy() for part in parts.values()])
    outputs = theirs.decision_function(np.hstack([tests, np.ones((len(tests), 1))]))
    assert pooled.pooled == pytest.approx(roc_auc_score(labels, outputs), abs=1e-3)


def test_weights_do_not_depend_on_where_training_starts() -> None:
    train = open_all(EXPERIMENT, SOURCES, seed=0)["cleveland"].train
    first, second = (train_plain(EXPERIMENT, *train, seed=seed) for seed in (0, 1))
    np.testing.assert_allclose(first, second, atol=5e-3)


def test_pooling_beats_every_hospital_alone() -> None:
    found = run_baseline(EXPERIMENT, SOURCES, seed=0)
    assert set(found.alone) == set(HOSPITALS)
    assert found.pooled > max(found.alone.values())
    assert found.silo_only == pytest.approx(np.mean(list(found.alone.values())))
    assert found == run_baseline(EXPERIMENT, SOURCES, seed=0)


def test_federated_training_at_epsilon_3_is_within_003_of_pooled_over_five_seeds() -> None:
    plan = make_plan(EXPERIMENT.privacy, EXPERIMENT.rounds, check_experiment(EXPERIMENT, HEART))
    assert (plan.epsilon, plan.delta) == (3.0, 1e-4)
    gaps = []
    for seed in range(5):
        parts = open_all(EXPERIMENT, SOURCES, seed=seed)
        trainers = [LocalTrainer(EXPERIMENT, plan, *part.train, seed=seed) for part in parts.values()]
        weights = flatten(build_model(EXPERIMENT, seed))
        for _ in range(EXPERIMENT.rounds):
            updates = [trainer.run(weights).vector for trainer in trainers]
            assert max(abs(update).max() for update in updates) < EXPERIMENT.encryption.value_bound
            weights = weights + np.mean(updates, axis=0, dtype=np.float32)
        assert all(trainer.epsilon <= 3.0 for trainer in trainers)
        gaps.append(
            run_baseline(EXPERIMENT, SOURCES, seed=seed).pooled - union_auc(EXPERIMENT, weights, SOURCES, seed=seed)
        )
    assert np.mean(gaps) < 0.03


def test_one_class_has_no_auc(tmp_path: Path) -> None:
    lines = (Path(__file__).parents[3] / "silo/data/uci_heart/cleveland.csv").read_text().splitlines()
    healthy = [line for line in lines[1:] if line.endswith(",0")]
    (tmp_path / "one.csv").write_text("\n".join([lines[0], *healthy]) + "\n")
    with pytest.raises(ConfigError, match="one class only"):
        run_baseline(EXPERIMENT, {"one": str(tmp_path / "one.csv")}, seed=0)
