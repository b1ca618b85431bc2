"""What can go wrong with policies, and how it is said.

    PolicyError
    ├── PackError          a pack that cannot be read, or breaks its schema; names file, rule and line
    │   └── ExpressionError    an expression that is refused or does not compile
    ├── FactError          a fact of the wrong type or out of its range
    ├── EvaluationError    an expression that failed at run time (never a permission)
    ├── DocumentError      a manifest, decision, waiver or approval that breaks its schema or is out of date
    └── SignatureRefused   a signature that is missing, duplicate, foreign or does not hold

Each says what happened, where, and what to do next, and never carries a record or a secret.
"""

from __future__ import annotations


class PolicyError(Exception):
    """Base of the package: ``what`` happened, ``where``, and the ``fix`` to try.

    ``exit_code`` is the command line's: 3 for what cannot be used, 6 for what cannot be believed.
    """

    exit_code = 3

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        remedy = f" ({self.fix})" if self.fix else ""
        return f"{place}{self.what}{remedy}"


class PackError(PolicyError):
    """A pack that cannot be used. ``where`` reads ``file:line: rule ID`` as far as they are known."""


class ExpressionError(PackError):
    """An expression outside the permitted part of CEL, or one that does not compile to a Boolean."""


class FactError(PolicyError):
    """A fact of the wrong type or out of its range."""


class EvaluationError(PolicyError):
    """An expression that failed while it ran; the gate counts it as a denial."""


class DocumentError(PolicyError):
    """A signed document whose content is malformed, inconsistent, expired or dated in the future."""


class SignatureRefused(PolicyError):
    """A signature that is missing, duplicate, foreign, malformed or wrong."""

    exit_code = 6
