"""Identities, sealed boxes and the keystore."""

import copy
import pickle
import stat
from dataclasses import replace

import pytest
from Crypto.PublicKey import ECC
from silo_crypto.errors import KeyUseError, SignatureError
from silo_crypto.keys import PUBLIC_FILE, SEAL_OVERHEAD, SEALING_FILE, SIGNING_FILE, Identity, PublicIdentity, seal
from silo_crypto.protocol import Signer, Verifier


@pytest.fixture(scope="module")
def alice():
    return Identity.generate("alice")


@pytest.fixture(scope="module")
def stored(alice, tmp_path_factory):
    directory = tmp_path_factory.mktemp("home") / "keys"
    alice.save(directory, "a passphrase: żółw")
    return directory


def test_an_identity_is_a_signer_and_its_public_half_a_verifier(alice):
    signer: Signer = alice
    verifier: Verifier = alice.public()
    verifier.verify(b"message", signer.sign(b"message"))
    assert signer.name == verifier.name == "alice"


@pytest.mark.parametrize("change", ["message", "signature", "length", "key"])
def test_a_signature_holds_for_its_message_and_key_only(alice, change):
    signature, message, public = alice.sign(b"message"), b"message", alice.public()
    if change == "message":
        message = b"Message"
    elif change == "signature":
        signature = bytes([signature[0] ^ 1]) + signature[1:]
    elif change == "length":
        signature = signature[:-1]
    else:
        public = Identity.generate("alice").public()
    with pytest.raises(SignatureError, match="signature of alice does not hold"):
        public.verify(message, signature)


def test_ed25519_is_the_one_of_rfc_8032():
    """Test 3 of RFC 8032 section 7.1."""
    seed = bytes.fromhex("c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7")
    key = ECC.construct(curve="Ed25519", seed=seed)
    identity = Identity("rfc", key, ECC.generate(curve="Curve25519"))
    assert identity.sign(bytes.fromhex("af82")).hex() == (
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
        "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"
    )


def test_a_box_opens_for_its_recipient_and_purpose_only(alice):
    box = seal(alice.public(), b"purpose", b"a key")
    assert len(box) == 5 + SEAL_OVERHEAD
    assert alice.open(b"purpose", box) == b"a key"
    assert seal(alice.public(), b"purpose", b"a key") != box
    for info, wrong in (
        (b"other", box),
        (b"purpose", box[:-1]),
        (b"purpose", box[:31]),
        (b"purpose", b""),
        (b"purpose", bytes(len(box))),
        (b"purpose", box[:40] + bytes([box[40] ^ 1]) + box[41:]),
    ):
        with pytest.raises(KeyUseError, match="does not open for alice"):
            alice.open(info, wrong)
    with pytest.raises(KeyUseError, match="does not open for bob"):
        Identity.generate("bob").open(b"purpose", box)


def test_public_identities_survive_json(alice):
    assert PublicIdentity.from_json(alice.public().to_json()) == alice.public()


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": "a"},
        {"name": "a", "keys": {"ed25519": "!", "x25519": "!"}},
        {"name": 1, "keys": {"ed25519": "", "x25519": ""}},
        {"name": "a", "keys": []},
    ],
)
def test_malformed_public_identities_are_refused(body):
    with pytest.raises(KeyUseError):
        PublicIdentity.from_json(body)


@pytest.mark.parametrize("name", ["", "Alice", "a b", "a" * 33, "a/b", "a\n"])
def test_names_are_plain(alice, name):
    with pytest.raises(KeyUseError, match="is not a name"):
        replace(alice.public(), name=name)


@pytest.mark.parametrize("raw", [bytes(32), b"\1" + bytes(31), b"\xff" * 32, bytes(31), b""])
def test_points_of_low_order_or_off_the_curve_are_no_keys(alice, raw):
    for field in ("ed25519", "x25519"):
        # 2^256 - 1 is a valid encoding for X25519 (RFC 7748 masks the top bit and reduces).
        if field == "x25519" and raw == b"\xff" * 32:
            continue
        with pytest.raises(KeyUseError, match="not a point of its curve"):
            replace(alice.public(), **{field: raw})


def test_saved_keys_come_back_and_are_protected(alice, stored):
    loaded = Identity.load(stored, "a passphrase: żółw".encode())
    assert loaded.public() == alice.public()
    alice.public().verify(b"m", loaded.sign(b"m"))
    assert loaded.open(b"i", seal(alice.public(), b"i", b"p")) == b"p"
    for file in (SIGNING_FILE, SEALING_FILE):
        assert stat.S_IMODE((stored / file).stat().st_mode) == 0o600
        assert (stored / file).read_text().startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert stat.S_IMODE(stored.stat().st_mode) == 0o700


def test_the_file_format_is_scrypt_and_aes_256_gcm(stored):
    from base64 import b64decode

    der = b64decode("".join((stored / SIGNING_FILE).read_text().splitlines()[1:-1]))
    assert bytes.fromhex("06092b06010401da47040b") in der  # scrypt, 1.3.6.1.4.1.11591.4.11
    assert bytes.fromhex("060960864801650304012e") in der  # aes256-GCM, 2.16.840.1.101.3.4.1.46
    assert b"\x02\x03\x01\x00\x00" in der  # N = 65536


def test_keys_are_never_overwritten(alice, stored):
    with pytest.raises(KeyUseError, match="cannot write"):
        alice.save(stored, "x")


def test_a_wrong_passphrase_opens_nothing(stored):
    with pytest.raises(KeyUseError, match="wrong passphrase or damaged"):
        Identity.load(stored, "another")
    with pytest.raises(KeyUseError, match="without a passphrase"):
        Identity.load(stored, "")


@pytest.mark.parametrize("damage", ["mode", "plain", "swapped", "missing", "public", "truncated"])
def test_a_damaged_keystore_is_refused(alice, stored, tmp_path, damage):
    import shutil

    home = tmp_path / "keys"
    shutil.copytree(stored, home)
    expected = {
        "mode": "mode 0640",
        "plain": "not encrypted",
        "swapped": "holds no",
        "missing": "cannot read",
        "public": "not those of the private keys",
        "truncated": "wrong passphrase or damaged",
    }[damage]
    key = home / SIGNING_FILE
    if damage == "mode":
        key.chmod(0o640)
    elif damage == "plain":
        key.write_text(ECC.generate(curve="Ed25519").export_key(format="PEM"))
    elif damage == "swapped":
        key.write_bytes((home / SEALING_FILE).read_bytes())
    elif damage == "missing":
        key.unlink()
    elif damage == "public":
        import json

        (home / PUBLIC_FILE).write_text(json.dumps(Identity.generate("alice").public().to_json()))
    else:
        key.write_text(key.read_text()[:200])
    with pytest.raises(KeyUseError, match=expected):
        Identity.load(home, "a passphrase: żółw")


def test_secrets_show_in_no_repr_pickle_or_copy(alice):
    seed = alice._signing.seed.hex()
    assert repr(alice) == str(alice) == "Identity('alice', <secret>)"
    assert seed not in f"{alice!r}{alice.public()!r}"
    assert not hasattr(alice, "__dict__")
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="never pickled or copied"):
            attempt(alice)


def test_a_failed_opening_carries_no_cause_with_key_material(alice):
    with pytest.raises(KeyUseError) as caught:
        alice.open(b"", bytes(64))
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("alias", ["high bit", "plus p"])
def test_a_sealing_key_has_one_encoding(alias):
    """X25519 ignores bit 255 and reduces modulo p: other bytes for somebody's key would pass as another key."""
    known = Identity.generate("alice").public()
    small = (5).to_bytes(32, "little")
    key, other = (known.x25519, known.x25519[:31] + bytes([known.x25519[31] | 0x80]))
    if alias == "plus p":
        key, other = small, ((1 << 255) - 19 + 5).to_bytes(32, "little")
    PublicIdentity("alice", known.ed25519, key)
    with pytest.raises(KeyUseError, match="not a point"):
        PublicIdentity("mallory", known.ed25519, other)
