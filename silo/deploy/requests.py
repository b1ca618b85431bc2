"""Requests of researchers to the edge: each is signed, binds its body, and is good once.

The signature covers method, path, the body's SHA-256, the time, a nonce and the name of the aggregator it is for, so a
request cannot be changed, sent to another aggregator, or sent again. TLS authenticates the answer.

Invariant: :meth:`Gatekeeper.admit` returns a researcher of the consortium's manifest only if the signature holds, the
time is within two minutes of ours and after the edge started, and the nonce is new. Nothing of a request is parsed
before.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import threading
import time
from collections.abc import Callable, Mapping

from silo_crypto.errors import CryptoError
from silo_crypto.keys import Identity
from silo_policies import ConsortiumManifest, Person, PolicyError

from silo.canonical import canonical_bytes, parse_time, utc_now
from silo.errors import PeerError, VerificationFailed
from silo.submission import keyring

LABEL = b"silo/v1/request"
WINDOW_SECONDS = 120.0
MAX_NONCES = 100_000
WHO, WHEN, NONCE, SIGNATURE = "silo-researcher", "silo-time", "silo-nonce", "silo-signature"
_NONCE = re.compile(r"[0-9a-f]{32}")


def signed_headers(researcher: Identity, aggregator: str, method: str, path: str, body: bytes) -> dict[str, str]:
    """Return the headers that make a request one of ``researcher`` to ``aggregator``, by name, once."""
    when, nonce = utc_now(), os.urandom(16).hex()
    message = _message(aggregator, method, path, body, when, nonce)
    return {
        WHO: researcher.name,
        WHEN: when,
        NONCE: nonce,
        SIGNATURE: base64.b64encode(researcher.sign(message)).decode(),
    }


class Gatekeeper:
    """Checks requests for one aggregator; ``consortium`` returns its manifest as it is now. Safe for threads."""

    def __init__(self, consortium: Callable[[], ConsortiumManifest], clock: Callable[[], float] = time.time) -> None:
        self._consortium = consortium
        self._clock = clock
        self._started = clock()
        self._lock = threading.Lock()
        self._seen: dict[tuple[str, str], float] = {}

    def admit(self, headers: Mapping[str, str], method: str, path: str, body: bytes) -> Person:
        """Return who sent the request, or raise :class:`VerificationFailed` with words that help nobody forge one."""
        name, when, nonce = headers.get(WHO, ""), headers.get(WHEN, ""), headers.get(NONCE, "")
        manifest = self._consortium()
        try:
            person = manifest.person(name, role="researcher")
            signature = base64.b64decode(headers.get(SIGNATURE, ""), validate=True)
            message = _message(manifest.aggregator.name, method, path, body, when, nonce)
            keyring(person.name, person.keys).verify(message, signature)
        except (PolicyError, CryptoError, VerificationFailed, binascii.Error, ValueError) as error:
            raise VerificationFailed(
                "no researcher of this consortium signed the request", fix="sign it with the key in the manifest"
            ) from error
        self._require_fresh(person.name, when, nonce)
        return person

    def _require_fresh(self, name: str, when: str, nonce: str) -> None:
        try:
            sent = parse_time(when).timestamp()
        except (ValueError, VerificationFailed) as error:
            raise VerificationFailed("the request has no time") from error
        now = self._clock()
        if abs(now - sent) > WINDOW_SECONDS:
            raise VerificationFailed("the request is not of now", fix="compare the clocks, and send it again")
        # What was sent before this process began may have been answered by the one before: its nonces are forgotten.
        if sent < self._started:
            raise PeerError("the aggregator has only just started", fix="send it again in a second")
        if not _NONCE.fullmatch(nonce):
            raise VerificationFailed("the request has no nonce")
        with self._lock:
            self._seen = {key: seen for key, seen in self._seen.items() if now - seen <= 2 * WINDOW_SECONDS}
            if (name, nonce) in self._seen:
                raise VerificationFailed("the request was answered before")
            if len(self._seen) >= MAX_NONCES:
                raise VerificationFailed("too many requests", fix="wait four minutes")
            self._seen[name, nonce] = now


def _message(aggregator: str, method: str, path: str, body: bytes, when: str, nonce: str) -> bytes:
    fields = {
        "aggregator": aggregator,
        "method": method,
        "path": path,
        "body": hashlib.sha256(body).hexdigest(),
        "time": when,
        "nonce": nonce,
    }
    return LABEL + canonical_bytes(fields)
