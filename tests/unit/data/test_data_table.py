"""A schema is what people wrote: ranges and categories, checked field by field, from TOML, YAML or words."""

from __future__ import annotations

from pathlib import Path

import pytest

from silo.api import Categorical, Numeric
from silo.data.table import read_table, table_from_columns
from silo.errors import ConfigError

TOML = """
name = "diabetes"
[[columns]]
name = "age"
range = [18, 90]
unit = "years"
valid = [0, 130]
[[columns]]
name = "sex"
values = ["female", "male"]
"""
YAML = """
name: diabetes
columns:
  - {name: age, range: [18, 90], unit: years, valid: [0, 130]}
  - {name: sex, values: [female, male]}
"""


@pytest.mark.parametrize(("file", "text"), [("s.toml", TOML), ("s.yaml", YAML)])
def test_a_schema_is_read_from_toml_and_yaml(tmp_path: Path, file: str, text: str) -> None:
    (tmp_path / file).write_text(text)
    schema = read_table(tmp_path / file).schema_of()
    assert schema.name == "diabetes"
    assert schema.columns == (
        Numeric("age", 18, 90, "years", valid_low=0, valid_high=130),
        Categorical("sex", ("female", "male")),
    )


def test_a_schema_is_read_from_words() -> None:
    schema = table_from_columns("t", ["age=18..90", "bmi=10.5..60.25", "sex=female| male", "temp=-5..45"]).schema_of()
    assert schema.columns == (
        Numeric("age", 18, 90),
        Numeric("bmi", 10.5, 60.25),
        Categorical("sex", ("female", "male")),
        Numeric("temp", -5, 45),
    )


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("name = 'x'\ncolumns = []", "columns"),
        (TOML.replace("range = [18, 90]", "range = [90, 18]"), "the public range of 'age'"),
        (TOML.replace("range = [18, 90]", "range = [18]"), "columns[0].range"),
        (TOML.replace("range = [18, 90]", "range = [18, inf]"), "columns[0].range"),
        (TOML.replace('values = ["female", "male"]', 'values = ["female", "female"]'), "categories of 'sex'"),
        (TOML.replace('values = ["female", "male"]', ""), "needs a public range or its values"),
        (TOML.replace('unit = "years"', 'values = ["x"]'), "needs a public range or its values"),
        (TOML.replace('name = "sex"', 'name = "age"'), "twice"),
        (TOML.replace("unit", "einheit"), "columns[0].einheit"),
        ("name = ", "not TOML"),
    ],
)
def test_a_schema_that_is_wrong_is_refused_where(tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_table(tmp_path / "s.toml")
    assert named in str(caught.value)
    assert "s.toml" in str(caught.value)


@pytest.mark.parametrize("word", ["age", "=1..2", "age=", "age=low..high", "sex=a|a"])
def test_a_word_that_describes_no_column_is_refused(word: str) -> None:
    with pytest.raises(ConfigError):
        table_from_columns("t", [word])


def test_a_yaml_alias_and_a_file_that_is_not_there_are_refused(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("name: &a x\ncolumns: *a\n")
    with pytest.raises(ConfigError, match=r"s\.yaml"):
        read_table(tmp_path / "s.yaml")
    with pytest.raises(ConfigError, match="cannot read"):
        read_table(tmp_path / "none.toml")
