"""A log of 100 entries, made once; tests copy it."""

import shutil

import pytest

from silo.log import Log

ORIGIN = "silo/cleveland"
DIGEST = "sha256:" + "ab" * 32


@pytest.fixture(scope="session")
def hundred(tmp_path_factory):
    """The path of a closed log of 100 entries of several kinds."""
    path = tmp_path_factory.mktemp("log") / "log.db"
    with Log(path, ORIGIN) as log:
        log.extend([("fault", {"what": f"fault {number}"}) for number in range(80)])
        for number in range(20):
            body = {"run": "7", "round": number, "attempt": 0, "silo": "cleveland", "digest": DIGEST}
            log.append("upload", body)
    return path


@pytest.fixture
def copy(hundred, tmp_path):
    """The path of a copy that a test may spoil."""
    return shutil.copy(hundred, tmp_path / "log.db")
