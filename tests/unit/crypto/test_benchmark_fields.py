"""The benchmark of field widths and ring degrees: what it measures, and that its page keeps the others' sections."""

import json

import pytest

from benchmarks import fields


def test_a_width_is_measured_on_the_product_itself():
    (auc,) = fields.aucs(8, [0])
    assert 0.75 < auc < 1


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(fields, "aucs", lambda bits, seeds: [0.9 - 0.1 * (bits < 6) + seed / 1000 for seed in seeds])
    monkeypatch.setattr(fields, "degree_rows", lambda: [{"degree": 4096, "seconds": 0.05}])


def test_narrow_fields_make_small_uploads(quick):
    rows = {row["bits"]: row for row in fields.width_rows(3)}
    sizes = [rows[bits]["upload_bytes"] // 1000 for bits in fields.WIDTHS]  # a narrow tag has more limbs
    assert sizes == sorted(sizes)
    assert sizes[0] < 0.5 * 4 * fields.VALUES / 1000 < sizes[-1]
    steps = [rows[bits]["step_over_noise"] for bits in fields.WIDTHS]
    assert steps == sorted(steps, reverse=True)
    assert (rows[4]["difference"], rows[16]["difference"]) == (pytest.approx(-0.1), 0)


def test_the_page_keeps_other_sections(quick, monkeypatch, tmp_path, capsys):
    readme = tmp_path / "README.md"
    readme.write_text("# Benchmarks\n\n## Heart\n\nkept\n")
    monkeypatch.setattr(fields, "README", readme)
    assert fields.main(["--quick", "--json", "--write"]) == 0
    first = readme.read_text()
    assert {row["bits"] for row in json.loads(capsys.readouterr().out)["rows"] if "bits" in row} == set(fields.WIDTHS)
    fields.main(["--quick", "--write"])
    assert readme.read_text() == first
    assert "kept" in first
