"""One entry's evidence in a file: what it says, that it needs nothing else, and that every changed byte is caught."""

import base64

import pytest
from silo_crypto.keys import Identity

from silo.errors import ConfigError, VerificationFailed
from silo.log import Log, Proof, check, cosign, log_key, prove, witness_key

ORIGIN = "silo/cleveland"


@pytest.fixture(scope="module")
def keeper():
    return Identity.generate("cleveland")


@pytest.fixture(scope="module")
def made(hundred, keeper):
    with Log(hundred, ORIGIN, create=False) as log:
        return str(prove(log, 90, log.checkpoint(keeper)))


def test_a_proof_holds_with_nothing_but_the_key(made, keeper):
    checked = check(Proof.parse(made), log_key(ORIGIN, keeper.public()))
    assert (checked.entry.index, str(checked.entry.kind), checked.checkpoint.size) == (90, "upload", 100)
    assert checked.entry.body["round"] == 10


def test_it_is_written_as_c2sp_tlog_proof_says(made):
    lines = made.split("\n")
    assert lines[0] == "c2sp.org/tlog-proof@v1"
    assert base64.b64decode(lines[1].removeprefix("extra ")).startswith(b'{"body":')
    assert lines[2] == "index 90"
    gap = lines.index("")
    assert all(len(base64.b64decode(line)) == 32 for line in lines[3:gap])
    assert lines[gap + 1 : gap + 3] == [ORIGIN, "100"]
    assert str(Proof.parse(made)) == made


def test_every_entry_of_every_size_can_be_proven(tmp_path, keeper):
    key = log_key(ORIGIN, keeper.public())
    with Log(tmp_path / "log.db", ORIGIN) as log:
        for size in range(1, 18):
            log.append("fault", {"what": f"fault {size}"})
            note = log.checkpoint(keeper)
            for index in range(size):
                assert check(Proof.parse(str(prove(log, index, note))), key).entry.body["what"] == f"fault {index + 1}"


def test_every_changed_byte_is_caught(made, keeper):
    key, raw = log_key(ORIGIN, keeper.public()), made.encode()
    for at in range(len(raw)):
        forged = bytearray(raw)
        forged[at] ^= 1
        try:
            text = forged.decode()
        except UnicodeDecodeError:
            continue
        with pytest.raises((VerificationFailed, ConfigError)):
            check(Proof.parse(text), key)


def test_another_key_and_another_log_are_refused(made, keeper):
    proof = Proof.parse(made)
    with pytest.raises(VerificationFailed, match="not signed by"):
        check(proof, log_key(ORIGIN, Identity.generate("cleveland").public()))
    with pytest.raises(VerificationFailed, match="not signed by"):
        check(proof, log_key("silo/hungary", keeper.public()))


def test_a_quorum_of_witnesses_can_be_demanded(made, keeper):
    witness, key = Identity.generate("hungary"), log_key(ORIGIN, keeper.public())
    proof = Proof.parse(made)
    witnesses = [witness_key(witness.public())]
    with pytest.raises(VerificationFailed, match="0 of 1 cosignatures"):
        check(proof, key, witnesses, quorum=1)
    seen = Proof(proof.index, proof.hashes, cosign(proof.note, witness), proof.data)
    assert set(check(Proof.parse(str(seen)), key, witnesses, quorum=1).checkpoint.cosigned) == {"hungary"}


def test_a_head_the_log_never_had_proves_nothing(hundred, tmp_path, keeper):
    with Log(tmp_path / "other.db", ORIGIN) as other:
        other.extend([("fault", {"what": "another story"})] * 60)
        forked = other.checkpoint(keeper)
        other.extend([("fault", {"what": "another story"})] * 60)
        longer = other.checkpoint(keeper)
    with Log(hundred, ORIGIN, create=False) as log:
        with pytest.raises(VerificationFailed, match="another root at size 60"):
            prove(log, 1, forked)
        with pytest.raises(VerificationFailed, match="rolled the log back"):
            prove(log, 1, longer)
        with pytest.raises(ConfigError, match="none numbered 100"):
            prove(log, 100, log.checkpoint(keeper))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "c2sp.org/tlog-proof@v1\n",
        "c2sp.org/tlog-proof@v2\nextra AA==\nindex 0\n\nnote",
        "c2sp.org/tlog-proof@v1\nindex 0\n\nnote\n",
        "c2sp.org/tlog-proof@v1\nextra AA==\nindex 01\n\nnote\n",
        "c2sp.org/tlog-proof@v1\nextra !!\nindex 0\n\nnote\n",
        "c2sp.org/tlog-proof@v1\nextra AA==\nindex 0\nAA==\n\nnote\n",
        "c2sp.org/tlog-proof@v1\nextra AA==\nindex 0\n\nnot a note\n",
    ],
)
def test_what_is_no_proof_is_refused(text):
    with pytest.raises(VerificationFailed):
        Proof.parse(text)
