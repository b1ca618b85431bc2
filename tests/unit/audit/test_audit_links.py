"""Every link that an auditor relies on is missed when it is cut, and the place is named."""

import pytest

from silo.audit.links import between, in_silo
from silo.log.entry import decode, encode


def entries_of(rows):
    return [decode(index, encode(kind, "2026-05-03T10:00:00Z", body)) for index, (kind, body) in enumerate(rows)]


def alone(rows):
    return [(each.severity, str(each)) for each in in_silo("a", "r1", entries_of(rows))]


def together(rows):
    logs = {name: entries_of(each) for name, each in rows.items()}
    return [str(each) for each in between("r1", ("aggregator", logs.pop("aggregator")), logs)]


def at(rows, kind, number=0):
    return [index for index, (name, _) in enumerate(rows) if name == kind][number]


def test_a_whole_run_has_no_findings(rows):
    assert alone(rows["a"]) == []
    assert together(rows) == []


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("decision", "without a permit"),
        ("run-started", "without a run that started"),
        ("budget-reserved", "without a reservation"),
        ("aggregate", "has no aggregate"),
        ("budget-settled", "was not settled"),
    ],
)
def test_a_missing_entry_is_missed(rows, kind, says):
    del rows["a"][at(rows["a"], kind)]
    assert any(severity == "broken" and says in text for severity, text in alone(rows["a"]))


def test_a_denial_is_no_permit(rows):
    rows["a"][1][1]["decision"] = "deny"
    assert any("without a permit" in text for _, text in alone(rows["a"]))


def test_permit_and_reservation_must_come_before(rows):
    moved = rows["a"].pop(at(rows["a"], "budget-reserved"))
    rows["a"].insert(at(rows["a"], "upload") + 1, moved)
    assert alone(rows["a"]) == [("broken", "a, entry 4: an upload without a reservation before it")]


def test_an_aggregate_before_its_upload_is_no_aggregate_of_it(rows):
    first = at(rows["a"], "upload")
    rows["a"][first], rows["a"][first + 1] = rows["a"][first + 1], rows["a"][first]
    assert any("came before the upload" in text for _, text in alone(rows["a"]))


def test_a_second_upload_of_one_attempt_is_named(rows):
    index = at(rows["a"], "upload", 1)
    rows["a"].insert(index + 1, ("upload", {**rows["a"][index][1], "digest": "sha256:" + "9" * 64}))
    assert any("a second upload of round 2, attempt 1" in text for _, text in alone(rows["a"]))


def test_a_second_share_of_one_attempt_is_named(rows):
    share = {"run": "r1", "round": 1, "attempt": 1, "digest": "sha256:" + "1" * 64}
    rows["a"][7:7] = [("share", share), ("share", {**share, "digest": "sha256:" + "2" * 64})]
    assert any("a second share of round 1" in text for _, text in alone(rows["a"]))


def test_settling_more_than_was_reserved_is_named(rows):
    rows["a"][at(rows["a"], "budget-settled")][1]["epsilon"] = 3.1
    assert alone(rows["a"]) == [("broken", "a, entry 9: epsilon 3.1 was settled, only 3 reserved")]


def test_a_release_needs_the_permit_it_names(rows):
    rows["a"][at(rows["a"], "release")][1]["digest"] = "sha256:" + "3" * 64
    assert any("a release of model without the permit it names" in text for _, text in alone(rows["a"]))


def test_an_attempt_given_up_for_a_later_one_is_whole(rows):
    index = at(rows["a"], "upload", 1)
    again = {**rows["a"][index][1], "attempt": 2, "digest": "sha256:" + "4" * 64}
    rows["a"].insert(index + 1, ("upload", again))
    rows["a"][index + 2][1]["attempt"] = 2
    assert alone(rows["a"]) == []


@pytest.mark.parametrize("fault", [True, False])
def test_a_run_that_stopped_or_goes_on_is_open_not_broken(rows, fault):
    cut = rows["a"][: at(rows["a"], "aggregate", 1)]
    if fault:
        cut.append(("fault", {"run": "r1", "what": "aborted"}))
    assert [severity for severity, _ in alone(cut)] == ["open"]


@pytest.mark.parametrize(
    ("whose", "kind", "field", "value", "says"),
    [
        ("b", "manifest", "digest", "sha256:" + "5" * 64, "its manifest is not the one"),
        ("aggregator", "decision", "digest", "sha256:" + "5" * 64, "the decision of a is not the one in its log"),
        ("aggregator", "upload", "digest", "sha256:" + "5" * 64, "not the upload that a logged"),
        ("a", "upload", "digest", "sha256:" + "5" * 64, "not the upload that a logged"),
        ("a", "aggregate", "silos", ["a"], "an aggregate of others"),
        ("aggregator", "aggregate", "silos", ["b"], "an aggregate of others"),
        ("b", "key-epoch", "members", ["a", "b", "c"], "other members"),
    ],
)
def test_two_logs_that_differ_are_named(rows, whose, kind, field, value, says):
    rows[whose][at(rows[whose], kind)][1][field] = value
    assert any(says in text for text in together(rows))


@pytest.mark.parametrize(
    ("whose", "kind", "says"),
    [
        ("a", "decision", "the decision of a is not in its log"),
        ("a", "upload", "an upload of a that its own log does not have"),
        ("aggregator", "upload", "counts a, but no upload of it"),
        ("aggregator", "aggregate", "that aggregator did not log"),
    ],
)
def test_what_only_one_side_logged_is_named(rows, whose, kind, says):
    del rows[whose][at(rows[whose], kind)]
    assert any(says in text for text in together(rows))


def test_an_upload_that_nobody_received_is_open_and_one_that_was_received_and_left_out_is_broken(rows):
    for party in rows.values():
        party[at(party, "aggregate")][1]["silos"] = ["b"]
    left_out = "aggregator, entry 6: the aggregate of round 1 leaves out a, whose upload it received"
    assert together(rows) == [left_out]
    del rows["aggregator"][at(rows["aggregator"], "upload")]
    assert together(rows) == []
    lost = "a, entry 6: the aggregate of round 1 leaves out this silo's upload: lost on its way, or left out"
    assert alone(rows["a"]) == [("open", lost)]


def test_without_the_aggregator_the_silos_are_still_compared(rows):
    logs = {name: entries_of(rows[name]) for name in ("a", "b")}
    assert list(between("r1", None, logs)) == []
    rows["b"][0][1]["digest"] = "sha256:" + "6" * 64
    logs["b"] = entries_of(rows["b"])
    assert len(list(between("r1", None, logs))) == 1
