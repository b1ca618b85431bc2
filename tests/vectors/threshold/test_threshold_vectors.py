"""Known answers of threshold custody: computed once, computed still; what is bad is refused for its reason."""

import importlib.util
import json
from pathlib import Path

import pytest
from silo_crypto.errors import WireError
from silo_crypto.threshold import messages

HERE = Path(__file__).parent
_spec = importlib.util.spec_from_file_location("make_threshold_vectors", HERE / "make.py")
made = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(made)

BAD = sorted(HERE.glob("threshold_bad_*.json"))
GOOD = json.loads((HERE / "threshold_good.json").read_text())


def test_every_known_answer_stands():
    computed = made.good()
    assert computed.keys() == GOOD.keys()
    for name, answer in GOOD.items():
        assert computed[name] == answer, name


def test_a_known_header_is_read():
    assert messages.decode_header(bytes.fromhex(GOOD["header"])) == made.HEADER


def test_no_bad_vector_is_missing():
    assert {path.stem.removeprefix("threshold_bad_") for path in BAD} == made.bad().keys()


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_bad_messages_are_refused_for_their_reason(path):
    case = json.loads(path.read_text())
    with pytest.raises(WireError, match=case["what"]):
        getattr(messages, case["kind"]).decode(bytes.fromhex(case["bytes"]))
