"""Looks for decryption keys in what the aggregator holds, so that "it holds none" is a finding and not a claim.

The walk follows attributes, slots and containers from an object; it does not follow classes, modules or functions. The
aggregator's own signing identity is no decryption key of the custody and is left out by type.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from silo_crypto.keys import Identity, Secret

_PLAIN = (str, bytes, bytearray, memoryview, int, float, complex, bool, type(None), type)


def secrets_held(*roots: object) -> list[str]:
    """Return the type names of every custody secret reachable from ``roots``: empty for an honest aggregator."""
    seen: set[int] = set()
    found: list[str] = []
    waiting: list[Any] = list(roots)
    kept: list[Any] = []  # keeps temporaries alive, so that no id is used twice
    while waiting:
        thing = waiting.pop()
        if isinstance(thing, _PLAIN) or id(thing) in seen or (callable(thing) and not hasattr(thing, "__dict__")):
            continue
        seen.add(id(thing))
        kept.append(thing)
        if isinstance(thing, Identity):
            continue
        if isinstance(thing, Secret) or type(thing).__name__ in ("SecretKey", "Decryptor", "KeyGenerator"):
            found.append(type(thing).__name__)
            continue
        waiting.extend(_parts(thing))
    return sorted(found)


def _parts(thing: Any) -> Iterator[Any]:
    if isinstance(thing, Mapping):
        yield from list(thing.keys())
        yield from list(thing.values())
    elif isinstance(thing, list | tuple | set | frozenset):
        yield from list(thing)
    if type(thing).__name__ in ("module", "function"):
        return
    yield from list(getattr(thing, "__dict__", {}).values())
    for cls in type(thing).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            if hasattr(thing, slot):
                yield getattr(thing, slot)
