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
    rows = [measure(spec, SYSTEMS["plain"](spec))]
    encryption.write_readme(rows)
    first = readme.read_text()
    encryption.write_readme(rows)
    assert readme.read_text() == first
    assert "kept" in first
    assert first.count(encryption.BEGIN) == 1
