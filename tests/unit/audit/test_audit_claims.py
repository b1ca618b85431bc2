"""What an entry says of a report: it backs the statement it is about, and any other value contradicts it."""

import pytest

from silo.audit import contradiction, subjects_of
from silo.log.entry import decode, encode
from silo.report.facts.governance import Fault, Waiver
from tests.unit.report.sample import digest, sample

SILOS = ["cleveland", "hungary", "switzerland", "va-long-beach"]


def entry(kind, **body):
    return decode(7, encode(kind, "2026-05-03T10:00:00Z", body))


@pytest.fixture
def report():
    return sample()


def of(report, kind, **body):
    return entry(kind, run=report.run, **body)


def test_each_kind_backs_its_statement(report):
    one = digest("x")
    for kind, body, subjects in (
        ("manifest", {"digest": one, "consortium": one}, ("manifest", "consortium")),
        ("decision", {"silo": "lakeside", "decision": "deny", "digest": one}, ("decision/lakeside",)),
        ("decision", {"silo": "hungary", "decision": "permit", "digest": one, "moment": "round"}, ()),
        ("key-epoch", {"epoch": 1, "members": SILOS}, ("keys",)),
        ("aggregate", {"round": 3, "attempt": 1, "digest": one, "silos": SILOS}, ("round/3",)),
        ("budget-settled", {"population": "p", "epsilon": 2.9612}, ("budget/hungary",)),
        ("release", {"what": "model", "digest": one}, ("release/model",)),
        ("upload", {"round": 3, "attempt": 1, "silo": "hungary", "digest": one}, ()),
    ):
        assert subjects_of(report, "hungary", of(report, kind, **body)) == subjects, kind


def test_an_entry_of_another_run_backs_nothing(report):
    assert subjects_of(report, "hungary", entry("key-epoch", run="another", epoch=1)) == ()


@pytest.mark.parametrize(
    ("subject", "kind", "right", "wrong"),
    [
        ("manifest", "manifest", {"digest": digest("manifest"), "code": digest("code")}, {"digest": digest("another")}),
        ("manifest", "manifest", {"digest": digest("manifest")},
         {"digest": digest("manifest"), "code": digest("other")}),
        ("consortium", "manifest", {"digest": digest("manifest"), "consortium": digest("consortium")},
         {"digest": digest("manifest"), "consortium": digest("another")}),
        ("decision/lakeside", "decision", {"silo": "lakeside", "decision": "deny", "digest": digest("d")},
         {"silo": "lakeside", "decision": "permit", "digest": digest("d")}),
        ("decision/ghost", "decision", {"silo": "ghost", "digest": digest("d")},
         {"silo": "ghost", "decision": "permit", "digest": digest("d")}),
        ("budget/hungary", "budget-settled", {"population": "p", "epsilon": 2.9612, "delta": 1e-4},
         {"population": "p", "epsilon": 2.97, "delta": 1e-4}),
        ("budget/hungary", "budget-settled", {"population": "p"}, {"population": "p", "delta": 1e-3}),
        ("keys", "key-epoch", {"epoch": 1, "members": ["va-long-beach", "cleveland", "hungary", "switzerland"]},
         {"epoch": 1, "members": ["cleveland", "hungary", "switzerland"]}),
        ("round/2", "aggregate",
         {"round": 2, "attempt": 1, "digest": digest("d"), "silos": SILOS},
         {"round": 2, "attempt": 1, "digest": digest("d"), "silos": ["cleveland", "hungary", "switzerland"]}),
        ("round/2", "aggregate", {"round": 2, "attempt": 1, "digest": digest("d")},
         {"round": 2, "attempt": 2, "digest": digest("d")}),
    ],
)  # fmt: skip
def test_another_value_contradicts(report, subject, kind, right, wrong):
    assert contradiction(report, "hungary", subject, of(report, kind, **right)) is None
    said = contradiction(report, "hungary", subject, of(report, kind, **wrong))
    assert said is not None
    assert said.startswith("the report says ")


def test_a_settlement_in_anothers_log_is_no_settlement(report):
    settled = of(report, "budget-settled", population="p", epsilon=2.9612)
    assert contradiction(report, "cleveland", "budget/hungary", settled) is not None


def test_waivers_and_faults_are_found_by_what_they_say(report):
    waiver = Waiver(id="w", silo="hungary", pack="p", rule="r", approver="olga", justification="agreed")
    fault = Fault(party="hungary", what="too late")
    full = report.model_copy(update={"waivers": (waiver,), "faults": (fault, fault)})
    logged = of(full, "waiver", digest=digest("w"), silo="hungary", rule="p/r")
    assert subjects_of(full, "hungary", logged) == ("waiver/1",)
    assert subjects_of(full, "aggregator", of(full, "fault", silo="hungary", what="too late")) == ("fault/1", "fault/2")
    assert subjects_of(full, "aggregator", of(full, "fault", silo="cleveland", what="too late")) == ()
