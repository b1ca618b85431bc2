"""The facts as JSON: the declared order, two spaces, UTF-8, one newline at the end; the same facts are the same
bytes."""

from __future__ import annotations

import json

from silo.report.model import Report


def render_json(report: Report) -> str:
    """All facts of a report as JSON text; `Report.model_validate_json` reads it back to an equal report."""
    return json.dumps(report.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
