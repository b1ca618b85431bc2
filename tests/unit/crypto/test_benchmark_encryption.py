"""The benchmark's rows: what it promises to print, and that a missing peer is a row and not a gap."""

import json
from pathlib import Path

import pytest

from benchmarks import encryption
from benchmarks.encryption_systems import SYSTEMS
from benchmarks.measure import Spec, measure

KEYS = {
    *("system", "tensors", "values", "upload_bytes", "download_bytes"),
    *("encrypt_s", "add_s", "decrypt_s", "peak_mb", "max_error"),
}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is measured through Linux's /proc")
@pytest.mark.parametrize("name", ["silo-shared", "silo-threshold", "plain"])
def test_a_system_is_measured_and_silo_adds_no_error(name):
    spec = Spec(name, values=3000, tensors=3, silos=3)
    row = measure(spec, SYSTEMS[name](spec))
    assert row.keys() >= KEYS
    assert row["status"] == "ok"
    if name.startswith("silo"):
        assert row["max_error"] == 0
        assert 0 < row["encoding_error"] < 2 / 65535 + 1e-6
    json.dumps(row)


def test_a_missing_peer_is_a_row_with_its_reason(monkeypatch, tmp_path):
    monkeypatch.setattr(encryption, "PEERS", tmp_path / "python")
    row = encryption.run("nvflare", 10, 1, 2)
    assert row["status"] == "missing"
    assert "make bench-setup" in row["reason"]
    assert "missing" in encryption.table([row])


def test_a_system_that_fails_is_a_row_with_its_reason():
    row = encryption.run("silo-shared", 10, 1, 96)
    assert row["status"] == "missing"
    assert "96" in row["reason"]


def test_the_readme_keeps_other_sections(monkeypatch, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("# Benchmarks\n\n## Heart\n\nkept\n")
    monkeypatch.setattr(encryption, "README", readme)
    monkeypatch.setattr(encryption, "PLOT", tmp_path / "plot.svg")
    monkeypatch.setattr(encryption, "PEERS", tmp_path / "python")
    spec = Spec("plain", 100, 1, 2)
    rows = [encryption.combined([measure(spec, SYSTEMS["plain"](spec)) | {"load": 0.1}])]
    encryption.write_readme(rows)
    first = readme.read_text()
    encryption.write_readme(rows)
    assert readme.read_text() == first
    assert "kept" in first
    assert first.count(encryption.BEGIN) == 1


def measurement(system, tensors=60, **changes):
    row = {"system": system, "tensors": tensors, "values": 1_000_000, "silos": 8, "status": "ok"}
    times = {"encrypt_s": 0.1, "add_s": 0.01, "decrypt_s": 0.04, "aggregate_s": 0.1, "peak_mb": 20.0}
    sizes = {"upload_bytes": 3_000_000, "download_bytes": 6_000_000}
    return row | times | sizes | {"max_error": 0.0, "encoding_error": 1e-5, "load": 0.1} | changes


def test_an_interrupted_benchmark_goes_on_where_it_was(monkeypatch, tmp_path):
    calls, file = [], tmp_path / "cache" / "rows.jsonl"

    def fake(system, values, tensors, silos):
        calls.append((system, tensors))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measurement(system, tensors, encrypt_s=float(len(calls)))

    monkeypatch.setattr(encryption, "run", fake)
    words = ["--systems", "plain,silo-shared", "--tensors", "1", "--repeat", "2", "--json", "--cache", str(file)]
    with pytest.raises(KeyboardInterrupt):
        encryption.main(words)
    with file.open("a") as cut:
        cut.write('{"key": "half a li')  # the power went
    before = len(calls)
    assert encryption.main(words) == 0
    assert len(calls) - before == 2
    assert encryption.main(words) == 0
    assert len(calls) - before == 2
    assert encryption.main([*words, "--fresh"]) == 0
    assert len(calls) - before == 6
    monkeypatch.setattr(encryption, "code_digest", lambda: "other code")
    assert encryption.main(words) == 0
    assert len(calls) - before == 10


def test_repeats_are_combined_and_held_against_the_targets():
    ours = encryption.combined([measurement("silo-shared", encrypt_s=seconds) for seconds in (0.2, 0.05, 0.06)])
    assert (ours["encrypt_s"], ours["repeats"]) == (0.06, 3)
    worst = encryption.combined([measurement("silo-shared", max_error=error) for error in (0.0, 1e-9)])
    assert worst["max_error"] == 1e-9
    peer = measurement("nvflare", encrypt_s=0.7, add_s=1.8)
    found = {row["name"]: row for row in encryption.targets([ours, peer])}
    speed = found["silo-shared: encrypt + serialise against NVFlare"]
    assert (round(speed["value"], 1), speed["target"], speed["ok"]) == (11.7, ">= 10", True)
    slow = encryption.targets([ours | {"encrypt_s": 0.08, "peak_mb": 25.0}, peer])
    missed = {row["name"] for row in slow if not row["ok"]}
    assert missed == {
        "silo-shared: encrypt + serialise against NVFlare",
        "silo-shared: client memory over the vector",
    }
    assert not [row for row in encryption.targets([ours]) if "NVFlare" in row["name"]]
    assert "**missed**" in encryption.verdicts([ours | {"decrypt_s": 1.0}])
