"""Packs: rules in YAML, read strictly, compiled when loaded, known by their digest.

Invariant: a :class:`Pack` that exists is whole: every rule compiles to a Boolean over the fact schema, every citation,
message and remediation is there, and ``digest`` is the SHA-256 of the JCS form (RFC 8785) of the document as it was
written (comments and layout do not count). All rules of all packs must be true, so a further pack only tightens.

Shape as in COMPLIANCE "Policy engine"; :data:`MOMENTS` are the four moments of issue 5, item 5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, StringConstraints, ValidationError, model_validator

from silo_policies import strict_yaml
from silo_policies.documents import AsTuple, Document, Instant, Slug, Text, digest, first_problem, problem_path
from silo_policies.errors import ExpressionError, FactError, PackError
from silo_policies.evaluator import Evaluator, Program, default_evaluator
from silo_policies.expressions import Expression, parse
from silo_policies.facts import Facts

Moment = Literal["join", "accept", "round", "release"]
"""Joining a consortium, accepting a run, before every round, releasing a model, metric or count."""
MOMENTS: tuple[Moment, ...] = get_args(Moment)

RESERVED = "gate"
"""The name under which the gate reports what no pack's rule covers."""


class Citation(Document):
    """The text that a rule rests on."""

    instrument: Text
    article: Text
    url: Annotated[str, StringConstraints(pattern=r"^https://[!-~]{4,300}$")]


class Fixture(Document):
    """A test of one rule: the facts it names, and whether the rule must hold."""

    name: Text
    expect: Literal["pass", "fail"]
    facts: dict[str, Any]


class Rule(Document):
    """One requirement. ``severity`` orders reports; every rule that is not true denies, whatever its severity."""

    id: Slug
    title: Text
    moments: Annotated[tuple[Moment, ...], AsTuple, Field(min_length=1, max_length=4)]
    expr: str
    severity: Literal["critical", "major", "minor"]
    cite: Citation
    message: Text
    remediation: Text
    waivable: bool = True
    tests: Annotated[tuple[Fixture, ...], AsTuple, Field(max_length=100)] = ()


class PackDocument(Document):
    """The YAML file's schema."""

    id: Slug
    title: Text
    version: Annotated[str, StringConstraints(pattern=r"^\d{1,4}\.\d{1,4}\.\d{1,4}$")]
    jurisdiction: Text
    notice: Text
    effective_from: Instant
    effective_until: Instant
    rules: Annotated[tuple[Rule, ...], AsTuple, Field(min_length=1, max_length=200)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.id == RESERVED:
            raise ValueError(f"the id {RESERVED!r} is reserved")
        if self.effective_until <= self.effective_from:
            raise ValueError("effective_until must lie after effective_from")
        return self


@dataclass(frozen=True)
class CompiledRule:
    """A rule, its checked expression and its program."""

    rule: Rule
    expression: Expression
    program: Program
    where: str


@dataclass(frozen=True)
class Pack:
    """A pack that was read, checked and compiled. ``origin`` is the file's name, for messages."""

    document: PackDocument
    digest: str
    origin: str
    compiled: tuple[CompiledRule, ...]

    @property
    def id(self) -> str:
        return self.document.id

    @cached_property
    def rules(self) -> Mapping[str, Rule]:
        """The rules by id."""
        return {rule.id: rule for rule in self.document.rules}

    def at(self, moment: Moment) -> Sequence[CompiledRule]:
        """Return the rules that speak at ``moment``, in the pack's order."""
        return [compiled for compiled in self.compiled if moment in compiled.rule.moments]

    def in_effect(self, now: datetime) -> bool:
        """Return whether ``now`` lies within the pack's dates (the end is excluded)."""
        return self.document.effective_from <= now < self.document.effective_until


def parse_pack(text: str | bytes, origin: str, evaluator: Evaluator | None = None) -> Pack:
    """Read, check and compile a pack; raises :class:`PackError` naming file, line and rule."""
    value, lines = strict_yaml.load(text, origin)
    try:
        document = PackDocument.model_validate(value)
    except ValidationError as error:
        path, sentence = first_problem(error)
        raise PackError(
            f"{problem_path(path) or 'pack'}: {sentence}", where=lines.where(path) + _rule_at(value, path)
        ) from error
    seen: set[str] = set()
    compiled: list[CompiledRule] = []
    for index, rule in enumerate(document.rules):
        where = f"{lines.where(('rules', index))}: rule {rule.id}"
        if rule.id in seen:
            raise PackError("a second rule of this id", where=where, fix="give it an id of its own")
        seen.add(rule.id)
        _check_fixtures(rule, index, lines)
        where = f"{lines.where(('rules', index, 'expr'))}: rule {rule.id}"
        expression = parse(rule.expr, where=where)
        if not expression.facts - {"time.now"}:
            raise ExpressionError(
                "the expression asks about no fact", where=where, fix="a rule without one decides nothing"
            )
        program = (evaluator or default_evaluator()).compile(expression, where=where)
        compiled.append(CompiledRule(rule, expression, program, where))
    return Pack(document, digest(value), origin, tuple(compiled))


def _rule_at(value: Any, path: Sequence[str | int]) -> str:
    if len(path) > 1 and path[0] == "rules":
        try:
            return f": rule {value['rules'][path[1]]['id']}"
        except (KeyError, IndexError, TypeError):
            return f": rule number {path[1]}"  # it has no readable id
    return ""


def _check_fixtures(rule: Rule, index: int, lines: strict_yaml.Lines) -> None:
    for number, fixture in enumerate(rule.tests):
        try:
            Facts.parse(fixture.facts)
        except FactError as error:
            where = lines.where(("rules", index, "tests", number, "facts"))
            raise PackError(
                f"test {fixture.name!r}: {error.what}", where=f"{where}: rule {rule.id}", fix="see policy facts"
            ) from error


def load_pack(path: Path, evaluator: Evaluator | None = None) -> Pack:
    """Read a pack from a file; raises :class:`PackError` if it cannot be read or used."""
    try:
        with path.open("rb") as file:
            text = file.read(strict_yaml.MAX_BYTES + 1)
    except OSError as error:
        raise PackError(f"cannot read the pack: {error.strerror}", where=str(path)) from error
    return parse_pack(text, path.name, evaluator)


def shipped_packs() -> Sequence[str]:
    """Return the ids of the packs that come with the package, sorted."""
    folder = resources.files("silo_policies") / "packs"
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))


def shipped_text(name: str) -> bytes:
    """Return the text of a shipped pack, to copy and adapt."""
    if name not in shipped_packs():
        raise PackError(f"no pack named {name!r} is shipped", fix=f"there are {', '.join(shipped_packs())}")
    return (resources.files("silo_policies") / "packs" / f"{name}.yaml").read_bytes()


def shipped_pack(name: str, evaluator: Evaluator | None = None) -> Pack:
    """Load a pack that comes with the package."""
    return parse_pack(shipped_text(name), f"{name}.yaml", evaluator)
