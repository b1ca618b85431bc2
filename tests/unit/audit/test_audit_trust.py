"""Keys come from the caller alone, and two for one log are one too many."""

import pytest
from silo_crypto.keys import Identity

from silo.audit import Trust
from silo.errors import ConfigError
from silo.log import log_key, witness_key


@pytest.fixture(scope="module")
def cleveland():
    return Identity.generate("cleveland").public()


@pytest.fixture(scope="module")
def hungary():
    return Identity.generate("hungary").public()


def test_a_file_of_vkeys(cleveland, hungary):
    lines = [
        "# given by the steward",
        str(log_key("silo/cleveland", cleveland)),
        "",
        f"{witness_key(hungary)}  # a witness",
    ]
    trust = Trust.of_file("\n".join(lines).encode())
    assert trust.log("silo/cleveland").ed25519 == cleveland.ed25519
    assert trust.others("silo/cleveland") == (witness_key(hungary),)


def test_nobody_witnesses_themselves(cleveland, hungary):
    trust = Trust.of_keys([log_key("silo/cleveland", cleveland), witness_key(cleveland), witness_key(hungary)])
    assert trust.others("silo/cleveland") == (witness_key(hungary),)


def test_a_log_without_a_key_and_a_log_with_two(cleveland, hungary):
    one = Trust.of_keys([log_key("silo/cleveland", cleveland)])
    with pytest.raises(ConfigError, match="no key for the log silo/hungary"):
        one.log("silo/hungary")
    other = Trust.of_keys([log_key("silo/cleveland", hungary)])
    with pytest.raises(ConfigError, match="two keys for one log"):
        one | other
    with pytest.raises(ConfigError, match="two keys for one log"):
        Trust.of_keys([*one.logs.values(), *other.logs.values()])
    assert (one | one) == one


def test_what_is_neither_keys_nor_a_manifest_is_refused():
    for content in (b"not a key", b"\xff\xfe"):
        with pytest.raises(ConfigError):
            Trust.of_file(content)
