"""What changed between two versions of a pack, for the officer who is asked to pin the new one.

Invariant: every difference of the two documents other than layout and comments is listed. ``loosens`` is a warning,
not a proof: a removed rule, a moment no longer covered or a rule that became waivable surely loosens; whether a changed
expression does is for the reader.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from silo_policies.pack import Pack, Rule


@dataclass(frozen=True)
class Change:
    """One difference. ``rule`` is empty for the pack's own fields; ``old`` and ``new`` are JSON values or None."""

    kind: Literal["added", "removed", "changed"]
    rule: str
    field: str
    old: Any
    new: Any

    @property
    def loosens(self) -> bool | None:
        """True or False where it is plain, None where a person must read it."""
        if not self.rule:
            return None
        if self.kind != "changed":
            return self.kind == "removed"
        if self.field == "moments":
            return not set(self.old) <= set(self.new)
        if self.field == "waivable":
            return bool(self.new)
        return None if self.field == "expr" else False


def diff_packs(old: Pack, new: Pack) -> tuple[Change, ...]:
    """Return the changes from ``old`` to ``new``: the pack's fields first, then rules in the order of their ids."""
    return tuple(_changes(old, new))


def _changes(old: Pack, new: Pack) -> Iterator[Change]:
    before, after = (pack.document.to_dict() for pack in (old, new))
    for field in sorted(set(before) - {"rules"}):
        if before[field] != after[field]:
            yield Change("changed", "", field, before[field], after[field])
    for name in sorted({*old.rules, *new.rules}):
        left, right = old.rules.get(name), new.rules.get(name)
        if left is None or right is None:
            yield Change("added" if left is None else "removed", name, "expr", _expr(left), _expr(right))
        else:
            values, others = left.to_dict(), right.to_dict()
            for field in values:
                if values[field] != others[field]:
                    yield Change("changed", name, field, values[field], others[field])


def _expr(rule: Rule | None) -> str | None:
    return None if rule is None else rule.expr
