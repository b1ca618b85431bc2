"""The named parameter sets of threshold custody and every bound that follows from them.

Invariant: a :class:`ThresholdParameters` equals one of the sets named here; anything else raises ParameterError. The
bounds are computed with integers and fractions, so a decoding failure is impossible, not merely unlikely.

Sources: PROTOCOL section 3 "threshold custody" (bounds, field layout). Security: Bossuat et al., "Security Guidelines
for Implementing Homomorphic Encryption", IACR 2024/463, Table 5.2 (ternary secret, sigma = 3.19, N = 16384: 128 bits
classical for log2 q <= 430; the authors' published run of the lattice estimator gives 409 for 128 bits quantum) and
the HomomorphicEncryption.org standard 2018 (438 and 411). Here log2 q = 389.96 and sigma = sqrt(10.5) = 3.24. The
estimator itself was not run for this q: it needs Sage and is in no package registry.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from fractions import Fraction

from silo_crypto import labels
from silo_crypto.errors import ParameterError
from silo_crypto.ring import Ring, ring

DEGREE = 16384
VALUE_BITS = 16
SECURITY_BITS = 128
PRIMES = (
    1073643521, 1073479681, 1073184769, 1073053697, 1072857089, 1072496641, 1071513601,
    1071415297, 1071087617, 1070727169, 1070432257, 1069219841, 1068564481,
)  # fmt: skip
"""The 13 largest primes below 2^30 that are 1 modulo 32768; log2 of their product is 389.96."""

SOURCE = (
    "IACR 2024/463, Table 5.2: ternary secret, N=16384, 128 bits classical for log2 q <= 430 (here 389.96); "
    "HomomorphicEncryption.org 2018: 128 bits quantum for log2 q <= 411; unaudited"
)
ETA = 21
"""Parameter of the centred binomial errors: |e| <= 21, variance 10.5."""
ROUNDING_BITS = 14
"""Decoding's fixed-point error is below 2^-14 of one step of the plaintext; see :mod:`.encoding`."""
DISTANCE_BITS = 40
"""The openings of one epoch are within statistical distance 2^-40 of openings that hide the uploads' errors."""
MAX_OPENINGS = 8
"""Sets S that a silo gives shares for in one attempt."""


_ROWS = {
    # name: fields, field_bits, flood_bits, max_silos
    "threshold-8": (16, 19, 81, 8),
    "threshold-16": (15, 20, 84, 16),
    # PROTOCOL's table has W = 2^76 and 2^85 for these two. They decode only for T <= 31, below the default n // 2;
    # these are the largest that hold the default, as :meth:`ThresholdParameters.check` computes.
    "threshold-64": (14, 22, 75, 64),
    "threshold-128": (13, 23, 83, 128),
}


@dataclass(frozen=True)
class ThresholdParameters:
    """One named set: N = ``degree``, q = product of ``primes``, t = 2^(fields field_bits), W = 2^flood_bits.

    A coefficient carries ``fields`` fields of ``field_bits`` bits, each the sum of at most ``max_silos`` values below
    2^value_bits.
    """

    name: str
    fields: int
    field_bits: int
    flood_bits: int
    max_silos: int
    value_bits: int = VALUE_BITS
    degree: int = DEGREE
    primes: tuple[int, ...] = PRIMES
    security_bits: int = SECURITY_BITS
    source: str = SOURCE

    def __post_init__(self) -> None:
        self._check_named()

    def _check_named(self) -> None:
        row = (self.fields, self.field_bits, self.flood_bits, self.max_silos)
        rest = (self.value_bits, self.degree, self.primes, self.security_bits, self.source)
        if row != _ROWS.get(self.name) or rest != (VALUE_BITS, DEGREE, PRIMES, SECURITY_BITS, SOURCE):
            raise _unknown(self.name)

    @property
    def ring(self) -> Ring:
        """The ring R_q, with its tables."""
        return ring(self.degree, self.primes)

    @property
    def modulus(self) -> int:
        """q."""
        return math.prod(self.primes)

    @property
    def plaintext_bits(self) -> int:
        """log2 t."""
        return self.fields * self.field_bits

    @property
    def flood(self) -> int:
        """W: floods are uniform in [-W, W)."""
        return 1 << self.flood_bits

    def noise(self, silos: int, sharers: int) -> int:
        """Return the largest distance of an opened coefficient from q m / t.

        ``sharers`` floods, one error per silo, and the rounding of q 2^(j field_bits) / t times each field's sum.
        """
        return sharers * self.flood + ETA * silos + self.fields * silos * (1 << (self.value_bits - 1))

    def limit(self) -> Fraction:
        """Return (q/t)(1/2 - 2^-14): below this distance decoding cannot fail."""
        return Fraction(self.modulus, 1 << self.plaintext_bits) * (Fraction(1, 2) - Fraction(1, 1 << ROUNDING_BITS))

    def max_sharers(self, silos: int) -> int:
        """Return the largest |S| for which decoding a sum of ``silos`` uploads cannot fail."""
        room = self.limit() - self.noise(silos, 0)
        return max(0, min(silos, math.ceil(room / self.flood) - 1))

    def distance(self, silos: int) -> Fraction:
        """Return the statistical distance 21 n / 2W that one opened coefficient costs."""
        return Fraction(ETA * silos, 2 * self.flood)

    def coefficients_per_epoch(self, silos: int) -> int:
        """Return how many coefficients may be opened under one epoch's keys before the distance exceeds 2^-40."""
        return math.floor(Fraction(1, 1 << DISTANCE_BITS) / self.distance(silos))

    def coefficients_per_silo(self, silos: int, threshold: int) -> int:
        """Return how many coefficients one silo may give shares of in an epoch.

        A silo sees only the openings it takes part in. T-1 corrupt silos can spread their openings over the n-T+1
        others, one each, so each counts as if the others had given as many.
        """
        return self.coefficients_per_epoch(silos) // (silos - threshold + 1)

    def check(self, silos: int, threshold: int) -> None:
        """Raise ParameterError unless ``silos`` with ``threshold`` can always decode under this set."""
        where = f"set {self.name} with {silos} silos, T = {threshold}"
        if not 3 <= silos <= self.max_silos:
            raise ParameterError(f"it takes 3 to {self.max_silos} silos", where=where, fix="choose another named set")
        if not 2 <= threshold < silos:
            raise ParameterError("T must be from 2 to n-1", where=where, fix="the default is max(2, n // 2)")
        if silos * ((1 << self.value_bits) - 1) >= 1 << self.field_bits:
            raise ParameterError("a field could overflow", where=where)
        if threshold > self.max_sharers(silos):
            raise ParameterError(
                f"the floods of T silos could exceed the decoding limit; T <= {self.max_sharers(silos)} is safe",
                where=where,
                fix="lower T or choose another named set",
            )

    def digest(self) -> bytes:
        """Return the 32 bytes that name these parameters in every message: SHA-256 of their canonical JSON."""
        facts = {key: value for key, value in asdict(self).items() if key != "source"}
        text = json.dumps(facts, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(labels.PARAMETERS + b"\0" + text.encode()).digest()


def _unknown(name: str) -> ParameterError:
    return ParameterError(f"there is no such set {name!r}", where="threshold", fix=f"choose {', '.join(_ROWS)}")


NAMED = {name: ThresholdParameters(name, *row) for name, row in _ROWS.items()}
"""The sets by name; the product accepts no others."""


def named(name: str) -> ThresholdParameters:
    """Return the set called ``name``; raise ParameterError for any other."""
    if name not in NAMED:
        raise _unknown(name)
    return NAMED[name]


def for_silos(silos: int, *, threshold: int | None = None, values: int = 0, openings: int = 0) -> ThresholdParameters:
    """Return the set with the smallest uploads for ``silos`` silos and T = ``threshold`` (default max(2, n // 2)).

    With ``openings`` of ``values`` values each, it is the first set whose epoch allows so many; else ParameterError.
    """
    threshold = default_threshold(silos) if threshold is None else threshold
    for parameters in NAMED.values():
        if silos <= parameters.max_silos:
            allowed = parameters.coefficients_per_silo(silos, threshold)
            if openings * -(-values // parameters.fields) <= allowed:
                return parameters
    raise ParameterError(
        f"no set holds {silos} silos and {openings} openings of {values} values",
        where="threshold",
        fix="at most 128 silos take part in a run; plan several key epochs",
    )


def default_threshold(silos: int) -> int:
    """Return T = max(2, n // 2)."""
    return max(2, silos // 2)
