"""What can go wrong in encrypted aggregation.

    CryptoError
    ├── ParameterError        an unknown or unsafe parameter set was asked for
    ├── EncodingError         values that cannot be encoded (NaN, out of range, too many)
    ├── WireError             bytes that are malformed, truncated or foreign; raised before any native parser runs
    ├── SignatureError        a signature or sender that does not hold
    ├── KeyUseError           a key that is missing, unreadable, unprotected or of the wrong kind
    ├── ProtocolError         a message out of turn: wrong round, duplicate, too few, too many
    └── VerificationError     an opened sum that is not the sum of what was uploaded

Every error says what happened, where, and what to do next, and never carries a secret.
"""


class CryptoError(Exception):
    """Base of the package. ``what`` happened, ``where``, and the ``fix`` to try; none of them holds secrets."""

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        remedy = f" ({self.fix})" if self.fix else ""
        return f"{place}{self.what}{remedy}"


class ParameterError(CryptoError):
    """A parameter set that is unknown, or not safe for what is asked of it."""


class EncodingError(CryptoError):
    """Values that cannot be encoded exactly: not finite, out of range, too many."""


class WireError(CryptoError):
    """Bytes that are malformed, truncated, oversized or of another run's parameters."""


class SignatureError(CryptoError):
    """A signature that does not hold, or a sender who is not a member."""


class KeyUseError(CryptoError):
    """A key that is missing, unreadable, too widely readable, or of the wrong kind."""


class ProtocolError(CryptoError):
    """A message out of turn: wrong round, duplicate sender, too few or too many uploads."""


class VerificationError(CryptoError):
    """An opened sum is not the sum of the uploads it claims; the epoch's key must not be used again.

    ``silos`` names those whose upload is at fault, where that can be known.
    """

    def __init__(self, what: str, *, where: str = "", fix: str = "", silos: tuple[str, ...] = ()) -> None:
        super().__init__(what, where=where, fix=fix)
        self.silos = silos
