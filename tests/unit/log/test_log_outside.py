"""Our checkpoints and proofs, read by what is not ours. (openssl checks a checkpoint's signature in test_log_note.)"""

import base64
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from silo_crypto.keys import Identity

from silo.log import Log, cosign, log_key, prove, witness_key
from tests.unit.report.outside import outside

ORIGIN = "silo/cleveland"


@pytest.fixture(scope="module")
def parser():
    return outside("sigstore._internal.rekor.checkpoint", "sigstore")


@pytest.mark.parametrize("witnesses", [0, 2])
def test_sigstore_s_parser_reads_our_checkpoint(hundred, parser, witnesses):
    keeper = Identity.generate("cleveland")
    with Log(hundred, ORIGIN, create=False) as log:
        note, head = log.checkpoint(keeper), log.head()
    for number in range(witnesses):
        note = cosign(note, Identity.generate(f"witness-{number}"))
    signed = parser.SignedCheckpoint.from_text(note)
    assert signed.signed_note.note == head.text
    assert len(signed.signed_note.signatures) == 1 + witnesses
    assert signed.signed_note.signatures[0].name == ORIGIN
    read = signed.checkpoint
    assert (read.origin, read.log_size, read.log_hash) == (ORIGIN, 100, head.root.hex())
    assert read.other_content == []


CHECK = Path(__file__).parents[3] / "examples" / "audit" / "check.py"


def test_a_proof_holds_without_any_code_of_ours(hundred, tmp_path):
    """`examples/audit/check.py` runs with nothing but the standard library and openssl, and finds what was changed."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    keeper, witness, stranger = (Identity.generate(name) for name in ("cleveland", "hungary", "other"))
    keys = [str(log_key(ORIGIN, keeper.public())), str(witness_key(witness.public()))]
    with Log(hundred, ORIGIN, create=False) as log:
        texts = {n: str(prove(log, n, cosign(log.checkpoint(keeper), witness))) for n in (0, 64, 99)}
        said = log.entry(64).data.decode()
    file = tmp_path / "one.tlog-proof"

    def check(text, *keys):
        file.write_text(text)
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(CHECK), str(file), *keys], capture_output=True, text=True, cwd=tmp_path
        )
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout + done.stderr

    for number, text in texts.items():
        code, told = check(text, *keys)
        assert (code, told.split(" in ")[0]) == (0, f"entry {number} of 100"), told
    text = texts[64]
    assert said in check(text, keys[0])[1]
    lines = text.split("\n")
    body = base64.b64decode(lines[1].removeprefix("extra ")).replace(b"fault", b"Fault")
    entry = "\n".join([lines[0], f"extra {base64.b64encode(body).decode()}", *lines[2:]])
    for changed, given, why in (
        (entry, keys, "is not number 64"),
        (text.replace("index 64", "index 65"), keys, "is not number 65"),
        (text.replace("\n100\n", "\n101\n"), keys, f"signature of {ORIGIN} does not hold"),
        ("\n".join(lines[:4] + lines[5:]), keys, "the proof is too short"),
        (text, [str(log_key(ORIGIN, stranger.public()))], "has not signed the head"),
        (text, [*keys, str(witness_key(stranger.public()))], "other has not signed the head"),
        (text, [keys[1]], f"the first key is not that of {ORIGIN}"),
        (text, [keys[0], keys[0]], "is not the kind of key"),
        ("nothing", keys, "not a proof"),
    ):
        code, told = check(changed, *given)
        assert code == 1, why
        assert why in told
