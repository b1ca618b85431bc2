"""What both ends of a custody derive from the run manifest: the parameter set and the set-up header.

Each custody has a silo's half in :mod:`silo.agent.custody` and an aggregator's half in :mod:`silo.aggregator.custody`.
"""

from __future__ import annotations

from collections.abc import Sequence

from silo_crypto import parameters
from silo_crypto.protocol import Header

from silo.errors import VerificationFailed
from silo.submission import Submission

EPOCH = 1  # one key epoch a run; a new one after a change of members


def shared_parameters(submission: Submission) -> parameters.SharedParameters:
    """Return the named set of a run under shared custody, or raise if the manifest's claims are not that set's."""
    spec = submission.run.body.encryption
    found = parameters.shared(spec.parameters, value_bits=spec.value_bits, max_additions=spec.max_additions)
    if spec.security_bits != parameters.SECURITY_BITS or spec.scheme != "bfv":
        raise VerificationFailed(
            f"the run claims {spec.scheme} with {spec.security_bits} bits; {found.name} is bfv with "
            f"{parameters.SECURITY_BITS}",
            where=f"run {submission.run.body.run}",
        )
    return found


def set_up_header(submission: Submission, members: Sequence[str]) -> Header:
    """Return the header that binds the key set-up: round 0, attempt 0."""
    return Header(
        manifest=submission.digest,
        run=submission.run.body.run,
        epoch=EPOCH,
        round=0,
        attempt=0,
        members=tuple(members),
    )
