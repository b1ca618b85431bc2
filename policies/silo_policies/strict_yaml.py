"""The part of YAML that packs are written in: mappings, lists, scalars; nothing that refers, expands or surprises.

Refused, with file and line: anchors, aliases, tags, duplicate keys, several documents, more than 256 KiB, nesting
deeper than 12, more than 20,000 nodes. Plain scalars are read as JSON would (`null true false 3 3.5`); everything else
is text, so `NO` stays Norway and `2026-01-01` stays a string.

The result keeps the line of every node, so that a later complaint can name it. Source: YAML 1.2, section 10.2 (JSON
schema); PyYAML's event stream.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from silo_policies.errors import PackError

MAX_BYTES = 256 * 1024
MAX_DEPTH = 12
MAX_NODES = 20_000

Path = tuple[str | int, ...]

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml where the wheel has it: ten times faster
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]{1,3})?")
_WORDS: Mapping[str, bool | None] = {"null": None, "~": None, "": None, "true": True, "false": False}


@dataclass
class Lines:
    """The 1-based line of every node, by its path from the root."""

    file: str
    at: dict[Path, int] = field(default_factory=dict)

    def where(self, path: Path) -> str:
        """Return ``file:line`` of the node, or of its nearest known parent."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.at:
                return f"{self.file}:{self.at[path[:length]]}"
        return self.file


def load(text: str | bytes, file: str) -> tuple[Any, Lines]:
    """Return the plain value of a YAML text, and its lines. ``file`` is only for messages.

    Raises :class:`PackError` naming file and line for everything outside the permitted part.
    """
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8")
        except UnicodeDecodeError as error:
            raise PackError(f"not UTF-8 text: {error.reason}", where=file) from error
    if len(text) > MAX_BYTES:
        raise PackError(f"the file has {len(text)} characters, more than {MAX_BYTES}", where=file, fix="split the pack")
    reader = _Reader(file)
    try:
        return reader.document(yaml.parse(text, Loader=_Loader)), reader.lines
    except yaml.MarkedYAMLError as error:
        mark: Any = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise PackError(f"not valid YAML: {error.problem or error.context}", where=f"{file}{line}") from error
    except yaml.YAMLError as error:
        raise PackError(f"not valid YAML: {error}", where=file) from error


class _Reader:
    def __init__(self, file: str) -> None:
        self.lines = Lines(file)
        self.nodes = 0

    def document(self, events: Iterator[Any]) -> Any:
        value: Any = None
        documents = 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise self.refuse("a second document", event, "one pack a file")
                value = self.node(next(events), events, ())
        if documents == 0:
            raise PackError("the file is empty", where=self.lines.file)
        return value

    def node(self, event: Any, events: Iterator[Any], path: Path) -> Any:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise self.refuse(f"more than {MAX_NODES} nodes", event, "split the pack")
        if len(path) > MAX_DEPTH:
            raise self.refuse(f"nesting deeper than {MAX_DEPTH}", event, "a pack needs six levels")
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise self.refuse("an anchor or alias", event, "write the value out where it is used")
        if event.tag is not None and event.tag != "!":
            raise self.refuse(f"the tag {event.tag}", event, "plain values need no tag")
        self.lines.at[path] = event.start_mark.line + 1
        if isinstance(event, yaml.ScalarEvent):
            return self.scalar(event)
        if isinstance(event, yaml.SequenceStartEvent):
            return self.sequence(events, path)
        return self.mapping(events, path)

    def sequence(self, events: Iterator[Any], path: Path) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            items.append(self.node(event, events, (*path, len(items))))
        return items

    def mapping(self, events: Iterator[Any], path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            line = event.start_mark.line + 1
            if not isinstance(event, yaml.ScalarEvent) or event.anchor is not None or event.tag is not None:
                raise self.refuse("a key that is not plain text", event, "keys are plain words")
            key = event.value
            if key in found:
                raise self.refuse(f"the key {key!r} stands twice", event, "keep one of the two")
            found[key] = self.node(next(events), events, (*path, key))
            self.lines.at[(*path, key)] = line
        return found

    def scalar(self, event: Any) -> Any:
        text: str = event.value
        if not event.implicit[0]:  # quoted or a block: text, whatever it looks like
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _INTEGER.fullmatch(text):
            return int(text)
        return float(text) if _FLOAT.fullmatch(text) else text

    def refuse(self, what: str, event: Any, fix: str) -> PackError:
        return PackError(
            f"{what} is not permitted here", where=f"{self.lines.file}:{event.start_mark.line + 1}", fix=fix
        )
