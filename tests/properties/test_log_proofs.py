"""Properties of the Merkle tree beyond the sizes that are tried one by one."""

import hashlib
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silo.errors import VerificationFailed
from silo.log import tree

LARGEST = 5_000
SIZES = st.integers(1, LARGEST)


@cache
def stored(level: int, index: int) -> bytes:
    """The hash of a complete subtree over leaves whose entry is their number."""
    if level == 0:
        return tree.leaf_hash(b"%d" % index)
    return tree.node_hash(stored(level - 1, 2 * index), stored(level - 1, 2 * index + 1))


@settings(max_examples=200, deadline=None)
@given(SIZES, st.data())
def test_an_entry_is_in_its_log(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    proof = tree.inclusion(stored, index, size)
    root = tree.root(stored, size)
    tree.verify_inclusion(stored(0, index), index, size, proof, root)
    assert len(proof) <= (size - 1).bit_length()
    other = data.draw(st.integers(0, size - 1).filter(lambda value: value != index)) if size > 1 else size
    with pytest.raises(VerificationFailed):
        tree.verify_inclusion(stored(0, index), other, size, proof, root)


@settings(max_examples=200, deadline=None)
@given(SIZES, SIZES, st.data())
def test_a_log_begins_with_what_it_was(first: int, second: int, data: st.DataObject) -> None:
    old, new = sorted((first, second))
    proof = tree.consistency(stored, old, new)
    roots = tree.root(stored, old), tree.root(stored, new)
    tree.verify_consistency(old, new, *roots, proof)
    forged = hashlib.sha256(b"forged").digest()
    with pytest.raises(VerificationFailed):
        tree.verify_consistency(old, new, forged, roots[1], proof)
    if proof:
        place = data.draw(st.integers(0, len(proof) - 1))
        with pytest.raises(VerificationFailed):
            tree.verify_consistency(old, new, *roots, [*proof[:place], forged, *proof[place + 1 :]])
