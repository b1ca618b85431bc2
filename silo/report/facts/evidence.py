"""What backs the statements: logs, their checkpoints and entries, digests and versions.

Every statement of a report has a subject, such as `decision/cleveland` or `round/3`; an entry of a log names the
subject it backs. Hashes are RFC 6962 leaf hashes, checkpoints C2SP tlog-checkpoint text.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from silo.report.facts.base import Count, Digest, Facts, Name, Text

Subject = Annotated[str, Field(pattern=r"^[a-z-]{1,32}(/[a-z0-9-]{1,64}){0,2}$")]
"""What a log entry backs: `manifest`, `consortium`, `keys`, `decision/SILO`, `budget/SILO`, `round/N`, `waiver/N`,
`fault/N` (both counted from 1 in the report's order), `release/WHAT`."""


ProofFile = Annotated[str, Field(pattern=r"^(?:[a-z0-9-]{1,64}/){0,3}[a-z0-9-]{1,64}\.tlog-proof$")]
"""Where the entry's proof lies, relative to the report."""


class Entry(Facts):
    """One log entry that backs a statement; ``proof`` names its C2SP tlog-proof file if one is at hand."""

    subject: Subject
    index: Count
    hash: Digest
    proof: ProofFile | None = None


class Log(Facts):
    """One party's log: `holder` keeps it, `origin` is the checkpoint's first line, `checkpoint` the signed text."""

    holder: Name
    origin: Text
    size: Count | None = None
    checkpoint: Text | None = None
    cosigned_by: tuple[Name, ...] = ()
    entries: tuple[Entry, ...] = ()


class Evidence(Facts):
    """Logs and digests. `retention` says how long the logs are kept; `initial_model` and `model` are digests of
    parameters where the policies release them."""

    logs: tuple[Log, ...] = ()
    retention: Text | None = None
    code_digest: Digest | None = None
    consortium_digest: Digest | None = None
    manifest_digest: Digest | None = None
    model_digest: Digest | None = None


class Package(Facts):
    """An installed distribution that took part in the computation."""

    name: Text
    version: Text


class Versions(Facts):
    """Interpreter and packages."""

    python: Text
    packages: tuple[Package, ...] = ()
