"""The log of one party: what happened, in an order nobody can rewrite unseen.

:class:`Log` appends and proves, :mod:`silo.log.tree` verifies proofs, :mod:`silo.log.note` signs and verifies
checkpoints and cosignatures; an auditor needs the last two and public keys, nothing else.
"""

from silo.log.entry import Entry, Kind
from silo.log.note import Checkpoint, VerifierKey, cosign, log_key, verify_checkpoint, witness_key
from silo.log.store import Log
from silo.log.tree import leaf_hash, verify_consistency, verify_inclusion
from silo.log.verification import Fault

__all__ = [
    "Checkpoint",
    "Entry",
    "Fault",
    "Kind",
    "Log",
    "VerifierKey",
    "cosign",
    "leaf_hash",
    "log_key",
    "verify_checkpoint",
    "verify_consistency",
    "verify_inclusion",
    "witness_key",
]
