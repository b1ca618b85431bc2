"""Encryption and custody: what it protects, who can open what, and the parameters."""

from __future__ import annotations

from silo.report import text
from silo.report.blocks import Block, Cell, Column, Facts, Prose, Row, Section, Table, cell, row
from silo.report.model import Report
from silo.report.sections.parties import references


def section(report: Report) -> Section:
    """The division of labour in one line, who can open what, the parameters."""
    blocks: list[Block] = [
        Prose(
            "Encryption protects inputs, not outputs; differential privacy protects outputs. The updates are added "
            "up while encrypted: the aggregator computes the sum without being able to read what it adds. What the "
            "sum itself reveals once it is opened is limited by the noise described above, not by the encryption."
        )
    ]
    if report.aggregator.has_secret_key:
        blocks.append(Prose("The aggregator held a secret key: nothing was hidden from it.", "bad"))
    blocks += [_openings(report), Facts(_parameters(report), "Parameters")]
    return Section(
        "encryption", "Encryption and who holds the key", tuple(blocks), ("NIST SP 800-226 4.2, 4.2.3", "GDPR 32(1)(a)")
    )


def _openings(report: Report) -> Table:
    rows = tuple((Cell(each.who), Cell(each.what)) for each in report.encryption.who_can_open)
    return Table(
        "openings",
        f"Who can open what under {report.encryption.custody} custody.",
        (Column("Who"), Column("Can open")),
        rows or ((Cell("Everyone"), cell(None)),),
    )


def _parameters(report: Report) -> tuple[Row, ...]:
    lock, holder = report.encryption, report.aggregator
    held = None if holder.has_secret_key is None else "yes" if holder.has_secret_key else "no"
    sum_of = {
        "shared": "all silos hold one key",
        "threshold": f"any {lock.threshold} silos together open a sum"
        if lock.threshold
        else "several silos together open a sum",
    }[lock.custody]
    failure = None
    if lock.failure_probability is not None:
        failure = (
            "0: it cannot fail" if lock.failure_probability == 0 else f"at most {text.spent(lock.failure_probability)}"
        )
    ratio = None if lock.ratio is None else f"{lock.ratio:.3g} × plain float32"
    return (
        row("Scheme", lock.scheme),
        row("Custody", f"{lock.custody}: {sum_of}"),
        Row(
            "Aggregator holds a secret key",
            cell(
                held,
                "bad" if holder.has_secret_key else "plain",
                holder.evidence or "how this was established is not evidenced",
                references(report, "keys"),
            ),
        ),
        row("Security", None if lock.security_bits is None else f"{lock.security_bits} bits, classical"),
        *(row(text.sentence(each.name), each.value) for each in lock.parameters),
        row("Chance that decryption fails", failure, note=lock.failure_reason or ""),
        row("Sent per silo and round", None if lock.upload_bytes is None else text.size(lock.upload_bytes)),
        row("The same update unencrypted", None if lock.plain_bytes is None else text.size(lock.plain_bytes)),
        row("Ratio", ratio, note=lock.ratio_reason or ""),
    )
