"""The errors of the product and their exit codes.

    SiloError (1)
    ├── UsageError (2)          an option or argument that does not make sense
    ├── ConfigError (3)         data, home, experiment or policy file that cannot be used
    ├── PolicyDenied (4)        a policy said no
    ├── BudgetExceeded (5)      the privacy budget does not allow it
    ├── VerificationFailed (6)  cryptography or signatures did not hold
    └── PeerError (7)           another party or the network did not do its part

Each says what happened, where, and what to do next; none carries a secret or a record. `silo_crypto` and
`silo_policies` have bases of their own with the same three parts; `exit_code` maps them.
"""

from __future__ import annotations


class SiloError(Exception):
    """Base of everything the product raises on purpose."""

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        remedy = f" ({self.fix})" if self.fix else ""
        return f"{place}{self.what}{remedy}"


class UsageError(SiloError):
    """An option or argument that does not make sense."""

    exit_code = 2


class ConfigError(SiloError):
    """Data, home, experiment or policy that cannot be read or used."""

    exit_code = 3


class PolicyDenied(SiloError):
    """A silo's policy, or too few silos' policies, did not permit it."""

    exit_code = 4


class BudgetExceeded(SiloError):
    """The population's privacy budget does not cover what is asked."""

    exit_code = 5


class VerificationFailed(SiloError):
    """A ciphertext, signature, digest or log entry that does not hold."""

    exit_code = 6


class PeerError(SiloError):
    """Another party or the network did not do its part in time."""

    exit_code = 7
