"""The log of one party: what happened, in an order nobody can rewrite unseen.

:class:`Log` appends and proves, :mod:`silo.log.tree` verifies proofs, :mod:`silo.log.note` signs and verifies
checkpoints and cosignatures, :mod:`silo.log.proof` is one entry's evidence in a file, :mod:`silo.log.tiles` the whole
log as static files, :mod:`silo.log.witness` what one party remembers of the others' logs. An auditor needs the public
keys, and of these only what verifies.
"""

from silo.log.entry import Entry, Kind
from silo.log.note import Checkpoint, VerifierKey, cosign, log_key, verify_checkpoint, witness_key
from silo.log.proof import Checked, Proof, check, prove
from silo.log.store import Log
from silo.log.tree import leaf_hash, verify_consistency, verify_inclusion
from silo.log.verification import Fault
from silo.log.witness import Offer, Witness, offer

__all__ = [
    "Checked",
    "Checkpoint",
    "Entry",
    "Fault",
    "Kind",
    "Log",
    "Offer",
    "Proof",
    "VerifierKey",
    "Witness",
    "check",
    "cosign",
    "leaf_hash",
    "log_key",
    "offer",
    "prove",
    "verify_checkpoint",
    "verify_consistency",
    "verify_inclusion",
    "witness_key",
]
