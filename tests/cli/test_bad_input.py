"""Whatever is wrong with what `silo demo` is given: one line, a status of its own, no traceback, nothing is left."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest

from silo.cli import main
from silo.data import HOSPITALS
from tests.cli.conftest import EXPERIMENT, Command, Said

OUT = "nobody/made/this"  # none of these folders may be left


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in an empty folder, and see it as it was when the command has failed."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not (tmp_path / "nobody").exists()
    assert not (tmp_path / "silo-demo").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def refused(said: Said) -> str:
    """Return the one line that begins `silo: `, which is the last on stderr; stdout is empty."""
    *talk, line = said.err.splitlines()
    assert line.startswith("silo: ")
    assert not [each for each in talk if each.startswith("silo: ")]
    assert said.out == ""
    return line


# Options ------------------------------------------------------------------------------------------------------------

OPTIONS = {
    "an unknown option": (["--rond", "3"], 2, "No such option"),
    "a word where a number is due": (["--seed", "many"], 2, "--seed"),
    "a negative seed": (["--seed", "-1"], 2, "--seed"),
    "a seed that JSON cannot say": (["--seed", str(2**53)], 2, "--seed"),
    "an option without its value": (["--rounds"], 2, "--rounds"),
    "an argument too many": (["now"], 2, "now"),
    "no rounds": (["--rounds", "0"], 3, "rounds is 0"),
    "too many rounds": (["--rounds", "1000000"], 3, "rounds"),
    "a negative epsilon": (["--epsilon", "-1"], 3, "epsilon is -1"),
    "an epsilon of zero": (["--epsilon", "0"], 3, "epsilon is 0"),
    "an epsilon that is no number": (["--epsilon", "nan"], 3, "epsilon is nan"),
    "an epsilon without end": (["--epsilon", "inf"], 3, "epsilon is inf"),
    "an epsilon that promises nothing": (["--epsilon", "1000"], 3, "at most 20"),
    "an unknown custody": (["--custody", "nobody"], 3, "custody is 'nobody'"),
    "other options when resuming": (["--resume", "x", "--epsilon", "1"], 2, "--resume"),
    "nothing to resume": (["--resume", "x"], 2, "no prepared demo"),
}


@pytest.mark.parametrize("what", OPTIONS)
def test_options(silo: Command, what: str) -> None:
    words, status, named = OPTIONS[what]
    assert named in refused(silo("demo", "--out", OUT, *words, status=status))


def test_debug_shows_the_traceback_and_keeps_line_and_status(capsys: pytest.CaptureFixture[str]) -> None:
    """Before the command or at the end of the line, which is where a person adds it."""
    for words in (["--debug", "demo", "--epsilon", "-1"], ["demo", "--epsilon", "-1", "--debug"]):
        with pytest.raises(SystemExit) as stopped:
            main(words)
        err = capsys.readouterr().err
        assert stopped.value.code == 3
        assert "Traceback (most recent call last)" in err
        assert err.splitlines()[-1].startswith("silo: LocalDP: epsilon is -1.0")


# The folder that the demo writes ------------------------------------------------------------------------------------


def test_folder_that_is_no_demo(silo: Command, here: Path) -> None:
    (here / "thesis").mkdir()
    (here / "thesis" / "chapter1.txt").write_text("years of work")
    line = refused(silo("demo", "--out", "thesis", status=2))
    assert "thesis" in line
    assert "no earlier demo" in line
    assert (here / "thesis" / "chapter1.txt").read_text() == "years of work"


def test_file_in_the_place_of_the_folder(silo: Command, here: Path) -> None:
    (here / "out").write_text("a file")
    assert "no earlier demo" in refused(silo("demo", "--out", "out", status=2))
    assert "cannot write there" in refused(silo("demo", "--out", "out/demo", status=3))
    assert (here / "out").read_text() == "a file"


def test_folder_that_cannot_be_made(silo: Command) -> None:
    assert "cannot write there" in refused(silo("demo", "--out", "/proc/silo/demo", status=3))


# Data ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def data(here: Path) -> Path:
    """A copy of the shipped files, to be spoilt."""
    folder = here / "data"
    folder.mkdir()
    for name in HOSPITALS:
        shutil.copyfile(str(resources.files("silo.data") / "uci_heart" / f"{name}.csv"), folder / f"{name}.csv")
    return folder


def spoil_header(text: str) -> str:
    return text.replace("chol", "cholesterol", 1)


def spoil_cell(text: str) -> str:
    lines = text.splitlines()
    cells = lines[5].split(",")
    cells[1] = "sixty-three"
    return "\n".join([*lines[:5], ",".join(cells), *lines[6:]])


def spoil_row(text: str) -> str:
    return text + "1,2,3\n"


def spoil_all(text: str) -> str:
    return ""


DATA = {
    spoil_header: "columns of the schema 'uci-heart' are missing: chol",
    spoil_cell: "row 6, column 'age': not a number",
    spoil_row: "3 cells under",
    spoil_all: "the data is empty",
}


@pytest.mark.parametrize("spoil", DATA, ids=lambda spoil: spoil.__name__)
def test_data_that_cannot_be_used(silo: Command, data: Path, spoil: object) -> None:
    path = data / "hungary.csv"
    path.write_text(spoil(path.read_text()))
    line = refused(silo("demo", "--out", OUT, "--data", data, status=3))
    assert "hungary.csv" in line
    assert DATA[spoil] in line
    assert "sixty-three" not in line  # a message travels further than a record may


def test_data_that_cannot_be_read(silo: Command, data: Path) -> None:
    assert "cannot be read" in refused(silo("demo", "--out", OUT, "--data", "nowhere", status=3))
    (data / "switzerland.csv").unlink()
    assert "switzerland.csv" in refused(silo("demo", "--out", OUT, "--data", data, status=3))
    (data / "switzerland.csv").mkdir()
    assert "holds no table" in refused(silo("demo", "--out", OUT, "--data", data, status=3))
    (data / "hungary.csv").write_bytes(b"\xff\xfe\x00")
    assert "UTF-8" in refused(silo("demo", "--out", OUT, "--data", data, status=3))


# Policies -----------------------------------------------------------------------------------------------------------

PACK = """\
id: mine
title: Mine
version: 1.0.0
jurisdiction: EU
notice: A technical template, not legal advice.
effective_from: "2025-01-01T00:00:00Z"
effective_until: "2035-01-01T00:00:00Z"
rules:
  - id: never
    title: Never
    moments: [accept]
    expr: run.epsilon < 0.001
    severity: critical
    waivable: false
    cite: {instrument: a test, article: "1", url: "https://example.org/"}
    message: Too much is asked.
    remediation: Ask for less.
"""
PACKS = {
    "no YAML": ("rules: [", "mine.yaml"),
    "no pack": ("- just\n- a list\n", "mine.yaml"),
    "not text": ("\x00\x01", "mine.yaml"),
    "empty": ("", "mine.yaml"),
    "an unknown field": (PACK + "color: red\n", "color"),
    "no CEL": (PACK.replace("run.epsilon < 0.001", "run.epsilon <"), "never"),
    "an unknown fact": (PACK.replace("run.epsilon", "run.magic"), "magic"),
    "no Boolean": (PACK.replace("run.epsilon < 0.001", "run.epsilon"), "never"),
    "a rule twice": (PACK + PACK[PACK.index("  - id: never") :], "never"),
}


@pytest.mark.parametrize("what", PACKS)
def test_policy_that_does_not_parse(silo: Command, here: Path, what: str) -> None:
    text, named = PACKS[what]
    (here / "mine.yaml").write_text(text)
    line = refused(silo("demo", "--out", OUT, "--policy", "mine.yaml", status=3))
    assert "mine.yaml" in line
    assert named in line


def test_policy_that_cannot_be_read(silo: Command) -> None:
    assert "nowhere.yaml" in refused(silo("demo", "--out", OUT, "--policy", "nowhere.yaml", status=3))
    assert "cannot be read" in refused(silo("demo", "--out", OUT, "--policy", ".", status=3))


def test_policy_that_everybody_adds_and_that_denies(silo: Command, here: Path) -> None:
    """A policy's no is no mistake of the person's: a status of its own, and the rule's own words."""
    (here / "mine.yaml").write_text(PACK)
    line = refused(silo("demo", "--out", OUT, "--policy", "mine.yaml", status=4))
    assert "0 of 5 silos permit the run" in line
    assert "Too much is asked. [mine/never]" in line


# Experiments --------------------------------------------------------------------------------------------------------

LINEAR = "torch.nn.Sequential(torch.nn.Linear(31, 1), torch.nn.Flatten(0))"
LOSS = 'torch.nn.functional.binary_cross_entropy_with_logits(outputs, targets, reduction="none")'
METRIC = "float(roc_auc_score(labels, scores))"

EXPERIMENTS = {
    "a negative epsilon": ({"epsilon=3": "epsilon=-3"}, "epsilon is -3"),
    "a syntax error": ({"def loss(": "def loss("[:-1]}, "not Python"),
    "no experiment": ({"experiment = Experiment(": "other = Experiment("}, "defines no `experiment`"),
    "an exception": ({"USED = [": "raise RuntimeError('so it goes')\nUSED = ["}, "RuntimeError: so it goes"),
    "an exit": ({"USED = [": "raise SystemExit(0)\nUSED = ["}, "SystemExit"),
    "an unknown field": ({"rounds=10": "epochs=10"}, "epochs"),
    "BatchNorm": (
        {LINEAR: LINEAR.replace("torch.nn.Linear(31, 1)", "torch.nn.BatchNorm1d(31), torch.nn.Linear(31, 1)")},
        "GroupNorm(1, 31)",
    ),
    "one loss for the batch": ({'reduction="none"': 'reduction="mean"'}, "reduction='none'"),
    "a loss that mixes records": ({LOSS: LOSS + " / targets.mean()"}, "from that record alone"),
    "a model of doubles": ({LINEAR: LINEAR + ".double()"}, "float32"),
    "a model of another width": ({"Linear(31, 1)": "Linear(30, 1)"}, "failed on made-up records"),
    "a model that starts at NaN": ({LINEAR: f"spoilt({LINEAR}, float('nan'))"}, "no made-up record is finite"),
    "a model that leaves float32": ({LINEAR: f"spoilt({LINEAR}, 3.4e38)", "clipping_norm=1,": "clipping_norm=1e6,",
                                     "learning_rate=5": "learning_rate=1e6"}, ""),
    "a loss that is NaN": ({LOSS: LOSS + " * float('nan')"}, "no made-up record is finite"),
    "a loss without end": ({LOSS: LOSS + " * float('inf')"}, "no made-up record is finite"),
    "a model that no seed repeats": ({LINEAR: f"spoilt({LINEAR}, __import__('os').urandom(1)[0] / 7)"}, "differ"),
    "a metric with its arguments exchanged": ({METRIC: "float(roc_auc_score(scores, labels))"}, "metric 'auc'"),
    "features taken from the data's mean": (
        {"torch.from_numpy(records.features(USED))":
         "torch.from_numpy(records.features(USED) - records.features(USED).mean(0))"},
        "change with the other records",
    ),
    "a column that is not there": ({'"thalch"': '"thalach"'}, "thalach"),
}  # fmt: skip

SPOILT = """
def spoilt(model: torch.nn.Module, value: float) -> torch.nn.Module:
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, value)
    return model
"""


@pytest.mark.parametrize("what", EXPERIMENTS)
def test_experiment(silo: Command, here: Path, what: str) -> None:
    changes, named = EXPERIMENTS[what]
    text = EXPERIMENT.read_text()
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new, 1)
    (here / "mine.py").write_text(text + SPOILT if "spoilt(" in text else text)
    line = refused(silo("demo", "--out", OUT, "--experiment", "mine.py", status=3))
    assert named in line


def test_experiment_that_cannot_be_read(silo: Command, here: Path) -> None:
    assert "nowhere.py" in refused(silo("demo", "--out", OUT, "--experiment", "nowhere.py", status=3))
    assert "Is a directory" in refused(silo("demo", "--out", OUT, "--experiment", ".", status=3))
    (here / "mine.py").write_bytes(b"\x00\xff")
    assert "not Python" in refused(silo("demo", "--out", OUT, "--experiment", "mine.py", status=3))


# What was signed ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.cli.conftest import silo

    place = tmp_path_factory.mktemp("prepared")
    silo("demo", "--prepare", "--out", place / "demo", "--rounds", "1")
    return place / "demo"


@pytest.fixture
def stage(prepared: Path, here: Path) -> Path:
    shutil.copytree(prepared, here / "stage")
    return here / "stage"


def tree(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(("file", "status"), [("experiment.py", 6), ("run.json", 6), ("consortium.json", 3)])
def test_what_was_signed_is_altered(silo: Command, stage: Path, file: str, status: int) -> None:
    """One byte, in the aggregator's hands: nobody takes part, and the folder stays as it was."""
    (path,) = (stage / "homes" / "aggregator" / "runs").glob(f"*/{file}")
    content = path.read_bytes()
    if file == "experiment.py":
        path.write_bytes(content + b"\n")
    else:
        document = json.loads(content)
        document["body"]["name"] += "x"
        path.write_bytes(json.dumps(document).encode())
    before = tree(stage)
    refused(silo("demo", "--resume", stage, status=status))
    assert tree(stage) == before


def test_keys_that_others_can_read(silo: Command, stage: Path) -> None:
    for path in (stage / "homes" / "hungary" / "keys").glob("*.pem"):
        path.chmod(0o644)
    line = refused(silo("demo", "--resume", stage, status=7))
    assert "hungary: the silo did not answer its invitation" in line


def test_home_that_is_damaged(silo: Command, stage: Path) -> None:
    (stage / "homes" / "hungary" / "silo.toml").write_text("name = ")
    assert "silo.toml" in refused(silo("demo", "--resume", stage, status=3))
