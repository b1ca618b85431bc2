"""A proposal asks for integers that can carry its noise: cut off, it would bias the model without anybody noticing."""

from datetime import timedelta

import pytest
from silo_policies import ConsortiumManifest, RunManifest

from silo.api import Encryption, LocalDP
from silo.errors import ConfigError
from silo.proposal import propose
from tests.unit.policies.conftest import NOW
from tests.unit.training.training_support import make

PRIVACY = LocalDP(
    epsilon=3, delta=1e-4, clipping_norm=1, sample_rate=0.5, steps_per_round=3, expected_batch=10, learning_rate=0.1
)


def proposed(consortium: ConsortiumManifest, encryption: Encryption) -> RunManifest:
    return propose(
        make(privacy=PRIVACY, encryption=encryption),
        consortium,
        code_digest="sha256:" + "1" * 64,
        model_size=5,
        researcher="rita",
        created=NOW,
        expires=NOW + timedelta(days=1),
    )


def test_a_range_that_cannot_carry_the_noise_is_refused_with_one_that_can(consortium: ConsortiumManifest) -> None:
    assert proposed(consortium, Encryption(value_bound=1.0)).encryption.value_bound == 1.0
    with pytest.raises(ConfigError, match="standard deviation") as narrow:
        proposed(consortium, Encryption(value_bound=0.05))  # cuts off at less than 2 deviations
    assert "6 deviations" in str(narrow.value.fix)
    with pytest.raises(ConfigError, match="standard deviation") as coarse:
        proposed(consortium, Encryption(value_bound=1e5))  # one step of the integers is wider than the noise
    assert "16 bits resolve it" in str(coarse.value.fix)
