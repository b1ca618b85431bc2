"""What an audit found: where, what, and whether it breaks the evidence or only leaves it unfinished."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One thing that does not hold (``broken``) or is not there yet (``open``), in whose log and at which place."""

    holder: str
    place: str
    what: str
    severity: Literal["broken", "open"] = "broken"

    def __str__(self) -> str:
        return f"{self.holder}, {self.place}: {self.what}"

    def to_dict(self) -> Mapping[str, str]:
        """Return the JSON value."""
        return {"holder": self.holder, "place": self.place, "what": self.what, "severity": self.severity}
