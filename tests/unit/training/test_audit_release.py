"""An audit on records is a release: reserved before it trains, charged before it is read, refused without budget."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import silo.training.audit_release as module
from silo.api import Experiment, LocalDP
from silo.data import HEART
from silo.errors import BudgetExceeded, ConfigError, UsageError
from silo.ledger import Ledger
from silo.training.accounting import Plan, make_plan
from silo.training.audit import Audit
from silo.training.audit_release import Account, audit_release, price_of
from silo.training.check import made_up
from silo.training.trainer import LocalTrainer, to_tensors
from tests.unit.training.training_support import make

D = made_up(HEART, 2).features().shape[1] + 1
ACCOUNT = Account("patients", "audit-1", "sha256:" + "0" * 64, "sha256:" + "1" * 64)
PRIVACY = LocalDP(
    epsilon=3, delta=1e-5, clipping_norm=1, sample_rate=0.5, steps_per_round=2, expected_batch=20, learning_rate=0.5
)


def experiment() -> Experiment:
    return make(lambda: nn.Sequential(nn.Linear(D - 1, 1), nn.Flatten(0)), rounds=3, privacy=PRIVACY)


PLAN: Plan = make_plan(PRIVACY, 3, D)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger.db") as opened:
        opened.open_population("patients", 4.0, 1e-3)
        yield opened


def run(ledger: Ledger, account: Account = ACCOUNT, one: Experiment | None = None, canaries: int = 60) -> Audit:
    one = one or experiment()
    data = to_tensors(one, made_up(HEART, 40))
    return audit_release(ledger, account, one, PLAN, data, HEART, canaries=canaries)


def test_every_step_is_charged_to_the_population_and_the_rest_is_settled(ledger: Ledger) -> None:
    found = run(ledger)
    held = ledger.reservation("patients", "audit-1", "audit")
    assert [(each.round, each.attempt, each.steps) for each in held.charges] == [(1, 1, 2), (2, 1, 2), (3, 1, 2)]
    assert not held.open
    assert held.epsilon == price_of(PLAN)
    assert ledger.spent("patients").epsilon == pytest.approx(price_of(PLAN), abs=1e-6)
    assert 2.99 < found.proven <= 3
    assert found.canaries == 60
    assert not found.refuted


def test_without_budget_nothing_is_trained(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    run(ledger)
    built = []
    monkeypatch.setattr(module, "LocalTrainer", lambda *_, **__: built.append(1))
    second = Account("patients", "audit-2", ACCOUNT.code_digest, ACCOUNT.data_digest)
    with pytest.raises(BudgetExceeded, match="is spent"):
        run(ledger, second)
    assert not built
    assert [each.kind for each in ledger.history()][-1] == "settled"


def test_a_round_is_charged_before_anything_is_computed_from_it(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    train, read, charge = LocalTrainer.run, module._clipped_gradients, Ledger.charge
    monkeypatch.setattr(LocalTrainer, "run", lambda *a, **k: (order.append("train"), train(*a, **k))[1])
    monkeypatch.setattr(module, "_clipped_gradients", lambda *a, **k: (order.append("read"), read(*a, **k))[1])
    monkeypatch.setattr(Ledger, "charge", lambda *a, **k: (order.append("charge"), charge(*a, **k))[1])
    run(ledger)
    assert order == ["train", "charge", "read"] * 3


def test_an_audit_that_fails_keeps_what_it_charged_and_settles(ledger: Ledger) -> None:
    calls: list[int] = []

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) > 4:
            raise RuntimeError("patient 17")
        return (outputs - targets) ** 2

    one = make(lambda: nn.Sequential(nn.Linear(D - 1, 1), nn.Flatten(0)), rounds=3, privacy=PRIVACY, loss=loss)
    with pytest.raises(ConfigError) as caught:
        run(ledger, one=one)
    assert "patient 17" not in str(caught.value)
    held = ledger.reservation("patients", "audit-1", "audit")
    assert held.charged == 2
    assert not held.open
    assert ledger.spent("patients").epsilon == pytest.approx(price_of(PLAN), abs=1e-6)  # basic: a whole run


def test_another_unit_too_few_canaries_and_other_data_are_refused(ledger: Ledger) -> None:
    with pytest.raises(UsageError, match="1 canaries"):
        run(ledger, canaries=1)
    ledger.open_population("whole", 4.0, 1e-3, unit="patient")
    with pytest.raises(ConfigError, match="per patient"):
        run(ledger, Account("whole", "audit-1", ACCOUNT.code_digest, "sha256:" + "2" * 64))
    assert not ledger.reservations()


class UnsafeNoNoise(LocalTrainer):
    """Adds next to no noise: epsilon is void."""

    def run(self, start):
        self._optimizer.noise_multiplier = 1e-6
        return super().run(start)


def test_missing_noise_is_caught_where_canaries_have_room(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    # Each record sees a layer of its own through a fixed random embedding: 4,000 parameters for 200 canaries.
    def model() -> nn.Module:
        first = nn.Linear(D - 1, 4_000)
        for p in first.parameters():
            p.requires_grad_(False)
        with torch.no_grad():
            first.weight.mul_(6.0)
        return nn.Sequential(first, nn.Hardtanh(), nn.Linear(4_000, 1, bias=False), nn.Flatten(0))

    privacy = LocalDP(3, 1e-5, 1, 1.0, 1, 60, 0.01)
    one = make(model, rounds=1, privacy=privacy, loss=lambda outputs, targets: outputs)
    plan = make_plan(privacy, 1, 4_000)
    data = (torch.zeros(0, D - 1), torch.zeros(0))

    def go(number: int) -> Audit:
        population = f"patients-{number}"
        ledger.open_population(population, 4.0, 1e-3)
        account = Account(population, "audit", ACCOUNT.code_digest, f"sha256:{number:064x}")
        return audit_release(ledger, account, one, plan, data, HEART, canaries=200)

    sound = [go(number) for number in range(3)]
    monkeypatch.setattr(module, "LocalTrainer", UnsafeNoNoise)
    broken = [go(number) for number in range(3, 6)]
    assert not any(each.refuted for each in sound)
    assert all(each.refuted for each in broken)
