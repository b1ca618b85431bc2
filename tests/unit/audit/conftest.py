"""A run of two silos as their logs tell it, made of entries alone; a test spoils one thing in it."""

import pytest


def digest(of):
    return "sha256:" + (of.encode().hex() + "0" * 64)[:64]


def silo_rows(name, rounds=2):
    run = {"run": "r1"}
    rows = [
        ("manifest", {**run, "digest": digest("manifest")}),
        ("decision", {**run, "silo": name, "moment": "accept", "decision": "permit", "digest": digest(f"yes {name}")}),
        ("run-started", {**run, "digest": digest("manifest")}),
        ("budget-reserved", {**run, "population": f"{name}-people", "epsilon": 3.0, "delta": 1e-4}),
        ("key-epoch", {**run, "epoch": 1, "members": ["a", "b"]}),
    ]
    for number in range(1, rounds + 1):
        place = {**run, "round": number, "attempt": 1}
        rows.append(("upload", {**place, "silo": name, "digest": digest(f"{name}{number}")}))
        rows.append(("aggregate", {**place, "digest": digest(f"sum {number}"), "silos": ["a", "b"]}))
    return [
        *rows,
        ("budget-settled", {**run, "population": f"{name}-people", "epsilon": 2.9, "delta": 1e-4}),
        ("decision", {**run, "silo": name, "moment": "release", "decision": "permit", "digest": digest(f"out {name}")}),
        ("release", {**run, "what": "model", "digest": digest(f"out {name}")}),
        ("run-finished", {**run, "rounds": rounds}),
    ]


def aggregator_rows(rounds=2):
    run = {"run": "r1"}
    rows = [("manifest", {**run, "digest": digest("manifest")})]
    for name in ("a", "b"):
        rows.append(("decision", {**run, "silo": name, "decision": "permit", "digest": digest(f"yes {name}")}))
    rows.append(("key-epoch", {**run, "epoch": 1, "members": ["a", "b"]}))
    for number in range(1, rounds + 1):
        place = {**run, "round": number, "attempt": 1}
        for name in ("a", "b"):
            rows.append(("upload", {**place, "silo": name, "digest": digest(f"{name}{number}")}))
        rows.append(("aggregate", {**place, "digest": digest(f"cipher {number}"), "silos": ["a", "b"]}))
    return [*rows, ("run-finished", {**run, "rounds": rounds})]


@pytest.fixture
def rows():
    """The rows of silos a and b and of the aggregator."""
    return {"a": silo_rows("a"), "b": silo_rows("b"), "aggregator": aggregator_rows()}
