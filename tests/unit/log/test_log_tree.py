"""The Merkle tree: known answers, every proof for trees to 64 leaves, and every small change to a proof."""

import hashlib

import pytest

from silo.errors import VerificationFailed
from silo.log import tree

# The tree that Certificate Transparency's own implementations are tested with (RFC 6962's reference code).
LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
INCLUSION_5_OF_8 = [
    "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
]
CONSISTENCY_6_TO_8 = [
    "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
    "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
]
CONSISTENCY_2_TO_5 = [
    "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
    "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
]

LARGEST = 64


class Memory:
    """The hashes of complete subtrees, as the log stores them."""

    def __init__(self, entries):
        self.hashes = {}
        for index, data in enumerate(entries):
            for level, place, value in tree.completed(index, tree.leaf_hash(data), self):
                self.hashes[level, place] = value

    def __call__(self, level, index):
        return self.hashes[level, index]


def definition(entries):
    """MTH of RFC 9162 section 2.1.1, word for word."""
    if not entries:
        return hashlib.sha256(b"").digest()
    if len(entries) == 1:
        return hashlib.sha256(b"\x00" + entries[0]).digest()
    k = 1
    while k * 2 < len(entries):
        k *= 2
    return hashlib.sha256(b"\x01" + definition(entries[:k]) + definition(entries[k:])).digest()


def rfc_inclusion_root(leaf, index, size, proof):
    """RFC 9162 section 2.1.3.2, step by step: an algorithm unlike ours. Returns None where it says to fail."""
    fn, sn, r = index, size - 1, leaf
    for p in proof:
        if sn == 0:
            return None
        if fn & 1 or fn == sn:
            r = tree.node_hash(p, r)
            while fn and not fn & 1:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = tree.node_hash(r, p)
        fn, sn = fn >> 1, sn >> 1
    return r if sn == 0 else None


def rfc_consistency_roots(old, new, old_root, proof):
    """RFC 9162 section 2.1.4.2, step by step. Returns both roots, or None where it says to fail."""
    path = list(proof) if old & (old - 1) else [old_root, *proof]
    fn, sn = old - 1, new - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = path[0]
    for c in path[1:]:
        if sn == 0:
            return None
        if fn & 1 or fn == sn:
            fr, sr = tree.node_hash(c, fr), tree.node_hash(c, sr)
            while fn and not fn & 1:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = tree.node_hash(sr, c)
        fn, sn = fn >> 1, sn >> 1
    return (fr, sr) if sn == 0 else None


@pytest.fixture(scope="module")
def entries():
    return [b"entry %d" % number for number in range(LARGEST)]


@pytest.fixture(scope="module")
def stored(entries):
    return Memory(entries)


@pytest.fixture(scope="module")
def roots(entries):
    return [definition(entries[:size]) for size in range(LARGEST + 1)]


def test_known_roots():
    stored = Memory(LEAVES)
    assert [tree.root(stored, size).hex() for size in range(9)] == ROOTS


def test_known_proofs():
    stored = Memory(LEAVES)
    assert [step.hex() for step in tree.inclusion(stored, 5, 8)] == INCLUSION_5_OF_8
    assert [step.hex() for step in tree.consistency(stored, 6, 8)] == CONSISTENCY_6_TO_8
    assert [step.hex() for step in tree.consistency(stored, 2, 5)] == CONSISTENCY_2_TO_5


def test_roots_are_the_definition(stored, roots):
    assert [tree.root(stored, size) for size in range(LARGEST + 1)] == roots


def test_every_inclusion_proof_holds_here_and_in_the_rfc(entries, stored, roots):
    for size in range(1, LARGEST + 1):
        for index in range(size):
            leaf, proof = tree.leaf_hash(entries[index]), tree.inclusion(stored, index, size)
            tree.verify_inclusion(leaf, index, size, proof, roots[size])
            assert rfc_inclusion_root(leaf, index, size, proof) == roots[size]


def test_every_consistency_proof_holds_here_and_in_the_rfc(stored, roots):
    for new in range(LARGEST + 1):
        for old in range(new + 1):
            proof = tree.consistency(stored, old, new)
            tree.verify_consistency(old, new, roots[old], roots[new], proof)
            if 0 < old < new:
                assert rfc_consistency_roots(old, new, roots[old], proof) == (roots[old], roots[new])


def test_an_inclusion_proof_holds_for_nothing_else(entries, stored, roots):
    for size in range(1, 20):
        for index in range(size):
            leaf, proof, root = tree.leaf_hash(entries[index]), tree.inclusion(stored, index, size), roots[size]
            wrong = [(leaf, other, size, proof, root) for other in range(-1, size + 2) if other != index]
            wrong += [(leaf, index, size, [*proof, bytes(32)], root), (leaf, index, size, proof, roots[size - 1])]
            wrong += [(tree.leaf_hash(b"another"), index, size, proof, root)]
            for place in range(len(proof)):
                shorter, changed = [*proof], [*proof]
                del shorter[place]
                changed[place] = bytes(32)
                wrong += [(leaf, index, size, shorter, root), (leaf, index, size, changed, root)]
            for other in wrong:
                with pytest.raises(VerificationFailed):
                    tree.verify_inclusion(*other)


def test_a_consistency_proof_holds_for_nothing_else(stored, roots):
    for new in range(2, 20):
        for old in range(1, new):
            proof = tree.consistency(stored, old, new)
            for other in (
                (old, new, roots[old - 1], roots[new], proof),
                (old, new, roots[old], roots[new + 1], proof),
                (old, new, roots[old], roots[new], proof[:-1]),
                (old, new, roots[old], roots[new], [*proof, bytes(32)]),
                (old, new, roots[old], roots[new], [bytes(32), *proof[1:]]),
                (new, old, roots[new], roots[old], proof),
                (old, new, roots[new], roots[old], proof),
            ):
                with pytest.raises(VerificationFailed):
                    tree.verify_consistency(*other)


def test_equal_sizes_need_equal_roots_and_no_proof(roots):
    tree.verify_consistency(7, 7, roots[7], roots[7], [])
    tree.verify_consistency(0, 7, roots[0], roots[7], [])
    for bad in (
        (7, 7, roots[7], roots[6], []),
        (7, 7, roots[7], roots[7], [bytes(32)]),
        (0, 7, roots[1], roots[7], []),
        (0, 7, roots[0], roots[7], [bytes(32)]),
    ):
        with pytest.raises(VerificationFailed):
            tree.verify_consistency(*bad)


def test_a_prover_refuses_what_is_not_there(stored):
    for call in (
        lambda: tree.inclusion(stored, 5, 5),
        lambda: tree.inclusion(stored, -1, 5),
        lambda: tree.consistency(stored, 6, 5),
    ):
        with pytest.raises(ValueError, match=r"leaf|begin"):
            call()
