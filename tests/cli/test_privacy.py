"""`silo privacy audit`: evidence beside the proof, charged when it is about records, and no switch that weakens it."""

from __future__ import annotations

from pathlib import Path

import pytest

import silo.training.optimizer as optimizer_module
from silo.api.load import digest_of
from silo.data import HEART
from silo.home import Home
from silo.training.audit import ceiling
from silo.training.optimizer import SiloOptimizer
from tests.cli.conftest import EXPERIMENT, Command, hand_over

SMALL = ("--canaries", "200", "--dimensions", "1000", "--sample-rate", "1", "--steps", "1")


def test_the_harness_says_bound_proof_confidence_and_ceiling(silo: Command) -> None:
    told = silo("privacy", "audit", *SMALL, "--json", "--repeat", "2").json
    assert 2.99 < told["proven_epsilon"] <= 3
    assert (told["delta"], told["confidence"], told["unit"], told["adjacency"]) == (1e-5, 0.95, "record", "add/remove")
    assert told["ceiling_of_canaries"] == pytest.approx(ceiling(200))
    assert (told["canaries"], told["dimensions"], told["charged"], told["refuted"]) == (200, 1000, None, 0)
    assert [each["guesses"] for each in told["audits"]] == [100, 100]
    assert all(0 <= each["epsilon_lower_bound"] <= told["proven_epsilon"] for each in told["audits"])
    words = " ".join(silo("privacy", "audit", *SMALL).out.split())
    assert "epsilon at least (95 %)" in words
    assert "200 would show 4.19" in words


def test_too_few_canaries_are_told(silo: Command) -> None:
    said = silo("privacy", "audit", *SMALL[2:], "--canaries", "30")
    assert "30 canaries cannot refute" in said.err
    assert "30 would show 2.25" in " ".join(said.out.split())


class UnsafeNoNoise(SiloOptimizer):
    """Releases the clipped sums as they are: epsilon is void."""

    def add_noise(self) -> None:
        for p in self.params:
            p.grad = p.summed_grad.to(p.dtype).view_as(p)


def test_a_broken_installation_is_told_with_status_6(silo: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizer_module, "SiloOptimizer", UnsafeNoNoise)
    said = silo("privacy", "audit", *SMALL, status=6)
    assert "(1 of 1 audits)" in said.line
    assert "2.999 was proven" in said.line


def test_no_option_reaches_what_protects(silo: Command) -> None:
    text = silo("privacy", "audit", "--help").out.lower()
    for word in ("plant", "unsafe", "--noise", "--no-", "clip", "seed"):
        assert word not in text.replace("sampler, clipping and noise", "")


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("--canaries", "1"), 2),
        (("--dimensions", "10"), 2),
        (("--epsilon", "0"), 3),
        (("--sample-rate", "1.5"), 3),
        (("--steps", "0"), 3),
        (("--repeat", "0"), 2),
        (("--charge",), 2),
        ((str(EXPERIMENT), "--epsilon", "1"), 2),
        ((str(EXPERIMENT), "--repeat", "2"), 2),
        (("no-such-file.py",), 3),
    ],
)
def test_bad_options_have_their_status(silo: Command, tmp_path: Path, words: tuple[str, ...], status: int) -> None:
    silo("privacy", "audit", *words, "--home", tmp_path / "nowhere", status=status)


def spent(silo: Command, home: Path) -> tuple[float, int]:
    (row,) = silo("budget", "show", "--home", home, "--json").json["populations"]
    return row["epsilon_spent"], row["runs"]


def test_an_audit_of_records_is_charged_until_the_budget_refuses(silo: Command, alpha: Path) -> None:
    quote = silo("privacy", "audit", EXPERIMENT, "--home", alpha, "--json").json
    assert quote["charged"] is None
    price = quote["would_charge"]["epsilon"]
    assert quote["would_charge"]["left"] == 10
    assert spent(silo, alpha) == (0, 0)
    for number in (1, 2, 3):
        told = silo("privacy", "audit", EXPERIMENT, "--home", alpha, "--charge", "--json").json
        assert told["charged"]["epsilon"] == price
        assert told["audits"][0]["epsilon_lower_bound"] <= told["proven_epsilon"]
        assert spent(silo, alpha) == (pytest.approx(number * price, abs=1e-5), number)
    before = silo("budget", "export", "--home", alpha).json["head"]
    said = silo("privacy", "audit", EXPERIMENT, "--home", alpha, "--charge", status=5)
    assert "is spent" in said.line
    assert silo("budget", "export", "--home", alpha).json["head"] == before
    with Home.open(alpha).log() as log:
        kinds = [str(entry.kind) for entry in log.entries() if str(entry.body.get("run", "")).startswith("audit-")]
        last = [entry.body for entry in log.entries("budget-settled") if "audit" in entry.body][-1]["audit"]
    assert kinds == ["budget-reserved", "budget-settled"] * 3
    assert last["epsilon_lower_bound"] == told["audits"][0]["epsilon_lower_bound"]
    assert last["code_digest"] == digest_of(EXPERIMENT.read_bytes())


def test_code_that_no_steward_approved_is_not_run(silo: Command, place: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    code = tmp_path / "code.py"
    code.write_text(f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n" + EXPERIMENT.read_text())
    said = silo("privacy", "audit", code, "--home", place / "alpha", "--charge", status=3)
    assert "no steward approved" in said.line
    assert not mark.exists()


def test_a_delta_above_a_tenth_of_one_over_the_records_is_denied_by_the_baseline(
    silo: Command, alpha: Path, place: Path
) -> None:
    silo("policy", "check", place / "run", "--home", alpha)  # delta 1e-4 is small enough for alpha's 303 records
    code = place / "large-delta.py"
    code.write_text(EXPERIMENT.read_text().replace("delta=1e-4", "delta=1e-3"))
    out = place / "large-delta"
    silo("experiment", "sign", code, "--consortium", place / "heart.json", "--key", place / "keys/rita", "--out", out)
    silo("approve", code, "--key", place / "keys/sven", "--home", alpha)
    hand_over(place, submission=out.name)
    said = silo("policy", "check", out, "--home", alpha, status=4)
    assert "baseline/delta-small" in said.line
    assert "303" not in said.err  # the rule's answer is one bit; the number of records stays here


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("epsilon=3", "epsilon=0"),
        ("epsilon=3", "epsilon=-1"),
        ("sample_rate=0.5", "sample_rate=1.5"),
        ("delta=1e-4", "delta=0.5"),
    ],
)
def test_constants_that_promise_nothing_cannot_even_be_signed(
    silo: Command, place: Path, tmp_path: Path, old: str, new: str
) -> None:
    code = tmp_path / "bad.py"
    code.write_text(EXPERIMENT.read_text().replace(old, new))
    said = silo(
        "experiment", "sign", code, "--consortium", place / "heart.json", "--key", place / "keys" / "rita",
        "--out", tmp_path / "out", status=3,
    )  # fmt: skip
    assert new.split("=")[0] in said.line
    assert not (tmp_path / "out").exists()


def test_a_silo_without_records_answers_and_is_charged_as_any_other(silo: Command, alpha: Path) -> None:
    home = Home.open(alpha)
    (alpha / "empty.csv").write_text(",".join(HEART.names) + "\n")
    home.add_dataset(home.data()[0].model_copy(update={"source": "empty.csv"}))
    silo("policy", "check", alpha.parent / "run", "--home", alpha)
    told = silo("privacy", "audit", EXPERIMENT, "--home", alpha, "--charge", "--json").json
    assert told["charged"]["population"] == "alpha-patients"
    assert spent(silo, alpha) == (pytest.approx(told["charged"]["epsilon"], abs=1e-5), 1)
