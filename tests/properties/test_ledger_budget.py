"""Whatever order runs reserve, charge and settle in: the cap holds, nothing is refunded, a reopened file agrees."""

import os
import tempfile
from pathlib import Path

from dp_accounting import dp_event
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from silo.errors import BudgetExceeded, ConfigError, VerificationFailed
from silo.ledger import Ledger

DIGESTS = ["sha256:" + f"{number:064x}" for number in range(4)]
CAPS = {"basic": (6.0, 5e-5), "gdp": (3.0, 1e-5), "rdp(16)": (3.0, 1e-5)}
NOISE = st.sampled_from([10.0, 20.0])


class Budget(RuleBasedStateMachine):
    """Three populations, one per filter, against a plain list of what was released."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
        self.ledger = Ledger(Path(self.folder.name) / "ledger.db")
        for name, (cap, delta) in CAPS.items():
            self.ledger.open_population(name.replace("(", "-").replace(")", ""), cap, delta, name)
        self.names = [population.name for population in self.ledger.populations()]
        self.runs: dict[tuple[str, str], object] = {}
        self.released: dict[tuple[str, str, int, int], tuple[int, str]] = {}
        self.spent = dict.fromkeys(self.names, 0.0)
        self.heads = [self.ledger.head()]

    @rule(which=st.integers(0, 2), run=st.integers(0, 5), noise=NOISE, steps=st.sampled_from([1, 20, 50]))
    def reserve(self, which: int, run: int, noise: float, steps: int) -> None:
        name, event = self.names[which], dp_event.GaussianDpEvent(noise)
        terms = {"delta": 1e-5, "code_digest": DIGESTS[3], "data_digest": DIGESTS[which]}
        before = self.ledger.head()
        try:
            self.runs[name, str(run)] = self.ledger.reserve(name, str(run), event, steps, **terms)
        except (BudgetExceeded, ConfigError):
            assert self.ledger.head() == before

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), number=st.integers(0, 3), steps=st.integers(1, 30), upload=st.sampled_from(DIGESTS))
    def charge(self, data: st.DataObject, number: int, steps: int, upload: str) -> None:
        key = data.draw(st.sampled_from(sorted(self.runs)))
        before = self.ledger.head()
        try:
            self.ledger.charge(self.runs[key], number, 0, steps, upload_digest=upload)
        except (BudgetExceeded, VerificationFailed):
            assert self.ledger.head() == before
            return
        assert self.released.setdefault((*key, number, 0), (steps, upload)) == (steps, upload)

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.runs)))
        assert not self.ledger.settle(self.runs[key]).open

    @rule()
    def restart(self) -> None:
        before = [self.ledger.spent(name) for name in self.names]
        path = self.ledger.path
        self.heads.append(self.ledger.head())
        self.ledger.close()
        self.ledger = Ledger(path, create=False)
        assert [self.ledger.spent(name) for name in self.names] == before
        for head in self.heads:
            self.ledger.require_head(head)

    @invariant()
    def the_cap_holds_and_nothing_is_refunded(self) -> None:
        for name in self.names:
            now = self.ledger.spent(name)
            assert self.spent[name] <= now.epsilon <= now.committed <= now.epsilon_cap
            assert now.delta <= now.delta_cap
            self.spent[name] = now.epsilon

    @invariant()
    def what_was_released_is_charged(self) -> None:
        for key in self.runs:
            due = sum(steps for place, (steps, _) in self.released.items() if place[:2] == key)
            assert self.ledger.reservation(*key).charged == due

    def teardown(self) -> None:
        self.ledger.verify()
        self.ledger.close()
        self.folder.cleanup()


Budget.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestBudget = Budget.TestCase
