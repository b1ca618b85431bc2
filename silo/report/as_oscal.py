"""The report as OSCAL assessment-results, for the tools that assessors already have.

Each rule of a policy pack is a control (``pack.rule``), each outcome at a silo a finding about it, each log entry that
backs a statement an observation. A rule that was true is ``satisfied``: that is what the silo's gate found, under the
pack as written, and not a statement that any law is met; a waived one is not satisfied, and says so. What nothing backs
has no observation and is listed as not evidenced.

Invariant: identifiers are UUIDs of version 5 over the run and what they name, so the same facts are the same bytes.

Source: OSCAL 1.2 assessment-results, JSON form.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from silo.report import text
from silo.report.facts.evidence import Entry, Log
from silo.report.facts.governance import Outcome
from silo.report.model import Report
from silo.report.sections.evidence import in_words, subjects
from silo.report.sections.verdict import in_words as verdict_in_words

OSCAL_VERSION = "1.2.1"
_REASON: Mapping[str, tuple[str, str]] = {
    "true": ("satisfied", "pass"),
    "false": ("not-satisfied", "fail"),
    "error": ("not-satisfied", "error"),
    "waived": ("not-satisfied", "other"),
}


def render_oscal(report: Report) -> str:
    """The report as OSCAL JSON text."""
    moment = report.finished or report.started
    observations = [_observation(report, log, entry) for log in report.evidence.logs for entry in log.entries]
    findings = [_finding(report, outcome) for outcome in report.policies.outcomes]
    bare = [in_words(subject) for subject in subjects(report) if not report.backing(subject)]
    result: dict[str, Any] = {
        "uuid": _uuid(report, "result"),
        "title": _line(f"Run {report.run}"),
        "description": verdict_in_words(report),
        "start": report.started,
        **({"end": report.finished} if report.finished else {}),
        "props": [
            _prop("epsilon-asked", repr(report.privacy.epsilon)),
            _prop("delta-asked", repr(report.privacy.delta)),
            _prop("privacy-unit", report.privacy.unit),
            _prop("key-custody", report.encryption.custody),
            *(_prop("epsilon-spent", repr(silo.epsilon), silo.name) for silo in report.permitted),
        ],
        "reviewed-controls": {"control-selections": [_selection(report)]},
        **({"observations": observations} if observations else {}),
        **({"findings": findings} if findings else {}),
        "remarks": "Claims not made: "
        + " ".join(report.claims_not_made)
        + (f" Not evidenced: {'; '.join(bare)}." if bare else ""),
    }
    document = {
        "assessment-results": {
            "uuid": _uuid(report, "document"),
            "metadata": {
                "title": _line(f"Evidence for assessment: {report.name}"),
                "last-modified": moment,
                "version": report.version,
                "oscal-version": OSCAL_VERSION,
                "remarks": "Evidence for assessment, made from signed logs. It states no conformity with any law.",
            },
            "import-ap": {"href": f"urn:silo:run:{_token(report.run)}", "remarks": "The signed run manifest."},
            "results": [result],
        }
    }
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _selection(report: Report) -> dict[str, Any]:
    controls = sorted({_control(each) for each in report.policies.outcomes})
    if not controls:
        return {"description": "No rule was evaluated on record.", "include-all": {}}
    return {
        "description": "The rules of the policy packs that the silos evaluated.",
        "include-controls": [{"control-id": each} for each in controls],
    }


def _observation(report: Report, log: Log, entry: Entry) -> dict[str, Any]:
    href = entry.proof or f"report.html#log-{log.holder}-{entry.index}"
    return {
        "uuid": _uuid(report, "observation", log.holder, entry.index, entry.subject),
        "title": _line(f"{in_words(entry.subject)}, in the log of {log.holder}"),
        "description": f"Entry {entry.index} of the log {log.origin} backs this statement.",
        "methods": ["EXAMINE"],
        "types": ["finding"],
        "relevant-evidence": [
            {
                "href": href,
                "description": f"RFC 6962 leaf hash {entry.hash}" + ("; C2SP tlog-proof" if entry.proof else ""),
            }
        ],
        "collected": report.finished or report.started,
    }


def _finding(report: Report, outcome: Outcome) -> dict[str, Any]:
    state, reason = _REASON[outcome.result]
    related = [
        {"observation-uuid": _uuid(report, "observation", holder, entry.index, entry.subject)}
        for holder, entry in report.backing(f"decision/{outcome.silo}")
    ]
    said = text.readable(f"Rule {outcome.rule} of pack {outcome.pack} was {outcome.result} at {outcome.silo}.")
    return {
        "uuid": _uuid(report, "finding", outcome.silo, outcome.pack, outcome.rule),
        "title": _line(f"{outcome.pack}/{outcome.rule} at {outcome.silo}"),
        "description": said + (f" Source: {text.readable(outcome.citation)}." if outcome.citation else ""),
        "target": {
            "type": "objective-id",
            "target-id": _control(outcome),
            "status": {"state": state, "reason": reason, "remarks": f"The gate's result was: {outcome.result}."},
        },
        **({"related-observations": related} if related else {}),
        **({} if related else {"remarks": "No log entry backs this decision: not evidenced."}),
    }


def _control(outcome: Outcome) -> str:
    return f"{_token(outcome.pack)}.{_token(outcome.rule)}"


def _prop(name: str, value: str, remarks: str | None = None) -> dict[str, str]:
    prop = {"name": name, "ns": "urn:silo:oscal", "value": _line(value)}
    return {**prop, "class": _token(remarks)} if remarks else prop


def _uuid(report: Report, *parts: object) -> str:
    return str(uuid5(NAMESPACE_URL, "/".join(["urn:silo:report", report.run, *map(str, parts)])))


def _token(value: str) -> str:
    """OSCAL's token: letters, digits, dot, dash and underscore, not beginning with a digit."""
    token = re.sub(r"[^A-Za-z0-9._-]", "-", value)
    return token if re.match(r"[A-Za-z_]", token) else f"_{token}"


def _line(value: str) -> str:
    """OSCAL's string: one line, no blanks at its ends, not empty."""
    return " ".join(text.readable(value).split()) or "-"
