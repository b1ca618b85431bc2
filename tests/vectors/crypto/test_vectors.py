"""Known answers: bytes written once, read ever after; each ``_bad_`` file says which failure is due."""

import base64
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from silo_crypto import errors, labels, wire
from silo_crypto.shared import SharedAdder, SharedKey, SharedOpener, uploaders
from silo_crypto.verification import chain, open_sum, protect

HERE = Path(__file__).parent
_spec = importlib.util.spec_from_file_location("make_vectors", HERE / "make.py")
made = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(made)


def read(name):
    return json.loads((HERE / f"{name}.json").read_text())


def raw(text):
    return base64.b64decode(text)


def names(pattern):
    found = sorted(path.stem for path in HERE.glob(f"{pattern}.json"))
    assert found, "the vectors are missing"
    return found


def unpack(envelope):
    return wire.unpack(
        envelope,
        kind=labels.UPLOAD,
        parameters_digest=made.PARAMETERS.digest(),
        header=made.HEADER,
        verifier=made.identity("alice").public(),
        max_length=100,
    )


def test_a_good_envelope_is_read_and_written_alike():
    vector = read("wire_good")
    assert unpack(raw(vector["envelope"])) == raw(vector["payload"])
    again = wire.pack(
        labels.UPLOAD, made.PARAMETERS.digest(), made.HEADER, made.identity("alice"), raw(vector["payload"])
    )
    assert again == raw(vector["envelope"])


@pytest.mark.parametrize("name", names("wire_bad_*"))
def test_a_bad_envelope_fails_in_its_own_way(name):
    vector = read(name)
    with pytest.raises(errors.CryptoError, match=vector["says"]) as caught:
        unpack(raw(vector["envelope"]))
    assert type(caught.value).__name__ == vector["error"]


@pytest.fixture
def shared():
    vector = read("shared_good")
    key = SharedKey.restore(made.PARAMETERS, made.HEADER, raw(vector["key"]))
    return vector, key


def test_fields_tags_and_chain_are_known(shared):
    vector, key = shared
    for name, values in made.VALUES.items():
        fields = protect(key.group, made.HEADER, name, np.array(values, dtype=np.uint32), 16)
        assert fields.tolist() == vector["fields"][name]
    assert chain(key.group, made.HEADER, np.array(vector["sums"], dtype=np.int64)) == raw(vector["chain"])


def test_old_uploads_still_add_and_open(shared):
    """Also pins SEAL's expansion of a seed: the aggregate holds the expanded polynomials."""
    vector, key = shared
    adder = SharedAdder(made.PARAMETERS, made.HEADER, length=len(vector["fields"]["alice"]), minimum=2)
    for name, upload in vector["uploads"].items():
        adder.add(name, raw(upload))
    aggregate = adder.aggregate()
    assert aggregate == raw(vector["aggregate"])
    sums = open_sum(
        SharedOpener(key),
        key.group,
        made.HEADER,
        uploaders(made.HEADER, aggregate),
        aggregate,
        values=5,
        value_bits=16,
        minimum=2,
    )
    assert sums.tolist() == vector["sums"] == [a + b for a, b in zip(*made.VALUES.values(), strict=True)]
    assert key.export() == raw(vector["key"])


@pytest.mark.parametrize("name", names("shared_bad_*"))
def test_a_bad_upload_fails_in_its_own_way(shared, name):
    vector, bad = shared[0], read(name)
    adder = SharedAdder(made.PARAMETERS, made.HEADER, length=len(vector["fields"]["alice"]), minimum=2)
    adder.add("alice", raw(vector["uploads"]["alice"]))
    with pytest.raises(errors.CryptoError, match=bad["says"]) as caught:
        adder.add("bob", raw(bad["upload"]))
    assert type(caught.value).__name__ == bad["error"]
