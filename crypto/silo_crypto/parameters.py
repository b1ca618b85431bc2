"""The named parameter sets of shared custody, and why decryption under them cannot fail.

Invariant: an encryption scheme is built only from a set in this file, bound to a value width and a number of silos
whose two bounds were computed as integers: fields never carry into each other, and the noise never reaches the edge.

All sets are BFV over Z_q[x]/(x^4096 + 1) with a uniform ternary secret. A ciphertext lives modulo q, the first two
primes (72 bits); SEAL adds a third one that only the key's own form uses. The 91 bits of all three stay under the 106
that IACR ePrint 2024/463 gives for 128 bits of classical security, and under the 101 of the 2018 Homomorphic
Encryption Security Standard for 128 bits against quantum attack. Primes of 40 and 32 bits make residues whole bytes: 9
bytes a coefficient, where PROTOCOL's 41 + 41 bits would need 10.25.

Noise, after section 3 of PROTOCOL: a fresh symmetric encryption of m has c0 + c1 s = (q/t) m + v with |v| <= 21.5 in
every coefficient, 21 from SEAL's centred binomial error (eta = 21, a hard bound, not a tail) and 1/2 from rounding
(q/t) m. Sums add. SEAL's RNS decryption (Bajard, Eynard, Hasan, Zucca, SAC 2016, Lemma 1) is exact while
|v| < (q/t)(1/2 - k/gamma), with k = 2 primes and gamma > 2^60.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from silo_crypto import labels
from silo_crypto.errors import ParameterError

DEGREE: Final = 4096
PRIMES: Final = (1099511480321, 4294828033)
KEY_PRIME: Final = 417793
PLAIN_MODULUS: Final = (1 << 60) - 16383
SECURITY_BITS: Final = 128
SECURITY_SOURCE: Final = "IACR ePrint 2024/463, uniform ternary secret, N=4096: log2 q <= 106"

FRESH_NOISE: Final = Fraction(43, 2)  # 21 (binomial error) + 1/2 (rounding)
_GAMMA: Final = 1 << 60

# name: (fields a coefficient, bits a field). The widest set whose fields hold the sum costs the fewest bytes.
SHARED_SETS: Final = {
    "bfv-4096-5x12": (5, 12),
    "bfv-4096-4x15": (4, 15),
    "bfv-4096-3x20": (3, 20),
    "bfv-4096-2x30": (2, 30),
}


@dataclass(frozen=True)
class SharedParameters:
    """One named set, bound to ``value_bits`` an upload's field and ``max_additions`` uploads a sum.

    Made by :func:`shared`; a combination whose bounds do not hold raises ParameterError.
    """

    name: str
    value_bits: int
    max_additions: int

    def __post_init__(self) -> None:
        if self.name not in SHARED_SETS:
            known = ", ".join(SHARED_SETS)
            raise ParameterError(
                f"no parameter set is called {self.name!r}", where="shared custody", fix=f"use {known}"
            )
        if self.value_bits < 2 or self.max_additions < 1:
            raise ParameterError("value_bits starts at 2 and max_additions at 1", where=self.name)
        if self.largest_sum >> self.field_bits or self.largest_plaintext >= PLAIN_MODULUS:
            raise ParameterError(
                f"{self.max_additions} uploads of {self.value_bits} bits overflow fields of {self.field_bits} bits",
                where=self.name,
                fix="use a set with wider fields, fewer bits, or fewer silos",
            )
        if self.noise_bound >= noise_limit():
            raise ParameterError(
                f"the noise of {self.max_additions} uploads can exceed what decryption corrects",
                where=self.name,
                fix=f"at most {int(noise_limit() / FRESH_NOISE)} silos",
            )

    @property
    def fields(self) -> int:
        """Fields in one plaintext coefficient."""
        return SHARED_SETS[self.name][0]

    @property
    def field_bits(self) -> int:
        """Bits of one field."""
        return SHARED_SETS[self.name][1]

    @property
    def largest_sum(self) -> int:
        """The largest sum a field can reach: max_additions (2^value_bits - 1)."""
        return self.max_additions * ((1 << self.value_bits) - 1)

    @property
    def largest_plaintext(self) -> int:
        """The largest sum of coefficients; it stays below the plaintext modulus, so nothing ever wraps."""
        return sum(self.largest_sum << (index * self.field_bits) for index in range(self.fields))

    @property
    def noise_bound(self) -> Fraction:
        """The largest |v| a sum can have: 21.5 max_additions, with certainty."""
        return FRESH_NOISE * self.max_additions

    def digest(self) -> bytes:
        """Return the 32 bytes that name these parameters in every message."""
        described = (
            f"shared {self.name} n={DEGREE} p={PRIMES} k={KEY_PRIME} t={PLAIN_MODULUS} fields={self.fields}x"
            f"{self.field_bits} value_bits={self.value_bits} max_additions={self.max_additions}"
        )
        return hashlib.sha256(labels.PARAMETERS + b"\0" + described.encode()).digest()


def noise_limit() -> Fraction:
    """Return (q/t)(1/2 - k/gamma): noise below it decrypts exactly."""
    q = PRIMES[0] * PRIMES[1]
    return Fraction(q, PLAIN_MODULUS) * (Fraction(1, 2) - Fraction(len(PRIMES), _GAMMA))


def shared(name: str, *, value_bits: int, max_additions: int) -> SharedParameters:
    """Return the named set for these numbers, or raise ParameterError saying which bound does not hold."""
    return SharedParameters(name, value_bits, max_additions)


def shared_for(*, value_bits: int, silos: int) -> SharedParameters:
    """Return the named set with the smallest uploads that fits ``silos`` uploads of ``value_bits`` bits."""
    for name, (_, field_bits) in SHARED_SETS.items():
        if (silos * ((1 << value_bits) - 1)) >> field_bits == 0:
            return shared(name, value_bits=value_bits, max_additions=silos)
    raise ParameterError(
        f"no parameter set holds {silos} uploads of {value_bits} bits", where="shared custody", fix="use fewer bits"
    )
