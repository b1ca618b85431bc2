"""A log as static files: the layout of C2SP tlog-tiles, and that a client that believes nothing finds every change."""

import hashlib
import struct

import pytest
from silo_crypto.keys import Identity

from silo.errors import SiloError, VerificationFailed
from silo.log import Log, log_key
from silo.log.tiles import _name, export, read, root_of
from silo.log.tree import EMPTY_ROOT

ORIGIN = "silo/cleveland"


@pytest.fixture(scope="module")
def keeper():
    return Identity.generate("cleveland")


@pytest.fixture(scope="module")
def exported(tmp_path_factory, keeper):
    folder = tmp_path_factory.mktemp("tiles")
    with Log(folder / "log.db", ORIGIN) as log:
        log.extend([("fault", {"what": f"fault {number}"}) for number in range(600)])
        export(log, log.checkpoint(keeper), folder / "out")
    return folder / "out"


def test_the_layout_is_that_of_tlog_tiles(exported):
    files = {str(path.relative_to(exported)): path.read_bytes() for path in exported.rglob("*") if path.is_file()}
    assert set(files) == {
        "checkpoint",
        "tile/0/000",
        "tile/0/001",
        "tile/0/002.p/88",
        "tile/1/000.p/2",
        "tile/entries/000",
        "tile/entries/001",
        "tile/entries/002.p/88",
    }
    assert len(files["tile/0/000"]) == 8192
    (size,) = struct.unpack(">H", files["tile/entries/000"][:2])
    first = files["tile/entries/000"][2 : 2 + size]
    assert hashlib.sha256(b"\0" + first).digest() == files["tile/0/000"][:32]


def test_names_are_those_of_the_specification():
    assert _name(1234067, 256) == "x001/x234/067"
    assert _name(0, 256) == "000"
    assert _name(273, 112) == "273.p/112"
    assert _name(1000, 256) == "x001/000"


def test_reading_gives_the_entries_back(exported, keeper):
    head, entries = read(exported, log_key(ORIGIN, keeper.public()))
    assert head.size == len(entries) == 600
    assert entries[599].body == {"what": "fault 599"}


@pytest.mark.parametrize("size", [0, 1, 2, 255, 256, 257])
def test_every_shape_of_tree_is_read_back(tmp_path, keeper, size):
    with Log(tmp_path / "log.db", ORIGIN) as log:
        log.extend([("fault", {"what": "x"})] * size)
        head = export(log, log.checkpoint(keeper), tmp_path / "out")
    assert read(tmp_path / "out", log_key(ORIGIN, keeper.public()))[0].root == head.root
    assert root_of([]) == EMPTY_ROOT


def test_a_change_in_any_file_is_named(exported, keeper, tmp_path):
    key = log_key(ORIGIN, keeper.public())
    for path in sorted(path for path in exported.rglob("*") if path.is_file()):
        before = path.read_bytes()
        for at in (0, len(before) // 2, len(before) - 1):
            forged = bytearray(before)
            forged[at] ^= 1
            path.write_bytes(bytes(forged))
            with pytest.raises(SiloError):
                read(exported, key)
        path.write_bytes(before + b"x")
        with pytest.raises(SiloError):
            read(exported, key)
        path.write_bytes(before)
    read(exported, key)


def test_a_checkpoint_of_another_log_is_not_exported(exported, keeper, tmp_path):
    with Log(tmp_path / "log.db", ORIGIN) as log:
        log.append("fault", {"what": "alone"})
        with pytest.raises(VerificationFailed):
            export(log, (exported / "checkpoint").read_text(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
