"""An aggregator's home with a consortium of two silos and two researchers, and no process started."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from silo_crypto.keys import Identity
from silo_policies import Aggregator, ConsortiumManifest, Keys, Member, Person, shipped_pack, sign

from silo.home import Home


def keys_of(identity: Identity) -> Keys:
    return Keys(**identity.public().to_json()["keys"])


@pytest.fixture(scope="module")
def people() -> dict[str, Identity]:
    return {name: Identity.generate(name) for name in ("rita", "rolf", "north", "south", "mallory")}


@pytest.fixture(scope="module")
def aggregator(tmp_path_factory: pytest.TempPathFactory, people: dict[str, Identity]) -> Home:
    home = Home.create(tmp_path_factory.mktemp("deploy") / "aggregator", "aggregator")
    now = datetime.now(UTC)
    pack = shipped_pack("baseline")
    manifest = ConsortiumManifest(
        name="two",
        members=tuple(
            Member(name=name, organisation_type="hospital", jurisdiction="DE", keys=keys_of(people[name]))
            for name in ("north", "south")
        ),
        aggregator=Aggregator(name="aggregator", keys=keys_of(home.identity())),
        people=tuple(Person(name=name, role="researcher", keys=keys_of(people[name])) for name in ("rita", "rolf")),
        custody="shared",
        minimum_silos=2,
        packs={"baseline": pack.digest},
        amendment_quorum=2,
        created=now,
        expires=now + timedelta(days=30),
    )
    home.join(sign(manifest, people["north"], people["south"]), [pack])
    return home
