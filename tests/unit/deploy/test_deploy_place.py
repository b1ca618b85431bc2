"""Certificates and the files of a transport: private, matching, and refused when they are not."""

from __future__ import annotations

import os
import signal
import ssl
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from silo.deploy.certificates import check_given, make_authority, make_certificate
from silo.deploy.place import Place
from silo.deploy.supervisor import end_leftovers
from silo.errors import ConfigError
from silo.home import Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.create(tmp_path / "home", "aggregator")


def test_keys_and_the_secret_are_private(home: Home) -> None:
    place = Place.create(home, hosts=["fl.example.org", "127.0.0.1"], listen=("127.0.0.1", 9443))
    assert Place.open(home).settings == place.settings
    for name in ("edge.key", "authority.key", "local/server.key", "local/secret"):
        assert stat.S_IMODE(place.path(name).stat().st_mode) == 0o600
    assert stat.S_IMODE(place.path("local").stat().st_mode) == 0o700
    place.path("local/secret").chmod(0o644)
    with pytest.raises(ConfigError, match="others can read it"):
        Place.open(home)


def test_a_made_certificate_holds_for_its_hosts_only(home: Home, tmp_path: Path) -> None:
    place = Place.create(home, hosts=["fl.example.org"], listen=("127.0.0.1", 9443))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(place.path("edge.crt"), place.path("edge.key"))
    client = ssl.create_default_context(cafile=str(place.path("authority.crt")))
    for name, holds in (("fl.example.org", True), ("other.example.org", False)):
        assert _handshake(client, server, name) is holds
    other = ssl.create_default_context(cadata=make_authority("other").certificate.decode())
    assert _handshake(other, server, "fl.example.org") is False


def _handshake(client: ssl.SSLContext, server: ssl.SSLContext, name: str) -> bool:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client.wrap_bio(to_client, to_server, server_hostname=name)
    far = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for end in (near, far):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError:
                return False
    return near.version() is not None


def test_given_certificates_are_checked(home: Home, tmp_path: Path) -> None:
    authority = make_authority("given")
    pair, other = (make_certificate(authority, ["fl.example.org"]) for _ in range(2))
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    certificate.write_bytes(pair.certificate)
    key.write_bytes(other.key)
    with pytest.raises(ConfigError, match="not the certificate's"):
        Place.create(home, hosts=["x"], listen=("127.0.0.1", 1), given=(certificate, key))
    with pytest.raises(ConfigError, match="in PEM"):
        check_given(b"no", b"no", where=certificate)
    key.write_bytes(pair.key)
    place = Place.create(home, hosts=["x"], listen=("127.0.0.1", 1), given=(certificate, key))
    assert place.root_certificate is None
    with pytest.raises(ConfigError, match="has a transport already"):
        Place.create(home, hosts=["x"], listen=("127.0.0.1", 1))
    assert "PRIVATE" not in repr(pair)


@pytest.mark.parametrize("settled", [True, False])
def test_a_child_ends_with_its_parent(settled: bool) -> None:
    import subprocess
    import sys
    import time

    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os, subprocess, sys, time\n"
            "command = [sys.executable, '-m', 'silo.deploy.child', str(os.getpid()), 'sleep', '60']\n"
            "child = subprocess.Popen(command)\n"
            "print(child.pid, flush=True)\ntime.sleep(60)",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    child = Path("/proc") / parent.stdout.readline().strip()
    end = time.monotonic() + 60
    if settled:
        while (child / "cmdline").read_bytes() != b"sleep\x0060\x00" and time.monotonic() < end:
            time.sleep(0.02)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    while _alive(child) and time.monotonic() < end:
        time.sleep(0.02)
    assert not _alive(child)


def _alive(process: Path) -> bool:
    try:
        return process.joinpath("stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_a_killed_supervisor_left_behind_is_ended_and_nothing_else(home: Home, tmp_path: Path) -> None:
    place = Place.create(home, hosts=["localhost"], listen=("127.0.0.1", 9443))

    def sleeping(flower: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", "print(flush=True); import time; time.sleep(60)"]
        child = subprocess.Popen(command, env={**os.environ, "FLWR_HOME": str(flower)}, stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        return child

    with sleeping(place.path("local/flwr")) as ours, sleeping(tmp_path / "flwr") as other:
        try:
            end_leftovers(place)
            assert ours.wait(20) == -signal.SIGKILL
            assert other.poll() is None
        finally:
            ours.kill()
            other.kill()
