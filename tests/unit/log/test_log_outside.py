"""Our checkpoints, read by software that is not ours. (openssl checks the signature in test_log_note.)"""

import pytest
from silo_crypto.keys import Identity

from silo.log import Log, cosign
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
