"""`silo doctor`: every kind of trouble is found, named and told how to mend; a sound home has none."""

from __future__ import annotations

import datetime
import ipaddress
import shutil
import socket
import ssl
import threading
from collections.abc import Iterator
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from silo.home import Home
from tests.cli.conftest import Command


def finding(silo: Command, home: Path, name: str, *words: str | Path, status: int = 0) -> dict[str, Any]:
    """Return the one finding of a name; the verdict must fit the status."""
    facts = silo("doctor", "--home", home, "--json", *words, status=status).json
    assert facts["ok"] == (status == 0)
    found = [each for each in facts["findings"] if each["name"] == name]
    assert len(found) == 1, facts
    assert found[0]["state"] == "ok" or found[0]["fix"], "what is wrong is told how to mend"
    return dict(found[0])


def test_a_sound_home_is_fit(silo: Command, alpha: Path) -> None:
    facts = silo("doctor", "--home", alpha, "--json").json
    states = {each["name"]: each["state"] for each in facts["findings"]}
    well = ("python", "packages", "key files", "disk", "ledger", "log", "consortium", "pack baseline", "data heart")
    assert {states[name] for name in well} == {"ok"}, states
    assert states["aggregator"] == "warn"
    assert "ok    ledger: " in silo("doctor", "--home", alpha).out


def test_no_home_at_all(silo: Command, tmp_path: Path) -> None:
    assert "silo init" in finding(silo, tmp_path / "none", "home", status=3)["fix"]


def test_the_passphrase_counts_where_it_lies(silo: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SILO_PASSPHRASE", "correct horse battery staple")
    silo("init", "--name", "alpha", "--home", tmp_path / "a")
    assert finding(silo, tmp_path / "a", "keys")["state"] == "ok"
    monkeypatch.setenv("SILO_PASSPHRASE", "wrong")
    found = finding(silo, tmp_path / "a", "keys", status=3)
    assert "correct" not in str(found)
    assert "SILO_PASSPHRASE" in found["fix"]


def test_a_key_that_others_can_read(silo: Command, alpha: Path) -> None:
    (alpha / "keys" / "node.p384.pem").chmod(0o640)
    found = finding(silo, alpha, "key files", status=3)
    assert "node.p384.pem has mode 0640" in found["found"]


@pytest.mark.parametrize(("file", "name"), [("ledger.db", "ledger"), ("log.db", "log")])
def test_a_damaged_database(silo: Command, alpha: Path, file: str, name: str) -> None:
    path = alpha / file
    content = bytearray(path.read_bytes())
    content[4096:4296] = bytes(200)
    path.write_bytes(bytes(content))
    for left in (path.with_name(f"{file}-wal"), path.with_name(f"{file}-shm")):
        left.unlink(missing_ok=True)
    assert finding(silo, alpha, name, status=3)["state"] == "fail"


def test_a_pack_that_is_not_what_was_pinned(silo: Command, alpha: Path) -> None:
    pack = alpha / "policy" / "consortium" / "baseline.yaml"
    pack.write_text(pack.read_text().replace("2030", "2031"))
    assert finding(silo, alpha, "policy packs", status=3)["state"] == "fail"


def test_a_pack_and_a_consortium_that_end(silo: Command, alpha: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from silo.cli import checks

    class Late(datetime.datetime):
        shift = datetime.timedelta(days=350)

        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
            return datetime.datetime.now(tz) + cls.shift

    monkeypatch.setattr(checks, "datetime", Late)
    assert finding(silo, alpha, "consortium")["state"] == "warn"
    Late.shift = datetime.timedelta(days=400)
    assert finding(silo, alpha, "consortium", status=3)["state"] == "fail"
    Late.shift = datetime.timedelta(days=5000)
    assert "ended" in finding(silo, alpha, "pack baseline", status=3)["found"]
    Late.shift = datetime.timedelta(days=-2)
    assert "before the log's last entry" in finding(silo, alpha, "clock", status=3)["found"]


def test_a_table_that_is_gone(silo: Command, alpha: Path) -> None:
    home = Home.open(alpha)
    (dataset,) = home.data()
    home.add_dataset(dataset.model_copy(update={"source": "/nowhere/heart.csv"}))
    assert "/nowhere/heart.csv" in finding(silo, alpha, "data heart", status=3)["found"]


@pytest.mark.parametrize(("free", "state", "status"), [(50 << 20, "fail", 3), (500 << 20, "warn", 0)])
def test_little_disk(
    silo: Command, alpha: Path, monkeypatch: pytest.MonkeyPatch, free: int, state: str, status: int
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    assert finding(silo, alpha, "disk", status=status)["state"] == state


# The aggregator ------------------------------------------------------------------------------------------------------


class Answering:
    """A TLS server on loopback whose certificate and clock are chosen."""

    def __init__(self, folder: Path, days: int, ahead: float) -> None:
        self.certificate = folder / "server.crt"
        self._ahead = datetime.timedelta(seconds=ahead)
        _write_certificate(self.certificate, folder / "server.key", days)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, folder / "server.key")
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self._context = context
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._socket.accept()
            except OSError:
                return
            try:
                with self._context.wrap_socket(plain, server_side=True) as channel:
                    channel.recv(1024)
                    date = format_datetime(datetime.datetime.now(datetime.UTC) + self._ahead, usegmt=True)
                    channel.sendall(f"HTTP/1.1 404 Not Found\r\nDate: {date}\r\n\r\n".encode())
            except OSError:
                continue

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(10)


@pytest.fixture
def answering(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Answering]:
    days, ahead = request.param
    server = Answering(tmp_path, days, ahead)
    yield server
    server.close()


@pytest.mark.parametrize(
    ("answering", "certificate", "clock", "status"),
    [
        ((300, 0), "ok", "ok", 0),
        ((10, 0), "warn", "ok", 0),
        ((300, 60), "ok", "warn", 0),
        ((300, -600), "ok", "fail", 3),
    ],
    indirect=["answering"],
)
def test_an_aggregator_that_answers(
    silo: Command, alpha: Path, answering: Answering, certificate: str, clock: str, status: int
) -> None:
    words = ("--aggregator", answering.address, "--root-certificate", answering.certificate)
    facts = silo("doctor", "--home", alpha, "--json", *words, status=status).json
    states = {each["name"]: each["state"] for each in facts["findings"]}
    assert (states["aggregator"], states["certificate"], states["clock"]) == ("ok", certificate, clock)


@pytest.mark.parametrize("answering", [(300, 0), (-1, 0)], indirect=True)
def test_an_aggregator_nobody_vouches_for(silo: Command, alpha: Path, answering: Answering) -> None:
    """A certificate of an authority that is not known here, and one that has expired."""
    assert "certificate" in finding(silo, alpha, "aggregator", "--aggregator", answering.address, status=3)["fix"]


def test_an_aggregator_that_is_not_there(silo: Command, alpha: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    assert "does not answer" in finding(silo, alpha, "aggregator", "--aggregator", address, status=3)["found"]
    assert finding(silo, alpha, "aggregator", "--aggregator", "nonsense", status=3)["state"] == "fail"


def _write_certificate(path: Path, key_path: Path, days: int) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=30))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
