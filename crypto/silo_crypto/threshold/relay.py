"""The aggregator's side of a key ceremony: it routes sealed boxes and adds residues, and learns neither.

Invariant: no key, no crypto library; everything kept here is a message some silo may see anyway.

Source: PROTOCOL section 3, "Ceremony".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from silo_crypto.errors import ProtocolError
from silo_crypto.protocol import Verifier
from silo_crypto.threshold.adder import Accumulator
from silo_crypto.threshold.encoding import Layout
from silo_crypto.threshold.epoch import Epoch, verify
from silo_crypto.threshold.messages import Deal, Dealing, Dealt, Trial, TrialSums

JOINT, PER_DEALER = 0, 1
_TEST_COEFFICIENTS = 256
"""Coefficients of each test opening. A wrong dealing passes each with probability below 2^-29."""


@dataclass(frozen=True)
class Opening:
    """One opening of a test: whose encrypted zeros, and who shares."""

    uploaders: tuple[str, ...]
    sharers: tuple[str, ...]


def openings(epoch: Epoch, stage: int) -> list[Opening]:
    """Return the openings of a stage: every window of T members, for all members at once or for each dealer alone."""
    members, size = epoch.members, epoch.threshold
    windows = [members[w : w + size] for w in range(len(members) - size + 1)]
    sets = [members] if stage == JOINT else [(dealer,) for dealer in members]
    return [Opening(uploaders, window) for uploaders in sets for window in windows]


def test_layout(epoch: Epoch) -> Layout:
    """Return the layout of a test's uploads and shares: part of one polynomial."""
    parameters = epoch.parameters
    return Layout(parameters, parameters.fields * min(_TEST_COEFFICIENTS, parameters.degree))


def route(epoch: Epoch, deals: Mapping[str, bytes], verifiers: Mapping[str, Verifier]) -> dict[str, bytes]:
    """Return each member's :class:`~.messages.Dealt` from every member's :class:`~.messages.Deal`.

    Raise a CryptoError naming the sender of a deal that is missing, malformed or not signed by it.
    """
    members = epoch.members
    if set(deals) != set(members):
        missing = ", ".join(sorted(set(members) - set(deals)))
        raise ProtocolError(f"deals are missing, or from strangers: {missing}", where="ceremony")
    parsed = {name: Deal.decode(deals[name], len(members)) for name in members}
    for name, deal in parsed.items():
        dealing = Dealing.decode(deal.dealing, len(members))
        if dealing.dealer != name:
            raise ProtocolError(f"{name} sent the deal of {dealing.dealer}", where="ceremony")
        verify(verifiers, name, dealing.signed(epoch.digest()), dealing.signature)
    dealings = tuple(parsed[name].dealing for name in members)
    return {
        name: Dealt(dealings, tuple(parsed[dealer].boxes[place] for dealer in members)).encode()
        for place, name in enumerate(members)
    }


def add_tests(epoch: Epoch, stage: int, tests: Mapping[str, bytes]) -> bytes:
    """Return the :class:`~.messages.TrialSums` of a stage from every member's :class:`~.messages.Trial`."""
    plan, layout = openings(epoch, stage), test_layout(epoch)
    if set(tests) != set(epoch.members):
        raise ProtocolError("tests are missing, or from strangers", where="ceremony")
    sums = [Accumulator(layout) for _ in plan]
    for name in epoch.members:
        test = Trial.decode(tests[name], len(plan))
        if test.stage != stage:
            raise ProtocolError(f"{name} sent the test of another stage", where="ceremony")
        for opening, total, upload, share in zip(plan, sums, test.uploads, test.shares, strict=True):
            if bool(upload) != (name in opening.uploaders) or bool(share) != (name in opening.sharers):
                raise ProtocolError(f"{name} left out a part of the test, or added one", where="ceremony")
            if upload:
                total.add(upload)
            if share:
                total.subtract(share)
    return TrialSums(stage, tuple(total.payload() for total in sums)).encode()
