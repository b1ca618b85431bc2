"""Approval of code: who vouched for exactly these bytes.

Invariant: an approval names a digest, so a changed file is a different digest and was approved by nobody. A silo runs
code only if one of *its own* stewards approved it and the approval has neither expired nor been made in the future.

The researcher signs the same document over their own bundle (``silo experiment sign``), a steward over what they
reviewed (``silo approve``). Source: issue 5, item 6; PROTOCOL section 1, adversary 4.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import ClassVar, Self

from pydantic import model_validator

from silo_policies.documents import CLOCK_SKEW, Digest, Instant, Name, Text
from silo_policies.errors import SignatureRefused
from silo_policies.signing import Signed, SignedBody, Verifier


class Approval(SignedBody):
    """One person's word on one bundle of code."""

    label: ClassVar[str] = "silo/v1/approval"

    code_digest: Digest
    by: Name
    note: Text
    created: Instant
    expires: Instant

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.expires <= self.created:
            raise ValueError("expires must lie after created")
        return self


def code_signers(
    code_digest: str, approvals: Iterable[Signed[Approval]], people: Mapping[str, Verifier], *, now: datetime
) -> tuple[str, ...]:
    """Return whose approval of ``code_digest`` holds now, sorted: the fact ``run.code_signers``.

    Approvals of other code, by others than ``people``, expired, early or forged ones simply do not count. With a silo's
    stewards as ``people``, a non-empty answer is the fact ``run.code_approved``.
    """
    found: set[str] = set()
    for signed in approvals:
        approval = signed.body
        fits = approval.code_digest == code_digest and approval.by in people
        if fits and approval.created <= now + CLOCK_SKEW and now < approval.expires:
            try:
                signed.verify({approval.by: people[approval.by]})
            except SignatureRefused:
                continue
            found.add(approval.by)
    return tuple(sorted(found))
