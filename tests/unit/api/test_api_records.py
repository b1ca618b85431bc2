"""Records hide their values and make features from one record and the public schema alone."""

import numpy as np
import pytest

from silo.api import Categorical, Numeric, Records, Schema
from silo.errors import ConfigError

SCHEMA = Schema("test", (Numeric("age", 20, 60, "years"), Categorical("sex", ("F", "M"))))


def records() -> Records:
    return Records(SCHEMA, {"age": np.array([20, 40, 60, 90, np.nan]), "sex": np.array(["F", "M", "", "X", "M"])})


def test_features_scale_by_the_public_range_and_flag_what_is_missing() -> None:
    features = records().features()
    assert features.dtype == np.float32
    # age, age missing, sex F, sex M
    expected = [[-1, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 1]]
    np.testing.assert_array_equal(features, np.array(expected, dtype=np.float32))


def test_features_keep_the_order_asked_for() -> None:
    np.testing.assert_array_equal(records().features(["sex", "age"]), records().features()[:, [2, 3, 0, 1]])


def test_a_records_features_do_not_depend_on_the_others() -> None:
    rows = np.array([3, 1])
    np.testing.assert_array_equal(records().take(rows).features(), records().features()[rows])


def test_no_rows_give_no_features_but_the_same_width() -> None:
    assert records().take(np.array([], dtype=np.int64)).features().shape == (0, 4)


def test_repr_shows_no_value_and_no_count() -> None:
    assert repr(records()) == "Records('test', <hidden>)"


def test_columns_cannot_be_written_and_numbers_are_numbers() -> None:
    with pytest.raises(ValueError, match="read-only"):
        records()["age"][0] = 3
    assert records().numbers("age")[1] == 40
    with pytest.raises(ConfigError, match="categories"):
        records().numbers("sex")


def test_wrong_columns_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"no column 'bmi'.*age, sex"):
        records()["bmi"]
    with pytest.raises(ConfigError, match="missing: sex"):
        Records(SCHEMA, {"age": np.zeros(2)})
    with pytest.raises(ConfigError, match="differ in length"):
        Records(SCHEMA, {"age": np.zeros(2), "sex": np.array(["F"])})
    with pytest.raises(ConfigError, match="1-D"):
        Records(SCHEMA, {"age": np.zeros((2, 1)), "sex": np.array(["F", "M"])})
    with pytest.raises(ConfigError, match="no columns"):
        records().features([])


def test_a_schema_needs_a_real_range_and_real_categories() -> None:
    with pytest.raises(ConfigError, match="public range"):
        Numeric("age", 60, 20)
    with pytest.raises(ConfigError, match="public range"):
        Numeric("age", 0, float("nan"))
    with pytest.raises(ConfigError, match="distinct"):
        Categorical("sex", ("F", "F"))
