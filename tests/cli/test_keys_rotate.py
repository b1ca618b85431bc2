"""`silo keys rotate`: new keys beside the old ones, in use once the consortium says so; and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from silo_crypto.errors import KeyUseError
from silo_crypto.keys import seal

from silo.home import Home
from tests.cli.conftest import SILOS, Command


def modes(folder: Path) -> set[int]:
    return {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.name.endswith((".pem", "passphrase"))}


def test_a_home_rotates_its_keys_with_the_consent_of_the_others(silo: Command, place: Path) -> None:
    file, rotation, home = place / "heart.json", place / "rotation.json", place / "alpha"
    before = Home.open(home).public()
    said = silo("keys", "rotate", "--home", home, "--out", rotation)
    assert "the old ones stay in use" in said.out
    assert f"silo consortium amend FILE --rotate {rotation}" in " ".join(said.out.split())
    folder = home / "keys" / "epoch-1"
    assert (modes(folder), folder.stat().st_mode & 0o777) == ({0o600}, 0o700)
    assert Home.open(home).public() == before
    with Home.open(home).log() as log:
        (entry,) = log.entries("key-rotation")
    assert (entry.body["silo"], entry.body["epoch"]) == ("alpha", 1)
    # Once more: the same keys and words, nothing new on record.
    first = rotation.read_bytes()
    assert silo("keys", "rotate", "--home", home).json == json.loads(first)
    with Home.open(home).log() as log:
        assert len(list(log.entries("key-rotation"))) == 1

    told = silo("consortium", "amend", file, "--rotate", rotation, "--json").json
    assert told["manifest"]["rotations"].keys() == {"alpha"}
    for name in ("alpha", "beta"):  # alpha still signs with the keys that the others know
        silo("consortium", "sign", file, "--home", place / name)
    silo("consortium", "verify", file)
    said = silo("consortium", "join", file, "--home", home)
    assert "restart the agent" in said.out
    for name in ("beta", "gamma", "aggregator"):
        assert "restart" not in silo("consortium", "join", file, "--home", place / name).out
    after = Home.open(home)
    assert after.settings.key_epoch == 1
    assert after.public() != before
    assert after.identity().public() == after.public()
    # What was sealed to the old keys still opens, and to the new ones; to others not.
    for public in (before, after.public()):
        assert after.open_box(b"info", seal(public, b"info", b"what was kept")) == b"what was kept"
    with pytest.raises(KeyUseError):
        after.open_box(b"info", seal(Home.open(place / "beta").public(), b"info", b"not ours"))
    # The next rotation starts from the new keys; the old statement is worth nothing any more.
    line = silo("consortium", "amend", file, "--rotate", rotation, status=2).line
    assert "this changes nothing" in line
    silo("keys", "rotate", "--home", home, "--out", place / "second.json")
    silo("consortium", "amend", file, "--rotate", place / "second.json")


def test_the_aggregator_rotates_too(silo: Command, place: Path) -> None:
    file, rotation = place / "heart.json", place / "rotation.json"
    silo("keys", "rotate", "--home", place / "aggregator", "--out", rotation)
    silo("consortium", "amend", file, "--rotate", rotation)
    for name in ("beta", "gamma"):
        silo("consortium", "sign", file, "--home", place / name)
    for name in (*SILOS, "aggregator"):
        silo("consortium", "join", file, "--home", place / name)
    assert Home.open(place / "aggregator").settings.key_epoch == 1


def test_rotations_that_are_refused(silo: Command, place: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    file, rotation = place / "heart.json", place / "rotation.json"
    lone = tmp_path_factory.mktemp("lone") / "home"
    silo("init", "--name", "delta", "--home", lone)
    assert "has joined no consortium" in silo("keys", "rotate", "--home", lone, status=3).line
    silo("keys", "rotate", "--home", place / "alpha", "--out", rotation)
    whole, unsigned = json.loads(rotation.read_text()), file.read_bytes()

    def amended_with(changed: object, status: int) -> str:
        (place / "changed.json").write_text(json.dumps(changed))
        return silo("consortium", "amend", file, "--rotate", place / "changed.json", status=status).line

    # In another's name, with another's keys, with a stranger's words, by --add without any.
    inner = whole["rotation"]
    for_beta = {**inner, "member": {**inner["member"], "name": "beta"}}
    assert "belongs to two parties" in amended_with({"rotation": for_beta}, 3)
    for_beta["member"].pop("node")
    assert "the rotation of beta does not hold" in amended_with({"rotation": for_beta}, 6)
    stranger = silo("keys", "show", "--home", lone).json["member"]
    swapped = {**inner, "member": {**inner["member"], "keys": stranger["keys"]}}
    assert "the rotation of alpha does not hold" in amended_with({"rotation": swapped}, 6)
    assert "rotations" in amended_with({"rotation": {**inner, "statement": inner["statement"][4:]}}, 3)
    assert "no rotation of keys" in amended_with({"rotation": {"statement": inner["statement"]}}, 3)
    assert "no rotation of keys" in amended_with({"member": inner["member"]}, 3)
    (place / "taken.json").write_text(json.dumps({"member": inner["member"]}))
    line = silo("consortium", "amend", file, "--add", place / "taken.json", status=6).line
    assert "alpha change without a rotation of its own" in line
    assert file.read_bytes() == unsigned
    # The manifest moved on: the statement was for the one before, and the same keys speak anew for this one.
    silo("consortium", "amend", file, "--days", "700")
    for name in ("alpha", "beta"):
        silo("consortium", "sign", file, "--home", place / name)
    silo("consortium", "join", file, "--home", place / "alpha")
    line = silo("consortium", "amend", file, "--rotate", rotation, status=6).line
    assert "does not hold for this amendment" in line
    again = silo("keys", "rotate", "--home", place / "alpha").json
    assert again["rotation"]["member"] == inner["member"]
    assert again["rotation"]["statement"] != inner["statement"]
