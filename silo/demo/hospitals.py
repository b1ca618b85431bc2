"""The cast of the demo: four hospitals whose records are real and public, and a fifth that is made up and refuses."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from silo.api.records import Numeric
from silo.data import HOSPITALS
from silo.data.schema import HEART
from silo.home import DataSet


@dataclass(frozen=True)
class Hospital:
    """One silo of the demo. ``source`` as in ``data.toml``; ``own_pack`` is its own policy, YAML, or empty;
    ``dataset`` stands for the heart records' terms where they are other records."""

    name: str
    display_name: str
    jurisdiction: str
    source: str
    fictional: bool = False
    own_pack: str = ""
    dataset: DataSet | None = None


REFUSER = "st-elsewhere"
MADE_UP = "data/made-up.csv"  # relative to the silo's home, so that it moves with it

OWN_PACK = """\
# The own policy of a made-up hospital, on top of the consortium's baseline: it can only tighten.
id: st-elsewhere-ethics
title: What the ethics board of St. Elsewhere (fictional) asks of a study
version: 1.0.0
jurisdiction: fictional
notice: Made up for the demo. A technical template, not legal advice.
effective_from: "2025-01-01T00:00:00Z"
effective_until: "2035-01-01T00:00:00Z"
rules:
  - id: whole-patient
    title: Privacy is promised to whole patients
    moments: [accept, round]
    expr: run.unit == "patient"
    severity: critical
    waivable: false
    cite:
      instrument: NIST SP 800-226
      article: "section 2.3, the unit of privacy"
      url: "https://csrc.nist.gov/pubs/sp/800/226/final"
    message: >-
      The run protects one record, and a patient of this hospital may have several.
    remediation: >-
      Declare a patient key and ask for unit "patient", or run without this hospital.
    tests:
      - {name: a patient, expect: pass, facts: {run.unit: patient}}
      - {name: a record, expect: fail, facts: {run.unit: record}}
"""

_PLACES = {
    "cleveland": ("Cleveland Clinic Foundation", "US"),
    "hungary": ("Hungarian Institute of Cardiology, Budapest", "HU"),
    "switzerland": ("University Hospitals Zurich and Basel", "CH"),
    "va-long-beach": ("V.A. Medical Center, Long Beach", "US"),
}


def cast(data: Path | None) -> tuple[Hospital, ...]:
    """Return the five hospitals. ``data`` is a folder that holds other CSV files of the four, by name."""
    real = tuple(
        Hospital(
            name,
            *_PLACES[name],
            source=f"uci-heart:{name}" if data is None else str(data.absolute() / f"{name}.csv"),
        )
        for name in sorted(HOSPITALS)
    )
    return (*real, Hospital(REFUSER, "St. Elsewhere (fictional)", "ZZ", MADE_UP, fictional=True, own_pack=OWN_PACK))


def write_made_up_records(home: Path) -> None:
    """Write forty rows that are nobody's: values stepped evenly through the schema's public ranges."""
    path = home / MADE_UP
    path.parent.mkdir(mode=0o700)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(HEART.names)
        for row in range(40):
            writer.writerow(
                [
                    f"{column.low + (column.high - column.low) * ((row * 7 + index) % 40) / 40:.1f}"
                    if isinstance(column, Numeric)
                    else column.values[(row + index) % len(column.values)]
                    for index, column in enumerate(HEART.columns)
                ]
            )
