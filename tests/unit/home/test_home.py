"""A home: where everything is, who may read it, and that it is there whole or not at all."""

import os
import stat
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key
from silo_crypto.errors import KeyUseError
from silo_crypto.keys import Identity
from silo_policies import (
    Aggregator,
    ConsortiumManifest,
    DocumentError,
    Keys,
    Member,
    PackError,
    Person,
    Waiver,
    parse_pack,
    shipped_pack,
    shipped_text,
    sign,
)

from silo.errors import ConfigError, VerificationFailed
from silo.home import Home, default_path
from silo.home import home as module

CODE = "sha256:" + "ab" * 32
OTHER = "sha256:" + "cd" * 32
FIXED = {
    "silo.toml",
    "data.toml",
    "keys/identity.ed25519.pem",
    "keys/identity.json",
    "keys/node.p384.pem",
    "keys/node.p384.pub",
    "keys/passphrase",
    "keys/sealing.x25519.pem",
    "ledger.db",
    "log.db",
}


def files(path):
    return {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def keys_of(identity):
    return Keys(**identity.public().to_json()["keys"])


@pytest.fixture(scope="module")
def people():
    names = ("hungary", "aggregator", "steward-1", "steward-2", "officer-1", "researcher-1")
    return {name: Identity.generate(name) for name in names}


@pytest.fixture
def manifest(home, people):
    now = datetime.now(UTC)
    body = ConsortiumManifest(
        name="heart",
        members=(
            Member(name="cleveland", organisation_type="hospital", jurisdiction="US", keys=keys_of(home.identity())),
            Member(name="hungary", organisation_type="hospital", jurisdiction="HU", keys=keys_of(people["hungary"])),
        ),
        aggregator=Aggregator(name="aggregator", keys=keys_of(people["aggregator"])),
        people=(
            Person(name="steward-1", role="steward", keys=keys_of(people["steward-1"]), silo="cleveland"),
            Person(name="steward-2", role="steward", keys=keys_of(people["steward-2"]), silo="hungary"),
            Person(name="officer-1", role="officer", keys=keys_of(people["officer-1"]), silo="cleveland"),
            Person(name="researcher-1", role="researcher", keys=keys_of(people["researcher-1"])),
        ),
        custody="shared",
        minimum_silos=2,
        packs={"baseline": shipped_pack("baseline").digest},
        amendment_quorum=2,
        created=now,
        expires=now + timedelta(days=1),
    )
    return sign(body, home.identity(), people["hungary"])


class TestMaking:
    def test_everything_is_where_it_is_looked_for(self, home, tmp_path):
        assert files(tmp_path) == {f"cleveland/{name}" for name in FIXED}
        folders = {"keys", "policy", "policy/consortium", "waivers", "approvals", "runs"}
        assert {str(path.relative_to(home.path)) for path in home.path.rglob("*") if path.is_dir()} == folders
        assert (home.name, home.origin, home.shares_path) == ("cleveland", "silo/cleveland", home.path / "shares.db")
        assert home.settings.display_name == "cleveland"
        assert home.settings.jurisdiction == "US-OH"

    def test_only_its_owner_reads_it_whatever_the_umask(self, tmp_path):
        previous = os.umask(0)
        try:
            home = Home.create(tmp_path / "open", "open")
            home.run_directory("7")
            home.approve(CODE)
        finally:
            os.umask(previous)
        public = {"identity.json", "node.p384.pub"}
        for path in [home.path, *home.path.rglob("*")]:
            expected = 0o700 if path.is_dir() else 0o644 if path.name in public else 0o600
            assert mode(path) == expected, path

    def test_an_empty_folder_becomes_a_home(self, tmp_path):
        (tmp_path / "empty").mkdir()
        assert Home.create(tmp_path / "empty", "cleveland").path == tmp_path / "empty"
        assert Home.create(tmp_path / "a" / "b" / "c", "cleveland").name == "cleveland"

    def test_nothing_is_overwritten(self, home, tmp_path):
        before = home.public()
        (tmp_path / "file").write_text("x")
        (tmp_path / "link").symlink_to(tmp_path / "nowhere")
        for path in (home.path, tmp_path / "file", tmp_path / "link"):
            with pytest.raises(ConfigError, match="already there"):
                Home.create(path, "other")
        assert Home.open(home.path).public() == before

    @pytest.mark.parametrize("name", ["", "Cleveland", "a b", "a/b", "..", "x" * 33, "é"])
    def test_names_that_are_none(self, tmp_path, name):
        with pytest.raises(ConfigError, match="name"):
            Home.create(tmp_path / "home", name)
        assert list(tmp_path.iterdir()) == []

    def test_other_fields_that_make_no_sense(self, tmp_path, dataset):
        twice = [dataset, dataset]
        for terms in ({"jurisdiction": "Ohio"}, {"organisation_type": "A Bank"}, {"data": twice}):
            with pytest.raises(ConfigError):
                Home.create(tmp_path / "home", "cleveland", **terms)
            assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("step", ["create_keys", "write_data", "Ledger", "Log", "write_settings"])
    def test_a_failure_leaves_nothing(self, tmp_path, monkeypatch, step):
        def fail(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(module, step, fail)
        with pytest.raises(ConfigError, match="No space left"):
            Home.create(tmp_path / "home", "cleveland")
        assert list(tmp_path.iterdir()) == []

    def test_killed_while_it_is_made(self, tmp_path):
        program = (
            "import sys; from pathlib import Path; from silo_crypto import keys; from silo.home import Home\n"
            "keys._SCRYPT['iteration_count'] = 16\n"
            "print('ready', flush=True)\n"
            "for n in range(1000): Home.create(Path(sys.argv[1]) / str(n), 'cleveland')\n"
        )
        child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
        assert child.stdout.readline() == b"ready\n"
        while not [path for path in tmp_path.iterdir() if not path.name.startswith(".")]:  # however busy the machine is
            time.sleep(0.01)
        time.sleep(0.05)
        child.kill()
        child.communicate()
        homes = [path for path in tmp_path.iterdir() if not path.name.startswith(".")]
        assert homes
        for path in homes:
            assert files(path) == FIXED
            home = Home.open(path)
            home.identity()
            with home.log() as log, home.ledger() as ledger:
                assert (log.verify().size, ledger.verify().size) == (0, 1)


class TestOpening:
    def test_the_default_place(self, home, monkeypatch, tmp_path):
        monkeypatch.setenv("SILO_HOME", str(home.path))
        assert Home.open().name == "cleveland"
        monkeypatch.delenv("SILO_HOME")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert default_path() == tmp_path / ".silo"
        with pytest.raises(ConfigError, match="not a home"):
            Home.open()

    def test_a_home_that_moved(self, home, tmp_path):
        public = home.public()
        again = Home.open(home.path.rename(tmp_path / "moved"))
        assert again.identity().public() == public
        with again.log() as log, again.ledger():
            assert log.origin == "silo/cleveland"

    @pytest.mark.parametrize(("path", "bits"), [(".", 0o020), (".", 0o002), ("keys", 0o010), ("keys", 0o004)])
    def test_open_to_others(self, home, path, bits):
        target = home.path / path
        target.chmod(mode(target) | bits)
        with pytest.raises(ConfigError, match="others can") as error:
            Home.open(home.path)
        assert "chmod" in error.value.fix

    @pytest.mark.parametrize("name", ["keys", "silo.toml"])
    def test_parts_that_are_missing(self, home, name):
        (home.path / name).rename(home.path / "away")
        with pytest.raises(ConfigError) as error:
            Home.open(home.path)
        assert name in error.value.where

    def test_parts_that_are_missing_later(self, home):
        for name, call in (("ledger.db", home.ledger), ("log.db", home.log), ("data.toml", home.data)):
            (home.path / name).unlink()
            with pytest.raises(ConfigError) as error:
                call()
            assert error.value.where == str(home.path / name)

    def test_a_file_in_its_place(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(ConfigError, match="not a home"):
            Home.open(tmp_path / "file")


class TestKeys:
    def test_the_identity_is_the_public_one(self, home):
        identity = home.identity()
        assert identity.public() == home.public() == Home.open(home.path).public()
        home.public().verify(b"message", identity.sign(b"message"))
        assert home.identity() is identity

    def test_a_passphrase_from_the_environment_is_not_stored(self, tmp_path, monkeypatch):
        monkeypatch.setenv("SILO_PASSPHRASE", "correct horse")
        home = Home.create(tmp_path / "home", "cleveland")
        assert files(home.path) == FIXED - {"keys/passphrase"}
        assert Home.open(home.path).identity().name == "cleveland"
        monkeypatch.setenv("SILO_PASSPHRASE", "wrong")
        with pytest.raises(KeyUseError, match="wrong passphrase"):
            Home.open(home.path).identity()
        monkeypatch.delenv("SILO_PASSPHRASE")
        with pytest.raises(ConfigError, match="not stored") as error:
            Home.open(home.path).identity()
        assert "SILO_PASSPHRASE" in error.value.fix

    def test_passphrases_are_random_and_never_shown(self, tmp_path):
        homes = [Home.create(tmp_path / name, name) for name in ("a", "b")]
        secrets = [(home.path / "keys" / "passphrase").read_text().strip() for home in homes]
        assert secrets[0] != secrets[1]
        assert min(len(secret) for secret in secrets) >= 43
        (homes[0].path / "keys" / "passphrase").write_text(secrets[1])
        with pytest.raises(KeyUseError) as error:
            homes[0].identity()
        assert secrets[0] not in repr(homes) + str(error.value)
        assert secrets[1] not in repr(homes) + str(error.value)

    @pytest.mark.parametrize("name", ["passphrase", "identity.ed25519.pem", "sealing.x25519.pem"])
    def test_secrets_that_others_can_read(self, home, name):
        (home.path / "keys" / name).chmod(0o640)
        with pytest.raises((ConfigError, KeyUseError), match="0640"):
            Home.open(home.path).identity()

    def test_an_empty_passphrase(self, home):
        (home.path / "keys" / "passphrase").write_text("\n")
        with pytest.raises(ConfigError, match="empty"):
            home.identity()

    def test_somebody_elses_keys(self, home, tmp_path):
        other = Home.create(tmp_path / "hungary", "hungary")
        (home.path / "keys").rename(tmp_path / "away")
        (other.path / "keys").rename(home.path / "keys")
        with pytest.raises(ConfigError, match="the keys of hungary"):
            home.identity()

    def test_flower_reads_the_node_key(self, home):
        key = load_ssh_private_key(home.node_key(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        assert key.curve.name == "secp384r1"
        public = (home.keys_directory / "node.p384.pub").read_bytes()
        assert load_ssh_public_key(public).public_numbers() == key.public_key().public_numbers()
        (home.keys_directory / "node.p384.pem").chmod(0o644)
        with pytest.raises(ConfigError, match="others can read"):
            home.node_key()


class TestDataAndBudget:
    def test_populations_open_with_the_ledger(self, home, dataset):
        home.add_dataset(dataset)
        home.add_dataset(dataset.model_copy(update={"name": "follow-up"}))
        home.add_dataset(dataset.model_copy(update={"name": "lung", "population": "lungs", "filter": "rdp(16)"}))
        home.add_dataset(dataset)  # the same again
        assert [one.name for one in home.data()] == ["follow-up", "lung", "heart"]
        with home.ledger() as ledger:
            names = {(one.name, one.filter, one.epsilon_cap) for one in ledger.populations()}
        assert names == {("cleveland-cardiology", "basic", 10.0), ("lungs", "rdp(16)", 10.0)}

    def test_a_cap_that_was_edited(self, home, dataset):
        home.add_dataset(dataset)
        home.ledger().close()
        home.add_dataset(dataset.model_copy(update={"epsilon_cap": 20.0}))
        with pytest.raises(ConfigError, match="was opened with epsilon 10"):
            home.ledger()

    def test_two_budgets_for_one_population(self, home, dataset):
        home.add_dataset(dataset)
        with pytest.raises(ConfigError, match="two budgets"):
            home.add_dataset(dataset.model_copy(update={"name": "again", "delta": 1e-3}))
        assert home.data() == (dataset,)


class TestPolicies:
    def test_packs_are_kept_and_read_back(self, home):
        text = shipped_text("baseline")
        home.add_pack(shipped_pack("baseline"), text)
        assert (home.path / "policy" / "baseline.yaml").read_bytes() == text
        assert [pack.digest for pack in home.packs()] == [shipped_pack("baseline").digest]

    def test_a_pack_that_does_not_parse_or_goes_by_another_name(self, home):
        (home.path / "policy" / "broken.yaml").write_text("id: [")
        with pytest.raises(PackError, match=r"broken\.yaml"):
            home.packs()
        (home.path / "policy" / "broken.yaml").write_bytes(shipped_text("baseline"))
        with pytest.raises(ConfigError, match="the pack in it is baseline"):
            home.packs()

    def test_joining(self, home, manifest):
        for call in (home.consortium, home.federation_packs):
            with pytest.raises(ConfigError, match="joined no consortium"):
                call()
        home.join(manifest, [shipped_pack("baseline")])
        for one in (home, Home.open(home.path)):
            assert one.consortium() == manifest
            assert one.settings.consortium == manifest.body.digest
            assert [pack.digest for pack in one.federation_packs()] == [shipped_pack("baseline").digest]
        assert home.packs() == ()

    def test_joining_with_other_packs(self, home, manifest):
        changed = shipped_text("baseline").replace(b"4.0", b"40.0")
        for packs in (
            [],
            [parse_pack(changed, "baseline.yaml")],
            [shipped_pack("baseline"), shipped_pack("hipaa-research")],
        ):
            with pytest.raises(VerificationFailed, match="not those of the manifest"):
                home.join(manifest, packs)
        assert home.settings.consortium is None

    def test_a_manifest_or_pack_that_was_exchanged(self, home, manifest, people):
        home.join(manifest, [shipped_pack("baseline")])
        pack = home.path / "policy" / "consortium" / "baseline.yaml"
        good = pack.read_bytes()
        pack.write_bytes(shipped_text("baseline").replace(b"4.0", b"40.0"))
        with pytest.raises(VerificationFailed, match="agreed on: baseline"):
            home.federation_packs()
        pack.unlink()
        with pytest.raises(VerificationFailed, match="agreed on: baseline"):
            home.federation_packs()
        pack.write_bytes(good)
        home.federation_packs()
        other = sign(manifest.body.model_copy(update={"minimum_silos": 2, "name": "other"}), people["hungary"])
        (home.path / "consortium.json").write_text(other.to_json())
        with pytest.raises(VerificationFailed, match="not the manifest"):
            home.consortium()
        (home.path / "consortium.json").write_text("{")
        with pytest.raises(DocumentError, match="JSON"):
            home.consortium()
        (home.path / "consortium.json").unlink()
        with pytest.raises(ConfigError, match="cannot read"):
            home.consortium()

    def test_waivers(self, home, people):
        now = datetime.now(UTC)
        waiver = sign(
            Waiver(
                pack="baseline",
                pack_digest=OTHER,
                rule="size",
                silo="cleveland",
                run="7",
                approver="officer-1",
                reason="agreed by the board",
                created=now,
                expires=now + timedelta(days=1),
            ),
            people["officer-1"],
        )
        assert home.waivers() == ()
        home.add_waiver(waiver)
        home.add_waiver(waiver)
        assert home.waivers() == (waiver,)


class TestApprovals:
    def test_nobody_approved_it(self, home):
        assert not home.approved(CODE)
        assert home.approvers(CODE) == ()

    def test_the_home_itself_approves(self, home):
        home.approve(CODE)
        assert home.approvers(CODE) == ("cleveland",)
        assert Home.open(home.path).approved(CODE)
        assert not home.approved(OTHER)

    def test_its_stewards_approve_and_nobody_else(self, home, manifest, people):
        for name in ("steward-1", "steward-2", "officer-1", "researcher-1", "hungary"):
            home.approve(CODE, people[name])
        assert home.approvers(CODE) == ()
        home.join(manifest, [shipped_pack("baseline")])
        assert home.approvers(CODE) == ("steward-1",)

    def test_an_approval_that_ran_out(self, home, monkeypatch):
        home.approve(CODE, days=2)

        shift = timedelta()

        class Clock(datetime):
            @classmethod
            def now(cls, zone=None):
                return datetime.now(zone) + shift

        monkeypatch.setattr(module, "datetime", Clock)
        for days, holds in ((1, True), (3, False), (-1, False)):
            shift = timedelta(days=days)
            assert home.approved(CODE) is holds, days

    def test_approvals_that_say_nothing(self, home):
        for terms in ({"days": 0}, {"days": -1}, {"note": ""}):
            with pytest.raises(ConfigError, match="an approval has"):
                home.approve(CODE, **terms)

    def test_an_approval_for_other_code_or_by_another_key(self, home):
        home.approve(CODE)
        (path,) = (home.path / "approvals").iterdir()
        text = path.read_text()
        path.write_text(text.replace("ab" * 32, "cd" * 32))
        assert not home.approved(OTHER)
        assert not home.approved(CODE)
        path.write_text(text)
        assert home.approved(CODE)
        impostor = Identity.generate("cleveland")
        home.approve(OTHER, impostor)
        assert not home.approved(OTHER)

    def test_what_is_no_digest_or_no_approval(self, home):
        with pytest.raises(ConfigError, match="no digest"):
            home.approve("../../x")
        (home.path / "approvals" / "x.json").write_text("[]")
        with pytest.raises(DocumentError, match=r"approvals/x\.json"):
            home.approved(CODE)


class TestRuns:
    def test_a_submission_is_kept_once(self, home):
        parts = {"run.json": b"{}", "experiment.py": b"x = 1\n"}
        path = home.add_submission("heart-7", parts)
        assert path == home.run_directory("heart-7") == home.path / "runs" / "heart-7"
        assert {file.name: file.read_bytes() for file in path.iterdir()} == parts
        with pytest.raises(ConfigError, match="submitted once"):
            home.add_submission("heart-7", {"run.json": b"other"})
        assert {file.name: file.read_bytes() for file in path.iterdir()} == parts
        assert [one.name for one in (home.path / "runs").iterdir()] == ["heart-7"]

    @pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a b"])
    def test_a_submission_names_no_other_place(self, home, name):
        with pytest.raises(ConfigError, match="name of a run's file"):
            home.add_submission("7", {"run.json": b"{}", name: b""})
        assert list((home.path / "runs").iterdir()) == []

    @pytest.mark.parametrize("run", ["", "..", ".x", "a/b", "a b", "x" * 129, "ä"])
    def test_ids_that_are_none(self, home, run):
        for call in (lambda: home.run_directory(run), lambda: home.add_submission(run, {})):
            with pytest.raises(ConfigError, match="cannot be a run's id"):
                call()
