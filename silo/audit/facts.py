"""The facts of a run for which nobody wrote a report, from what its parties kept: also of a run that failed.

Invariant: only what a signed document, a log entry, a ledger or the aggregator's ``result.json`` says becomes a fact;
whatever none of them says stays out and reads "not evidenced". What a silo wrote into its own log about a fault is for
its own people (it may speak of records), so of those the report says only where they stand.

With one silo's home there is what that silo knows: its decision and its spending, who else held keys, each round. The
aggregator's home adds the others' decisions and the faults; each further home adds that party's spending.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from silo_policies import Decision, PolicyError, parse_json

from silo.audit.described import (
    EARLY_STOPPING,
    access_of,
    encryption_of,
    policies_of,
    privacy_of,
    reasons_of,
    waivers_of,
)
from silo.audit.parties import Party
from silo.errors import ConfigError, SiloError, VerificationFailed
from silo.log import Entry
from silo.report import Report
from silo.report.facts.evidence import Evidence
from silo.report.facts.governance import AttackTest, Disclosure, Fault, Processing, Unprotected
from silo.report.facts.parties import Aggregator, Reason, Round, Silo, Verdict
from silo.report.facts.utility import Auc
from silo.submission import Submission

RESULT = "result.json"
OWN_FAULT = "recorded as entry {index} of its own log, for its own people"


class _Part(BaseModel):
    """A part of ``result.json``: what is used of it has its type, the rest is ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, allow_inf_nan=False)


class _Measured(_Part):
    round: int
    seconds: float
    upload_bytes: int


class _Told(_Part):
    epsilon: float
    delta: float
    records: int | None = None


class _Result(_Part):
    """What the aggregator says at the end of a run: nothing that a log says too is taken from here."""

    decisions: dict[str, dict[str, Any]] = {}
    rounds: list[_Measured] = []
    silos: dict[str, _Told] = {}
    secrets_held: list[str] | None = None


@dataclass(frozen=True)
class _Kept:
    """What the parties kept of one run."""

    submission: Submission
    parties: Sequence[Party]
    entries: Mapping[str, Sequence[Entry]]  # by holder
    result: _Result
    decisions: Mapping[str, Decision]

    @property
    def aggregator(self) -> str:
        return self.submission.consortium.body.aggregator.name

    def of(self, kind: str, holder: str | None = None) -> list[tuple[str, Entry]]:
        """Return the entries of a kind with their holders, the aggregator's first."""
        order = sorted(self.entries, key=lambda name: (name != self.aggregator, name))
        return [
            (name, entry)
            for name in order
            for entry in self.entries[name]
            if entry.kind == kind and holder in (None, name)
        ]


def facts_of(run: str, parties: Sequence[Party]) -> Report:
    """Return the facts of a run that ``parties`` took part in; raise :class:`ConfigError` if none of them did."""
    kept = _kept(run, parties)
    body = kept.submission.run.body
    rounds = tuple(_rounds(kept))
    members = _members(kept)
    taken = {name: [each.round for each in rounds if name in each.participants] for name in members}
    sizes = [each.upload_bytes_per_silo for each in rounds if each.upload_bytes_per_silo is not None]
    moments = [entry.time for entries in kept.entries.values() for entry in entries]
    verdict = _verdict(kept, len(rounds))
    return Report(
        run=body.run,
        name=body.name,
        purpose=body.purpose,
        researcher=body.researcher,
        started=min(moments),
        finished=None if verdict.because == GOING_ON else max(moments),
        verdict=verdict,
        silos=tuple(_silos(kept, taken)),
        aggregator=Aggregator(
            name=kept.aggregator,
            has_secret_key=None if kept.result.secrets_held is None else bool(kept.result.secrets_held),
            evidence="by its own result.json: every object it held at the end of the run was searched for decryption "
            "keys"
            if kept.result.secrets_held is not None
            else None,
        ),
        privacy=privacy_of(body, taken),
        encryption=encryption_of(body, max(sizes, default=None)),
        auc=Auc(),
        rounds=rounds,
        unprotected=_unprotected(kept),
        processing=_processing(kept),
        policies=policies_of(kept.decisions, _packs(kept)),
        waivers=tuple(waivers_of(kept.decisions)) if kept.decisions else None,
        faults=tuple(_faults(kept)),
        attack_tests=tuple(_attack_tests(kept)) or None,
        access=access_of(kept.of("run-started")),
        evidence=Evidence(
            code_digest=body.code_digest,
            consortium_digest=kept.submission.consortium.body.digest,
            manifest_digest=body.digest,
        ),
    )


GOING_ON = "no log given says that it ended"


def _kept(run: str, parties: Sequence[Party]) -> _Kept:
    for party in parties:
        party.log.verify()  # no fact from a log that was altered, whatever the others say
    entries = {party.name: list(party.log.entries(run=run)) for party in parties}
    took_part = [party for party in parties if entries[party.name]]
    submission = next((each for each in (party.submission(run) for party in took_part) if each is not None), None)
    if submission is None:
        raise ConfigError(
            "no home given took part in this run, or its documents are gone",
            where=f"run {run}",
            fix="see `silo audit show` for the runs of a home; give more homes with --home",
        )
    result = _result(run, took_part)
    found = {name: entries[name] for name in entries if entries[name]}
    return _Kept(submission, took_part, found, result, _decisions(submission, took_part, result))


def _result(run: str, parties: Sequence[Party]) -> _Result:
    for party in parties:
        path = party.home.path / "runs" / run / RESULT
        if party.aggregates and path.is_file():
            try:
                return _Result.model_validate_json(path.read_bytes())
            except ValidationError as error:
                first = error.errors()[0]
                place = ".".join(map(str, first["loc"])) or "result"
                raise VerificationFailed(f"not a result: {place}: {first['msg']}", where=str(path)) from error
    return _Result()


def _decisions(submission: Submission, parties: Sequence[Party], result: _Result) -> dict[str, Decision]:
    """Return the signed decisions on taking part: as the aggregator received them, else as each silo keeps its own."""
    documents: dict[str, Mapping[str, Any]] = {}
    for party in parties:
        folder = party.home.path / "runs" / submission.run.body.run
        own = "decision-*.json" if party.aggregates else "decision-*-accept.json"
        for path in sorted(folder.glob(own)):
            name = path.stem.removeprefix("decision-") if party.aggregates else party.name
            documents[name] = _document(path)
    documents |= result.decisions
    return {name: submission.decision(document, name) for name, document in sorted(documents.items())}


def _document(path: Path) -> Mapping[str, Any]:
    try:
        value: Mapping[str, Any] = parse_json(path.read_bytes(), where=path.name)
    except (OSError, PolicyError) as error:
        raise VerificationFailed("the signed decision cannot be read", where=str(path)) from error
    return value


def _members(kept: _Kept) -> list[str]:
    """Return who held keys, by any log; a silo logs that only with a signed permit of each."""
    return next((sorted(entry.body["members"]) for _, entry in kept.of("key-epoch") if "members" in entry.body), [])


def _verdict(kept: _Kept, completed: int) -> Verdict:
    body = kept.submission.run.body
    ended = [entry for _, entry in kept.of("run-finished")]
    faults = [entry for _, entry in kept.of("fault", kept.aggregator) if "silo" not in entry.body]
    because = None
    if not ended:
        denied = kept.of("refusal") and not kept.of("key-epoch")
        stopped = [entry for name, entry in kept.of("fault") if name != kept.aggregator]
        if faults:
            because = str(faults[-1].body["what"])
        elif stopped:
            because = "a silo stopped; its own log says why"
        else:
            because = "a silo refused" if denied else GOING_ON
    return Verdict(
        outcome="completed" if ended else "stopped" if kept.of("key-epoch") else "not-started",
        rounds_planned=body.rounds,
        rounds_completed=completed,
        minimum_silos=body.minimum_silos,
        because=because,
    )


def _rounds(kept: _Kept) -> Iterator[Round]:
    """Yield the rounds in which a sum was made, by the aggregator's log, else by that of the silo that opened most."""
    by_holder: dict[str, list[Entry]] = {}
    for name, entry in kept.of("aggregate"):
        by_holder.setdefault(name, []).append(entry)
    holder = (
        kept.aggregator if kept.aggregator in by_holder else max(by_holder, key=lambda x: len(by_holder[x]), default="")
    )
    measured = {each.round: each for each in kept.result.rounds}
    opened = {entry.body["round"] for name, entry in kept.of("aggregate") if name != kept.aggregator}
    members = _members(kept)
    for entry in by_holder.get(holder, []):
        number, silos = int(entry.body["round"]), [str(each) for each in entry.body.get("silos", [])]
        measure = measured.get(number)
        yield Round(
            round=number,
            attempt=int(entry.body["attempt"]),
            participants=tuple(silos),
            dropped=tuple(name for name in members if name not in silos),
            seconds=measure.seconds if measure else None,
            upload_bytes_per_silo=measure.upload_bytes if measure else None,
            verified=True if number in opened else None,  # a silo logs a sum once its checks held
        )


def _silos(kept: _Kept, taken: Mapping[str, Sequence[int]]) -> Iterator[Silo]:
    given = {party.name: party for party in kept.parties}
    refused = {
        str(entry.body["silo"])
        for _, entry in kept.of("decision")
        if entry.body.get("moment", "accept") == "accept" and entry.body.get("decision") == "deny"
    }
    for member in kept.submission.consortium.body.members:
        name = member.name
        decision = kept.decisions.get(name)
        if name not in taken and decision is None and name not in refused:
            continue  # invited at most: no log given says what it decided
        deny = name not in taken and (name in refused or (decision is not None and decision.decision == "deny"))
        reasons = reasons_of(decision) if decision is not None else ()
        unknown = Reason(pack="not at hand", rule="not at hand", message="The signed decision was not given.")
        party = given.get(name)
        epsilon, delta = (0.0, kept.submission.run.body.privacy.delta) if deny else _spent(kept, name, taken)
        finished = kept.result.silos.get(name)
        yield Silo(
            name=name,
            display_name=party.home.settings.display_name if party else name,
            jurisdiction=member.jurisdiction,
            records=finished.records if finished else None,
            epsilon=epsilon,
            delta=delta,
            decision="deny" if deny else "permit",
            reasons=(reasons or (unknown,)) if deny else (),
            epsilon_cap=_cap(kept, party),
            rounds_taken_part=len(taken.get(name, ())),
            local_auc_missing="took no part" if deny else None,
        )


def _spent(kept: _Kept, name: str, taken: Mapping[str, Sequence[int]]) -> tuple[float, float]:
    """Return what the run cost at a silo: as it settled, else what its ledger was charged, else what it uploaded."""
    from silo.training.mechanism import plan_of

    body = kept.submission.run.body
    for _, entry in kept.of("budget-settled", name):
        if "part" not in entry.body and "epsilon" in entry.body:
            return float(entry.body["epsilon"]), float(entry.body.get("delta", body.privacy.delta))
    finished = kept.result.silos.get(name)
    if finished is not None:
        return finished.epsilon, finished.delta
    uploads = {entry.body["round"] for _, entry in kept.of("upload") if entry.body.get("silo") == name}
    steps = max(len(uploads), len(taken.get(name, ()))) * body.privacy.steps_per_round
    party = next((each for each in kept.parties if each.name == name), None)
    if party is not None and (party.home.path / "ledger.db").exists():
        with party.home.ledger() as ledger:
            held = [each for each in ledger.reservations() if each.run == body.run and each.part == "training"]
        steps = max(steps, sum(each.charged for each in held))
    return plan_of(body).epsilon_after(steps) if steps else 0.0, body.privacy.delta


def _cap(kept: _Kept, party: Party | None) -> float | None:
    if party is None:
        return None
    used = {entry.body["population"] for _, entry in kept.of("budget-reserved", party.name)}
    return next((each.epsilon_cap for each in party.home.data() if each.population in used), None)


def _unprotected(kept: _Kept) -> Unprotected:
    silos = [party.name for party in kept.parties if not party.aggregates]
    stopping = Disclosure(released=False, detail=EARLY_STOPPING)
    if not silos:
        return Unprotected(early_stopping=stopping)
    whose = ", ".join(silos)
    by = {
        what: sorted({name for name, entry in kept.of("release") if entry.body.get("what") == what})
        for what in ("metrics", "records")
    }

    def told(what: str, said: str) -> Disclosure:
        names = ", ".join(by[what])
        detail = f"{said} of {names}" if names else f"{said}: no release in the logs of {whose}"
        return Disclosure(released=bool(names), detail=detail)

    return Unprotected(
        metrics=told("metrics", "metrics on the test part"),
        records_per_silo=told("records", "number of training records"),
        early_stopping=stopping,
    )


def _processing(kept: _Kept) -> Processing:
    basis, categories = [], set()
    for party in kept.parties:
        used = {entry.body["population"] for _, entry in kept.of("budget-reserved", party.name)}
        for each in party.home.data() if used else ():
            if each.population in used:
                basis.append(f"{party.name}: {each.legal_basis}")
                categories |= set(each.categories)
    return Processing(
        lawful_basis="as data.toml declares it, " + "; ".join(basis) if basis else None,
        data_categories=", ".join(sorted(categories)) or None,
    )


def _packs(kept: _Kept) -> dict[str, Any]:
    packs: dict[str, Any] = {}
    for party in kept.parties:
        for read in (party.home.packs, party.home.federation_packs):
            try:
                packs |= {pack.digest: pack for pack in read()}
            except (SiloError, PolicyError):
                continue  # changed or gone since: the outcomes stand in signed decisions, without what they cite
    return packs


def _attack_tests(kept: _Kept) -> Iterator[AttackTest]:
    """Yield the audits with canaries (`silo privacy audit --charge`) of the run's code, as the silos logged them."""
    for party in kept.parties:
        for entry in party.log.entries("budget-settled"):
            found = entry.body.get("audit")
            if isinstance(found, Mapping) and found.get("code_digest") == kept.submission.run.body.code_digest:
                spent = entry.body
                yield AttackTest(
                    who=f"{party.name}, entry {entry.index} of its log",
                    when=entry.time,
                    how=f"one-run audit (Steinke, Nasr, Jagielski 2023) of the same code on the silo's own records: "
                    f"{found['canaries']} canaries, {found['guesses']} guesses, {found['correct']} right",
                    result=f"epsilon is at least {found['epsilon_lower_bound']:.3f} with "
                    f"{found['confidence']:.0%} confidence; {spent['epsilon']:g} at delta {spent['delta']:g} is proven",
                )


def _faults(kept: _Kept) -> Iterator[Fault]:
    for holder, entry in kept.of("fault"):
        if holder == kept.aggregator:
            party, what = str(entry.body.get("silo", holder)), str(entry.body["what"])
        else:
            party, what = holder, OWN_FAULT.format(index=entry.index)
        yield Fault(moment=entry.time, party=party, what=what)
