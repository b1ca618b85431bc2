"""The envelope: what is checked, in which order, and that nothing slips past."""

from dataclasses import replace

import pytest
from silo_crypto import labels, wire
from silo_crypto.errors import ProtocolError, SignatureError, WireError
from silo_crypto.keys import Identity
from silo_crypto.protocol import Header

PARAMETERS = bytes(range(32))
HEADER = Header(bytes(32), "run-7", 1, 2, 3, ("alice", "bob"))
ALICE, BOB = Identity.generate("alice"), Identity.generate("bob")
PAYLOAD = b"a payload"
ENVELOPE = wire.pack(labels.UPLOAD, PARAMETERS, HEADER, ALICE, PAYLOAD)


def unpack(envelope, **changes):
    due = {"kind": labels.UPLOAD, "parameters_digest": PARAMETERS, "header": HEADER, "verifier": ALICE.public()}
    due |= {} if "max_length" in changes else {"length": len(PAYLOAD)}
    return wire.unpack(envelope, **(due | changes))


def test_a_payload_comes_back_as_a_read_only_view():
    payload = unpack(ENVELOPE)
    assert payload == PAYLOAD
    assert payload.readonly
    assert unpack(memoryview(ENVELOPE)) == PAYLOAD
    assert unpack(ENVELOPE, max_length=9) == PAYLOAD


def test_the_length_is_known_in_advance():
    assert len(ENVELOPE) == wire.envelope_bytes(labels.UPLOAD, HEADER, "alice", len(PAYLOAD))


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"kind": labels.AGGREGATE}, WireError, "another kind"),
        ({"parameters_digest": bytes(32)}, WireError, "other parameters"),
        ({"length": 8}, WireError, "9 bytes, not 8"),
        ({"max_length": 8}, WireError, "9 bytes, not at most 8"),
        ({"header": replace(HEADER, run="run-8")}, ProtocolError, "another run"),
        ({"header": replace(HEADER, epoch=0)}, ProtocolError, "another epoch"),
        ({"header": replace(HEADER, round=3)}, ProtocolError, "another round"),
        ({"header": replace(HEADER, attempt=0)}, ProtocolError, "another attempt"),
        ({"header": replace(HEADER, manifest=b"\1" * 32)}, ProtocolError, "another header"),
        ({"header": replace(HEADER, members=("alice",))}, ProtocolError, "another header"),
        ({"header": replace(HEADER, chain=b"\1" * 32)}, ProtocolError, "another header"),
        ({"header": replace(HEADER, nonces=(b"\1" * 32,))}, ProtocolError, "another header"),
        ({"verifier": BOB.public()}, SignatureError, "names another sender"),
        ({"verifier": Identity.generate("alice").public()}, SignatureError, "does not hold"),
    ],
)
def test_an_envelope_of_something_else_is_refused(change, error, says):
    with pytest.raises(error, match=says):
        unpack(ENVELOPE, **change)


def test_no_single_bit_can_change():
    for index in range(len(ENVELOPE)):
        altered = bytearray(ENVELOPE)
        altered[index] ^= 1 << (index % 8)
        with pytest.raises((WireError, ProtocolError, SignatureError)):
            unpack(bytes(altered))


def test_no_length_but_the_right_one_is_parsed():
    for length in range(len(ENVELOPE)):
        with pytest.raises(WireError, match=r"too few|add up"):
            unpack(ENVELOPE[:length])
    with pytest.raises(WireError, match="add up"):
        unpack(ENVELOPE + b"\0")


def test_a_payload_signed_for_one_kind_is_not_of_another():
    """``silo/v1/a`` begins ``silo/v1/aggregate``: the zero byte keeps their signatures apart."""
    assert labels.AGGREGATE.startswith(labels.PUBLIC_A)
    forged = ENVELOPE.replace(labels.UPLOAD, labels.SHARE + b"x"[: len(labels.UPLOAD) - len(labels.SHARE)])
    with pytest.raises(SignatureError, match="does not hold"):
        unpack(forged, kind=forged[forged.index(b"silo/v1") :][: len(labels.UPLOAD)])


def test_labels_are_distinct():
    values = [value for name, value in vars(labels).items() if name.isupper()]
    assert len(values) == len(set(values))
    assert all(value.startswith(b"silo/v1/") and b"\0" not in value for value in values)


def test_the_claimed_sender_is_only_a_claim():
    altered = ENVELOPE.replace(b"alice", b"carol")
    assert wire.claimed_sender(ENVELOPE) == "alice"
    assert wire.claimed_sender(altered) == "carol"
    with pytest.raises(SignatureError):
        unpack(altered)


def test_the_digest_covers_everything_but_the_signature():
    assert wire.digest(ENVELOPE) == wire.digest(ENVELOPE[:-1] + b"\0")
    assert wire.digest(ENVELOPE) != wire.digest(b"\0" + ENVELOPE[1:])


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="exactly one"):
        unpack(ENVELOPE, max_length=9, length=9)
    with pytest.raises(WireError, match="32 bytes"):
        wire.pack(labels.UPLOAD, b"short", HEADER, ALICE, b"")
    with pytest.raises(WireError, match="does not fit"):
        wire.pack(labels.UPLOAD, PARAMETERS, replace(HEADER, run="r" * 256), ALICE, b"")
