"""The report of a run: one typed model of the facts, and renderers that add words but never facts.

report = Report(...)                 the facts; None means "not evidenced"
render_html(report) -> str           one page that stands alone
render_json(report) -> str           the same facts
render_oscal(report) -> str          OSCAL assessment-results
render_registry(report) -> str       a record for OpenDP's deployments registry
render_intoto(report, signer) -> str an in-toto Statement in a DSSE envelope
render_pdf(report) -> bytes          the page as PDF; needs the extra `pdf`
"""

from silo.report.as_html import render_html
from silo.report.as_intoto import render_intoto
from silo.report.as_json import render_json
from silo.report.as_oscal import render_oscal
from silo.report.as_pdf import render_pdf
from silo.report.as_registry import render_registry
from silo.report.model import CLAIMS_NOT_MADE, Report

__all__ = [
    "CLAIMS_NOT_MADE",
    "Report",
    "render_html",
    "render_intoto",
    "render_json",
    "render_oscal",
    "render_pdf",
    "render_registry",
]
