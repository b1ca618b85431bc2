"""A short run of the coverage-guided fuzzer (``make fuzz`` is the long one), and that it would notice."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import wire

pytest.importorskip("atheris", reason="atheris has wheels for Linux on x86-64 only")
ROOT = Path(__file__).parents[3]
PLANTED = """
from tests.fuzz import wire
from silo_crypto.errors import WireError

def parser(data):
    if data[:2] == b"\\x01\\x02" and len(data) > 4:
        raise KeyError("planted")
    raise WireError("refused")

wire.targets = lambda: {"planted": (parser, b"\\x01\\x00abcdef")}
raise SystemExit(wire.main(["--seconds", "20", "--seed", "1"]))
"""


def run(folder, *arguments):
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_short_run_finds_nothing(tmp_path):
    done = run(tmp_path, "-m", "tests.fuzz.wire", "--seconds", "3")
    assert done.returncode == 0, done.stderr[-2000:]
    units = [line.split()[-1] for line in done.stderr.splitlines() if "number_of_executed_units" in line]
    assert int(units[0]) > 1000
    assert list(tmp_path.iterdir()) == []


def test_a_planted_fault_is_found_and_its_input_kept(tmp_path):
    done = run(tmp_path, "-c", PLANTED)
    assert done.returncode != 0
    assert "KeyError: 'planted'" in done.stdout + done.stderr
    (kept,) = tmp_path.glob("crash-*")
    assert kept.read_bytes()[1:3] == b"\x01\x02"


def test_every_target_takes_its_own_good_input():
    found = wire.targets()
    check = wire.one_input([parser for parser, _ in found.values()])
    for index, (parser, good) in enumerate(found.values()):
        parser(good)
        check(bytes([index]) + good)
    check(b"")
    with pytest.raises(AssertionError, match="accepted, but"):
        wire.same(b"one", b"another")
