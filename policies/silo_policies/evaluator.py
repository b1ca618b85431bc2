"""The CEL engines behind one small protocol.

Invariant: a program returns exactly True or False, or raises :class:`EvaluationError`; nothing an engine does (a value
of type ERROR, an exception, a result that is not a Boolean) can be taken for a permission.

:class:`CelExpr` (``cel-expr-python``, the C++ runtime) decides in production: its typed environment refuses typos and
`x <= "3"` when compiling. :class:`CommonExpression` (``common-expression-language``, the Rust runtime) is the second
opinion that tests and auditors run; it checks types only while it runs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from silo_policies.errors import EvaluationError, ExpressionError
from silo_policies.expressions import Expression
from silo_policies.facts import FactValue, schema

Program = Callable[[Any], bool]
"""Takes what :meth:`Evaluator.bind` returned."""


class Evaluator(Protocol):
    """A CEL engine."""

    @property
    def name(self) -> str: ...

    def compile(self, expression: Expression, *, where: str = "") -> Program:
        """Return a program, or raise :class:`ExpressionError` naming ``where``."""
        ...

    def bind(self, facts: Mapping[str, FactValue]) -> Any:
        """Prepare dotted facts once for many programs."""
        ...


class CelExpr:
    """The C++ runtime with a typed environment made of the fact schema."""

    name = "cel-expr-python"

    def __init__(self) -> None:
        from cel_expr_python import cel

        kinds = {
            "double": cel.Type.DOUBLE,
            "int": cel.Type.INT,
            "bool": cel.Type.BOOL,
            "string": cel.Type.STRING,
            "timestamp": cel.Type.TIMESTAMP,
            "list(string)": cel.Type.List(cel.Type.STRING),
            "list(map(string, string))": cel.Type.List(cel.Type.Map(cel.Type.STRING, cel.Type.STRING)),
        }
        self._bool = cel.Type.BOOL
        self._environment = cel.NewEnv(variables={name: kinds[info.type] for name, info in schema().items()})

    def compile(self, expression: Expression, *, where: str = "") -> Program:
        try:
            compiled = self._environment.compile(expression.source)
        except RuntimeError as error:
            raise ExpressionError(
                f"the expression does not compile: {_first_line(error)}",
                where=where,
                fix="decimals are written 3.0, counts 3",
            ) from error
        if compiled.return_type() != self._bool:
            raise ExpressionError(
                f"the expression is a {compiled.return_type().name()}, not a yes or no", where=where, fix="compare it"
            )

        def program(bound: Any) -> bool:
            try:
                result = compiled.eval(bound)
            except RuntimeError as error:  # among others its own budget of 10,000 iterations
                raise EvaluationError(f"the engine reports: {error}", where=where) from error
            value = result.value()
            if result.type() != self._bool or not isinstance(value, bool):
                raise EvaluationError(f"the engine reports: {value}", where=where)
            return value

        return program

    def bind(self, facts: Mapping[str, FactValue]) -> Any:
        return self._environment.Activation(dict(facts))


class CommonExpression:
    """The Rust runtime, as a second opinion; needs the package ``common-expression-language`` (extra ``dev``)."""

    name = "common-expression-language"

    def __init__(self) -> None:
        import cel

        self._cel = cel

    def compile(self, expression: Expression, *, where: str = "") -> Program:
        try:
            compiled = self._cel.compile(expression.source)
        except ValueError as error:
            raise ExpressionError(f"the expression does not compile: {_first_line(error)}", where=where) from error

        def program(bound: Any) -> bool:
            try:
                value = compiled.execute(bound)
            except (KeyError, TypeError, ValueError, RuntimeError, ArithmeticError) as error:
                raise EvaluationError(f"the engine reports: {error}", where=where) from error
            if not isinstance(value, bool):
                raise EvaluationError(f"the result is {value!r}, not a yes or no", where=where)
            return value

        return program

    def bind(self, facts: Mapping[str, FactValue]) -> Any:
        nested: dict[str, dict[str, FactValue]] = {}
        for name, value in facts.items():
            section, _, field = name.partition(".")
            nested.setdefault(section, {})[field] = value
        return self._cel.Context(variables=nested)


@functools.cache
def default_evaluator() -> Evaluator:
    """Return the engine that decides; made once, since the environment takes 20 ms."""
    return CelExpr()


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].removeprefix("INVALID_ARGUMENT: ERROR: <input>:")
