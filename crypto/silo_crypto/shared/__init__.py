"""Shared custody: all silos hold one BFV key, the aggregator none.

Private against a curious aggregator; an aggregate that it tampered with is detected. It is *not* private between silos:
whoever holds the key can decrypt another silo's upload if it gets hold of the bytes. PROTOCOL section 3, "shared".
"""

from silo_crypto.shared.custody import (
    SharedAdder,
    SharedEncryptor,
    SharedOpener,
    aggregate_bytes,
    upload_bytes,
    uploaders,
)
from silo_crypto.shared.key import SharedKey

__all__ = [
    "SharedAdder",
    "SharedEncryptor",
    "SharedKey",
    "SharedOpener",
    "aggregate_bytes",
    "upload_bytes",
    "uploaders",
]
