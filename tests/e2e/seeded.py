"""``python -m tests.e2e.seeded SEED COMMAND...``: a silo command whose training randomness is a function of SEED.

For one test only, which compares models bit for bit. It replaces, in this process and from outside, where samples,
noise and rounding come from; the product has no such switch. Who knows the seed takes the noise off again, so every
epsilon of such a run is void.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from typing import Any

from silo_crypto.randomness import NONCE_BYTES, keystream

from silo.agent.run import Run


class UnsafeSeededRandom:
    """Samples, noise and rounding of each silo in each round, whatever process it is in and however often."""

    def __init__(self, seed: str) -> None:
        self._seed = seed

    def wrap(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``Run._contribute`` with its generators set before each use."""

        def contribute(run: Any, session: Any, header: Any) -> Any:
            mechanism = run._ready.mechanism
            for purpose, generator in (("rounding", mechanism._rng), ("training", mechanism._trainer._rng)):
                name = f"{self._seed}/{run._identity.name}/{header.round}/{header.attempt}/{purpose}"
                generator._stream = keystream(hashlib.sha256(name.encode()).digest(), bytes(NONCE_BYTES))
            return original(run, session, header)

        return contribute


def main() -> None:
    """Replace, then run the command."""
    from silo.cli import main as command

    Run._contribute = UnsafeSeededRandom(sys.argv[1]).wrap(Run._contribute)  # type: ignore[method-assign]
    sys.argv[1:] = sys.argv[2:]
    command()


if __name__ == "__main__":
    main()
