"""The public schemas Silo knows.

Ranges are those of clinical practice, from the sources named beside them, never minima, maxima or means of the
records: those would be statistics of private data and would need privacy budget.
"""

from __future__ import annotations

from dataclasses import dataclass

from silo.api.records import Categorical, Numeric, Schema
from silo.errors import ConfigError

HEART = Schema(
    "uci-heart",
    (
        # Adults of the ages at which coronary angiography is usual; risk charts (SCORE2, Eur Heart J 2021; 42:2439) run
        # from 40 to 69, older patients' from 70.
        Numeric("age", 30, 80, "years", valid_low=0, valid_high=130),
        Categorical("sex", ("Female", "Male")),
        # Chest pain in the classes of Diamond and Forrester, N Engl J Med 1979; 300:1350.
        Categorical("cp", ("typical angina", "atypical angina", "non-anginal", "asymptomatic")),
        # Resting systolic pressure: 2018 ESC/ESH guidelines (Eur Heart J 2018; 39:3021), optimal below 120, grade 3
        # hypertension from 180; below 80 is shock. Under 40 or over 350 is not a reading.
        Numeric("trestbps", 80, 200, "mm Hg", valid_low=40, valid_high=350),
        # Serum cholesterol: NCEP ATP III (JAMA 2001; 285:2486), desirable below 200, high from 240; severe familial
        # hypercholesterolaemia lies above 400. Nobody's is under 20: 0 is a cell that was not filled in.
        Numeric("chol", 100, 400, "mg/dl", valid_low=20, valid_high=2000),
        Categorical("fbs", ("FALSE", "TRUE")),  # fasting glucose above 120 mg/dl
        Categorical("restecg", ("normal", "st-t abnormality", "lv hypertrophy")),
        # Maximal heart rate in exercise: 208 - 0.7 age, standard deviation 10 (Tanaka et al., J Am Coll Cardiol 2001;
        # 37:153), so 200 at age 20 at most; 60 is a resting rate.
        Numeric("thalch", 60, 200, "1/min", valid_low=20, valid_high=300),
        Categorical("exang", ("FALSE", "TRUE")),
        # ST depression in exercise: ACC/AHA exercise testing guidelines (Circulation 2002; 106:1883), abnormal from
        # 1 mm, marked from 2 mm; negative is elevation, which counts as no depression.
        Numeric("oldpeak", 0, 4, "mm", valid_low=-20, valid_high=20),
        Categorical("slope", ("upsloping", "flat", "downsloping")),
        Numeric("ca", 0, 3, "vessels", valid_low=0, valid_high=3),  # coloured by fluoroscopy, of three
        Categorical("thal", ("normal", "fixed defect", "reversable defect")),  # spelt as in the source
        # Disease: 0 none (no narrowing above 50 %), 1 to 4 some.
        Numeric("num", 0, 4, "grade", valid_low=0, valid_high=4),
    ),
)

SCHEMAS: tuple[Schema, ...] = (HEART,)


@dataclass(frozen=True)
class Key(Categorical):
    """A column of any text that says whose a row is; loading takes it off again, before anybody sees the records."""

    values: tuple[str, ...] = ("any text",)


def with_key(schema: Schema, name: str) -> Schema:
    """Return the schema with a last column ``name`` of keys; raise :class:`ConfigError` if it is one of its own."""
    if not name or name in schema.names:
        raise ConfigError(
            f"column {name!r} cannot say whose a row is: the schema {schema.name!r} has it as data",
            where="data.toml, patients",
            fix="name the column that identifies the patient",
        )
    return Schema(schema.name, (*schema.columns, Key(name)))


def accepts(column: Categorical, cell: str) -> bool:
    """Tell whether a column may hold a text."""
    return isinstance(column, Key) or cell in column.values
