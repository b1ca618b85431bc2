"""What both ends of a custody derive from the run manifest: parameter sets, the key epoch and its headers.

Each custody has a silo's half in :mod:`silo.agent.custody` and an aggregator's half in :mod:`silo.aggregator.custody`.
Invariant: what a manifest claims about a custody (scheme, bits of security) is checked against the named set, never
believed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from silo_crypto import parameters, wire
from silo_crypto.protocol import Custody, Header
from silo_crypto.threshold import parameters as threshold_parameters
from silo_crypto.threshold.epoch import Epoch
from silo_crypto.threshold.messages import Start
from silo_policies import EncryptionSpec

from silo.errors import ConfigError, VerificationFailed
from silo.submission import Submission

EPOCH = 1  # one key epoch a run; a new one after a change of members
SCHEMES: dict[Custody, str] = {"shared": "bfv", "threshold": "lerna"}


@dataclass(frozen=True)
class Choice:
    """The named set for a number of silos, as a run manifest states it."""

    parameters: str
    security_bits: int
    max_additions: int
    threshold: int | None


def choose(
    custody: Custody, *, silos: int, value_bits: int, threshold: int | None, values: int = 0, rounds: int = 0
) -> Choice:
    """Return the smallest named set for ``silos`` silos; ``threshold`` None is the custody's default.

    ``rounds`` sums of ``values`` values are to be opened under one epoch's keys, each by at most two sets of sharers.
    """
    if custody == "shared":
        shared = parameters.shared_for(value_bits=value_bits, silos=silos)
        return Choice(shared.name, parameters.SECURITY_BITS, shared.max_additions, None)
    chosen = threshold_parameters.for_silos(silos, threshold=threshold, values=values, openings=2 * rounds)
    if value_bits != chosen.value_bits:
        raise ConfigError(
            f"threshold custody packs values of {chosen.value_bits} bits, not {value_bits}",
            where="Encryption",
            fix=f"set value_bits={chosen.value_bits}",
        )
    return Choice(
        chosen.name,
        chosen.security_bits,
        chosen.max_silos,
        threshold if threshold is not None else threshold_parameters.default_threshold(silos),
    )


def security_bits(spec: EncryptionSpec) -> int:
    """Return the classical security of the named set, in bits, from the set itself."""
    if spec.custody == "shared":
        return parameters.SECURITY_BITS
    return threshold_parameters.named(spec.parameters).security_bits


def shared_parameters(submission: Submission) -> parameters.SharedParameters:
    """Return the named set of a run under shared custody, or raise if the manifest's claims are not that set's."""
    spec = submission.run.body.encryption
    _check_claims(submission)
    return parameters.shared(spec.parameters, value_bits=spec.value_bits, max_additions=spec.max_additions)


def set_up_header(submission: Submission, members: Sequence[str]) -> Header:
    """Return the header that binds the dealing of a shared key: round 0, attempt 0."""
    return Header(
        manifest=submission.digest,
        run=submission.run.body.run,
        epoch=EPOCH,
        round=0,
        attempt=0,
        members=tuple(members),
    )


def threshold_epoch(submission: Submission, members: Sequence[str]) -> Epoch:
    """Return the key epoch of a run under threshold custody, or raise if the manifest's claims are not its set's."""
    run = submission.run.body
    spec = run.encryption
    _check_claims(submission)
    chosen = threshold_parameters.named(spec.parameters)
    if spec.threshold is None or spec.value_bits != chosen.value_bits:
        raise VerificationFailed("the run's threshold or value_bits is not its set's", where=f"run {run.run}")
    return Epoch(
        manifest=submission.digest,
        number=EPOCH,
        members=tuple(members),
        threshold=spec.threshold,
        minimum=run.minimum_silos,
        parameters=chosen,
    )


def start_header(start: bytes, chain: bytes) -> Header:
    """Return the header in an attempt's ``start`` with ``chain``, the HMAC of the last aggregate, put in."""
    return replace(Start.decode(start).header, chain=chain)


def header_facts(header: Header) -> dict[str, Any]:
    """Return a header as JSON values."""
    return {
        "manifest": header.manifest.hex(),
        "run": header.run,
        "epoch": header.epoch,
        "round": header.round,
        "attempt": header.attempt,
        "members": list(header.members),
        "chain": header.chain.hex(),
        "nonces": [nonce.hex() for nonce in header.nonces],
    }


def header_of(facts: Mapping[str, Any]) -> Header:
    """Return the header that :func:`header_facts` wrote."""
    return Header(
        bytes.fromhex(facts["manifest"]),
        facts["run"],
        facts["epoch"],
        facts["round"],
        facts["attempt"],
        tuple(facts["members"]),
        bytes.fromhex(facts["chain"]),
        tuple(bytes.fromhex(nonce) for nonce in facts["nonces"]),
    )


def upload_digest(envelope: bytes) -> str:
    """Return the ``sha256:`` digest under which silo and aggregator log an upload: what its signature covers."""
    return "sha256:" + wire.digest(envelope).hex()


def _check_claims(submission: Submission) -> None:
    run = submission.run.body
    claimed, bits = run.encryption, security_bits(run.encryption)
    if claimed.security_bits != bits or claimed.scheme != SCHEMES[claimed.custody]:
        raise VerificationFailed(
            f"the run claims {claimed.scheme} with {claimed.security_bits} bits; {claimed.parameters} is "
            f"{SCHEMES[claimed.custody]} with {bits}",
            where=f"run {run.run}",
        )
