"""Numbers that never flatter, strings that cannot deceive."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from silo.report import text


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (2.9612, "2.97"),
        (3.0, "3"),
        (0.0, "0"),
        (2.991, "3"),
        (12.34, "12.4"),
        (0.000123456, "1.24 × 10⁻⁴"),
        (1234.5, "1240"),
    ],
)
def test_spent_is_rounded_up(number: float, shown: str) -> None:
    assert text.spent(number) == shown


@given(st.floats(min_value=1e-2, max_value=1e6))
def test_spent_never_understates_and_left_never_overstates(number: float) -> None:
    assert float(text.spent(number)) >= number
    assert float(text.left(number)) <= number
    assert math.isclose(float(text.spent(number)), number, rel_tol=1e-2)


@pytest.mark.parametrize(
    ("number", "shown"),
    [(3.0, "3"), (1e-4, "10⁻⁴"), (2.5e-5, "2.5 × 10⁻⁵"), (0.25, "0.25"), (1e12, "10¹²"), (10, "10")],
)
def test_given_is_shown_as_given(number: float, shown: str) -> None:
    assert text.given(number) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 B"), (999, "999 B"), (33_412, "33.4 kB"), (4_160_000, "4.16 MB"), (3_300_000_000, "3.3 GB")],
)
def test_size(count: int, shown: str) -> None:
    assert text.size(count) == shown


def test_lists_and_counts_read_as_prose() -> None:
    assert text.listed([]) == ""
    assert text.listed(["a"]) == "a"
    assert text.listed(["a", "b"]) == "a and b"
    assert text.listed(["a", "b", "c"]) == "a, b and c"
    assert text.counted(1, "round") == "one round"
    assert text.counted(13, "entry", "entries") == "13 entries"


@pytest.mark.parametrize(
    "mark", ["\u202e", "\u2066", "\u200f", "\u200b", "\ufeff", "\x00", "\x1b", "\x85", "\u2028", "\ue000"]
)
def test_marks_that_deceive_are_shown_as_code_points(mark: str) -> None:
    assert text.readable(f"a{mark}b") == f"a[U+{ord(mark):04X}]b"


def test_honest_writing_stays() -> None:
    for honest in ("Universitätsspital Zürich", "בית חולים", "بیمارستان می\u200cرود", "病院", "two\nlines"):
        assert text.readable(honest) == honest


def test_very_long_text_is_cut_and_says_so() -> None:
    shown = text.readable("x" * 10_000)
    assert len(shown) < text.LONGEST + 80
    assert "6000 more characters" in shown
