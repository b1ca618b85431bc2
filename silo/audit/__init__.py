"""Auditing: whether logs are whole, whether they agree with each other and with what was signed, and what they prove.

:func:`verify` checks the logs of one or more homes and their links, :class:`Trust` holds the public keys of an offline
check, :mod:`silo.audit.claims` compares a report's statements with log entries, :mod:`silo.audit.rebuild` makes the
report again from what the homes hold, :class:`Witnessing` cosigns in rounds. Only the last writes to a home.
"""

from silo.audit.claims import contradiction, subjects_of
from silo.audit.findings import Finding
from silo.audit.parties import Party, open_parties
from silo.audit.trust import Trust
from silo.audit.verify import Verdict, verify
from silo.audit.witnessing import Witnessing

__all__ = [
    "Finding",
    "Party",
    "Trust",
    "Verdict",
    "Witnessing",
    "contradiction",
    "open_parties",
    "subjects_of",
    "verify",
]
