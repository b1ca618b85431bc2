"""How facts become text: numbers that never flatter, and strangers' strings that cannot deceive the eye.

Invariants: an epsilon that was spent is rounded up, never down; a string from outside is shown on one direction,
with every invisible or direction-changing character replaced by its code point (the "Trojan source" problem,
Unicode TR 36 section 2).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal

NOT_EVIDENCED = "not evidenced"

LONGEST = 4000
"""Characters of one string that HTML shows; the JSON holds all of it."""

_BRIEF = 80

_JOINERS = "\u200c\u200d"  # needed to write Persian, Hindi and others; harmless
_SMALL = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def readable(text: str, longest: int = LONGEST) -> str:
    """`text` with control, format, private and unassigned characters shown as U+XXXX, and cut at `longest`
    characters."""
    cut = len(text) - longest
    if cut > 0:
        text = f"{text[:longest]}… ({cut} more characters; the JSON has them)"
    if text.isascii() and text.replace("\n", "").isprintable():
        return text
    return "".join(f"[U+{ord(c):04X}]" if _deceptive(c) else c for c in text)


def _deceptive(c: str) -> bool:
    # Categories C*: control, format (direction marks among them), surrogate, private, unassigned. The two separators
    # break lines where the writer of a log line chose.
    return (unicodedata.category(c)[0] == "C" and c != "\n" and c not in _JOINERS) or c in "\u2028\u2029"


def brief(name: str) -> str:
    """A name as a sentence or a table can bear it: a stranger's name must not push the others off the page."""
    return name if len(name) <= _BRIEF else f"{name[: _BRIEF - 1]}…"


def spent(epsilon: float) -> str:
    """An epsilon that was spent, three significant digits, rounded up."""
    return _plain(Context(prec=3, rounding=ROUND_CEILING).create_decimal(Decimal(repr(epsilon))))


def left(epsilon: float) -> str:
    """An epsilon that is left to spend, three significant digits, rounded down."""
    return _plain(Context(prec=3, rounding=ROUND_FLOOR).create_decimal(Decimal(repr(epsilon))))


def given(number: float) -> str:
    """A number somebody set: as they set it, small ones as a power of ten."""
    return _plain(Decimal(repr(float(number))))


def _plain(number: Decimal) -> str:
    if number and (abs(number) < Decimal("0.001") or abs(number) >= Decimal("1e9")):
        mantissa, exponent = f"{number.normalize():e}".split("e")
        power = "10" + str(int(exponent)).translate(_SUPERSCRIPT)
        return power if mantissa == "1" else f"{mantissa} × {power}"
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def score(value: float) -> str:
    """An AUC, three decimals."""
    return f"{value:.3f}"


def size(count: int) -> str:
    """Bytes in decimal units: 999 B, 33.4 kB, 4.16 MB."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}" if count < 1000 * scale else f"{count / scale:,.0f} {unit}"
    return f"{count} B"


def whole(count: int) -> str:
    """A count with thousands separated by a comma."""
    return f"{count:,}"


def number(count: int) -> str:
    """A count in words up to twelve."""
    return _SMALL[count] if count < len(_SMALL) else whole(count)


def counted(count: int, noun: str, plural: str = "") -> str:
    """ "one institution", "four institutions"."""
    return f"{number(count)} {noun if count == 1 else plural or noun + 's'}"


def listed(items: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join(items) if len(items) < 3 else f"{', '.join(items[:-1])} and {items[-1]}"


def sentence(text: str) -> str:
    """First letter capital."""
    return text[:1].upper() + text[1:]
