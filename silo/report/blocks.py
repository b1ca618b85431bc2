"""The document between facts and formats: sections made of a few kinds of block, in plain text without markup.

A section module turns facts into blocks; a renderer turns blocks into a format. So a new format is one renderer,
and a new section is one module. Strings here are untrusted: escaping is the renderer's duty, and no block carries
markup.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from silo.report.text import NOT_EVIDENCED

Tone = Literal["plain", "code", "number", "good", "bad", "warn", "missing"]


@dataclass(frozen=True)
class Reference:
    """A log entry that backs what it stands beside: the log's holder and the entry's index."""

    holder: str
    index: int


@dataclass(frozen=True)
class Cell:
    """One value. `tone` is never the only carrier of meaning: the text says it too. `file` is a file that lies beside
    the report, to which the text leads."""

    text: str
    tone: Tone = "plain"
    note: str = ""
    references: tuple[Reference, ...] = ()
    file: str = ""


@dataclass(frozen=True)
class Row:
    """A labelled value."""

    label: str
    value: Cell


@dataclass(frozen=True)
class Prose:
    """A paragraph. `tone` "bad" or "warn" makes it stand out."""

    text: str
    tone: Tone = "plain"


@dataclass(frozen=True)
class Facts:
    """Labelled values, under a heading of their own if it is not empty."""

    rows: tuple[Row, ...]
    heading: str = ""


@dataclass(frozen=True)
class Column:
    """A table's column; figures are set right-aligned."""

    title: str
    figures: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of cells; the first cell of a row is its header. `layout` says what gives on a narrow screen: "stack"
    shows each row as a card (few rows, many words), "scroll" keeps the grid and scrolls (many rows, few words)."""

    key: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    layout: Literal["stack", "scroll"] = "stack"
    anchors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Figure:
    """A plot by its name in `plots`, with a title, a description that stands in for it, and a caption."""

    name: Literal["auc", "budget", "privacy"]
    title: str
    description: str
    caption: str


@dataclass(frozen=True)
class Refusal:
    """A silo that said no, and every rule it named."""

    who: str
    reasons: tuple[tuple[Row, ...], ...]
    messages: tuple[str, ...]
    references: tuple[Reference, ...] = ()


@dataclass(frozen=True)
class Items:
    """A list of sentences."""

    texts: tuple[str, ...]


@dataclass(frozen=True)
class Terms:
    """Terms and what they mean."""

    terms: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Preformatted:
    """Text whose line breaks matter, such as a signed checkpoint."""

    label: str
    text: str


Block = Prose | Facts | Table | Figure | Refusal | Items | Terms | Preformatted


@dataclass(frozen=True)
class Section:
    """A section: `key` is its anchor, `citations` the provisions that ask for it."""

    key: str
    title: str
    blocks: tuple[Block, ...]
    citations: tuple[str, ...] = ()


MISSING = Cell(NOT_EVIDENCED, "missing")


def cell(text: str | None, tone: Tone = "plain", note: str = "", references: Sequence[Reference] = ()) -> Cell:
    """A value, or "not evidenced" where there is none."""
    return MISSING if text is None else Cell(text, tone, note, tuple(references))


def row(label: str, text: str | None, tone: Tone = "plain", note: str = "") -> Row:
    """A labelled value, or "not evidenced" where there is none."""
    return Row(label, cell(text, tone, note))
