"""The verdict: one paragraph for someone who sits on a board, and the few figures behind it."""

from __future__ import annotations

from silo.report import text
from silo.report.blocks import Facts, Prose, Row, Section, row
from silo.report.model import Report


def section(report: Report) -> Section:
    """One paragraph in plain words, then the key figures."""
    return Section("verdict", "Verdict", (Prose(in_words(report)), *_alarms(report), Facts(_figures(report))))


def in_words(report: Report) -> str:
    """The whole verdict as one paragraph."""
    return " ".join(
        part for part in (_course(report), _refusals(report), _bound(report), _keys(report), _worth(report)) if part
    )


def highest(report: Report) -> float | None:
    """The largest epsilon any silo spent: silos are disjoint, so that is what one record pays (parallel
    composition)."""
    return max((silo.epsilon for silo in report.permitted), default=None)


def _course(report: Report) -> str:
    ended, many = report.verdict, text.sentence(text.counted(len(report.permitted), "institution"))
    why = f": {ended.because.rstrip('.')}." if ended.because else "; why is not evidenced."
    if ended.outcome == "not-started":
        return f"The run did not start{why}"
    if ended.outcome == "stopped":
        far = f"after {ended.rounds_completed} of {ended.rounds_planned} rounds"
        return f"{many} began to train a model together; the run stopped {far}{why}"
    return (
        f"{many} trained one model together in {text.counted(ended.rounds_completed, 'round')}. Each worked on its "
        "own records and sent encrypted updates of the model, never records."
    )


def _refusals(report: Report) -> str:
    said = []
    for silo in report.refused:
        rules = text.listed([text.brief(reason.rule) for reason in silo.reasons])
        said.append(
            f"{text.brief(silo.display_name)} refused under its own policy "
            f"({'rule' if len(silo.reasons) == 1 else 'rules'} {rules}) and took no part."
        )
    return " ".join(said)


def _bound(report: Report) -> str:
    most, asked = highest(report), report.privacy
    if report.verdict.outcome == "not-started" or most is None:
        return ""
    if asked.void is not None:
        return f"The privacy promise of this run is VOID: {asked.void.rstrip('.')}."
    held = "within" if not exceeded(report) else "ABOVE"
    return (
        f"How much the finished model can reveal about any one {asked.unit} is limited: the limit, epsilon, came to "
        f"{text.spent(most)} at most, {held} the {text.given(asked.epsilon)} that was agreed (smaller is stricter; 0 "
        "would reveal nothing)."
    )


def exceeded(report: Report) -> tuple[str, ...]:
    """In words, each silo whose epsilon passed what was asked or its own cap."""
    found = []
    for silo in report.permitted:
        if silo.epsilon > report.privacy.epsilon:
            found.append(
                f"{text.brief(silo.display_name)} spent epsilon {text.spent(silo.epsilon)}, more than the "
                f"{text.given(report.privacy.epsilon)} asked"
            )
        if silo.epsilon_cap is not None and silo.epsilon > silo.epsilon_cap:
            found.append(
                f"{text.brief(silo.display_name)} spent epsilon {text.spent(silo.epsilon)}, more than its cap of "
                f"{text.given(silo.epsilon_cap)}"
            )
    return tuple(found)


def _keys(report: Report) -> str:
    if report.aggregator.has_secret_key is None:
        return "Whether the aggregator, which adds the updates up, held a key to them is not evidenced."
    if report.aggregator.has_secret_key:
        return "The aggregator, which adds the updates up, HELD THE KEY to them: it could have read each one."
    if report.aggregator.evidence is None:
        return (
            "The aggregator, which adds the updates up, is said to hold no key to them; how that was established is "
            "not evidenced."
        )
    return "The aggregator, which adds the updates up, held no key and could read none of them."


def _worth(report: Report) -> str:
    auc = report.auc
    if auc.federated is None:
        return "How well the model does is not evidenced."
    rest = []
    if auc.pooled is not None:
        rest.append(f"{text.score(auc.pooled)} if all records had been put in one place without protection")
    if auc.silo_only is not None:
        rest.append(f"{text.score(auc.silo_only)} for the average institution alone")
    against = f", against {text.listed(rest)}" if rest else ""
    return (
        "Tested on records kept aside, the joint model tells cases from non-cases with a score (AUC) of "
        f"{text.score(auc.federated)}{against}; 1 is perfect, 0.5 a coin toss."
    )


def _alarms(report: Report) -> tuple[Prose, ...]:
    said = [(each, "bad") for each in exceeded(report)]
    failed = [str(step.round) for step in report.rounds if step.verified is False]
    if failed:
        said.append((f"the opened sum failed its check in round {text.listed(failed)}", "bad"))
    if report.faults:
        said.append((f"{text.counted(len(report.faults), 'fault')} on record: see Waivers and faults", "warn"))
    return tuple(Prose(f"{text.sentence(words)}.", "bad" if tone == "bad" else "warn") for words, tone in said)


def _figures(report: Report) -> tuple[Row, ...]:
    most, privacy, lock = highest(report), report.privacy, report.encryption
    key = report.aggregator.has_secret_key
    bound = None if most is None else "void" if privacy.void is not None else text.spent(most)
    bits = f"{lock.security_bits}-bit security" if lock.security_bits is not None else "security bits not evidenced"
    return (
        row("Took part", f"{len(report.permitted)} of {len(report.silos)}", note="institutions invited"),
        row(
            "Rounds",
            f"{report.verdict.rounds_completed} of {report.verdict.rounds_planned}",
            note="completed of planned",
        ),
        row(
            "Epsilon, at most",
            bound,
            note=f"of {text.given(privacy.epsilon)} asked, delta {text.given(privacy.delta)}, per {privacy.unit}",
        ),
        row(
            "AUC, joint model",
            None if report.auc.federated is None else text.score(report.auc.federated),
            note=report.auc.label,
        ),
        row(
            "Keys at the aggregator",
            None if key is None else "held" if key else "none",
            note=f"{lock.custody} custody, {bits}",
        ),
        row(
            "Sent per silo and round",
            None if lock.upload_bytes is None else text.size(lock.upload_bytes),
            note="" if lock.plain_bytes is None else f"{text.size(lock.plain_bytes)} unencrypted",
        ),
    )
