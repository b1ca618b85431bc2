"""`silo consortium` as members use it: one file goes round, is signed, joined, amended; and what is refused."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from silo_crypto.keys import Identity
from silo_policies import ConsortiumManifest, parse_signed, shipped_text

from silo.cli.common import now
from silo.home import Home
from tests.cli.conftest import EXPERIMENT, SILOS, Command, hand_over, run_of


@pytest.fixture
def file(place: Path) -> Path:
    return place / "heart.json"


def edit(file: Path, **changes: Any) -> None:
    document = json.loads(file.read_text())
    document["body"].update(changes)
    file.write_text(json.dumps(document))


# Making one ----------------------------------------------------------------------------------------------------------


def test_a_draft_says_what_it_lacks(silo: Command, tmp_path: Path, made: Path) -> None:
    file = tmp_path / "new.json"
    told = silo("consortium", "new", file, "--name", "heart", "--json").json
    assert (told["state"], told["digest"]) == ("draft", None)
    assert told["missing"] == ["members (two or more)", "the aggregator", "a policy pack"]
    line = silo("consortium", "sign", file, "--home", made / "alpha", status=3).line
    assert "it lacks members (two or more), the aggregator, a policy pack" in line
    silo("consortium", "add", file, *(made / f"{name}.json" for name in (*SILOS, "aggregator")))
    silo("consortium", "add", file, made / "alpha.json")  # the same once more changes nothing
    assert "lacks a policy pack" in silo("consortium", "show", file).out
    assert "ready to sign" in silo("consortium", "add", file, "--pack", "baseline").out
    assert "2 more signatures needed, of beta, gamma" in silo("consortium", "sign", file, "--home", made / "alpha").out
    assert "1 of 3 signatures; missing: beta, gamma" in silo("consortium", "verify", file, status=6).line


def test_a_complete_file_is_verified_by_anybody(silo: Command, made: Path) -> None:
    file = made / "heart.json"
    said = silo("consortium", "verify", file)
    assert "heart holds: signed by alpha, beta, gamma" in said.out
    digest = silo("consortium", "verify", file, "--json").json["digest"]
    shown = silo("consortium", "show", "--home", made / "beta", "--json").json
    assert shown["digest"] == digest
    assert (shown["state"], shown["manifest"]["amendment_quorum"], shown["manifest"]["minimum_silos"]) == (
        "complete",
        2,
        3,
    )
    table = silo("consortium", "show", "--home", made / "beta").out
    for name in (*SILOS, "aggregator", "rita", "olga", "sven", "otto", "baseline"):
        assert name in table


def test_copies_signed_apart_are_put_together(silo: Command, place: Path) -> None:
    copies = []
    for name in SILOS:
        copies.append(place / f"signed-by-{name}.json")
        shutil.copy(place / "draft.json", copies[-1])
        silo("consortium", "sign", copies[-1], "--home", place / name)
    first, *others = copies
    assert "complete" in silo("consortium", "add", first, *others).out
    silo("consortium", "verify", first)
    edit(others[0], minimum_silos=2)
    assert "not two signed copies" in silo("consortium", "add", first, others[0], status=3).line


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("--name", "Heart!"), "name"),
        (("--name", "h", "--custody", "escrow"), "custody"),
        (("--name", "h", "--minimum-silos", "1"), "minimum_silos"),
        (("--name", "h", "--threshold", "1"), "threshold"),
        (("--name", "h", "--quorum", "0"), "amendment_quorum"),
    ],
)
def test_a_draft_that_makes_no_sense_is_refused(
    silo: Command, tmp_path: Path, words: tuple[str, ...], what: str
) -> None:
    assert what in silo("consortium", "new", tmp_path / "x.json", *words, status=3).line
    assert not (tmp_path / "x.json").exists()


def test_a_draft_that_cannot_be_signed_says_why(silo: Command, tmp_path: Path, made: Path) -> None:
    for words, what in (
        (("--threshold", "2"), "shared custody has no threshold"),
        (("--custody", "threshold", "--threshold", "4"), "threshold"),
        (("--minimum-silos", "4"), "minimum_silos is 4, but there are 3 members"),
        (("--quorum", "1"), "more than half"),
    ):
        file = tmp_path / "x.json"
        silo("consortium", "new", file, "--name", "h", *words)
        silo("consortium", "add", file, *(made / f"{n}.json" for n in (*SILOS, "aggregator")), "--pack", "baseline")
        assert what in silo("consortium", "sign", file, "--home", made / "alpha", status=3).line
        file.unlink()
    silo("consortium", "new", tmp_path / "x.json", "--name", "h")
    assert "already there" in silo("consortium", "new", tmp_path / "x.json", "--name", "h", status=3).line
    assert "no such folder" in silo("consortium", "new", tmp_path / "no" / "x.json", "--name", "h", status=3).line
    assert "0 days" in silo("consortium", "new", tmp_path / "y.json", "--name", "h", "--days", "0", status=2).line


def test_names_and_keys_stand_once(silo: Command, place: Path) -> None:
    file = place / "draft.json"
    other = json.loads((place / "alpha.json").read_text())
    other["member"]["keys"] = json.loads((place / "beta.json").read_text())["member"]["keys"]
    (place / "other.json").write_text(json.dumps(other))
    assert "alpha already stands in the draft" in silo("consortium", "add", file, place / "other.json", status=3).line
    other["member"]["name"] = "delta"
    (place / "other.json").write_text(json.dumps(other))
    silo("consortium", "add", file, place / "other.json")
    line = silo("consortium", "sign", file, "--home", place / "alpha", status=3).line
    assert "belongs to two parties" in line
    for text in ("{}", "[]", '{"member": {}}', '{"member": {}, "person": {}}', "no json"):
        (place / "other.json").write_text(text)
        assert "other.json" in silo("consortium", "add", file, place / "other.json", status=3).line
    assert "there is nothing to add" in silo("consortium", "add", file, status=2).line


# Signatures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "status", "what"),
    [
        ("missing", 6, "2 of 3 signatures; missing: gamma"),
        ("foreign", 6, "signed by otto"),
        ("double", 6, "one signature stands under two names"),
        ("twice", 3, "stands twice"),
        ("malformed", 6, "gamma's signature is malformed"),
        ("wrong", 6, "gamma's signature does not hold"),
        ("changed", 6, "signature does not hold"),
        ("expired", 6, "does not hold"),
        ("unknown-field", 3, "colour"),
        ("float", 3, "minimum_silos"),
        ("kind", 3, "no consortium file"),
        ("empty-chain", 3, "no list of manifests"),
        ("text", 3, "not a usable JSON document"),
    ],
)
def test_what_is_not_signed_by_all_is_refused(
    silo: Command, file: Path, place: Path, spoil: str, status: int, what: str
) -> None:
    document = json.loads(file.read_text())
    signatures = document["signatures"]
    match spoil:
        case "missing":
            del signatures["gamma"]
        case "foreign":
            signatures["otto"] = signatures["gamma"]
        case "double":
            signatures["gamma"] = signatures["beta"]
        case "malformed":
            signatures["gamma"] = "?" + signatures["gamma"][1:]
        case "wrong":
            signatures["gamma"] = "A" * 86 + "=="
        case "changed":
            document["body"]["minimum_silos"] = 2
        case "expired":
            document["body"]["expires"] = "2026-01-02T00:00:00Z"
            document["body"]["created"] = "2026-01-01T00:00:00Z"
        case "unknown-field":
            document["body"]["colour"] = "red"
        case "float":
            document["body"]["minimum_silos"] = 3.0
        case "kind":
            document["kind"] = "silo/v1/run"
        case "empty-chain":
            document = {"kind": "silo/v1/consortium-chain", "manifests": []}
    text = json.dumps(document)
    if spoil == "twice":
        text = text.replace(f'"gamma": "{signatures["gamma"]}"', f'"beta": "{signatures["gamma"]}"')
    file.write_text("{" if spoil == "text" else text)
    said = silo("consortium", "verify", file, status=status)
    assert what in said.line
    assert what in silo("consortium", "join", file, "--replace", "--home", place / "alpha", status=status).line


def test_who_may_not_sign(silo: Command, place: Path) -> None:
    file = place / "draft.json"
    line = silo("consortium", "sign", file, "--home", place / "aggregator", status=6).line
    assert "aggregator is no member and has no say" in line
    silo("init", "--name", "alpha", "--home", place / "false-alpha")
    assert "does not hold" in silo("consortium", "sign", file, "--home", place / "false-alpha", status=6).line
    silo("consortium", "sign", file, "--home", place / "alpha")
    assert "has already signed" in silo("consortium", "sign", file, "--home", place / "alpha", status=6).line
    line = silo("consortium", "add", file, "--pack", "gdpr-research", status=3).line
    assert "can no longer change" in line
    assert "silo consortium amend" in line


def test_expiry_and_clocks(silo: Command, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, start = place / "heart.json", now()
    for module in ("consortium", "joining", "decisions"):
        monkeypatch.setattr(f"silo.cli.{module}.now", lambda: start + timedelta(days=366))
    assert "it expired at" in silo("consortium", "verify", file, status=3).line
    assert "it expired at" in silo("consortium", "join", file, "--home", place / "alpha", status=3).line
    for module in ("consortium", "joining", "decisions"):
        monkeypatch.setattr(f"silo.cli.{module}.now", lambda: start - timedelta(minutes=10))
    assert "dated in the future (compare the clocks)" in silo("consortium", "verify", file, status=3).line
    hand_over(place)
    assert "dated in the future" in silo("policy", "check", "--home", place / "alpha", status=3).line


# Joining -------------------------------------------------------------------------------------------------------------


def test_joining_asks_the_gate_and_keeps_what_it_said(silo: Command, place: Path) -> None:
    silo("init", "--name", "delta", "--home", place / "delta")
    file = place / "two.json"
    silo("consortium", "new", file, "--name", "two", "--minimum-silos", "2")
    (place / "delta.json").write_text(silo("keys", "show", "--home", place / "delta").out)
    parties = [place / f"{name}.json" for name in ("alpha", "delta", "aggregator")]
    silo("consortium", "add", file, *parties, "--pack", "baseline")
    for name in ("alpha", "delta"):
        silo("consortium", "sign", file, "--home", place / name)
    said = silo("consortium", "join", file, "--home", place / "delta", status=4)
    assert "joining two: denied by baseline/consortium-size" in said.line
    assert "Invite a third member" in said.line
    home = Home.open(place / "delta")
    assert home.settings.consortium is None
    assert not (home.path / "consortium.json").exists()
    with home.log() as log:
        (entry,) = log.entries("decision")
    assert (entry.body["decision"], entry.body["moment"]) == ("deny", "join")
    told = silo("policy", "explain", "join-two", "--home", place / "delta").out
    assert "delta denied run join-two" in told
    assert "consortium.size = 2" in told


def test_a_home_joins_only_what_continues_its_own(silo: Command, file: Path, place: Path) -> None:
    assert "alpha joined heart: 3 members" in silo("consortium", "join", file, "--home", place / "alpha").out
    other = place / "other.json"
    shutil.copy(place / "draft.json", other)
    edit(other, name="other")
    for name in SILOS:
        silo("consortium", "sign", other, "--home", place / name)
    line = silo("consortium", "join", other, "--home", place / "alpha", status=3).line
    assert "does not continue the manifest that this home joined" in line
    silo("consortium", "join", other, "--replace", "--home", place / "alpha")
    assert Home.open(place / "alpha").consortium().body.name == "other"
    silo("init", "--name", "delta", "--home", place / "delta")
    assert "does not name delta" in silo("consortium", "join", file, "--home", place / "delta", status=3).line
    silo("init", "--name", "beta", "--home", place / "false-beta")
    line = silo("consortium", "join", file, "--home", place / "false-beta", status=3).line
    assert "names beta with another key" in line


def test_the_packs_must_be_those_that_were_signed(silo: Command, place: Path) -> None:
    pack = place / "house-rules.yaml"
    pack.write_bytes(shipped_text("baseline").replace(b"id: baseline", b"id: house-rules", 1))
    file = place / "draft.json"
    silo("consortium", "add", file, "--pack", pack)
    for name in SILOS:
        silo("consortium", "sign", file, "--home", place / name)
    join = ("consortium", "join", file, "--replace", "--home", place / "alpha")
    assert "the pack house-rules (sha256:" in silo(*join, status=3).line
    text = pack.read_text()
    pack.write_text(text.replace("epsilon <= 4.0", "epsilon <= 5.0"))
    line = silo(*join, "--pack", pack, status=4).line
    assert "house-rules.yaml: the pack house-rules is sha256:" in line
    assert "the members pinned sha256:" in line
    pack.write_text(text)
    silo(*join, "--pack", pack)
    rows = {
        row["id"]: row["binds"] for row in silo("policy", "list", "--home", place / "alpha", "--json").json["packs"]
    }
    assert rows["house-rules"] == "the consortium"


# Amending ------------------------------------------------------------------------------------------------------------


def test_a_quorum_revokes_a_member(silo: Command, file: Path, place: Path) -> None:
    silo("init", "--name", "delta", "--home", place / "delta")
    (place / "delta.json").write_text(silo("keys", "show", "--home", place / "delta").out)
    silo("approve", EXPERIMENT, "--key", place / "keys" / "sven", "--home", place / "alpha")
    before = silo("consortium", "verify", file, "--json").json["digest"]

    told = silo("consortium", "amend", file, "--remove", "beta", "--add", place / "delta.json", "--json").json
    assert (told["state"], told["signatures_needed"]) == ("unsigned", 3)  # two of the old three, and who is new
    assert told["manifest"]["previous"] == before
    assert [member["name"] for member in told["manifest"]["members"]] == ["alpha", "delta", "gamma"]
    assert "otto" not in [person["name"] for person in told["manifest"]["people"]]  # beta's officer goes with it

    silo("consortium", "sign", file, "--home", place / "alpha")
    assert "1 of 2 signatures" in silo("consortium", "verify", file, status=6).line
    silo("consortium", "sign", file, "--home", place / "gamma")
    assert "missing: delta" in silo("consortium", "verify", file, status=6).line
    assert "missing: delta" in silo("consortium", "join", file, "--home", place / "alpha", status=6).line
    silo("consortium", "sign", file, "--home", place / "delta")
    told = silo("consortium", "verify", file, "--json").json
    assert told["manifests"] == 2

    for name in ("alpha", "delta", "gamma", "aggregator"):
        silo("consortium", "join", file, "--home", place / name)
    assert Home.open(place / "delta").settings.consortium == told["digest"]
    said = silo("consortium", "join", file, "--home", place / "beta")
    assert "beta is no member any more" in said.err

    # A run for the old manifest is over; one for the new cannot invite who left.
    hand_over(place)
    assert "not the pinned" in silo("policy", "check", "--home", place / "alpha", status=3).line
    sign = ("experiment", "sign", EXPERIMENT, "--consortium", file, "--key", place / "keys" / "rita")
    line = silo(*sign, "--members", "alpha,beta,gamma", "--out", place / "bad", status=3).line
    assert "it invites beta, who are no members" in line
    silo(*sign, "--out", place / "new")
    said = silo("policy", "check", place / "new", "--home", place / "alpha")
    assert "would permit" in said.out
    hand_over(place, "beta", "new")
    assert "beta is not invited" in silo("policy", "check", "--home", place / "beta", status=3).line


def test_a_home_takes_part_under_an_amendment_it_joined(silo: Command, file: Path, place: Path) -> None:
    """The submission carries the newest manifest alone; the home verified its history when it joined."""
    silo("consortium", "amend", file, "--minimum-silos", "2", "--days", "700")
    for name in ("alpha", "gamma"):
        silo("consortium", "sign", file, "--home", place / name)
    silo("experiment", "sign", EXPERIMENT, "--consortium", file, "--key", place / "keys" / "rita", "--out", place / "n")
    signed = parse_signed(ConsortiumManifest, (place / "n" / "consortium.json").read_bytes())
    assert signed.body.previous is not None
    silo("approve", EXPERIMENT, "--key", place / "keys" / "sven", "--home", place / "alpha")
    assert "not the pinned" in silo("policy", "check", place / "n", "--home", place / "alpha", status=3).line
    # the baseline demands three silos at the moment of joining too: amend once more
    assert "consortium-size" in silo("consortium", "join", file, "--home", place / "alpha", status=4).line
    silo("consortium", "amend", file, "--minimum-silos", "3")
    for name in ("beta", "gamma"):
        silo("consortium", "sign", file, "--home", place / name)
    silo("consortium", "join", file, "--home", place / "alpha")
    silo("experiment", "sign", EXPERIMENT, "--consortium", file, "--key", place / "keys" / "rita", "--out", place / "m")
    assert "would permit" in silo("policy", "check", place / "m", "--home", place / "alpha").out


def test_amendments_that_are_refused(silo: Command, file: Path, place: Path) -> None:
    amend = ("consortium", "amend", file)
    assert "this changes nothing" in silo(*amend, status=2).line
    assert "nobody stands nowhere in it" in silo(*amend, "--remove", "nobody", status=3).line
    line = silo(*amend, "--remove", "beta", "--quorum", "1", "--minimum-silos", "2", status=3).line
    assert "amendment_quorum must be more than half of the 2 members" in line
    line = silo(*amend, "--remove", "beta", status=3).line
    assert "minimum_silos is 3, but there are 2 members" in line
    assert "nobody has signed it" in silo("consortium", "amend", place / "draft.json", "--days", "9", status=3).line
    silo(*amend, "--days", "400")
    assert "not fully signed" in silo(*amend, "--days", "401", status=3).line
    silo("consortium", "sign", file, "--home", place / "beta")
    # a history with a hole, and one in another order
    silo("consortium", "sign", file, "--home", place / "gamma")
    chain = json.loads(file.read_text())
    file.write_text(json.dumps(chain["manifests"][1]))
    assert "it amends a manifest that is not here" in silo("consortium", "verify", file, status=3).line
    file.write_text(json.dumps({**chain, "manifests": chain["manifests"][::-1]}))
    assert "it amends a manifest that is not here" in silo("consortium", "verify", file, status=3).line
    # nobody replaces a member's key but the member: not who holds the new key, and not a quorum of the others
    file.write_text(json.dumps(chain["manifests"][0]))
    thief = Identity.generate("alpha").public().to_json()["keys"]
    stolen = json.loads((place / "alpha.json").read_text())
    stolen["member"]["keys"] = thief
    (place / "stolen.json").write_text(json.dumps(stolen))
    line = silo(*amend, "--add", place / "stolen.json", status=6).line
    assert "the keys of alpha change without a rotation of its own" in line


def test_nothing_changes_when_a_command_fails(silo: Command, file: Path, place: Path) -> None:
    before = file.read_bytes(), (place / "alpha" / "silo.toml").read_bytes()
    silo("consortium", "sign", file, "--home", place / "aggregator", status=6)
    silo("consortium", "amend", file, "--remove", "beta", status=3)
    silo("consortium", "add", file, place / "run" / "consortium.json", place / "rubbish.json", status=3)
    assert (file.read_bytes(), (place / "alpha" / "silo.toml").read_bytes()) == before


def test_the_run_manifest_is_bound_to_the_consortium(place: Path) -> None:
    run, manifest = run_of(place), parse_signed(ConsortiumManifest, (place / "heart.json").read_bytes()).body
    assert run.consortium == manifest.digest
    assert set(run.members) == manifest.names
    assert run.encryption.custody == manifest.custody


def test_the_quorum_of_witnesses_is_the_minimum_of_silos_unless_members_agree_otherwise(
    silo: Command, tmp_path: Path, made: Path
) -> None:
    first = silo("consortium", "new", tmp_path / "a.json", "--name", "a", "--minimum-silos", "2", "--json").json
    assert first["manifest"]["witness_quorum"] == 2
    none = silo("consortium", "new", tmp_path / "b.json", "--name", "b", "--witness-quorum", "0", "--json").json
    assert "witness_quorum" not in none["manifest"]
    assert "cosigned" not in silo("consortium", "show", tmp_path / "b.json").out
    file = Path(shutil.copy(made / "heart.json", tmp_path))
    assert "each log is cosigned by at least 3 others" in silo("consortium", "show", file).out
    silo("consortium", "amend", file, "--witness-quorum", "4", status=3)
    amended = silo("consortium", "amend", file, "--witness-quorum", "1", "--json").json
    assert amended["manifest"]["witness_quorum"] == 1
