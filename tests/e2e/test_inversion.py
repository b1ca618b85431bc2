"""The attack of examples/inversion reads a digit from a plain update, and nothing from what the aggregator gets."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

ATTACK = Path(__file__).parents[2] / "examples" / "inversion" / "attack.py"


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    out = tmp_path_factory.mktemp("inversion")
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, ATTACK, "--out", out, "--json"], capture_output=True, text=True, timeout=120, check=True
    )
    rows = {(row["model"], row["given"]): row for row in json.loads(done.stdout)["rows"]}
    return {"rows": rows, "seconds": time.monotonic() - began, "picture": (out / "inversion.png").read_bytes()}


def rows(told: dict[str, object], given: str) -> list[dict[str, float]]:
    found = [row for (_, what), row in told["rows"].items() if what == given]
    assert [row["digits"] for row in found] == [10, 3]  # by division, by search
    return found


def test_every_digit_is_read_from_a_plain_update(told: dict[str, object]) -> None:
    for row in rows(told, "plain update"):
        assert row["recovered"] == row["digits"]
        assert row["lowest"] > 0.99
        assert row["similarity"] > 0.99


@pytest.mark.parametrize("given", ["encrypted upload", "private update"])
def test_no_digit_is_read_from_what_is_protected(told: dict[str, object], given: str) -> None:
    for row in rows(told, given):
        assert row["recovered"] == 0
        # Unrelated pictures of 64 pixels correlate by 0.125 (standard deviation), their mean over n by less.
        assert abs(row["correlation"]) < 5 * 0.125 / row["digits"] ** 0.5
        assert row["similarity"] < 0.5


def test_it_is_quick_and_leaves_a_picture(told: dict[str, object]) -> None:
    assert told["seconds"] < 30
    assert told["picture"].startswith(b"\x89PNG")
