"""Reserve, charge, settle: what is held, what is refused and with which numbers, and what a restart finds."""

import os
import stat
import time

import pytest
from dp_accounting import dp_event

from silo.errors import BudgetExceeded, ConfigError, UsageError, VerificationFailed
from silo.ledger import Head, Ledger
from tests.unit.ledger.conftest import DIGEST, gaussian, sampled

OTHER = "sha256:" + "cd" * 32


class TestPopulations:
    def test_terms_are_for_life(self, ledger):
        opened = ledger.open_population("cleveland", 3.0, 1e-4, "rdp(16)", unit="patient")
        assert ledger.open_population("cleveland", 3, 1e-4, "rdp(16)", unit="patient") == opened
        assert ledger.populations() == (opened,)
        for terms in ((4.0, 1e-4, "rdp(16)"), (3.0, 1e-5, "rdp(16)"), (3.0, 1e-4, "basic")):
            with pytest.raises(ConfigError, match=r"was opened with epsilon 3 at delta 0\.0001 per patient"):
                ledger.open_population("cleveland", *terms, unit="patient")
        with pytest.raises(ConfigError, match="per record"):
            ledger.open_population("cleveland", 3.0, 1e-4, "rdp(16)")
        assert len(ledger.history("cleveland")) == 1

    @pytest.mark.parametrize("epsilon", [0.0, -1.0, float("inf"), float("nan")])
    def test_epsilon_that_is_none(self, ledger, epsilon):
        with pytest.raises(ConfigError, match="epsilon"):
            ledger.open_population("cleveland", epsilon, 1e-5)

    @pytest.mark.parametrize("delta", [0.0, -1e-5, 1.0, 1e-13, float("nan")])
    def test_delta_that_is_none(self, ledger, delta):
        with pytest.raises(ConfigError, match="delta"):
            ledger.open_population("cleveland", 3.0, delta)

    def test_names_filters_and_units_that_are_none(self, ledger):
        for call in (
            lambda: ledger.open_population("", 3.0, 1e-5),
            lambda: ledger.open_population("a b", 3.0, 1e-5),
            lambda: ledger.open_population("a", 3.0, 1e-5, "pld"),
            lambda: ledger.open_population("a", 3.0, 1e-5, unit="family"),
            lambda: ledger.spent("a"),
        ):
            with pytest.raises(ConfigError):
                call()


class TestRuns:
    def test_the_whole_sequence(self, ledger, reserve):
        ledger.open_population("cleveland", 3.0, 1e-4)
        reservation = reserve(steps=100)
        assert (reservation.charged, reservation.open) == (0, True)
        held = ledger.spent("cleveland")
        assert (held.epsilon, held.delta) == (0, 0)
        assert reservation.epsilon <= held.committed < reservation.epsilon + 1e-5
        for round_ in range(1, 11):
            charge = ledger.charge(reservation, round_, 0, 10, upload_digest=DIGEST)
            assert (charge.round, charge.steps) == (round_, 10)
        settled = ledger.settle(reservation)
        assert (settled.charged, settled.open) == (100, False)
        assert ledger.settle(reservation) == settled
        spent = ledger.spent("cleveland")
        assert spent.epsilon == spent.committed == held.committed
        assert (spent.delta, spent.epsilon_cap, spent.delta_cap, spent.unit) == (1e-5, 3.0, 1e-4, "record")
        assert (spent.filter, spent.adjacency) == ("basic", "add/remove")
        assert spent.left == pytest.approx(3.0 - spent.epsilon)
        assert [event.kind for event in ledger.history()] == [
            "created",
            "opened",
            "reserved",
            *["charged"] * 10,
            "settled",
        ]

    def test_events_are_stored_with_everything_to_recompute_them(self, ledger, reserve):
        ledger.open_population("cleveland", 3.0, 1e-4)
        ledger.charge(reserve(), 1, 2, 3, upload_digest=OTHER)
        reserved, charged = (event.body for event in ledger.history("cleveland")[1:])
        assert reserved["event"] == {
            "class": "PoissonSampledDpEvent",
            "sampling_probability": 0.1,
            "event": {"class": "GaussianDpEvent", "noise_multiplier": 2},
        }
        assert (reserved["steps"], reserved["delta"], reserved["code_digest"]) == (10, 1e-5, DIGEST)
        assert "epsilon" not in reserved
        expected = {"run": "7", "round": 1, "attempt": 2, "steps": 3, "upload_digest": OTHER}
        assert expected.items() <= charged.items()
        assert (charged["code_digest"], charged["data_digest"]) == (DIGEST, DIGEST)

    def test_over_the_cap(self, ledger, reserve):
        ledger.open_population("cleveland", 3.0, 1e-4)
        first = reserve(steps=100)
        with pytest.raises(BudgetExceeded) as error:
            reserve(run="8", steps=100)
        text = str(error.value)
        for number in (
            "epsilon 3 at delta 0.0001 per record (basic)",
            "0 is spent",
            "2.3374 with open",
            "4.674",
            "run 8",
        ):
            assert number in text, text
        assert error.value.exit_code == 5
        assert ledger.reservations() == (first,)

    def test_over_the_delta(self, ledger, reserve):
        ledger.open_population("cleveland", 30.0, 2e-5)
        reserve(run="1")
        reserve(run="2")
        with pytest.raises(BudgetExceeded, match=r"would make .* at delta 3e-05"):
            reserve(run="3")

    def test_exactly_the_cap_fits(self, ledger, reserve):
        ledger.open_population("probe", 100.0, 1e-4)
        reserve("probe", steps=100)
        committed = ledger.spent("probe").committed
        ledger.open_population("exact", committed, 1e-5)
        reserve("exact", steps=100, data_digest=OTHER)
        assert ledger.spent("exact").left == 0
        ledger.open_population("short", committed - 1e-6, 1e-5)
        with pytest.raises(BudgetExceeded):
            reserve("short", steps=100, data_digest="sha256:" + "ef" * 32)

    def test_the_same_upload_again_is_free_and_another_is_refused(self, ledger, reserve):
        ledger.open_population("cleveland", 3.0, 1e-4)
        reservation = reserve()
        ledger.charge(reservation, 1, 0, 2, upload_digest=DIGEST)
        size = ledger.head().size
        ledger.charge(reservation, 1, 0, 2, upload_digest=DIGEST)
        assert ledger.head().size == size
        for steps, upload in ((2, OTHER), (3, DIGEST)):
            with pytest.raises(VerificationFailed, match="charged for another upload"):
                ledger.charge(reservation, 1, 0, steps, upload_digest=upload)
        ledger.charge(reservation, 1, 1, 2, upload_digest=OTHER)
        assert ledger.reservation("cleveland", "7").charged == 4

    def test_more_than_was_reserved(self, ledger, reserve):
        ledger.open_population("cleveland", 3.0, 1e-4)
        reservation = reserve(steps=10)
        ledger.charge(reservation, 1, 0, 9, upload_digest=DIGEST)
        with pytest.raises(BudgetExceeded, match="9 of 10 reserved steps are charged, 2 more"):
            ledger.charge(reservation, 2, 0, 2, upload_digest=DIGEST)
        ledger.charge(reservation, 2, 0, 1, upload_digest=DIGEST)

    def test_a_settled_run_is_over_but_its_last_upload_may_be_sent_again(self, ledger, reserve):
        ledger.open_population("cleveland", 3.0, 1e-4)
        reservation = reserve()
        ledger.charge(reservation, 1, 0, 1, upload_digest=DIGEST)
        ledger.settle(reservation)
        ledger.charge(reservation, 1, 0, 1, upload_digest=DIGEST)
        with pytest.raises(BudgetExceeded, match="settled"):
            ledger.charge(reservation, 2, 0, 1, upload_digest=DIGEST)
        with pytest.raises(ConfigError, match="has settled"):
            reserve()

    def test_a_reservation_of_another_ledger(self, ledger, reserve, tmp_path):
        ledger.open_population("cleveland", 3.0, 1e-4)
        with Ledger(tmp_path / "other.db") as other:
            other.open_population("cleveland", 30.0, 1e-4)
            terms = {"delta": 1e-5, "code_digest": DIGEST, "data_digest": DIGEST}
            foreign = other.reserve("cleveland", "7", sampled(), 100, **terms)
        reserve(steps=10)
        with pytest.raises(UsageError, match="holds no such reservation"):
            ledger.charge(foreign, 1, 0, 50, upload_digest=DIGEST)
        with pytest.raises(UsageError):
            ledger.settle(foreign)

    def test_a_restarted_silo_goes_on(self, tmp_path):
        terms = {"delta": 1e-5, "code_digest": DIGEST, "data_digest": DIGEST}
        with Ledger(tmp_path / "ledger.db") as ledger:
            ledger.open_population("cleveland", 3.0, 1e-4)
            first = ledger.reserve("cleveland", "7", sampled(), 10, **terms)
            ledger.charge(first, 1, 0, 4, upload_digest=DIGEST)
        with Ledger(tmp_path / "ledger.db", create=False) as ledger:
            again = ledger.reserve("cleveland", "7", sampled(), 10, **terms)
            assert (again.charged, again.open) == (4, True)
            ledger.charge(first, 2, 0, 6, upload_digest=OTHER)
            for other in ({"steps": 11}, {"event_per_step": sampled(3.0)}, {"code_digest": OTHER}, {"delta": 2e-5}):
                call = {
                    "population": "cleveland",
                    "run": "7",
                    "event_per_step": sampled(),
                    "steps": 10,
                    **terms,
                } | other
                with pytest.raises(ConfigError, match="reserved other steps, noise, code or data"):
                    ledger.reserve(**call)

    def test_parts_of_a_run_are_apart(self, ledger, reserve):
        ledger.open_population("cleveland", 6.0, 1e-4)
        training, vote = reserve(), reserve(part="vote", event=gaussian(20.0), steps=1)
        ledger.charge(vote, 1, 0, 1, upload_digest=DIGEST)
        assert ledger.reservation("cleveland", "7").charged == 0
        assert ledger.reservation("cleveland", "7", "vote").charged == 1
        assert ledger.spent("cleveland").committed == pytest.approx(training.epsilon + vote.epsilon, abs=3e-6)
        with pytest.raises(ConfigError, match="reserved nothing"):
            ledger.reservation("cleveland", "7", "tuning")

    def test_one_table_has_one_population(self, ledger, reserve):
        ledger.open_population("cleveland", 3.0, 1e-4)
        ledger.open_population("cleveland-2", 3.0, 1e-4)
        reserve()
        with pytest.raises(ConfigError, match="belong to population 'cleveland'"):
            reserve("cleveland-2", run="8")

    def test_the_unit_is_the_populations(self, ledger, reserve):
        ledger.open_population("cleveland", 3.0, 1e-4, unit="patient")
        with pytest.raises(ConfigError, match="per patient, the run protects each record"):
            reserve()
        assert reserve(unit="patient").open

    @pytest.mark.parametrize(
        "other",
        [
            {"steps": 0},
            {"steps": -1},
            {"steps": True},
            {"steps": 1.5},
            {"delta": 0.0},
            {"code_digest": "abc"},
            {"data_digest": DIGEST.upper()},
            {"run": "a/b"},
            {"run": ""},
            {"part": "x" * 200},
            {"event": dp_event.NonPrivateDpEvent()},
            {"population": "nobody"},
        ],
    )
    def test_what_makes_no_sense(self, ledger, reserve, other):
        ledger.open_population("cleveland", 3.0, 1e-4)
        with pytest.raises(ConfigError):
            reserve(**other)
        assert ledger.reservations() == ()

    def test_charges_that_make_no_sense(self, ledger, reserve):
        ledger.open_population("cleveland", 3.0, 1e-4)
        reservation = reserve()
        for bad in ((-1, 0, 1), (1, -1, 1), (1, 0, 0), (True, 0, 1), (1, 0, 1.0)):
            with pytest.raises(ConfigError):
                ledger.charge(reservation, *bad, upload_digest=DIGEST)
        with pytest.raises(ConfigError):
            ledger.charge(reservation, 1, 0, 1, upload_digest="none")


class TestWhatReturns:
    """Nothing that was charged is refunded; what was held and not used returns where the filter's proof allows it."""

    def test_basic_returns_all_or_nothing(self, ledger, reserve):
        ledger.open_population("cleveland", 10.0, 1e-4)
        used, unused = reserve(run="used", steps=100), reserve(run="unused", steps=100)
        ledger.charge(used, 1, 0, 1, upload_digest=DIGEST)
        whole = ledger.spent("cleveland").epsilon
        assert whole == pytest.approx(used.epsilon, abs=2e-6)
        assert used.epsilon_charged == 0
        ledger.settle(used)
        ledger.settle(unused)
        spent = ledger.spent("cleveland")
        assert (spent.epsilon, spent.committed, spent.delta) == (whole, whole, 1e-5)
        assert ledger.reservation("cleveland", "used").epsilon_charged < 0.5 * whole

    @pytest.mark.parametrize("rule", ["rdp(16)", "gdp"])
    def test_adaptive_filters_return_the_steps_not_taken(self, ledger, reserve, rule):
        ledger.open_population("cleveland", 10.0, 1e-5, rule)
        reservation = reserve(event=gaussian(20.0), steps=100)
        held = ledger.spent("cleveland").committed
        ledger.charge(reservation, 1, 0, 30, upload_digest=DIGEST)
        spent = ledger.spent("cleveland")
        assert spent.epsilon < spent.committed == held
        ledger.settle(reservation)
        after = ledger.spent("cleveland")
        assert after.committed == after.epsilon == spent.epsilon
        assert after.delta == 1e-5

    def test_steps_of_several_runs_share_the_cap(self, ledger, reserve):
        ledger.open_population("cleveland", 2.0, 1e-5, "gdp")
        for run in range(10):
            reservation = reserve(run=str(run), event=gaussian(20.0), steps=10)
            ledger.charge(reservation, 1, 0, 10, upload_digest=DIGEST)
            ledger.settle(reservation)
        # 100 steps of mu = 1/20 make mu = 0.5, at most 2 at this delta; 110 would make more.
        assert 1.9 < ledger.spent("cleveland").epsilon <= 2.0
        with pytest.raises(BudgetExceeded):
            reserve(run="10", event=gaussian(20.0), steps=10)

    def test_gdp_refuses_samples(self, ledger, reserve):
        ledger.open_population("cleveland", 2.0, 1e-5, "gdp")
        with pytest.raises(ConfigError, match="q = 1 only"):
            reserve(event=sampled())


class TestWitness:
    def test_a_ledger_that_grew_is_accepted(self, ledger, reserve):
        heads = [ledger.head()]
        ledger.open_population("cleveland", 3.0, 1e-4)
        reserve()
        heads.append(ledger.head())
        for head in heads:
            ledger.require_head(head)
        assert ledger.verify() == heads[-1]

    def test_a_restored_file_refuses_all_runs(self, tmp_path):
        path, backup = tmp_path / "ledger.db", tmp_path / "backup.db"
        terms = {"delta": 1e-5, "code_digest": DIGEST, "data_digest": DIGEST}
        with Ledger(path) as ledger:
            ledger.open_population("cleveland", 3.0, 1e-4)
            open_run = ledger.reserve("cleveland", "6", gaussian(100.0), 1, **terms)
        backup.write_bytes(path.read_bytes())
        with Ledger(path) as ledger:
            ledger.reserve("cleveland", "7", sampled(), 10, **terms)
            head = ledger.head()
        path.write_bytes(backup.read_bytes())
        with Ledger(path) as ledger:
            with pytest.raises(VerificationFailed, match="witnessed 4 events, this has 3: it was rolled back"):
                ledger.require_head(head)
            for call in (
                lambda: ledger.reserve("cleveland", "8", gaussian(100.0), 1, **terms),
                lambda: ledger.charge(open_run, 1, 0, 1, upload_digest=DIGEST),
            ):
                with pytest.raises(VerificationFailed, match="rolled back"):
                    call()

    def test_another_past_of_the_same_length(self, tmp_path):
        path, fork = tmp_path / "ledger.db", tmp_path / "fork.db"
        Ledger(path).close()
        fork.write_bytes(path.read_bytes())
        heads = []
        for file, cap in ((path, 3.0), (fork, 300.0)):
            with Ledger(file) as ledger:
                ledger.open_population("cleveland", cap, 1e-4)
                heads.append(ledger.head())
        with Ledger(fork) as ledger, pytest.raises(VerificationFailed, match="first 2 events are not those"):
            ledger.require_head(heads[0])

    def test_a_new_file_in_its_place(self, ledger, tmp_path):
        with Ledger(tmp_path / "new.db") as new, pytest.raises(VerificationFailed, match="witnessed ledger"):
            new.require_head(ledger.head())

    def test_a_witness_of_nothing(self, ledger):
        head = ledger.head()
        with pytest.raises(VerificationFailed):
            ledger.require_head(Head(head.ledger, 0, head.digest))


def test_it_is_durable_and_private(tmp_path):
    previous = os.umask(0)
    try:
        with Ledger(tmp_path / "ledger.db") as ledger:
            ledger.open_population("cleveland", 3.0, 1e-4)
            pragma = ledger._journal._database.connection.execute
            assert pragma("PRAGMA journal_mode").fetchone() == ("wal",)
            assert pragma("PRAGMA synchronous").fetchone() == (2,)
            modes = {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    finally:
        os.umask(previous)
    assert modes == {0o600}


def test_a_run_of_fifty_rounds_costs_little_time(ledger, reserve):
    ledger.open_population("cleveland", 30.0, 1e-4)
    start = time.perf_counter()
    reservation = reserve(event=sampled(3.3, 0.07), steps=100)
    for round_ in range(50):
        ledger.charge(reservation, round_, 0, 2, upload_digest=DIGEST)
    ledger.settle(reservation)
    ledger.spent("cleveland")
    assert time.perf_counter() - start < 2.0
