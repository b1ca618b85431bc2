"""The part of CEL that rules are written in, checked before any engine sees an expression.

Native evaluation cannot be interrupted and CEL lets some errors vanish (`error || true` is true), so a rule is held to
a small, total part of the language in which neither can happen and in which all engines agree:

- at most 1,000 characters; plain strings without escapes; no comments;
- facts of the schema, literals, lists, comparisons, ``in``, ``&&``, ``!fact``, ``a ? b : c``, ``+ - *``;
- ``all``, ``exists``, ``filter`` on a list fact, never one inside another: work is bounded by one list's length;
- ``size double startsWith endsWith contains`` and ``timestamp("...")``, ``duration("...")`` on literals;
- no ``||``, no ``!( )``, no indexing, no division, no other function.

Tokens follow the CEL specification's lexis (github.com/google/cel-spec, "Syntax"); what does not tokenise is refused,
so this reading and an engine's cannot differ.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

from silo_policies.errors import ExpressionError
from silo_policies.facts import MemberFacts, schema

MAX_LENGTH = 1000

Kind = Literal["string", "number", "path", "op"]

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<string>"[^"\\\n]*"|'[^'\\\n]*')(?!["'])
      | (?P<number>[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)(?![A-Za-z_.0-9])
      | (?P<path>[A-Za-z_][A-Za-z_0-9]*(?:\.[A-Za-z_][A-Za-z_0-9]*)*)(?!["'])
      | (?P<op><=|>=|==|!=|&&|\|\||[<>!?:+\-*,()\[\]])
    )""",
    re.VERBOSE,
)
_MACROS = frozenset({"all", "exists", "filter"})
_METHODS = frozenset({"startsWith", "endsWith", "contains"})
_FUNCTIONS = frozenset({"size", "double"})
_LITERAL = {
    "timestamp": re.compile(r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])T([01]\d|2[0-3]):[0-5]\d:[0-5]\dZ"),
    "duration": re.compile(r"\d{1,9}[smh]"),
}
_WORDS = frozenset({"true", "false", "in"})


@dataclass(frozen=True)
class Token:
    """One word of an expression and where it stands in it."""

    kind: Kind
    text: str
    start: int


@dataclass(frozen=True)
class Expression:
    """A checked expression: its text, its tokens, and the facts it names."""

    source: str
    tokens: tuple[Token, ...]
    facts: frozenset[str]


def parse(source: str, *, where: str = "") -> Expression:
    """Check an expression; raises :class:`ExpressionError` with what to write instead."""
    if len(source) > MAX_LENGTH:
        raise ExpressionError(
            f"the expression has {len(source)} characters, more than {MAX_LENGTH}", where=where, fix="split the rule"
        )
    tokens = tokenise(source, where=where)
    return Expression(source, tokens, frozenset(_Linter(tokens, where).check()))


def tokenise(source: str, *, where: str = "") -> tuple[Token, ...]:
    """Split an expression into tokens; raises :class:`ExpressionError` at the first one outside the permitted part."""
    tokens: list[Token] = []
    position, end = 0, len(source.rstrip())
    while position < end:
        found = _TOKEN.match(source, position)
        if found is None:
            rest = source[position:].lstrip()
            raise ExpressionError(
                f"{rest[:12]!r} is outside the part of CEL that rules may use",
                where=where,
                fix="no comments, escapes, indexing, division, maps or byte strings",
            )
        kind = cast(Kind, found.lastgroup)  # the pattern's groups are the kinds
        tokens.append(Token(kind, found[kind], found.start(kind)))
        position = found.end()
    if not tokens:
        raise ExpressionError("the expression is empty", where=where)
    return tuple(tokens)


class _Linter:
    def __init__(self, tokens: Sequence[Token], where: str) -> None:
        self.tokens = tokens
        self.where = where
        self.facts: set[str] = set()
        self.variable = ""  # of the comprehension we are in
        self.fields: frozenset[str] = frozenset()

    def refuse(self, what: str, fix: str) -> ExpressionError:
        return ExpressionError(what, where=self.where, fix=fix)

    def text(self, index: int) -> str:
        return self.tokens[index].text if 0 <= index < len(self.tokens) else ""

    def check(self) -> set[str]:
        self.span(0, len(self.tokens))
        return self.facts

    def span(self, index: int, end: int) -> None:
        while index < end:
            token = self.tokens[index]
            if token.kind == "op":
                self.operator(index)
                index += 1
            elif token.kind == "path" and self.text(index + 1) == "(":
                index = self.call(index)
            else:
                if token.kind == "path":
                    self.path(token.text)
                index += 1

    def operator(self, index: int) -> None:
        text, before = self.text(index), self.tokens[index - 1] if index else None
        if text == "||":
            raise self.refuse(
                "'||' is not permitted: in CEL an error on one side of it can vanish",
                "write a ? true : b, or x in [...], or two rules",
            )
        if text == "!" and (index + 1 >= len(self.tokens) or self.tokens[index + 1].kind != "path"):
            raise self.refuse("'!' may stand only before a fact or a call", "turn the comparison round instead")
        indexes = before is not None and (
            before.kind in ("string", "number")
            or before.text in (")", "]")
            or (before.kind == "path" and before.text not in _WORDS)
        )
        if text == "[" and indexes:
            raise self.refuse("indexing is not permitted: it fails beyond a list's end", "use all, exists or in")

    def path(self, text: str) -> None:
        if text in _WORDS:
            return
        head, _, field = text.partition(".")
        if self.variable and head == self.variable:
            if field and field not in self.fields:
                raise self.refuse(
                    f"{text}: a member has no {field!r}", f"it has {', '.join(sorted(self.fields)) or 'no fields'}"
                )
            return
        if text not in schema():
            near = difflib.get_close_matches(text, schema(), n=1)
            raise self.refuse(f"there is no fact {text!r}", f"did you mean {near[0]}?" if near else "see policy facts")
        self.facts.add(text)

    def call(self, index: int) -> int:
        receiver, _, name = self.text(index).rpartition(".")
        if receiver and name in _MACROS:
            return self.macro(index, receiver, name)
        if receiver and name in _METHODS:
            self.path(receiver)
        elif not receiver and name in _LITERAL:
            literal = self.tokens[index + 2] if index + 3 < len(self.tokens) else None
            good = literal is not None and literal.kind == "string" and _LITERAL[name].fullmatch(literal.text[1:-1])
            if not good or self.text(index + 3) != ")":
                example = "2026-01-31T12:00:00Z" if name == "timestamp" else "24h"
                raise self.refuse(f"{name} takes one literal", f'write {name}("{example}")')
        elif receiver or name not in _FUNCTIONS:
            raise self.refuse(
                f"the function {name!r} is not permitted",
                f"there are {', '.join(sorted(_FUNCTIONS | _METHODS | _MACROS | set(_LITERAL)))}",
            )
        return index + 1

    def macro(self, index: int, receiver: str, name: str) -> int:
        if self.variable:
            raise self.refuse(f"{name} stands inside another comprehension", "use in, or two rules")
        self.path(receiver)
        kind = schema()[receiver].type
        if not kind.startswith("list"):
            raise self.refuse(f"{receiver} is a {kind}, not a list", f"{name} runs over a list")
        variable = self.text(index + 2)
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,15}", variable) or variable in _WORDS or self.text(index + 3) != ",":
            raise self.refuse(f"{name} needs a variable", f'write {receiver}.{name}(x, x == "...")')
        end = self.closing(index + 1)
        self.variable = variable
        self.fields = frozenset(MemberFacts.model_fields) if "map" in kind else frozenset()
        self.span(index + 4, end)
        self.variable, self.fields = "", frozenset()
        return end

    def closing(self, opening: int) -> int:
        depth = 0
        for index in range(opening, len(self.tokens)):
            depth += {"(": 1, ")": -1}.get(self.tokens[index].text, 0) if self.tokens[index].kind == "op" else 0
            if depth == 0:
                return index
        raise self.refuse("a bracket is not closed", "count the brackets")
