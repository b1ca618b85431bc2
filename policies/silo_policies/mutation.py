"""Mutants of a rule: does its own set of fixtures notice when the rule says something else?

Invariant: every comparison, bound, operator, listed value and bare yes-or-no fact of an expression is altered at least
once, one at a time. A mutant *survives* if all of the rule's fixtures still come out as expected; a rule without
survivors has fixtures that pin down what it says. Source: DeMillo, Lipton, Sayward, "Hints on test data selection"
(1978).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import timedelta

from silo_policies.documents import format_instant, parse_instant
from silo_policies.errors import EvaluationError, ExpressionError
from silo_policies.evaluator import Evaluator, default_evaluator
from silo_policies.expressions import Expression, Token
from silo_policies.facts import Facts, schema
from silo_policies.pack import CompiledRule

_SWAPS = {
    "<=": ("<", ">"),
    ">=": (">", "<"),
    "<": ("<=", ">="),
    ">": (">=", "<="),
    "==": ("!=",),
    "!=": ("==",),
    "&&": ("||",),
    "+": ("-",),
    "-": ("+",),
    "*": ("+",),
}
_METHODS = {".all": ".exists", ".exists": ".all", ".startsWith": ".endsWith", ".endsWith": ".startsWith"}


def mutants(expression: Expression) -> Iterator[str]:
    """Yield altered sources. They are compiled as they are: the lint that rules obey does not apply to them."""
    tokens = expression.tokens
    for index, token in enumerate(tokens):
        for start, end, text in _alter(tokens, index, token):
            yield expression.source[:start] + text + expression.source[end:]


def _alter(tokens: Sequence[Token], index: int, token: Token) -> Iterator[tuple[int, int, str]]:
    start, end = token.start, token.start + len(token.text)
    before = tokens[index - 1] if index else None
    if token.kind == "op":
        for text in _SWAPS.get(token.text, ()):
            yield start, end, text
        if token.text == "!":
            yield start, end, ""
    elif token.kind == "number":
        for text in _numbers(token.text):
            yield start, end, text
    elif token.kind == "string":
        for text in _strings(token.text[1:-1], before, tokens[index - 2] if index > 1 else None):
            yield start, end, f'"{text}"'
    elif token.text == "in" and before is not None:
        # `a in b` becomes `!(a in b)`: b is a fact or a bracketed list.
        last = _operand_end(tokens, index + 1)
        yield before.start, last, f"!({_between(tokens, index - 1, last)})"
    elif token.text in ("true", "false"):
        yield start, end, "false" if token.text == "true" else "true"
    elif token.text in schema() and schema()[token.text].type == "bool":
        yield start, end, f"(!{token.text})"
    else:
        for old, new in _METHODS.items():
            if token.text.endswith(old):
                yield start, end, token.text.removesuffix(old) + new


def _operand_end(tokens: Sequence[Token], index: int) -> int:
    depth = 0
    for token in tokens[index:]:
        depth += {"[": 1, "]": -1}.get(token.text, 0) if token.kind == "op" else 0
        if depth == 0:
            return token.start + len(token.text)
    return tokens[-1].start + len(tokens[-1].text)


def _between(tokens: Sequence[Token], first: int, end: int) -> str:
    return " ".join(token.text for token in tokens[first:] if token.start < end)


def _numbers(text: str) -> Iterator[str]:
    if re.fullmatch(r"[0-9]+", text):
        yield str(int(text) + 1)
        yield f"({int(text) - 1})"
    else:
        value = float(text)
        step = abs(value) * 0.01 or 0.01
        yield f"({value + step:.12f})"
        yield f"({value - step:.12f})"


def _strings(text: str, before: Token | None, function: Token | None) -> Iterator[str]:
    called = function.text if function is not None and before is not None and before.text == "(" else ""
    if called == "duration":
        for shift in (1, -1):
            yield f"{int(text[:-1]) + shift}{text[-1]}"
    elif called == "timestamp":
        for shift in (1, -1):
            yield format_instant(parse_instant(text) + timedelta(seconds=shift))
    else:
        yield text + "x"


def survivors(compiled: CompiledRule, evaluator: Evaluator | None = None) -> list[str]:
    """Return the mutants that none of the rule's fixtures notices."""
    engine = evaluator or default_evaluator()
    bound = [(engine.bind(Facts.parse(test.facts).values()), test.expect == "pass") for test in compiled.rule.tests]
    alive: list[str] = []
    for source in mutants(compiled.expression):
        try:
            program = engine.compile(Expression(source, (), frozenset()))
        except ExpressionError:
            continue  # refused when loaded: nobody can ship it
        try:
            if all(program(facts) is expected for facts, expected in bound):
                alive.append(source)
        except EvaluationError:
            continue  # an error is a denial that the fixture expected to be an answer
    return alive
