"""The facts that rules may ask about: their types, ranges, meaning, and where each comes from.

Invariant: a rule sees either a fact of the declared type and range, or nothing; a fact left ``None`` is *not known*,
and every rule that names it is an error, hence a denial. There are no optional facts with a silent default.

Each fact says its source. ``measured``: the silo computes it itself (budget left, model size, epsilon from its own
accountant). ``signed``: it stands in a manifest whose signatures were checked. ``declared``: the silo's own steward
wrote it in ``data.toml``. Nothing is taken from the researcher's word when the silo can compute it.

Rules write ``section.fact``, for example ``run.epsilon <= 3.0``. Source: issue 5, item 2; COMPLIANCE "Policy engine".
"""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

from pydantic import Field, StringConstraints, ValidationError

from silo_policies.documents import (
    AsTuple,
    Digest,
    Document,
    Instant,
    Jurisdiction,
    Name,
    Slug,
    first_problem,
    problem_path,
)
from silo_policies.errors import FactError

Source = Literal["measured", "signed", "declared"]
CelType = Literal["double", "int", "bool", "string", "timestamp", "list(string)", "list(map(string, string))"]
FactValue = float | int | bool | str | datetime | list[str] | list[dict[str, str]]

MAX_INTEGER = 2**53 - 1
"""JSON carries integers exactly up to here (RFC 8785)."""
MAX_LIST = 1024

_Run = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
_Names = Annotated[tuple[Name, ...], AsTuple, Field(max_length=MAX_LIST)]
_Slugs = Annotated[tuple[Slug, ...], AsTuple, Field(max_length=MAX_LIST)]


def _fact(source: Source, meaning: str, **limits: Any) -> Any:
    return Field(default=None, description=meaning, json_schema_extra={"source": source}, **limits)


def _count(source: Source, meaning: str, *, ge: int = 0) -> Any:
    return _fact(source, meaning, ge=ge, le=MAX_INTEGER)


class MemberFacts(Document):
    """One silo that takes part in the run; rules read these inside ``run.members.all(m, m.jurisdiction == "DE")``."""

    name: Name
    organisation_type: Slug
    jurisdiction: Jurisdiction


_Members = Annotated[tuple[MemberFacts, ...], AsTuple, Field(max_length=MAX_LIST)]


class RunFacts(Document):
    """What is asked of the silo."""

    id: _Run | None = _fact("signed", "the run's id")
    name: str | None = _fact("signed", "the experiment's name", max_length=200)
    purpose: Slug | None = _fact("signed", "what the result is for, in the consortium's words")
    researcher: Name | None = _fact("signed", "who asks")
    rounds: int | None = _count("signed", "rounds of the whole run", ge=1)
    round: int | None = _count("measured", "the round about to start, from 1; 0 before the first")
    mechanism: Slug | None = _fact("signed", "local-dp or distributed-dp")
    epsilon: float | None = _fact("measured", "epsilon of the whole run, from the silo's own accountant", gt=0)
    delta: float | None = _fact("measured", "delta that belongs to epsilon", gt=0, lt=1)
    unit: Slug | None = _fact("signed", "what epsilon protects: record or patient")
    adjacency: Slug | None = _fact("signed", "add-remove or replace")
    accountant: Slug | None = _fact("measured", "the accountant that computed epsilon: pld, prv, rdp, gdp")
    clipping_norm: float | None = _fact("signed", "L2 clipping norm", gt=0)
    noise_multiplier: float | None = _fact("signed", "noise standard deviation over clipping norm", ge=0)
    sample_rate: float | None = _fact("signed", "Poisson sampling rate q", gt=0, le=1)
    custody: Slug | None = _fact("signed", "who can open a sum: shared, threshold, or none when nothing is encrypted")
    scheme: Slug | None = _fact("signed", "encryption scheme: bfv, lerna, or none")
    security_bits: int | None = _count("measured", "classical security of the parameters, bits; 0 without encryption")
    threshold: int | None = _count("signed", "silos that must act together to open one upload; 1 under shared custody")
    value_bits: int | None = _count("signed", "bits a value is rounded to before encryption", ge=1)
    value_bound: float | None = _fact("signed", "bound on the magnitude of one encoded value", gt=0)
    aggregation: Slug | None = _fact("signed", "aggregation rule, such as fed-avg")
    weighting: Slug | None = _fact("signed", "uniform, or examples, which tells the others a silo's record count")
    model_size: int | None = _count("measured", "trainable parameters of the model", ge=1)
    releases: _Slugs | None = _fact("signed", "what is to leave: model, metrics, records (counts)")
    members: _Members | None = _fact("signed", "silos of the run that are members now")
    minimum_silos: int | None = _count("signed", "silos below which the run stops", ge=1)
    colluders: int | None = _count("signed", "silos whose noise distributed-dp does not count on; 0 with local-dp")
    code_digest: Digest | None = _fact("measured", "digest of the experiment bundle that the silo received")
    code_signers: _Names | None = _fact("measured", "whose valid signature on that digest the silo holds")
    code_approved: bool | None = _fact("measured", "whether this silo's steward approved that digest")
    created: Instant | None = _fact("signed", "when the researcher signed the run")
    expires: Instant | None = _fact("signed", "after this the run may not go on")


class DatasetFacts(Document):
    """What the run would learn from. The budget is the population's, over every run that ever touched it."""

    name: Slug | None = _fact("declared", "the data set's name")
    population: Slug | None = _fact("declared", "the people in it; all extracts of one population share one budget")
    categories: _Slugs | None = _fact("declared", "categories of data, such as health, genetic, financial")
    permitted_purposes: _Slugs | None = _fact("declared", "purposes the data may serve")
    legal_basis: Slug | None = _fact("declared", "such as consent, public-interest, research, public-data")
    consent_expires: Instant | None = _fact("declared", "end of consent; 9999-12-31T23:59:59Z if none limits it")
    retention_until: Instant | None = _fact("declared", "end of retention; 9999-12-31T23:59:59Z if none limits it")
    records: int | None = _count("measured", "records in the data set, or patients where run.unit is patient")
    public: bool | None = _fact("declared", "whether anybody may obtain the data")
    deidentification: Slug | None = _fact(
        "declared", "none, pseudonymised, safe-harbor, expert-determination or limited-data-set"
    )
    evidence: _Slugs | None = _fact("declared", "documents on file about the data, such as dpia, irb-approval")
    epsilon_cap: float | None = _fact("measured", "cap of the population's ledger", gt=0)
    epsilon_spent: float | None = _fact("measured", "spent from it before this run", ge=0)
    epsilon_left: float | None = _fact("measured", "left of it before this run, as the ledger's filter reckons", ge=0)
    delta: float | None = _fact("measured", "the ledger's one delta", gt=0, lt=1)


class SiloFacts(Document):
    """The silo that decides."""

    name: Name | None = _fact("signed", "its name in the consortium manifest")
    jurisdiction: Jurisdiction | None = _fact("signed", "where it is")
    organisation_type: Slug | None = _fact("signed", "such as hospital, university, bank")
    member: bool | None = _fact("measured", "whether the newest consortium manifest still names it")
    isolation: Slug | None = _fact("measured", "how experiment code is confined: none, process, container, vm")
    isolation_means: _Slugs | None = _fact(
        "measured", "means in force: filesystem, memory, network, privileges, processes (process: all five), namespaces"
    )
    encrypted_at_rest: bool | None = _fact("measured", "whether the silo's keys are encrypted on disk")
    log_retention_days: int | None = _count("declared", "days that log entries are kept")
    evidence: _Slugs | None = _fact("declared", "documents on file about the silo, such as risk-assessment")


class ConsortiumFacts(Document):
    """The consortium as its newest fully signed manifest has it."""

    name: Slug | None = _fact("signed", "its name")
    size: int | None = _count("signed", "its members")
    minimum_silos: int | None = _count("signed", "silos below which nothing is opened")
    custody: Slug | None = _fact("signed", "custody its members agreed on")
    expires: Instant | None = _fact("signed", "after this it must be signed anew")


class ReleaseFacts(Document):
    """What is about to leave the silo, at the moment ``release``. Metrics and record counts are releases too."""

    kind: Slug | None = _fact("measured", "model, metrics or records")
    recipient: Slug | None = _fact("signed", "who gets it: silos, researcher or public")
    rounding: int | None = _count("measured", "counts are rounded to a multiple of this; 1 is exact", ge=1)
    epsilon: float | None = _fact("measured", "epsilon of the noise added to it and charged; 0 without noise", ge=0)


class TimeFacts(Document):
    """The silo's clock; the gate sets it."""

    now: Instant | None = _fact("measured", "now, at the silo")


class Facts(Document):
    """Everything a rule can see. Raises :class:`FactError` from :meth:`parse`, pydantic's error if built directly."""

    run: RunFacts = RunFacts()
    dataset: DatasetFacts = DatasetFacts()
    silo: SiloFacts = SiloFacts()
    consortium: ConsortiumFacts = ConsortiumFacts()
    release: ReleaseFacts = ReleaseFacts()
    time: TimeFacts = TimeFacts()

    @classmethod
    def parse(cls, value: Mapping[str, Any], *, where: str = "facts") -> Self:
        """Validate nested or dotted (``run.epsilon``) plain values."""
        nested: dict[str, Any] = {}
        for key, item in value.items():
            section, dot, name = key.partition(".")
            if dot:
                nested.setdefault(section, {})[name] = item
            else:
                nested[key] = item
        try:
            return cls.model_validate(nested)
        except ValidationError as error:
            path, sentence = first_problem(error)
            raise FactError(f"{problem_path(path)}: {sentence}", where=where) from error

    def at(self, now: datetime) -> Self:
        """Return a copy whose ``time.now`` is ``now``."""
        return self.model_copy(update={"time": TimeFacts(now=now)})

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON value that is digested: what is not known is left out."""
        return self.model_dump(mode="json", exclude_none=True)

    def values(self) -> dict[str, FactValue]:
        """Return what is known as ``{"run.epsilon": 3.0, ...}``, in the types that CEL engines take."""
        found: dict[str, FactValue] = {}
        for section in type(self).model_fields:
            part: Document = getattr(self, section)
            for name in type(part).model_fields:
                value = getattr(part, name)
                if value is not None:
                    found[f"{section}.{name}"] = _plain(value)
        return found


def _plain(value: Any) -> FactValue:
    if isinstance(value, tuple):
        return [item.model_dump() if isinstance(item, MemberFacts) else item for item in value]
    return value  # type: ignore[no-any-return]  # the schema holds only the types of FactValue


@dataclass(frozen=True)
class FactInfo:
    """One line of the schema."""

    name: str
    type: CelType
    source: Source
    meaning: str


@functools.cache
def schema() -> Mapping[str, FactInfo]:
    """Return every fact by its dotted name."""
    return {info.name: info for info in _walk()}


def _walk() -> Iterator[FactInfo]:
    for section, holder in Facts.model_fields.items():
        part = holder.annotation
        assert isinstance(part, type)  # a section is a class by the definition above
        for name, field in part.model_fields.items():
            extra = field.json_schema_extra
            source: Any = extra["source"] if isinstance(extra, dict) else "declared"
            yield FactInfo(f"{section}.{name}", _cel_type(field.annotation), source, field.description or "")


_SCALARS: Mapping[Any, CelType] = {
    float: "double",
    int: "int",
    bool: "bool",
    str: "string",
    datetime: "timestamp",
    tuple[Name, ...]: "list(string)",
    tuple[Slug, ...]: "list(string)",
    tuple[MemberFacts, ...]: "list(map(string, string))",
}


def _cel_type(annotation: Any) -> CelType:
    while True:
        if annotation in _SCALARS:
            return _SCALARS[annotation]
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif get_origin(annotation) in (Union, types.UnionType):
            annotation = next(part for part in get_args(annotation) if part is not type(None))
        else:
            raise TypeError(f"no CEL type for {annotation}")
