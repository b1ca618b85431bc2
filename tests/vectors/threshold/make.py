"""Make the vectors beside this file: ``python tests/vectors/threshold/make.py``. They change with a version only.

``threshold_good.json`` pins what two machines must compute alike: slots, public polynomials, masks, encodings,
digests, what is signed. Each ``threshold_bad_*.json`` is one message with one thing wrong and the error that says so.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from silo_crypto import labels
from silo_crypto.protocol import Header
from silo_crypto.ring import ring
from silo_crypto.ring_packing import pack
from silo_crypto.threshold import cipher
from silo_crypto.threshold.encoding import Layout, codec
from silo_crypto.threshold.epoch import Epoch
from silo_crypto.threshold.keys import box_info, commitment
from silo_crypto.threshold.messages import (
    Aggregate,
    Agreement,
    Confirm,
    Dealing,
    Nonce,
    Request,
    Start,
    encode_names,
    framed,
    upload_digest,
)
from silo_crypto.threshold.parameters import DEGREE, NAMED, PRIMES, named
from silo_crypto.threshold.sampling import derive, keyed_stream, uniform

FOLDER = Path(__file__).parent
MEMBERS = ("ada", "bob", "cyd", "dee")
EPOCH = Epoch(bytes(range(32)), 3, MEMBERS, 2, 3, named("threshold-8"))
HEADER = Header(EPOCH.manifest, "run-7", 3, 1, 2, MEMBERS, b"\x11" * 32, tuple(bytes([i]) * 32 for i in range(4)))
SIGNATURE = b"\x22" * 64
AGREEMENT = Agreement(HEADER, MEMBERS[:3], tuple(bytes([i + 9]) * 32 for i in range(3)))
REQUEST = Request(AGREEMENT, MEMBERS[:3], (SIGNATURE,) * 3, MEMBERS[1:3])


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def good() -> dict[str, object]:
    """Return every known answer by name."""
    of = ring(DEGREE, PRIMES)
    counting = np.stack([np.arange(DEGREE, dtype=np.uint64) for _ in PRIMES])
    slots = of.forward(counting)
    layout = Layout(EPOCH.parameters, 1000)
    a = cipher.public_polynomial(layout, labels.PUBLIC_A, HEADER.digest(), 0)
    transcript = AGREEMENT.digest(EPOCH.digest())
    mask_key = derive(b"\x33" * 32, labels.MASK, transcript, encode_names(REQUEST.sharers))
    mask = uniform(keyed_stream(mask_key, 1), of, 16)
    values = (np.arange(1000) * 65).astype(np.uint32)
    encoded = of.reduce(codec(EPOCH.parameters).encode(values, layout.count(0)))
    nonce = Nonce.signed(EPOCH.manifest, "run-7", 3, 1, 2, "ada", bytes(32))
    dealing = Dealing("ada", bytes(32), commitment(EPOCH, "ada", b"\x44" * 32), (b"\x55" * 32,) * 4)
    return {
        "parameters digests": {name: parameters.digest().hex() for name, parameters in NAMED.items()},
        "slots of 0, 1, 2, ...: first": [int(v) for v in slots[:, 0]],
        "slots of 0, 1, 2, ...: sha256 packed": sha(pack(slots)),
        "epoch digest": EPOCH.digest().hex(),
        "header": HEADER.encode().hex(),
        "header digest": HEADER.digest().hex(),
        "a 0: first residues": [int(v) for v in a[:, 0]],
        "a 0: sha256 packed": sha(pack(a)),
        "transcript": transcript.hex(),
        "upload digest": upload_digest(HEADER, "ada", b"payload").hex(),
        "mask key": mask_key.hex(),
        "mask 1 of 16 coefficients": pack(mask).hex(),
        "encoding of 0, 65, 130, ...: sha256 packed": sha(pack(encoded)),
        "lambda of bob among bob and cyd": [int(v) for v in EPOCH.lagrange("bob", ("bob", "cyd"))[:, 0]],
        "signed nonce": nonce.hex(),
        "signed confirm": Confirm.signed(transcript, "bob").hex(),
        "signed dealing": dealing.signed(EPOCH.digest()).hex(),
        "box info": box_info(EPOCH, "ada", "bob").hex(),
        "start": sha(Start(HEADER, (SIGNATURE,) * 4).encode()),
        "request": sha(REQUEST.encode()),
        "aggregate": sha(Aggregate(REQUEST, b"residues").encode()),
    }


def bad() -> dict[str, dict[str, str]]:
    """Return each message with one thing wrong: its kind, its bytes, and what the WireError says."""
    confirm = Confirm("ada", b"\x66" * 32, SIGNATURE).encode()
    start = Start(HEADER, (SIGNATURE,) * 4)
    cases = {
        "truncated": ("Confirm", confirm[:-1], "truncated"),
        "extended": ("Confirm", confirm + framed(b""), "too many parts"),
        "missing_part": ("Confirm", framed(labels.CONFIRM, b"ada", b"\x66" * 32), "too few parts"),
        "other_kind": ("Confirm", framed(labels.NONCE, b"ada", b"\x66" * 32, SIGNATURE), "another kind"),
        "long_signature": ("Confirm", framed(labels.CONFIRM, b"ada", b"\x66" * 32, SIGNATURE + b"x"), "65 bytes"),
        "name_case": ("Confirm", framed(labels.CONFIRM, b"Ada", b"\x66" * 32, SIGNATURE), "a name"),
        "huge_length": ("Confirm", b"\xff\xff\xff\xff" + confirm[4:], "truncated"),
        "start_too_few_signatures": ("Start", replace(start, signatures=(SIGNATURE,) * 3).encode(), "wrong number"),
        "start_short_nonce": (
            "Start",
            Start(replace(HEADER, nonces=(b"x", *HEADER.nonces[1:])), (SIGNATURE,) * 4).encode(),
            "header is malformed",
        ),
        "start_name_twice": (
            "Start",
            Start(replace(HEADER, members=("ada",) * 4), (SIGNATURE,) * 4).encode(),
            "header is malformed",
        ),
        "agreement_uploader_twice": ("Agreement", replace(AGREEMENT, uploaders=("ada",) * 3).encode(), "twice"),
        "agreement_too_few_digests": (
            "Agreement",
            replace(AGREEMENT, digests=(bytes(32),) * 2).encode(),
            "wrong number",
        ),
        "request_sharer_twice": ("Request", replace(REQUEST, sharers=("bob", "bob")).encode(), "twice"),
        "request_too_many_signatures": (
            "Request",
            replace(REQUEST, signatures=(SIGNATURE,) * 4).encode(),
            "wrong number",
        ),
    }
    return {name: {"kind": kind, "bytes": data.hex(), "what": what} for name, (kind, data, what) in cases.items()}


def main() -> None:
    (FOLDER / "threshold_good.json").write_text(json.dumps(good(), indent=1) + "\n")
    for name, case in bad().items():
        (FOLDER / f"threshold_bad_{name}.json").write_text(json.dumps(case, indent=1) + "\n")


if __name__ == "__main__":
    main()
