"""Tries an experiment before anybody is asked: a whole run on made-up records, with every byte counted.

Invariant: nothing here has seen a silo's data. Silos, keys, policies, encryption and engine are those of any run; the
records are drawn from the schema's public ranges, so metrics and losses of a trial mean nothing and are not shown.
Fewer rounds are played than the experiment asks for, at the same epsilon; what is told of privacy is the whole's.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from silo.api import DistributedDP, Experiment, Numeric, Records, Schema
from silo.data.schema import HEART
from silo.data.table import Table
from silo.demo.hospitals import Hospital
from silo.demo.run import federate
from silo.demo.setting import EPSILON_CAP, set_the_stage
from silo.flower.engine import LocalGrid
from silo.home import DataSet
from silo.training.check import check_experiment, made_up
from silo.training.mechanism import plan_for

ROUNDS, RECORDS = 3, 120
PATIENTS = "silo-trial-patient"  # the made-up table's column of patients, if the experiment protects patients
PER_PATIENT = 2


@dataclass(frozen=True)
class Trial:
    """What a run of the whole experiment costs. Bytes are one silo's, as serialised for the wire, without TLS.

    ``seconds_*`` were measured here with ``silos`` silos on one machine; a network's delay comes on top of them.
    ``asked`` is what the run manifest will say.
    """

    parameters: int
    silos: int
    rounds: int
    rounds_played: int
    steps: int
    noise_multiplier: float
    accountant: str
    bytes_up_a_round: int
    bytes_down_a_round: int
    bytes_up: int
    bytes_down: int
    plain_bytes_up_a_round: int
    seconds_a_round: float
    seconds_before: float
    seconds: float
    asked: Mapping[str, Any]


def try_out(
    experiment: Experiment, bundle: bytes, digest: str, *, table: Table | None, silos: int, progress: Callable[..., Any]
) -> Trial:
    """Play the experiment's first rounds on made-up records and return what all of it costs.

    ``progress`` hears the run's events. Raises what a run would: :class:`~silo.errors.ConfigError` for the experiment's
    mistakes, :class:`~silo.errors.PolicyDenied` where not even the baseline pack permits it.
    """
    schema = HEART if table is None else table.schema_of()
    size = check_experiment(experiment, schema)
    plan = plan_for(experiment, size)
    privacy = experiment.privacy
    least = privacy.minimum_silos if isinstance(privacy, DistributedDP) else 3
    silos = max(silos, least)
    played = min(ROUNDS, experiment.rounds)
    short = dataclasses.replace(experiment, rounds=played)
    with tempfile.TemporaryDirectory(prefix="silo-trial-") as name:
        place = Path(name)
        hospitals = [_silo(f"silo-{number + 1}", place, experiment, table, schema) for number in range(silos)]
        setting = set_the_stage(place, hospitals, short, bundle, code_digest=digest, model_size=size, seed=0)
        grids: list[_Counting] = []

        def counting(app: Any, nodes: Mapping[int, Mapping[str, Any]]) -> LocalGrid:
            grids.append(_Counting(app, nodes))
            return grids[0]

        started = time.monotonic()
        result = federate(setting, progress, counting)
        whole = time.monotonic() - started
    (grid,) = grids
    body = setting.submission.run.body
    a_round = statistics.median(each["seconds"] for each in result["rounds"])
    before = max(0.0, whole - sum(each["seconds"] for each in result["rounds"]))
    up, down = grid.per_silo(grid.up, silos, played), grid.per_silo(grid.down, silos, played)
    rounds = experiment.rounds
    return Trial(
        parameters=size,
        silos=silos,
        rounds=rounds,
        rounds_played=played,
        steps=plan.steps,
        noise_multiplier=plan.noise_multiplier,
        accountant=body.privacy.accountant,
        bytes_up_a_round=up[0],
        bytes_down_a_round=down[0],
        bytes_up=up[1] + up[0] * rounds,
        bytes_down=down[1] + down[0] * rounds,
        plain_bytes_up_a_round=4 * size,
        seconds_a_round=a_round,
        seconds_before=before,
        seconds=before + a_round * rounds,
        asked={
            "code_digest": digest,
            "purpose": experiment.purpose,
            "rounds": rounds,
            "mechanism": privacy.mechanism,
            "epsilon": privacy.epsilon,
            "delta": privacy.delta,
            "unit": privacy.unit,
            "adjacency": privacy.adjacency,
            "custody": experiment.encryption.custody,
            "releases": list(experiment.releases),
        },
    )


class _Counting(LocalGrid):
    """The local engine, counting the bytes of every message by the round it belongs to; 0 is before and after."""

    def __init__(self, app: Any, nodes: Mapping[int, Mapping[str, Any]]) -> None:
        super().__init__(app, nodes)
        self.up: dict[int, int] = defaultdict(int)
        self.down: dict[int, int] = defaultdict(int)
        self._round: dict[str, int] = {}
        self._counting = threading.Lock()

    def carry(self, message: Any) -> Any:
        """Carry a message as the engine does, and count it."""
        from silo.flower.compat import through_the_wire
        from silo.flower.records import from_records

        copy, size = through_the_wire(message)
        asked = copy.metadata.reply_to_message_id
        with self._counting:
            if asked:
                self.up[self._round.get(asked, 0)] += size
            else:
                number = int(json.loads(from_records(copy.content).head).get("round", 0))
                self._round[copy.metadata.message_id] = number
                self.down[number] += size
        return copy

    @staticmethod
    def per_silo(counted: Mapping[int, int], silos: int, rounds: int) -> tuple[int, int]:
        """Return one silo's bytes (in a round, before and after all rounds)."""
        in_rounds = sum(size for number, size in counted.items() if number)
        return round(in_rounds / (silos * rounds)), round(counted.get(0, 0) / silos)


def _silo(name: str, place: Path, experiment: Experiment, table: Table | None, schema: Schema) -> Hospital:
    """Return a silo of the trial, with a table of made-up records written for it."""
    privacy = experiment.privacy
    by_patient = privacy.unit == "patient"
    path = place / f"{name}.csv"
    _write(path, made_up(schema, RECORDS), by_patient)
    dataset = DataSet(
        name="trial",
        population=name,
        source=str(path),
        categories=("health",),
        permitted_purposes=(experiment.purpose,),
        legal_basis="public-data",
        public=True,
        epsilon_cap=max(EPSILON_CAP, privacy.epsilon),
        delta=max(1e-3, privacy.delta),
        unit=privacy.unit,
        patients=PATIENTS if by_patient else None,
        table=table,
    )
    return Hospital(name, name, "ZZ", str(path), dataset=dataset)


def _write(path: Path, records: Records, by_patient: bool) -> None:
    names = records.schema.names
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*names, *([PATIENTS] if by_patient else [])])
        for row in range(len(records)):
            cells = [_cell(records, name, row) for name in names]
            writer.writerow([*cells, *([f"p{row // PER_PATIENT}"] if by_patient else [])])


def _cell(records: Records, name: str, row: int) -> str:
    value = records[name][row].item()
    if not isinstance(records.schema[name], Numeric):
        return str(value)
    return "" if np.isnan(value) else repr(value)
