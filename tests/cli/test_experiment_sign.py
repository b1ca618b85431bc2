"""`silo experiment sign`, `silo approve`, `silo keys` and `silo init`: who vouches for which bytes."""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path

import pytest
from silo_policies import Approval, RunManifest, parse_signed

from silo.home import Home
from silo.submission import Submission, keyring
from tests.cli.conftest import EXPERIMENT, Command, hand_over, run_of


def digest(path: Path) -> str:
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def sign(place: Path) -> tuple[str | Path, ...]:
    return ("experiment", "sign", EXPERIMENT, "--consortium", place / "heart.json", "--key", place / "keys" / "rita")


def test_a_submission_is_what_every_party_verifies(silo: Command, place: Path, sign: tuple[str | Path, ...]) -> None:
    told = silo(*sign, "--out", place / "new", "--run", "heart-7", "--seed", "4", "--days", "3", "--json").json
    assert sorted(path.name for path in (place / "new").iterdir()) == ["consortium.json", "experiment.py", "run.json"]
    submission = Submission.load(place / "new")
    run = submission.run.body
    submission.check(now=run.created, pinned=submission.consortium.body.digest)
    assert (run.run, run.model.seed, (run.expires - run.created).days) == ("heart-7", 4, 3)
    assert told["code_digest"] == run.code_digest == digest(EXPERIMENT)
    assert told["digest"] == run.digest
    assert run.researcher == "rita"
    assert (run.privacy.epsilon, run.model.parameters, run.minimum_silos) == (3.0, 32, 3)


def test_one_file_has_one_digest(silo: Command, place: Path, sign: tuple[str | Path, ...]) -> None:
    silo(*sign, "--out", place / "again")
    assert run_of(place).code_digest == digest(place / "again" / "experiment.py") == digest(EXPERIMENT)
    assert run_of(place).run != parse_signed(RunManifest, (place / "again" / "run.json").read_bytes()).body.run


def test_a_changed_file_is_other_code_and_refused(silo: Command, place: Path) -> None:
    alpha, sven = place / "alpha", place / "keys" / "sven"
    silo("approve", EXPERIMENT, "--key", sven, "--home", alpha)
    hand_over(place)
    silo("policy", "check", "--home", alpha)

    # Somebody changes the file on its way: the researcher's signature is for other bytes.
    bundle = alpha / "runs" / run_of(place).run / "experiment.py"
    original = bundle.read_bytes()
    bundle.write_bytes(original.replace(b"rounds=10", b"rounds=11"))
    assert "not the ones the researcher signed" in silo("policy", "check", "--home", alpha, status=6).line
    bundle.write_bytes(original)

    # The researcher changes the file and signs it: the steward approved other bytes.
    changed = place / "changed.py"
    changed.write_bytes(original + b"# one more line\n")
    silo(
        "experiment", "sign", changed, "--consortium", place / "heart.json", "--key", place / "keys" / "rita",
        "--out", place / "changed",
    )  # fmt: skip
    line = silo("policy", "check", place / "changed", "--home", alpha, status=4).line
    assert "baseline/code-approved" in line
    assert "was not approved here, or it changed since" in line
    said = silo("approve", digest(changed), "--key", sven, "--home", alpha)
    assert digest(changed) in said.out
    silo("policy", "check", place / "changed", "--home", alpha)


def test_an_approval_is_signed_kept_and_logged(silo: Command, place: Path) -> None:
    alpha = place / "alpha"
    told = silo(
        "approve", EXPERIMENT, "--key", place / "keys" / "sven", "--note", "read it all", "--home", alpha, "--json"
    ).json
    (file,) = (alpha / "approvals").iterdir()
    approval = parse_signed(Approval, file.read_bytes())
    people = Home.open(alpha).consortium().body.people
    sven = next(person for person in people if person.name == "sven")
    approval.verify({"sven": keyring("sven", sven.keys)})
    assert (approval.body.note, approval.body.code_digest) == ("read it all", digest(EXPERIMENT))
    assert told["digest"] == approval.body.digest
    with Home.open(alpha).log() as log:
        (entry,) = log.entries("approval")
    assert (entry.body["digest"], entry.body["by"]) == (approval.body.digest, "sven")


def test_who_and_what_cannot_be_approved(silo: Command, place: Path) -> None:
    alpha, keys = place / "alpha", place / "keys"
    assert "olga is an officer" in silo("approve", EXPERIMENT, "--key", keys / "olga", "--home", alpha, status=2).line
    line = silo("approve", EXPERIMENT, "--key", keys / "sven", "--home", place / "beta", status=2).line
    assert "sven acts for alpha, not for beta" in line
    silo("keys", "new", "--role", "steward", "--name", "sven", "--silo", "alpha", "--out", keys / "false")
    line = silo("approve", EXPERIMENT, "--key", keys / "false", "--home", alpha, status=6).line
    assert "does not name sven, with these keys" in line
    assert "folder" in silo("approve", place, "--home", alpha, status=3).line
    assert "cannot read" in silo("approve", "sha256:123", "--home", alpha, status=3).line
    assert "note is empty" in silo("approve", EXPERIMENT, "--note", " ", "--home", alpha, status=2).line
    assert "--days" in silo("approve", EXPERIMENT, "--days", "0", "--home", alpha, status=2).line
    assert not list((alpha / "approvals").iterdir())


@pytest.mark.parametrize(
    ("words", "status", "what"),
    [
        (("--members", "alpha,beta,delta"), 3, "delta"),
        (("--members", "alpha,beta"), 3, "minimum_silos is 3"),
        (("--members", ""), 3, "members"),
        (("--run", "../evil"), 3, "run: "),
        (("--days", "0"), 2, "0 days"),
        (("--seed", "-1"), 2, "--seed"),
    ],
)
def test_a_proposal_that_makes_no_sense_is_refused(
    silo: Command, place: Path, sign: tuple[str | Path, ...], words: tuple[str, ...], status: int, what: str
) -> None:
    assert what in silo(*sign, "--out", place / "x", *words, status=status).line
    assert not (place / "x").exists()


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("epsilon=3,", "epsilon=-3,", "epsilon is -3"),
        ('custody="shared"', 'custody="threshold"', "the consortium agreed on shared"),
        ("experiment = Experiment(", "other = Experiment(", "defines no `experiment`"),
        ("import torch\n", "import torch !\n", ":4"),
        ("torch.nn.Linear(31, 1)", "torch.nn.Linear(31, 1), torch.nn.BatchNorm1d(1)", "BatchNorm"),
    ],
)
def test_a_bad_experiment_is_one_line(
    silo: Command, place: Path, sign: tuple[str | Path, ...], old: str, new: str, what: str
) -> None:
    bad = place / "bad.py"
    assert old in EXPERIMENT.read_text()
    bad.write_text(EXPERIMENT.read_text().replace(old, new))
    line = silo(*sign[:2], bad, *sign[3:], "--out", place / "x", status=3).line
    assert what in line
    assert not (place / "x").exists()


def test_who_cannot_sign_an_experiment(silo: Command, place: Path, sign: tuple[str | Path, ...]) -> None:
    words, keys = sign[:-1], place / "keys"
    assert "olga is an officer" in silo(*words, keys / "olga", "--out", place / "x", status=2).line
    silo("keys", "new", "--role", "researcher", "--name", "rita", "--out", keys / "false")
    line = silo(*words, keys / "false", "--out", place / "x", status=2).line
    assert "names no researcher rita with these keys" in line
    line = silo(*words[:-1], "--out", place / "x", status=2).line
    assert "silo keys new --role researcher" in line
    assert "already there" in silo(*sign, "--out", place / "run", status=3).line
    draft = (*sign[:4], place / "draft.json", *sign[5:])
    assert "nobody has signed it" in silo(*draft, "--out", place / "x", status=3).line


def test_keys_of_people(silo: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new = ("keys", "new", "--name", "olga", "--out", tmp_path / "k")
    assert "no role 'boss'" in silo(*new, "--role", "boss", status=2).line
    assert "an officer acts for a silo" in silo(*new, "--role", "officer", status=2).line
    assert "a researcher acts for no silo" in silo(*new, "--role", "researcher", "--silo", "a", status=2).line
    assert "Olga" in silo(*new[:3], "Olga", *new[4:], "--role", "researcher", status=6).line
    assert not (tmp_path / "k").exists()
    silo(*new, "--role", "officer", "--silo", "alpha")
    assert stat.S_IMODE((tmp_path / "k").stat().st_mode) == 0o700
    for file in (tmp_path / "k").iterdir():
        public = file.name in ("person.json", "identity.json")
        assert stat.S_IMODE(file.stat().st_mode) == (0o644 if public else 0o600)
    person = json.loads((tmp_path / "k" / "person.json").read_text())
    assert person == silo("keys", "show", tmp_path / "k").json
    assert (person["person"]["role"], person["person"]["silo"]) == ("officer", "alpha")
    assert "already there" in silo(*new, "--role", "officer", "--silo", "alpha", status=3).line
    # person.json and the keys beside it must be one person's
    silo("keys", "new", "--name", "olga", "--out", tmp_path / "other", "--role", "officer", "--silo", "alpha")
    (tmp_path / "k" / "person.json").write_bytes((tmp_path / "other" / "person.json").read_bytes())
    silo("init", "--name", "alpha", "--home", tmp_path / "alpha")
    line = silo("approve", EXPERIMENT, "--key", tmp_path / "k", "--home", tmp_path / "alpha", status=2).line
    assert "olga is an officer, not a steward" in line
    person["person"]["role"] = "steward"
    (tmp_path / "k" / "person.json").write_text(json.dumps(person))
    other = json.loads((tmp_path / "other" / "person.json").read_text())
    other["person"]["role"] = "steward"
    (tmp_path / "other" / "person.json").write_text(json.dumps(other))
    (tmp_path / "k" / "person.json").write_text(json.dumps(other))
    line = silo("approve", EXPERIMENT, "--key", tmp_path / "k", "--home", tmp_path / "alpha", status=6).line
    assert "not those of person.json" in line
    # a passphrase of the person's own is stored nowhere
    monkeypatch.setenv("SILO_PASSPHRASE", "correct horse")
    silo("keys", "new", "--name", "rita", "--out", tmp_path / "rita", "--role", "researcher")
    assert not (tmp_path / "rita" / "passphrase").exists()
    assert "correct horse" not in "".join(file.read_text() for file in (tmp_path / "rita").iterdir())


def test_init_and_keys_show(silo: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "riverside"
    words = ("--name", "riverside", "--display-name", "Riverside", "--organisation-type", "hospital")
    told = silo("init", *words, "--jurisdiction", "US-CA", "--home", home, "--json").json
    assert told["name"] == "riverside"
    monkeypatch.setenv("SILO_HOME", str(home))
    shown = silo("keys", "show").json["member"]
    assert shown.pop("node").startswith("ecdsa-sha2-nistp384 ")  # what Flower knows the silo by
    assert shown == {
        "name": "riverside",
        "organisation_type": "hospital",
        "jurisdiction": "US-CA",
        "keys": told["keys"],
    }
    assert silo("keys", "show", "--as", "aggregator").json == {
        "aggregator": {"name": "riverside", "keys": told["keys"]}
    }
    assert "a home is not 'person'" in silo("keys", "show", "--as", "person", status=2).line
    assert "already there" in silo("init", *words, status=3).line
    assert "jurisdiction" in silo("init", *words, "--jurisdiction", "Mars", "--home", tmp_path / "x", status=3).line
    assert "joined no consortium" in silo("policy", "check", status=3).line
    assert "joined no consortium" in silo("consortium", "show", status=3).line
    monkeypatch.setenv("SILO_HOME", str(tmp_path / "none"))
    for command in ("policy list", "policy check", "keys show", "policy pin baseline", "approve sha256:" + "0" * 64):
        assert "silo init" in silo(*command.split(), status=3).line
