"""The report as one HTML page that stands alone: no script, no request, readable on a phone, on paper, light and
dark.

Invariants: every string is made readable and then escaped, by the template engine and not by the author of a
template (`finalize` + autoescape); the page's own content policy forbids scripts and requests; the same report
gives the same bytes.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from silo.report import plots, text
from silo.report.blocks import Figure
from silo.report.model import Report
from silo.report.sections import document

_MOST_REFERENCES = 1
"""Log entries linked beside one statement; a round stands in every party's log, and the evidence section lists them
all."""


def render_html(report: Report) -> str:
    """The whole report as HTML text."""
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            sections=document(report),
            style=Markup(_style()),  # noqa: S704 - our own file
            most_references=_MOST_REFERENCES,
            plot=lambda figure: _plot(report, figure),
        )
    )


def _plot(report: Report, figure: Figure) -> Markup:
    # Our own drawing; its title and description were escaped when the XML was written.
    return Markup(plots.draw(report, figure.name, figure.title, figure.description))  # noqa: S704


@cache
def _style() -> str:
    return resources.files("silo.report").joinpath("templates/report.css").read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("silo.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_safe,
    )
    environment.tests["block"] = lambda block, kind: type(block).__name__ == kind
    return environment


def _safe(value: Any) -> Any:
    return text.readable(value) if isinstance(value, str) and not isinstance(value, Markup) else value
