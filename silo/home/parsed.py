"""What files say, parsed again only when their bytes changed.

An agent asks its home for manifest, packs and approvals at every decision, so that what its people change holds from
the next one on. Reading a file is cheap; compiling a pack's rules or checking a manifest's schema is not.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from silo.errors import ConfigError

T = TypeVar("T")


class Parsed:
    """A memory of parsed files. What it returns is shared: only what cannot change belongs in it."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[bytes, Any]] = {}

    def of(self, path: Path, parse: Callable[[bytes], T]) -> T:
        """Return what ``parse`` makes of the file's bytes; raise :class:`ConfigError` if it cannot be read.

        A path always goes with the same ``parse``. What that raises is raised, and nothing is remembered.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ConfigError(f"cannot read the file: {error.strerror}", where=str(path), fix="restore it") from error
        known = self._known.get(path)
        if known is None or known[0] != content:
            known = self._known[path] = (content, parse(content))
        found: T = known[1]
        return found
