"""The report of a run: one typed model of the facts, and renderers that add words but never facts.

report = Report(...)                 the facts; None means "not evidenced"
render_html(report) -> str           one page that stands alone
render_json(report) -> str           the same facts
"""

from silo.report.as_html import render_html
from silo.report.as_json import render_json
from silo.report.model import CLAIMS_NOT_MADE, Report

__all__ = ["CLAIMS_NOT_MADE", "Report", "render_html", "render_json"]
