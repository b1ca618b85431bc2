"""Counts are coarsened, metrics are noised, and the noise is that of the mechanism the ledger is charged for."""

import numpy as np
import pytest
from silo_crypto.randomness import Csprng

from silo.agent.disclosure import BINS, CELLS, ROUNDINGS, candidates, noise_multiplier, noised_records, rounded
from silo.home import DataSet


def dataset(**changes: object) -> DataSet:
    body = {
        "name": "heart",
        "population": "people",
        "source": "uci-heart:cleveland",
        "categories": ["health"],
        "permitted_purposes": ["research"],
        "epsilon_cap": 5.0,
        "delta": 1e-4,
    }
    return DataSet.model_validate(body | changes)


def test_the_exact_count_is_asked_for_first_and_then_coarser_ones() -> None:
    assert [each.rounding for each in candidates("records", dataset())] == list(ROUNDINGS)
    assert [each.epsilon for each in candidates("records", dataset(metrics_epsilon=1.0))] == [0.0] * len(ROUNDINGS)


def test_metrics_are_noised_only_at_a_price_that_the_silo_named() -> None:
    assert [each.epsilon for each in candidates("metrics", dataset())] == [0.0]
    assert [each.epsilon for each in candidates("metrics", dataset(metrics_epsilon=0.5))] == [0.0, 0.5]
    # One patient may be many records of the histogram.
    assert [
        each.epsilon for each in candidates("metrics", dataset(metrics_epsilon=0.5, unit="patient", patients="id"))
    ] == [0.0]
    assert len(list(candidates("model", dataset(metrics_epsilon=0.5)))) == 1


@pytest.mark.parametrize(("count", "step", "is_"), [(0, 10, 0), (4, 10, 0), (5, 10, 10), (14, 10, 10), (7, 1, 7)])
def test_counts_are_rounded_to_the_nearest_multiple(count: int, step: int, is_: int) -> None:
    assert rounded(count, step) == is_


def test_with_little_noise_the_made_up_records_have_the_metrics_of_the_real_ones() -> None:
    from sklearn.metrics import roc_auc_score

    generator = np.random.default_rng(0)
    labels = (generator.random(20_000) < 0.3).astype(np.float64)
    outputs = generator.normal(labels * 1.5, 1.0)
    made_up, classes = noised_records(outputs, labels, 0.01, Csprng())
    assert len(made_up) == len(outputs)
    assert classes.sum() == labels.sum()
    assert abs(roc_auc_score(classes, made_up) - roc_auc_score(labels, outputs)) < 0.01


def test_the_noise_is_that_of_the_mechanism_which_is_charged() -> None:
    """Counts far from 0: each cell's deviation is the multiplier, and a record changes one cell by one."""
    outputs = np.repeat((np.arange(BINS) + 0.5) / BINS, 1000)
    outputs = np.log(outputs / (1 - outputs))
    multiplier = noise_multiplier(0.5, 1e-6)
    spread = []
    for _ in range(60):
        found, _ = noised_records(outputs, np.ones(len(outputs)), multiplier, Csprng())
        cells = np.bincount(np.rint((1 / (1 + np.exp(-found))) * BINS - 0.5).astype(int), minlength=BINS)[:BINS]
        spread.append(cells)
    # The first and last bins also hold the other class's noise, which is cut off at 0.
    deviations = np.array(spread)[:, 1:-1].astype(float) - 1000
    variance = float((deviations**2).mean())
    assert 0.75 * multiplier**2 < variance < 2.0 * multiplier**2  # 840 draws; the other class adds up to 0.7


def test_scores_that_are_no_numbers_and_no_records_at_all_are_not_told_apart_by_an_error() -> None:
    odd = np.array([np.nan, np.inf, -np.inf, 1e300])
    for outputs in (odd, np.zeros(0)):
        found, labels = noised_records(outputs, np.ones(len(outputs)), 5.0, Csprng())
        assert np.isfinite(found).all()
        assert len(found) == len(labels) < 40 * CELLS


def test_the_multiplier_costs_no_more_than_was_asked() -> None:
    from silo.ledger.mechanism import Mechanism, epsilon_of_run
    from silo.training.accounting import effective_multiplier

    multiplier = noise_multiplier(0.5, 1e-6)
    priced = epsilon_of_run(Mechanism(effective_multiplier(multiplier, CELLS)), 1, 1e-6)
    assert 0.49 < priced <= 0.5
