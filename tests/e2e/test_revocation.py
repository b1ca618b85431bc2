"""A member that the others revoke during a run takes part in no further round."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from silo_policies import ConsortiumManifest, Signed, sign
from silo_policies.agreement import remaining

from silo.errors import SiloError
from silo.messages import Packet
from tests.e2e.federation import Federation, Tap, head_of

REVOKED = "hungary"


@pytest.fixture
def amendment(federation: Federation) -> Iterator[Signed[ConsortiumManifest]]:
    """An amendment without one member, signed by a quorum of the others; every home is put back afterwards."""
    before = federation.setting.submission.consortium
    manifest = before.body.amended(created=datetime.now(UTC), **remaining(before.body, [REVOKED]))
    others = [name for name in federation.names if name != REVOKED]
    yield sign(manifest, *(federation.homes[name].identity() for name in others[: before.body.amendment_quorum]))
    for home in federation.homes.values():
        home.join(before, federation.setting.packs.values())


def test_a_revoked_member_takes_part_in_no_further_round(
    federation: Federation, amendment: Signed[ConsortiumManifest]
) -> None:
    submission = federation.submit()
    joined: list[str] = []

    def during_round_two(name: str, packet: Packet) -> Packet:
        head = json.loads(packet.head)
        if head["kind"] == "round" and head["round"] == 2 and name != REVOKED:
            federation.homes[name].join(amendment, federation.setting.packs.values())
            joined.append(name)
        return packet

    tap = Tap(federation, request=during_round_two)
    with pytest.raises(SiloError):
        federation.play(submission, tap)
    assert sorted(joined) == [name for name in federation.names if name != REVOKED]
    refused = {name: head_of(packet) for name, packet in tap.replies if head_of(packet)["kind"] == "fault"}
    for name in joined:
        assert f"{REVOKED} left the consortium" in refused[name]["what"]
        assert refused[name]["exit_code"] == 4
        assert tap.uploads(name) == 1  # round 1, before the members changed
        assert not federation.releases(name, submission)
