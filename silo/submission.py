"""What a run is made from: the consortium's manifest, the researcher's run manifest, and the experiment's bytes.

Invariant: :meth:`Submission.check` returns only if every signature holds, the run fits the consortium and the clock,
and the bundle is the code whose digest was signed. Aggregator and silo call the same check: neither believes the other.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from silo_crypto.keys import PublicIdentity
from silo_policies import (
    ConsortiumManifest,
    Decision,
    Keys,
    PolicyError,
    RunManifest,
    Signed,
    canonical,
    parse_signed,
    verify_consortium,
    verify_decision,
    verify_run,
)

from silo.errors import ConfigError, VerificationFailed

CONSORTIUM, RUN, BUNDLE = "consortium.json", "run.json", "experiment.py"


def keyring(name: str, keys: Keys) -> PublicIdentity:
    """Return the verifier of a named party; `silo_policies` holds no cryptography and asks for this."""
    return PublicIdentity.from_json({"name": name, "keys": keys.to_dict()})


@dataclass(frozen=True)
class Submission:
    """The three parts of a run, as signed; see :meth:`check` before believing any of them."""

    consortium: Signed[ConsortiumManifest]
    run: Signed[RunManifest]
    bundle: bytes

    @classmethod
    def parse(cls, consortium: Mapping[str, Any], run: Mapping[str, Any], bundle: bytes) -> Submission:
        """Parse the parts as they arrive in a message."""
        return cls(
            parse_signed(ConsortiumManifest, canonical(dict(consortium)), where="consortium manifest"),
            parse_signed(RunManifest, canonical(dict(run)), where="run manifest"),
            bundle,
        )

    @classmethod
    def load(cls, directory: Path) -> Submission:
        """Read the parts from a run's directory."""
        try:
            texts = [(directory / name).read_bytes() for name in (CONSORTIUM, RUN, BUNDLE)]
        except OSError as error:
            raise ConfigError(
                f"a part of the submission cannot be read: {error.strerror}", where=str(directory)
            ) from error
        return cls(
            parse_signed(ConsortiumManifest, texts[0], where=CONSORTIUM),
            parse_signed(RunManifest, texts[1], where=RUN),
            texts[2],
        )

    def parts(self) -> dict[str, bytes]:
        """Return file name -> content, as :meth:`load` reads them."""
        return {
            CONSORTIUM: self.consortium.to_json().encode(),
            RUN: self.run.to_json().encode(),
            BUNDLE: self.bundle,
        }

    @property
    def digest(self) -> bytes:
        """The run manifest's digest, 32 bytes, which every header and message binds."""
        return self.run.body.digest_bytes

    def check(self, *, now: datetime, pinned: str | None = None) -> None:
        """Verify everything; ``pinned`` is the consortium digest this party joined.

        Raises :class:`~silo_policies.PolicyError` or :class:`~silo.errors.VerificationFailed`.
        """
        consortium = verify_consortium(self.consortium, keyring, now=now, pinned=pinned)
        run = verify_run(self.run, consortium, keyring, now=now)
        found = "sha256:" + hashlib.sha256(self.bundle).hexdigest()
        if not hmac.compare_digest(found, run.code_digest):
            raise VerificationFailed(
                "the experiment's bytes are not the ones the researcher signed",
                where=f"run {run.run}",
                fix="submit again; if it stays, someone alters the run on its way",
            )

    def member(self, name: str) -> PublicIdentity:
        """Return the public keys of a member."""
        return keyring(name, self.consortium.body.member(name).keys)

    def aggregator(self) -> PublicIdentity:
        """Return the public keys of the aggregator."""
        party = self.consortium.body.aggregator
        return keyring(party.name, party.keys)

    def researcher(self) -> PublicIdentity:
        """Return the public keys of the researcher who signed the run."""
        person = self.consortium.body.person(self.run.body.researcher, role="researcher")
        return keyring(person.name, person.keys)

    def decision(self, document: Mapping[str, Any], name: str) -> Decision:
        """Return a silo's decision on this run after checking its signature, run and time; else VerificationFailed."""
        try:
            signed = parse_signed(Decision, canonical(dict(document)), where=f"decision of {name}")
            decision = verify_decision(
                signed, self.member(name), run=self.run.body.run, manifest=self.run.body.digest, now=datetime.now(UTC)
            )
        except PolicyError as error:
            raise VerificationFailed(error.what, where=f"decision of {name}") from error
        if decision.silo != name:
            raise VerificationFailed(f"{name} sent the decision of {decision.silo}")
        return decision
