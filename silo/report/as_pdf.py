"""The HTML report as PDF, for filing. Needs the extra ``pdf`` (WeasyPrint) and Pango from the system.

WeasyPrint fetches nothing here: the page is self-contained, and a fetcher that refuses is given to make sure.
"""

from __future__ import annotations

import importlib
from typing import Any

from silo.errors import ConfigError
from silo.report.as_html import render_html
from silo.report.model import Report


def render_pdf(report: Report) -> bytes:
    """The report as PDF bytes; raises :class:`ConfigError` if WeasyPrint or its libraries are not there."""
    try:
        weasyprint: Any = importlib.import_module("weasyprint")
    except ImportError as error:
        raise ConfigError(
            "PDF needs WeasyPrint, which is not installed",
            where="silo report --format pdf",
            fix="pip install 'silo-fl[pdf]', or print the HTML report from a browser",
        ) from error
    except OSError as error:  # it is there, Pango is not
        raise ConfigError(
            f"PDF needs a system library that is missing: {error}",
            where="silo report --format pdf",
            fix="install Pango (Debian: libpango-1.0-0 libpangoft2-1.0-0), or print the HTML report from a browser",
        ) from error
    written: bytes = weasyprint.HTML(string=render_html(report), url_fetcher=_refuse).write_pdf()
    return written


def _refuse(url: str, *_: Any, **__: Any) -> Any:
    raise ValueError(f"the report asks for {url}, and it must stand alone")
