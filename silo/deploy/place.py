"""The files of an aggregator's transport, in ``transport/`` of its home.

    edge.toml                          where the edge listens, and the SuperLink's port on loopback
    edge.crt, edge.key                 the edge's certificate, given or made
    authority.crt, authority.key       who signed a certificate that was made: silos get authority.crt
    local/{authority,server}.{crt,key} for loopback only: Flower authenticates nodes only over TLS
    local/secret                       what SuperLink and SuperExec share
    local/superlink.db, local/flwr/    Flower's own state
    status.json, *.log                 talk, not evidence

Invariant: keys and the secret have mode 0600 in a folder of mode 0700 and are read only if that is so.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field
from silo_policies.documents import AsTuple, Document, Text

from silo.deploy.certificates import Pair, check_given, make_authority, make_certificate
from silo.errors import ConfigError
from silo.home import Home
from silo.home.keys import read_private
from silo.home.settings import checked
from silo.storage import write_atomically

FOLDER = "transport"
DEFAULT_PORT = 9443


class EdgeSettings(Document):
    """``edge.toml``. ``hosts`` are the names and addresses that silos and researchers use."""

    listen_host: Text
    listen_port: Annotated[int, Field(ge=1, le=65535)]
    superlink_port: Annotated[int, Field(ge=1, le=65535)]
    hosts: Annotated[tuple[Text, ...], AsTuple, Field(min_length=1)]


@dataclass(frozen=True)
class Place:
    """An aggregator's home with its transport."""

    home: Home
    settings: EdgeSettings

    @classmethod
    def create(
        cls,
        home: Home,
        *,
        hosts: Sequence[str],
        listen: tuple[str, int],
        superlink_port: int | None = None,
        given: tuple[Path, Path] | None = None,
    ) -> Place:
        """Make the transport of a home; ``given`` is (certificate, key), else both are made for ``hosts``."""
        folder = home.path / FOLDER
        settings = checked(
            EdgeSettings,
            {
                "listen_host": listen[0],
                "listen_port": listen[1],
                "superlink_port": superlink_port or free_port(),
                "hosts": list(hosts),
            },
            folder / "edge.toml",
        )
        if folder.exists():
            raise ConfigError("the home has a transport already", where=str(folder), fix="edit edge.toml, or remove it")
        pair, authority = (_read_given(*given), None) if given else _made(home.name, hosts)
        try:
            for made in (folder, folder / "local"):
                made.mkdir(mode=0o700)
        except OSError as error:
            raise ConfigError(f"cannot make the folder: {error.strerror}", where=str(folder)) from error
        if authority is not None:
            write_atomically(folder / "authority.crt", authority.certificate, mode=0o644)
            write_atomically(folder / "authority.key", authority.key)
        write_atomically(folder / "edge.crt", pair.certificate, mode=0o644)
        write_atomically(folder / "edge.key", pair.key)
        local, local_authority = _made(f"{home.name} loopback", ("localhost", "127.0.0.1"))
        write_atomically(folder / "local" / "authority.crt", local_authority.certificate, mode=0o644)
        write_atomically(folder / "local" / "server.crt", local.certificate, mode=0o644)
        write_atomically(folder / "local" / "server.key", local.key)
        write_atomically(folder / "local" / "secret", os.urandom(32).hex().encode())
        import tomli_w

        # Last: who finds it finds the rest.
        write_atomically(folder / "edge.toml", tomli_w.dumps(settings.to_dict()).encode())
        return cls(home, settings)

    @classmethod
    def open(cls, home: Home) -> Place:
        """Open the transport of an aggregator's home; raise :class:`ConfigError` if it has none, or it cannot serve."""
        import tomllib

        path = home.path / FOLDER / "edge.toml"
        try:
            body = tomllib.loads(path.read_text())
        except OSError as error:
            raise ConfigError(
                "the home has no transport", where=str(path), fix="make it with: silo aggregator init"
            ) from error
        except ValueError as error:
            raise ConfigError(f"not TOML: {error}", where=str(path), fix="correct it") from error
        place = cls(home, checked(EdgeSettings, body, path))
        for name in ("edge.key", "local/server.key", "local/secret"):
            read_private(place.path(name))
        check_given(
            place.path("edge.crt").read_bytes(), place.path("edge.key").read_bytes(), where=place.path("edge.crt")
        )
        return place

    def path(self, name: str) -> Path:
        """Return the path of one of the transport's files."""
        return self.home.path / FOLDER / name

    @property
    def superlink(self) -> str:
        """``host:port`` of the SuperLink on loopback."""
        return f"127.0.0.1:{self.settings.superlink_port}"

    @property
    def root_certificate(self) -> Path | None:
        """What silos and researchers need to trust the edge; None if its certificate was given."""
        path = self.path("authority.crt")
        return path if path.exists() else None


def free_port() -> int:
    """Return a port of loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _made(name: str, hosts: Sequence[str]) -> tuple[Pair, Pair]:
    authority = make_authority(name)
    return make_certificate(authority, hosts), authority


def _read_given(certificate: Path, key: Path) -> Pair:
    try:
        pair = Pair(certificate.read_bytes(), key.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read the file: {error.strerror}", where=str(error.filename)) from error
    check_given(pair.certificate, pair.key, where=certificate)
    return pair
