"""Domain-separation labels: every hash, XOF, KDF, signature and AAD of the protocol starts with exactly one of these.

A label is never reused for a second purpose, and a changed construction gets a new version.
"""

HEADER = b"silo/v1/header"
UPLOAD = b"silo/v1/upload"
AGGREGATE = b"silo/v1/aggregate"
KEYBOX = b"silo/v1/keybox"
MAC = b"silo/v1/mac"
PRESENCE = b"silo/v1/presence"
CHAIN = b"silo/v1/chain"
PUBLIC_A = b"silo/v1/a"
NONCE = b"silo/v1/nonce"
CONFIRM = b"silo/v1/confirm"
SHARE = b"silo/v1/share"
MASK = b"silo/v1/mask"
PAD = b"silo/v1/pad"
TEST = b"silo/v1/test"
