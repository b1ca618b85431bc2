"""The progress of a run as lines of JSON in its directory, for whoever watches: the demo, and later `silo watch`.

It is talk, not evidence (that is the log): nothing reads it to decide anything, and a lost line costs nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Events:
    """Appends events to one file."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")

    def emit(self, event: str, **facts: Any) -> None:
        """Append one event with the seconds since the epoch; ``facts`` are JSON values."""
        self._file.write(json.dumps({"event": event, "at": time.time(), **facts}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Follower:
    """Reads what was appended since the last look; an unfinished line waits for its end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0

    def new(self) -> Iterator[dict[str, Any]]:
        """Yield the events since the last call; none while the file does not exist."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._position)
            data = file.read()
        end = data.rfind(b"\n") + 1
        self._position += end
        for line in data[:end].splitlines():
            yield json.loads(line)
