"""Runs that may not happen: out of date, not approved, against a policy, beyond the budget."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from silo_policies import PolicyError, parse_pack

from silo.aggregator import Aggregator
from silo.audit.links import in_silo
from silo.cli.fail import exit_code
from silo.demo import setting as demo_setting
from silo.demo.hospitals import REFUSER
from silo.errors import BudgetExceeded, PolicyDenied, SiloError, VerificationFailed
from silo.flower import client_app
from silo.home import Home
from silo.home.settings import write_data
from silo.messages import Packet
from silo.submission import Submission
from tests.e2e.federation import EPSILON, Federation, Tap, head_of

DENYING = """\
id: {id}
title: A test's pack
version: 1.0.0
jurisdiction: fictional
notice: Made up. A technical template, not legal advice.
effective_from: "2025-01-01T00:00:00Z"
effective_until: "2035-01-01T00:00:00Z"
rules:
  - id: {id}
    title: A test's rule
    moments: [{moment}]
    expr: {expr}
    severity: critical
    waivable: false
    cite: {{instrument: a test, article: "1", url: "https://example.org/"}}
    message: The test says no.
    remediation: Leave the test.
"""


class Unchecked(Submission):
    """What a dishonest aggregator makes of its own check."""

    def check(self, **_: object) -> None:
        return


def unchecked(federation: Federation, submission: Submission) -> Aggregator:
    parts = Unchecked(submission.consortium, submission.run, submission.bundle)
    return Aggregator(federation.aggregator, parts)


def assert_untouched(federation: Federation, submission: Submission, tap: Tap) -> None:
    """Assert that no silo reserved, trained or released anything."""
    assert not tap.heads("round-reply")
    assert not tap.heads("step-reply")
    for name in federation.names:
        assert federation.charged(name, submission) == 0
        assert not federation.logged(name, submission, "budget-reserved")
        assert not federation.releases(name, submission)


# Out of date, or not what was signed --------------------------------------------------------------------------------


def outdated(federation: Federation) -> Submission:
    end = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=1)
    return federation.submit(created=end - timedelta(days=1), expires=end)


def dated_in_the_future(federation: Federation) -> Submission:
    start = datetime.now(UTC).replace(microsecond=0) + timedelta(days=2)
    return federation.submit(created=start, expires=start + timedelta(days=1))


def one_byte_changed(federation: Federation) -> Submission:
    bundle = bytearray(federation.setting.submission.bundle)
    bundle[-2] ^= 1
    return federation.submit(bundle=bytes(bundle))


MADE_WRONG = {
    outdated: "expired",
    dated_in_the_future: "future",
    one_byte_changed: "not the ones the researcher signed",
}


@pytest.mark.parametrize("make", MADE_WRONG, ids=lambda make: make.__name__)
def test_the_aggregator_asks_no_silo(federation: Federation, make: object) -> None:
    submission, tap = make(federation), Tap(federation)
    with pytest.raises((SiloError, PolicyError), match=MADE_WRONG[make]) as caught:
        federation.play(submission, tap)
    assert exit_code(caught.value) in (3, 6)
    assert not [packet for _, packet in tap.requests if head_of(packet)["kind"] == "invite"]


@pytest.mark.parametrize("make", MADE_WRONG, ids=lambda make: make.__name__)
def test_no_silo_takes_part_if_the_aggregator_does_not_care(federation: Federation, make: object) -> None:
    submission, tap = make(federation), Tap(federation)
    with pytest.raises(VerificationFailed, match=MADE_WRONG[make]) as caught:
        federation.play(submission, tap, aggregator=unchecked(federation, submission))
    assert exit_code(caught.value) == 6
    assert set(tap.heads("fault")) == set(federation.homes)
    assert not tap.heads("invite-reply")
    assert_untouched(federation, submission, tap)


# Code that nobody approved ------------------------------------------------------------------------------------------


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "executed"


def hostile(federation: Federation, mark: Path) -> Submission:
    """Return a run whose experiment would leave a mark, and says when it is executed; no steward approved it."""
    bundle = federation.setting.submission.bundle + (
        f"\nimport contextlib\nimport pathlib\nwith contextlib.suppress(OSError):\n"
        f"    pathlib.Path({str(mark)!r}).write_text('executed')\nraise RuntimeError('executed')\n".encode()
    )
    return federation.submit(bundle=bundle, code_digest="sha256:" + hashlib.sha256(bundle).hexdigest())


def test_unapproved_code_is_not_executed(federation: Federation, mark: Path) -> None:
    submission, tap = hostile(federation, mark), Tap(federation)
    with pytest.raises(PolicyDenied) as caught:
        federation.play(submission, tap)
    assert exit_code(caught.value) == 4
    assert "0 of 5 silos permit" in str(caught.value)
    assert not mark.exists()
    assert_untouched(federation, submission, tap)
    for heads in tap.heads("invite-reply").values():
        reasons = {reason["id"] for reason in heads[0]["decision"]["body"]["reasons"]}
        assert "code-approved" in reasons


def test_approved_code_is_executed_only_where_it_is_approved(federation: Federation, mark: Path) -> None:
    """The test above can fail: with an approval the same code does run, at that silo and nowhere else, and confined."""
    submission, tap = hostile(federation, mark), Tap(federation)
    home = federation.homes["cleveland"]
    home.approve(submission.run.body.code_digest)
    with pytest.raises(PolicyDenied, match="0 of 5 silos permit"):
        federation.play(submission, tap)
    ((name, (fault,)),) = tap.heads("fault").items()
    assert name == "cleveland"
    assert "RuntimeError: executed" in fault["what"]
    assert not mark.exists()


def test_approved_code_that_dies_on_records_is_charged_and_releases_nothing(federation: Federation) -> None:
    """It ends its process in the first round. The person reads that; the budget is charged; no model leaves."""
    bundle = federation.setting.submission.bundle + (
        b"\nimport dataclasses\nimport os\ndef dying(outputs, targets):\n"
        b"    return loss(outputs, targets) if len(targets) <= 12 else os._exit(1)\n"
        b"experiment = dataclasses.replace(experiment, loss=dying)\n"
    )
    digest = "sha256:" + hashlib.sha256(bundle).hexdigest()
    for home in federation.homes.values():
        home.approve(digest)
    submission, tap = federation.submit(bundle=bundle, code_digest=digest), Tap(federation)
    with pytest.raises(SiloError, match="training failed on this silo's records"):
        federation.play(submission, tap)
    for name in federation.names:
        assert federation.charged(name, submission) == submission.run.body.privacy.steps_per_round
        faults = [body["what"] for body in federation.logged(name, submission, "fault")]
        assert any("the experiment's process was stopped: it ended" in what for what in faults)
        assert not federation.releases(name, submission)
    assert not list(federation.run_directory(submission).glob("*.sealed"))


# Policies -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def deny(federation: Federation) -> Iterator[object]:
    """Give silos a pack that denies at a moment, until the test is over."""
    added: list[tuple[str, str]] = []

    def add(name: str, moment: str, expr: str, *, rule: str = "denied") -> None:
        text = DENYING.format(id=f"test-{moment}-{rule}", moment=moment, expr=json.dumps(expr)).encode()
        federation.homes[name].add_pack(parse_pack(text, "test.yaml"), text)
        added.append((name, f"test-{moment}-{rule}"))

    yield add
    for name, pack in added:
        federation.homes[name].remove_pack(pack)


def test_too_many_policies_deny(federation: Federation, deny: object) -> None:
    for name in ("cleveland", "hungary"):
        deny(name, "accept", "run.epsilon < 0.01")
    submission, tap = federation.submit(), Tap(federation)
    with pytest.raises(PolicyDenied) as caught:
        federation.play(submission, tap)
    assert exit_code(caught.value) == 4
    assert "2 of 5 silos permit the run, 3 are needed; cleveland: The test says no." in str(caught.value)
    assert_untouched(federation, submission, tap)


def test_a_policy_can_demand_each_means_of_confinement(federation: Federation, deny: object) -> None:
    """What is in force is a fact: the one who asks for what is there takes part, the one who asks for more does not."""
    deny("cleveland", "accept", '"network" in silo.isolation_means && silo.isolation == "process"')
    deny("hungary", "accept", '"another-machine" in silo.isolation_means')
    submission = federation.submit(rounds=1)
    result = federation.play(submission)
    assert result["decisions"].keys() == set(federation.homes)
    assert result["members"] == [name for name in federation.names if name != "hungary"]


def test_a_policy_that_stops_in_a_round(federation: Federation, deny: object) -> None:
    """One silo leaves in round 2, is charged for round 1, and the others go on without it."""
    deny("hungary", "round", "run.round < 2")
    submission = federation.submit()
    result = federation.play(submission)
    rest = [name for name in federation.names if name != "hungary"]
    assert [each["participants"] for each in result["rounds"]] == [federation.names, rest, rest]
    assert federation.charged("hungary", submission) == 1
    assert "The test says no." in result["faults"][0]["what"]


def test_all_policies_stop_in_a_round(federation: Federation, deny: object) -> None:
    for name in federation.names:
        deny(name, "round", "run.round < 2")
    submission, tap = federation.submit(), Tap(federation)
    with pytest.raises(PolicyDenied) as caught:
        federation.play(submission, tap)
    assert exit_code(caught.value) == 4
    assert [federation.charged(name, submission) for name in federation.names] == [1] * 4
    assert not list(federation.run_directory(submission).glob("*.sealed"))


def test_a_release_that_the_policy_denies(federation: Federation, deny: object) -> None:
    """The run asks for the model; a silo whose policy denies it gives not even its digest."""
    deny("hungary", "release", 'release.kind != "model"')
    submission, tap = federation.submit(rounds=1), Tap(federation)
    federation.play(submission, tap)
    files = {path.name for path in federation.run_directory(submission).glob("*.sealed")}
    assert "digest.cleveland.sealed" in files
    assert "digest.hungary.sealed" not in files
    assert not federation.releases("hungary", submission)
    assert {body["what"] for body in federation.logged("hungary", submission, "refusal")} == {"model"}


@pytest.mark.parametrize("releases", [(), ("metrics",), ("records",)])
def test_nothing_leaves_that_the_run_did_not_ask_for(federation: Federation, releases: tuple[str, ...]) -> None:
    submission, tap = federation.submit(rounds=1, releases=releases), Tap(federation)
    result = federation.play(submission, tap)
    assert not list(federation.run_directory(submission).glob("*.sealed"))
    for heads in tap.heads("finish-reply").values():
        assert (heads[0]["metrics"] is not None) == ("metrics" in releases)
        assert (heads[0]["records"] is not None) == ("records" in releases)
        assert set(heads[0]["blobs"]) == {"witness"}
    assert all(bool(each["metrics"]) == ("metrics" in releases) for each in result["rounds"])
    assert "records" not in json.dumps(result["rounds"])


def test_the_refuser_is_told_nothing_more(federation: Federation) -> None:
    """After its refusal the fifth hospital gets no request of the run, and none of its records was counted."""
    submission, tap = federation.submit(rounds=1), Tap(federation)
    result = federation.play(submission, tap)
    kinds = [head_of(packet)["kind"] for name, packet in tap.requests if name == REFUSER]
    assert kinds == ["invite"]
    assert result["decisions"][REFUSER]["body"]["decision"] == "deny"
    assert REFUSER not in result["members"]
    assert not federation.logged(REFUSER, submission, "budget-reserved")


# Budget -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_budget(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """A federation whose every population has budget for two runs and a half."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_setting, "EPSILON_CAP", 2.5 * EPSILON)
        yield Federation(tmp_path_factory.mktemp("small"))
    client_app.forget_agents()


def spent(federation: Federation) -> dict[str, float]:
    """Return what each hospital's ledger holds, reservations included; fail if it is above the cap."""
    found = {}
    for name in federation.names:
        with federation.homes[name].ledger() as ledger:
            total = ledger.spent(f"{name}-cardiology")
        assert total.committed <= total.epsilon_cap
        found[name] = total.committed
    return found


def test_the_budget_outlives_runs(small_budget: Federation) -> None:
    """Two runs fit. Of two more that were both permitted the second to reserve finds nothing left: exit code 5. From
    then on the policies see that nothing is left, and deny: exit code 4. Nothing gets past the cap."""
    federation = small_budget
    assert set(spent(federation).values()) == {0.0}
    federation.play(federation.submit())
    once = spent(federation)
    assert all(0.99 * EPSILON < each <= EPSILON for each in once.values())

    late = federation.submit()
    meanwhile: list[Submission] = []

    def another_run_first(name: str, packet: Packet) -> Packet:
        if head_of(packet)["kind"] == "step" and not meanwhile:
            meanwhile.append(federation.submit())
            federation.play(meanwhile[0])
        return packet

    tap = Tap(federation, request=another_run_first)
    with pytest.raises(BudgetExceeded) as caught:
        federation.play(late, tap)
    assert exit_code(caught.value) == 5
    assert len(tap.heads("invite-reply")) == 5
    assert not tap.uploads("cleveland")
    twice = spent(federation)
    assert all(abs(twice[name] - 2 * once[name]) < 1e-5 for name in once)
    # What is left is between a silo and its people: the aggregator hears that the budget does not do, and no number.
    assert "0." not in str(caught.value)

    with pytest.raises(PolicyDenied, match="budget") as denied:
        federation.play(federation.submit())
    assert exit_code(denied.value) == 4
    assert spent(federation) == twice


def test_a_run_that_stopped_before_it_trained_costs_nothing(federation: Federation) -> None:
    """What was reserved for it is given back when the silo hears that the run is over."""
    before = spent(federation)
    submission = federation.submit()
    tap = Tap(federation, request=lambda name, packet: None if head_of(packet)["kind"] == "round" else packet)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("silo.aggregator.aggregator.ROUND_SECONDS", 0.2)
        with pytest.raises(SiloError):
            federation.play(submission, tap)
    assert all(federation.logged(name, submission, "budget-reserved") for name in federation.names)
    assert spent(federation) == before


def test_epsilon_reported_is_at_most_what_was_asked(federation: Federation) -> None:
    submission = federation.submit()
    result = federation.play(submission)
    for each in result["silos"].values():
        assert 0.99 * EPSILON < each["epsilon"] <= EPSILON
        assert each["delta"] == submission.run.body.privacy.delta
    shorter = federation.play(federation.submit(rounds=1))
    assert all(0 < each["epsilon"] < 0.9 * EPSILON for each in shorter["silos"].values())


# Metrics and counts are releases too --------------------------------------------------------------------------------


@pytest.fixture
def careful(federation: Federation, deny: object) -> Iterator[Home]:
    """Cleveland, with the rules that the baseline has for private records: tens at most, and noise on every metric."""
    home = federation.homes["cleveland"]
    before = home.data()
    deny("cleveland", "release", 'release.kind == "records" ? release.rounding >= 10 : true', rule="counts")
    deny("cleveland", "release", 'release.kind == "metrics" ? release.epsilon > 0.0 : true', rule="metrics")
    yield home
    write_data(home.path, before)


def test_a_silo_rounds_its_count_and_pays_for_noisy_metrics(federation: Federation, careful: Home) -> None:
    (dataset,) = careful.data()
    write_data(careful.path, (dataset.model_copy(update={"metrics_epsilon": 0.25}),))
    submission = federation.submit()
    silos = federation.play(submission)["silos"]
    assert (silos["cleveland"]["rounding"], silos["cleveland"]["records"] % 10) == (10, 0)
    assert silos["cleveland"]["metrics"]["epsilon"] == 0.25
    assert (silos["hungary"]["rounding"], silos["hungary"]["metrics"]["epsilon"]) == (1, 0.0)
    run = submission.run.body
    with careful.ledger() as ledger:
        parts = {each.part: each for each in ledger.reservations() if each.run == run.run}
    assert set(parts) == {"training", "metrics-0", f"metrics-{run.rounds}"}
    for part in parts.keys() - {"training"}:
        assert (parts[part].charged, parts[part].open) == (1, False)
        assert 0.24 < parts[part].epsilon <= 0.25
    kinds = [body["what"] for body in federation.logged("cleveland", submission, "release")]
    assert sorted(kinds) == ["metrics", "metrics", "model", "records"]
    with careful.log() as log:
        assert not list(in_silo("cleveland", run.run, list(log.entries(run=run.run))))


def test_without_a_price_for_noise_metrics_stay(federation: Federation, careful: Home) -> None:
    submission = federation.submit()
    assert federation.play(submission)["silos"]["cleveland"]["metrics"] is None
    assert "metrics" in [body.get("what") for body in federation.logged("cleveland", submission, "refusal")]
    with careful.ledger() as ledger:
        assert {each.part for each in ledger.reservations() if each.run == submission.run.body.run} == {"training"}
