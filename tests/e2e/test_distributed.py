"""DistributedDP in real runs: threshold custody, one share of noise a silo and round, sums of fewer never opened.

One federation, set up once (four hospitals that permit, one that refuses; any two open a sum), plays every run.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from silo_crypto.threshold.messages import Agreement
from silo_policies import RunManifest

from silo.api import DistributedDP, Encryption, FedAdam, load_experiment
from silo.demo.hospitals import REFUSER, cast
from silo.demo.run import shipped_experiment
from silo.demo.setting import set_the_stage
from silo.errors import ConfigError, SiloError, VerificationFailed
from silo.flower import client_app
from silo.ledger.mechanism import Mechanism
from silo.messages import Head, Step
from silo.training.distributed_plan import DistributedPlan
from silo.training.mechanism import plan_of
from silo.training.shares import ShareSampler
from tests.e2e.federation import Federation, Malicious, Tap

ROUNDS, NEEDED = 2, 4
PRIVACY = DistributedDP(
    epsilon=0.5,
    delta=1e-6,
    clipping_norm=1,
    sample_rate=0.5,
    expected_batch=340,
    learning_rate=1,
    minimum_silos=NEEDED,
)


class Distributed(Federation):
    """The same parties, with DistributedDP, threshold custody and FedAdam."""

    def __init__(self, directory: Path) -> None:  # not the base's: it would set another stage, in five seconds
        path = shipped_experiment()
        experiment, digest = load_experiment(path)
        self.experiment = dataclasses.replace(
            experiment,
            rounds=ROUNDS,
            privacy=PRIVACY,
            encryption=Encryption(custody="threshold"),
            aggregation=FedAdam(learning_rate=0.3),
        )
        self.setting = set_the_stage(
            directory, cast(None), self.experiment, path.read_bytes(), code_digest=digest, model_size=32, seed=0
        )
        self.homes = self.setting.homes
        self.names = sorted(name for name in self.homes if name != REFUSER)
        self.nodes = {name: number for number, name in enumerate(self.homes, start=101)}
        self._numbers = itertools.count(1)


@pytest.fixture(scope="module")
def distributed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Distributed]:
    made = Distributed(tmp_path_factory.mktemp("distributed"))
    yield made
    for home in made.homes.values():
        if home.path in client_app._agents:
            client_app._agents.pop(home.path).close()


def test_a_run_draws_charges_and_ledgers_one_share_a_silo_and_round(
    distributed: Distributed, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws: Counter[int] = Counter()
    draw: Callable[..., Any] = ShareSampler.draw

    def counting(self: ShareSampler, *rest: Any) -> Any:
        draws[id(self)] += 1
        return draw(self, *rest)

    monkeypatch.setattr(ShareSampler, "draw", counting)
    submission = distributed.submit()
    run = submission.run.body
    plan = plan_of(run)
    assert isinstance(plan, DistributedPlan)
    assert (run.privacy.mechanism, run.aggregation.rule, run.minimum_silos) == ("distributed-dp", "fedadam", NEEDED)
    assert run.encryption.value_bound == plan.value_bound
    tap = Tap(distributed)
    result = distributed.play(submission, tap)

    # Noise draws = steps = ledger events = uploads.
    assert sorted(draws.values()) == [ROUNDS] * NEEDED
    event = Mechanism.of(plan.event())
    for name in distributed.names:
        with distributed.homes[name].ledger() as ledger:
            (held,) = (each for each in ledger.reservations() if each.run == run.run)
        assert (held.mechanism, held.steps, held.charged) == (event, ROUNDS, ROUNDS)
        assert [charge.steps for charge in held.charges] == [1] * ROUNDS
        assert tap.uploads(name) == ROUNDS
        assert result["silos"][name]["epsilon"] == plan.epsilon_after(ROUNDS) <= PRIVACY.epsilon

    # Every silo holds the same model, bit for bit, after every round and at the end.
    tags = {name: [head["model"] for head in heads] for name, heads in tap.heads("round-reply").items()}
    assert sorted(tags) == distributed.names
    assert len({tuple(each) for each in tags.values()}) == 1
    (models,) = {tuple(each) for each in tags.values()}
    assert len({*models, *(silo["model"] for silo in result["silos"].values())}) == ROUNDS + 1
    assert all(sorted(each["participants"]) == distributed.names for each in result["rounds"])


def test_an_aggregator_that_asks_for_a_smaller_sum_gets_no_share(distributed: Distributed) -> None:
    def fewer(name: str, head: Head, blobs: dict[str, bytes]) -> tuple[Head, dict[str, bytes]]:
        if isinstance(head, Step) and head.step == "confirm":
            agreement = Agreement.decode(blobs["proposal"])
            kept = slice(0, NEEDED - 1)
            smaller = dataclasses.replace(
                agreement, uploaders=agreement.uploaders[kept], digests=agreement.digests[kept]
            )
            blobs["proposal"] = smaller.encode()
        return head, blobs

    submission = distributed.submit()
    tap = Tap(distributed)
    with pytest.raises(VerificationFailed, match="3 uploads; a sum has 4"):
        distributed.play(submission, tap, aggregator=Malicious(distributed.aggregator, submission, fewer))
    for name in distributed.names:
        assert not distributed.logged(name, submission, "share")
        assert not distributed.releases(name, submission)
        assert distributed.charged(name, submission) == 1  # the upload left


def test_fewer_silos_than_the_noise_needs_start_no_run(distributed: Distributed) -> None:
    submission = distributed.submit()
    tap = Tap(distributed, only=[*distributed.names[1:], REFUSER])
    with pytest.raises(SiloError, match=r"\b3 .*silos permit the run, 4 are needed"):
        distributed.play(submission, tap)
    assert not any(distributed.charged(name, submission) for name in distributed.names)


def test_silos_refuse_a_manifest_whose_noise_does_not_keep_its_promise(distributed: Distributed) -> None:
    body = distributed.setting.submission.run.body
    assert body.privacy.scale is not None
    for changes, complaint in (
        ({"scale": body.privacy.scale * 1.1}, "the noise gives epsilon"),
        ({"noise_multiplier": body.privacy.noise_multiplier * 2}, "states noise_multiplier"),
    ):
        submission = distributed.submit(privacy=body.privacy.model_copy(update=changes))
        with pytest.raises(ConfigError, match=complaint):
            distributed.play(submission, Tap(distributed))
        assert not any(distributed.charged(name, submission) for name in distributed.names)


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        (("minimum_silos",), 3, "sums of 3 would be opened"),
        (("privacy", "minimum_silos"), 6, "sums of 4 would be opened"),
        (("privacy", "colluders"), 4, "colluders leave nobody"),
        (("privacy", "share_sigma"), 3.9, "greater than or equal to 4"),
        (("privacy", "scale"), None, "are for distributed-dp, and all of them"),
        (("privacy", "mechanism"), "local-dp", "are for distributed-dp"),
        (("privacy", "steps_per_round"), 2, "one step a round"),
        (("encryption", "threshold"), 3, "colluders is below threshold - 1"),
        (("aggregation", "weighting"), "examples", "weighs no silo"),
        (("aggregation", "beta1"), None, "needs beta1"),
    ],
)
def test_manifests_that_would_open_too_little_noise_cannot_be_written(
    distributed: Distributed, path: tuple[str, ...], value: object, complaint: str
) -> None:
    document = json.loads(distributed.setting.submission.run.body.model_dump_json())
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(ValidationError, match=complaint):
        RunManifest.model_validate_json(json.dumps(document))


def test_shared_custody_is_refused_with_the_reason(distributed: Distributed) -> None:
    document = json.loads(distributed.setting.submission.run.body.model_dump_json())
    document["encryption"] |= {"custody": "shared", "threshold": None}
    with pytest.raises(ValidationError, match="any holder of a shared key could open one upload alone"):
        RunManifest.model_validate_json(json.dumps(document))
