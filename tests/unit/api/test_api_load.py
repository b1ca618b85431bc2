"""An experiment file is executed from the bytes that were digested; every failure is one line with file and line."""

import hashlib
import sys
from pathlib import Path

import pytest

from silo.api import load_experiment, load_experiment_bytes
from silo.errors import ConfigError, VerificationFailed

GOOD = b"""from dataclasses import dataclass
from silo import Experiment, LocalDP

@dataclass
class Local:
    x: "int"

privacy = LocalDP(epsilon=3, delta=1e-4, clipping_norm=1, sample_rate=1, steps_per_round=1, expected_batch=9,
                  learning_rate=1)
experiment = Experiment(name="small", purpose="a-test", model=lambda: None, loss=lambda o, t: None,
                        tensors=lambda r: None, metrics={}, rounds=1, privacy=privacy)
"""


def write(path: Path, source: bytes) -> Path:
    file = path / "experiment.py"
    file.write_bytes(source)
    return file


def test_a_file_gives_its_experiment_and_the_digest_of_its_bytes(tmp_path: Path) -> None:
    experiment, digest = load_experiment(write(tmp_path, GOOD))
    assert experiment.name == "small"
    assert digest == "sha256:" + hashlib.sha256(GOOD).hexdigest()
    assert load_experiment_bytes(GOOD, digest).rounds == 1


def test_bytes_of_another_digest_are_not_executed(tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    source = GOOD + f"open({str(trace)!r}, 'w')\n".encode()
    with pytest.raises(VerificationFailed, match="not the ones that were agreed"):
        load_experiment_bytes(source, "sha256:" + hashlib.sha256(GOOD).hexdigest())
    assert not trace.exists()
    with pytest.raises(VerificationFailed):
        load_experiment_bytes(GOOD, "sha256:ü")


@pytest.mark.parametrize(
    ("source", "line", "says"),
    [
        (b"x = 1\ndef broken(:\n", 2, "not Python"),
        (b"x = 1\n\nraise ValueError('no')\n", 3, "ValueError: no"),
        (b"import no_such_module\n", 1, "ModuleNotFoundError"),
        (b"x = 1\nraise SystemExit(0)\n", 2, "SystemExit"),
        (GOOD.replace(b"epsilon=3", b"epsilon=-3"), 8, "epsilon is -3"),
        (GOOD.replace(b"rounds=1", b"rounds=0"), 10, "rounds is 0"),
    ],
)
def test_a_failure_names_file_and_line(tmp_path: Path, source: bytes, line: int, says: str) -> None:
    file = write(tmp_path, source)
    with pytest.raises(ConfigError, match=says) as caught:
        load_experiment(file)
    assert caught.value.where == f"{file}:{line}"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (b"", "defines no `experiment`"),
        (b"experiment = 3", "`experiment` is a int"),
        (b"x = '\xff'", "not Python"),
        (b"x = 1\0", "not Python"),
        (b"#" * (2 << 20), "larger than"),
        (b"x = " + b"-" * 200_000 + b"1", "not Python"),
    ],
    ids=["empty", "type", "utf-8", "null", "size", "depth"],
)
def test_what_is_no_experiment_is_refused(tmp_path: Path, source: bytes, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_experiment(write(tmp_path, source))


def test_a_missing_file_and_a_directory_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.py", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            load_experiment(path)


def test_an_experiment_replaces_no_module(tmp_path: Path) -> None:
    before = set(sys.modules)
    file = tmp_path / "json.py"
    file.write_bytes(GOOD)
    load_experiment(file)
    import json

    assert json.dumps([]) == "[]"
    assert all(name.startswith("silo_experiment_") for name in set(sys.modules) - before if "silo_exp" in name)


def test_a_failed_experiment_leaves_no_module(tmp_path: Path) -> None:
    before = {name for name in sys.modules if name.startswith("silo_experiment_")}
    with pytest.raises(ConfigError):
        load_experiment(write(tmp_path, b"raise ValueError"))
    assert {name for name in sys.modules if name.startswith("silo_experiment_")} == before
