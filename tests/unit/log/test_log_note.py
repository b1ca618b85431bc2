"""Signed notes, checkpoints and cosignatures: other people's, ours, and every way to spoil one."""

import base64
import shutil
import subprocess
from pathlib import Path

import pytest
from silo_crypto.keys import Identity

from silo.errors import ConfigError, VerificationFailed
from silo.log import Checkpoint, VerifierKey, cosign, log_key, verify_checkpoint, witness_key
from silo.log.note import COSIGNATURE, sign_checkpoint, split, verify_note

# The example of golang.org/x/mod/sumdb/note, which defined the format.
GO_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
GO_NOTE = GO_TEXT + (
    "\n— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
# A checkpoint that a certificate log published, signed by it (types 1 and 5) and cosigned by four witnesses (type 4).
WILD = Path(__file__).parents[2] / "vectors" / "wild_checkpoint.txt"
WILD_LOG = "arche2025h1.staging.ct.transparency.dev+ba2f06c0+AU0vHmlGCS/PdN8b2OaGmKprLI8HKM+dJ472xgFYh15f"
WILD_WITNESSES = [
    "remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2",
    "witness.stagemole.eu+67f7aea0+BEqSG3yu9YrmcM3BHvQYTxwFj3uSWakQepafafpUqklv",
    "transparency.dev/DEV:witness-little-garden+d8042a87+BCtusOxINQNUTN5Oj8HObRkh2yHf/MwYaGX4CPdiVEPM",
    "witness1.smartit.nu/witness1+a48c820f+BPSFWg9G6KPiO7QPryYO5Xq4oYJJ+kAvLKLSimDhoxMO",
]
ORIGIN = "silo/cleveland"
ROOT = bytes(range(32))


@pytest.fixture(scope="module")
def cleveland():
    return Identity.generate("cleveland")


@pytest.fixture(scope="module")
def hungary():
    return Identity.generate("hungary")


@pytest.fixture(scope="module")
def note(cleveland, hungary):
    return cosign(sign_checkpoint(Checkpoint(ORIGIN, 7, ROOT), cleveland), hungary, now=1_700_000_000)


@pytest.fixture(scope="module")
def keys(cleveland, hungary):
    return log_key(ORIGIN, cleveland.public()), [witness_key(hungary.public())]


class TestOtherPeoples:
    def test_the_note_of_go(self):
        assert verify_note(GO_NOTE, [VerifierKey.parse(GO_KEY)]) == GO_TEXT

    def test_a_published_checkpoint_and_its_witnesses(self):
        log, witnesses = VerifierKey.parse(WILD_LOG), [VerifierKey.parse(text) for text in WILD_WITNESSES]
        checkpoint = verify_checkpoint(WILD.read_text(), log, witnesses, quorum=4)
        assert checkpoint.size == 1_432_088_532
        assert checkpoint.cosigned == dict.fromkeys((key.name for key in witnesses), 1_779_573_024)

    @pytest.mark.parametrize(
        "text",
        [
            GO_KEY,
            "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop",
            "TEST+7997405c+AQcC+FTVKf0jlTdHDY3rbevmnKxxPjigCXlVtGe6RIr6",  # the base64 holds a plus sign
            "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
            *WILD_WITNESSES,
        ],
    )
    def test_verifier_keys_read_and_write_the_same(self, text):
        assert str(VerifierKey.parse(text)) == text

    def test_openssl_agrees_with_our_signature(self, tmp_path, note, cleveland):
        openssl = shutil.which("openssl")
        if openssl is None:
            pytest.skip("openssl is not installed")
        text, lines = split(note)
        spki = bytes.fromhex("302a300506032b6570032100") + cleveland.public().ed25519
        (tmp_path / "key.der").write_bytes(spki)
        (tmp_path / "text").write_bytes(text.encode())
        (tmp_path / "signature").write_bytes(lines[0][2])
        command = [openssl, "pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-inkey", "key.der", "-rawin"]
        run = [*command, "-in", "text", "-sigfile", "signature"]
        assert subprocess.run(run, cwd=tmp_path, capture_output=True).returncode == 0
        (tmp_path / "text").write_bytes(text.encode() + b"\n")
        assert subprocess.run(run, cwd=tmp_path, capture_output=True).returncode != 0


class TestOurs:
    def test_reads_as_c2sp_says(self, note, keys):
        lines = note.split("\n")
        assert lines[:4] == [ORIGIN, "7", base64.b64encode(ROOT).decode(), ""]
        assert lines[4].startswith(f"— {ORIGIN} ")
        assert lines[5].startswith("— hungary ")
        assert lines[6:] == [""]
        log, (witness,) = keys
        assert base64.b64decode(lines[4].split(" ")[2])[:4] == log.id
        blob = base64.b64decode(lines[5].split(" ")[2])
        assert (blob[:4], int.from_bytes(blob[4:12]), len(blob)) == (witness.id, 1_700_000_000, 4 + 8 + 64)

    def test_round_trip(self, note, keys):
        log, witnesses = keys
        expected = Checkpoint(ORIGIN, 7, ROOT, {"hungary": 1_700_000_000})
        assert verify_checkpoint(note, log, witnesses, quorum=1) == expected
        assert verify_checkpoint(note, log) == Checkpoint(ORIGIN, 7, ROOT)

    def test_one_key_signs_both_kinds_apart(self, cleveland):
        note = cosign(sign_checkpoint(Checkpoint(ORIGIN, 7, ROOT), cleveland), cleveland)
        public = cleveland.public()
        found = verify_checkpoint(note, log_key(ORIGIN, public), [witness_key(public)], quorum=1)
        assert list(found.cosigned) == ["cleveland"]


class TestRefused:
    def test_every_changed_byte(self, note, keys):
        log, witnesses = keys
        data = note.encode()
        tried = 0
        for place in range(len(data)):
            try:
                text = (data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]).decode()
            except UnicodeDecodeError:
                continue
            with pytest.raises(VerificationFailed):
                verify_checkpoint(text, log, witnesses, quorum=1)
            tried += 1
        assert tried > 250

    def test_a_quorum_that_is_not_reached(self, note, keys):
        log, witnesses = keys
        with pytest.raises(VerificationFailed, match="1 of 2 cosignatures"):
            verify_checkpoint(note, log, witnesses, quorum=2)
        with pytest.raises(VerificationFailed, match=r"0 of 1 cosignatures \(none\)"):
            verify_checkpoint(note, log, quorum=1)

    def test_a_witness_that_signs_twice_counts_once(self, note, keys, hungary):
        log, witnesses = keys
        with pytest.raises(VerificationFailed, match="1 of 2"):
            verify_checkpoint(cosign(note, hungary), log, witnesses, quorum=2)

    def test_another_log(self, note, keys, cleveland):
        with pytest.raises(VerificationFailed, match="not signed by silo/hungary"):
            verify_checkpoint(note, log_key("silo/hungary", cleveland.public()), keys[1])

    def test_a_cosignature_alone(self, cleveland, hungary, keys):
        text, _ = split(sign_checkpoint(Checkpoint(ORIGIN, 7, ROOT), cleveland))
        _, lines = split(cosign(sign_checkpoint(Checkpoint(ORIGIN, 7, ROOT), cleveland), hungary))
        name, identifier, blob = lines[1]
        alone = f"{text}\n— {name} {base64.b64encode(identifier + blob).decode()}\n"
        with pytest.raises(VerificationFailed, match="not signed by"):
            verify_checkpoint(alone, *keys, quorum=1)

    def test_a_bad_signature_of_a_known_key_beside_a_good_one(self, note, keys):
        log, witnesses = keys
        forged = f"— hungary {base64.b64encode(witnesses[0].id + bytes(72)).decode()}\n"
        with pytest.raises(VerificationFailed, match="does not hold"):
            verify_checkpoint(note + forged, log, witnesses, quorum=1)

    def test_signatures_of_strangers_count_for_nothing(self, note, keys):
        stranger = Identity.generate("stranger")
        assert verify_checkpoint(cosign(note, stranger), *keys, quorum=1).cosigned.keys() == {"hungary"}
        with pytest.raises(VerificationFailed, match="no known key"):
            verify_note(note, [witness_key(stranger.public())])

    @pytest.mark.parametrize(
        "spoilt",
        [
            "",
            "\n",
            "text without signatures\n",
            "\n\n— a AAAAAAA=\n",
            "text\n\n",
            "text\n\n— a AAAAAAA=",
            "text\n\n- a AAAAAAA=\n",
            "text\n\n— a b AAAAAAA=\n",
            "text\n\n— a+b AAAAAAA=\n",
            "text\n\n— a AAAA\n",
            "text\n\n— a AAAAAAB=\n",
            "text\n\n— a AAAAAAA\n",
            "te\x00xt\n\n— a AAAAAAA=\n",
            "te\rxt\n\n— a AAAAAAA=\n",
            "text\ud800\n\n— a AAAAAAA=\n",
            "text\n\n" + "— a AAAAAAA=\n" * 300,
            "t" * 70_000 + "\n\n— a AAAAAAA=\n",
        ],
    )
    def test_notes_that_are_none(self, spoilt):
        with pytest.raises(VerificationFailed, match="not a signed note"):
            split(spoilt)

    @pytest.mark.parametrize(
        "body",
        [
            "o\n7\n",
            "o\n07\n{root}\n",
            "o\n-1\n{root}\n",
            "o\n7\nAAAA\n",
            "o\n7\n{root}=\n",
            "o\n7\n{root}\nextension\n",
            "o\n\n{root}\n",
            "o\n1e3\n{root}\n",
        ],
    )
    def test_texts_that_are_no_checkpoint(self, body, cleveland):
        text = body.replace("{root}", base64.b64encode(ROOT).decode())
        key = log_key("o", cleveland.public())
        line = base64.b64encode(key.id + cleveland.sign(text.encode())).decode()
        with pytest.raises(VerificationFailed, match="not a signed note"):
            verify_checkpoint(f"{text}\n— o {line}\n", key)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "PeterNeumann",
            GO_KEY.replace("c74f20a3", "c74f20a4"),
            GO_KEY.replace("Peter", "Petra"),
            GO_KEY[:-4] + "AAAA",
            GO_KEY[:-4],
            "Peter Neumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        ],
    )
    def test_keys_that_are_none(self, text):
        with pytest.raises(ConfigError):
            VerifierKey.parse(text)

    def test_keys_under_which_anything_would_hold(self):
        identity_point = b"\x01" + bytes(31)
        with pytest.raises(ConfigError):
            VerifierKey("a", identity_point)
        with pytest.raises(ConfigError):
            VerifierKey("a", bytes(31), COSIGNATURE)
        with pytest.raises(ConfigError, match="unknown signature type"):
            VerifierKey("a", bytes(32), 2)
