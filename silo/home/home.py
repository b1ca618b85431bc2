"""A home: the directory that holds everything one party has. All paths of the product that are its own start here.

    silo.toml          who it is                          policy/*.yaml, pins.toml  its own packs, and their digests
    data.toml          its data sets                      policy/consortium/*.yaml  the packs its consortium pins
    keys/              identity, sealing and node keys    approvals/, waivers/      what its people signed
    aggregator.crt     whom its agent trusts over TLS     transport/       an aggregator's (silo.deploy.place)
    consortium.json    the manifest it joined             ledger.db, log.db         budget and log
    shares.db          key shares (threshold custody)     runs/RUN/                 what one run left

Invariant: a home is there whole or not at all, and so is every file in it: each is written beside its place, flushed,
and renamed. Reading checks form and file modes first and raises :class:`~silo.errors.ConfigError` with the path.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar

from silo_crypto.errors import KeyUseError
from silo_crypto.keys import PUBLIC_FILE, Identity, PublicIdentity
from silo_policies import (
    Approval,
    ConsortiumManifest,
    Keys,
    Pack,
    Signed,
    SignedBody,
    Signer,
    Waiver,
    canonical,
    code_signers,
    parse_json,
    parse_pack,
    parse_signed,
    sign,
)

from silo.canonical import is_digest
from silo.errors import ConfigError, VerificationFailed
from silo.home.keys import (
    NODE_FILE,
    NODE_PUBLIC_FILE,
    check_directories,
    create_identity,
    create_keys,
    epoch_directory,
    load_identity,
    read_private,
)
from silo.home.parsed import Parsed
from silo.home.settings import (
    DataSet,
    Settings,
    checked,
    read_data,
    read_pins,
    read_settings,
    write_data,
    write_pins,
    write_settings,
)
from silo.ledger import Ledger
from silo.log import Log
from silo.storage import sync_directory, write_atomically

HOME_VARIABLE = "SILO_HOME"
APPROVAL_DAYS = 365
CONSORTIUM_FILE, ROOT_FILE = "consortium.json", "aggregator.crt"
_FOLDERS = ("policy", "policy/consortium", "approvals", "waivers", "runs")
_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

Body = TypeVar("Body", bound=SignedBody)
Opened = TypeVar("Opened", Log, Ledger)


def default_path() -> Path:
    """Return ``$SILO_HOME``, or ``~/.silo`` if it is not set."""
    given = os.environ.get(HOME_VARIABLE)
    return Path(given) if given else Path.home() / ".silo"


class Home:
    """One party's directory; open it with :meth:`open`, make it with :meth:`create`."""

    def __init__(self, path: Path, settings: Settings, *, read_only: bool = False) -> None:
        self.path = path
        self.settings = settings
        self.read_only = read_only
        self._identity: Identity | None = None
        self._parsed = Parsed()

    @classmethod
    def create(
        cls,
        path: Path,
        name: str,
        *,
        display_name: str = "",
        organisation_type: str = "organisation",
        jurisdiction: str = "ZZ",
        data: Iterable[DataSet] = (),
    ) -> Home:
        """Make a new home with new keys; ``jurisdiction`` ZZ is ISO 3166's "unknown".

        Raises :class:`ConfigError` for a name that is not ``[a-z0-9-]{1,32}``, or if there is something at ``path``.
        """
        fields = {
            "name": name,
            "display_name": display_name or name,
            "organisation_type": organisation_type,
            "jurisdiction": jurisdiction,
        }
        path = path.absolute()
        settings = checked(Settings, fields, path)
        temporary: Path | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_symlink() or (path.exists() and (not path.is_dir() or any(path.iterdir()))):
                raise ConfigError("something is already there", where=str(path), fix="choose a new or empty folder")
            temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))  # mode 0700
            _fill(temporary, settings, data)
            temporary.rename(path)
            sync_directory(path.parent)
        except OSError as error:
            raise ConfigError(
                f"cannot make the home: {error.strerror}",
                where=str(path),
                fix="check the folder's owner and free space",
            ) from error
        finally:
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)
        return cls.open(path)

    @classmethod
    def open(cls, path: Path | None = None, *, read_only: bool = False) -> Home:
        """Open the home at ``path``, or the default one.

        With ``read_only`` nothing in it is written and it needs no keys: so an auditor opens a copy, whose modes are
        the auditor's own affair. Raises :class:`ConfigError` if there is none, it cannot be read, or (unless only read)
        others could change it or read its keys.
        """
        path = (path or default_path()).absolute()
        if not read_only:
            check_directories(path, path / "keys")
        elif not path.is_dir():
            raise ConfigError("not a home", where=str(path), fix="give a home, or a copy of one")
        return cls(path, read_settings(path), read_only=read_only)

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def origin(self) -> str:
        """The name its log has in checkpoints."""
        return f"silo/{self.name}"

    @property
    def keys_directory(self) -> Path:
        return self.path / "keys"

    @property
    def identity_directory(self) -> Path:
        """Where the signing and sealing keys in use lie."""
        return epoch_directory(self.keys_directory, self.settings.key_epoch)

    @property
    def shares_path(self) -> Path:
        return self.path / "shares.db"

    # Keys

    def identity(self) -> Identity:
        """Return the signing and sealing keys, decrypted once; raise ConfigError or KeyUseError if that fails."""
        if self._identity is None:
            self._identity = self._load_identity(self.settings.key_epoch)
        return self._identity

    def _load_identity(self, epoch: int) -> Identity:
        directory = epoch_directory(self.keys_directory, epoch)
        identity = load_identity(directory)
        if identity.name != self.name:
            raise ConfigError(f"these are the keys of {identity.name}", where=str(directory))
        return identity

    def public(self, epoch: int | None = None) -> PublicIdentity:
        """Return the public keys in use, or those of another key epoch; needs no passphrase."""
        path = epoch_directory(self.keys_directory, self.settings.key_epoch if epoch is None else epoch) / PUBLIC_FILE
        try:
            return PublicIdentity.from_json(parse_json(path.read_bytes(), where=str(path)))
        except OSError as error:
            raise KeyUseError("no readable identity", where=str(path), fix="run `silo init`") from error

    def next_identity(self) -> tuple[Identity, bool]:
        """Return the keys of the next key epoch and whether they were made now; they are in use once joined."""
        epoch = self.settings.key_epoch + 1
        directory = epoch_directory(self.keys_directory, epoch)
        made = not directory.exists()
        if made:
            temporary = Path(tempfile.mkdtemp(prefix=".epoch.", dir=self.keys_directory))
            try:
                create_identity(temporary / "keys", self.name)
                (temporary / "keys").rename(directory)
                sync_directory(self.keys_directory)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        return self._load_identity(epoch), made

    def epoch_of(self, keys: PublicIdentity) -> int | None:
        """Return the key epoch, that in use or the next, whose public keys these are; None for any other."""
        if keys == self.public():
            return self.settings.key_epoch
        epoch = self.settings.key_epoch + 1
        there = epoch_directory(self.keys_directory, epoch).exists()
        return epoch if there and keys == self.public(epoch) else None

    def open_box(self, info: bytes, box: bytes) -> bytes:
        """Return what was sealed to this home, under the keys in use or any it had before; else raise KeyUseError."""
        for epoch in range(self.settings.key_epoch, 0, -1):
            with contextlib.suppress(KeyUseError):
                return self._load_identity(epoch).open(info, box)
        return self._load_identity(0).open(info, box)

    def node_key(self) -> bytes:
        """Return the node's P-384 key for Flower: OpenSSH private key format, not encrypted."""
        return read_private(self.keys_directory / NODE_FILE)

    def node_public_key(self) -> str:
        """Return the public half of the node's key: one line as OpenSSH writes it, without a comment."""
        path = self.keys_directory / NODE_PUBLIC_FILE
        try:
            return " ".join(path.read_text(encoding="ascii").split()[:2])
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError("no readable node key", where=str(path), fix="restore it, or make a new home") from error

    # Data, budget, log

    def data(self) -> tuple[DataSet, ...]:
        """Return the data sets of ``data.toml``."""
        return read_data(self.path)

    def add_dataset(self, dataset: DataSet) -> None:
        """Add a data set to ``data.toml``, or replace the one of the same name."""
        others = [one for one in self.data() if one.name != dataset.name]
        write_data(self.path, [*others, dataset])

    def ledger(self) -> Ledger:
        """Open the ledger, with every population of ``data.toml`` in it; close it after use.

        Raises :class:`ConfigError` if ``data.toml`` gives a population other terms than it was opened with.
        """
        if self.read_only:
            return self._looked_at(self.path / "ledger.db", lambda kept: Ledger(self.path / "ledger.db", **kept))
        data = self.data()
        ledger = Ledger(self.path / "ledger.db", create=False)
        try:
            for one in data:
                ledger.open_population(one.population, one.epsilon_cap, one.delta, one.filter, unit=one.unit)
        except BaseException:
            ledger.close()
            raise
        return ledger

    def log(self) -> Log:
        """Open the log; close it after use."""
        path = self.path / "log.db"
        if self.read_only:
            return self._looked_at(path, lambda kept: Log(path, self.origin, **kept))
        return Log(path, self.origin, create=False)

    def _looked_at(self, path: Path, opened: Callable[[dict[str, bool]], Opened]) -> Opened:
        """Open a database without writing; if its last writer was killed, make it whole first, where that is allowed.

        A copy that was made without the files beside it, or that may not be written, has to be complete as it is.
        """
        try:
            return opened({"read_only": True})
        except ConfigError:
            if not path.exists() or not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK):
                raise
            return opened({"create": False})

    # Policies and what people signed

    def packs(self) -> tuple[Pack, ...]:
        """Return the home's own policy packs, in the order of their files."""
        return tuple(self._packs_in(self.path / "policy"))

    def add_pack(self, pack: Pack, text: bytes) -> None:
        """Keep a pack as a policy of this home and pin its digest; ``text`` is the file it was parsed from."""
        write_atomically(self.path / "policy" / f"{pack.id}.yaml", text)
        write_pins(self.path, {**self.pins(), pack.id: pack.digest})

    def remove_pack(self, name: str) -> None:
        """Take back a pack of this home's own."""
        write_pins(self.path, {pack: digest for pack, digest in self.pins().items() if pack != name})
        (self.path / "policy" / f"{name}.yaml").unlink(missing_ok=True)

    def pins(self) -> dict[str, str]:
        """Return the digests of the home's own packs, by id, as they were when they were pinned."""
        return read_pins(self.path)

    def federation_packs(self) -> tuple[Pack, ...]:
        """Return the packs that the consortium pins; raise :class:`VerificationFailed` if one is missing or another."""
        pins = self.consortium().body.packs
        packs = tuple(self._packs_in(self.path / "policy" / "consortium"))
        found = {pack.id: pack.digest for pack in packs}
        if found != pins:
            names = sorted(name for name in pins.keys() | found.keys() if pins.get(name) != found.get(name))
            raise VerificationFailed(
                f"not the packs that the members agreed on: {', '.join(names)}",
                where=str(self.path / "policy" / "consortium"),
                fix="join again with the packs of the manifest",
            )
        return packs

    def join(self, manifest: Signed[ConsortiumManifest], packs: Iterable[Pack]) -> None:
        """Keep a consortium's manifest, its digest and its packs. The caller has verified the manifest."""
        packs = tuple(packs)
        if {pack.id: pack.digest for pack in packs} != manifest.body.packs:
            raise VerificationFailed("the packs are not those of the manifest", where=manifest.body.name)
        folder = self.path / "policy" / "consortium"
        for pack in packs:
            text = canonical(pack.document.model_dump(mode="json", exclude_unset=True))  # JSON is YAML
            if parse_pack(text, pack.origin).digest != pack.digest:
                raise VerificationFailed(
                    f"pack {pack.id} does not survive being written down", where=manifest.body.name
                )
            write_atomically(folder / f"{pack.id}.yaml", text)
        for old in set(folder.glob("*.yaml")) - {folder / f"{pack.id}.yaml" for pack in packs}:
            old.unlink()
        write_atomically(self.path / CONSORTIUM_FILE, manifest.to_json().encode())
        update: dict[str, object] = {"consortium": manifest.body.digest}
        keys = manifest.body.homes.get(self.name)
        epoch = self.epoch_of(_public(self.name, keys)) if keys is not None else self.settings.key_epoch
        if epoch is None:
            raise VerificationFailed("the manifest names this home with other keys", where=manifest.body.name)
        settings = self.settings.model_copy(update={**update, "key_epoch": epoch})
        write_settings(self.path, settings)  # last: it pins the rest
        self.settings, self._identity = settings, None

    def consortium(self) -> Signed[ConsortiumManifest]:
        """Return the manifest this home joined last: the one whose digest ``silo.toml`` pins, read anew each time."""
        path = self.path / CONSORTIUM_FILE
        self.settings = read_settings(self.path)  # while an agent runs, its people may join an amendment
        if self.settings.consortium is None:
            raise ConfigError(
                "the home has joined no consortium", where=str(self.path), fix="run `silo consortium join`"
            )
        signed, digest = self._parsed.of(path, partial(_manifest, where=str(path)))
        if digest != self.settings.consortium:
            raise VerificationFailed("not the manifest that this home joined", where=str(path), fix="join again")
        return signed

    def remember_aggregator(self, address: str | None, root_certificate: bytes | None) -> None:
        """Keep where the agent connects to, and the PEM of the authority behind it; None leaves what is there."""
        if root_certificate is not None:
            write_atomically(self.path / ROOT_FILE, root_certificate, mode=0o644)
        if address is not None:
            fields = {**read_settings(self.path).to_dict(), "aggregator": address}
            self.settings = checked(Settings, fields, self.path)
            write_settings(self.path, self.settings)

    def aggregator_root(self) -> bytes | None:
        """Return the PEM of the authority behind the aggregator's certificate; None for the system's own."""
        path = self.path / ROOT_FILE
        return path.read_bytes() if path.exists() else None

    def approve(
        self, code_digest: str, signer: Signer | None = None, *, note: str = "reviewed", days: int = APPROVAL_DAYS
    ) -> Signed[Approval]:
        """Keep an approval of code, signed by ``signer`` (a steward; else the home's own identity)."""
        signer = signer or self.identity()
        now = datetime.now(UTC)
        if not is_digest(code_digest):
            raise ConfigError(f"{code_digest!r} is no digest", fix="expected sha256:<hex>")
        if not note or days < 1:
            raise ConfigError("an approval has a note and holds for a day or more", fix="say what was reviewed")
        approval = sign(
            Approval(
                code_digest=code_digest, by=signer.name, note=note, created=now, expires=now + timedelta(days=days)
            ),
            signer,
        )
        file = f"{code_digest.removeprefix('sha256:')}.{signer.name}.json"
        write_atomically(self.path / "approvals" / file, approval.to_json().encode())
        return approval

    def approvers(self, code_digest: str) -> tuple[str, ...]:
        """Return whose approval of the code holds now: this home's identity, and its stewards in the consortium."""
        people: dict[str, PublicIdentity] = {self.name: self.public()}
        if self.settings.consortium is not None:
            manifest = self.consortium().body
            people |= {
                person.name: _public(person.name, person.keys)
                for person in manifest.people
                if person.silo == self.name and person.role == "steward"
            }
        approvals = self._signed(Approval, "approvals")
        return code_signers(code_digest, approvals, people, now=datetime.now(UTC))

    def approved(self, code_digest: str) -> bool:
        """Say whether anybody's approval of exactly this code holds now."""
        return bool(self.approvers(code_digest))

    def waivers(self) -> tuple[Signed[Waiver], ...]:
        """Return the waivers on file; the gate decides which of them hold."""
        return self._signed(Waiver, "waivers")

    def add_waiver(self, waiver: Signed[Waiver]) -> None:
        """Keep a signed waiver."""
        file = f"{waiver.body.digest.removeprefix('sha256:')}.json"
        write_atomically(self.path / "waivers" / file, waiver.to_json().encode())

    def _signed(self, kind: type[Body], folder: str) -> tuple[Signed[Body], ...]:
        """Return the signed documents of one kind on file."""
        files = sorted((self.path / folder).glob("*.json"))
        return tuple(self._parsed.of(file, partial(parse_signed, kind, where=str(file))) for file in files)

    def _packs_in(self, folder: Path) -> Iterator[Pack]:
        for file in sorted(folder.glob("*.yaml")):
            pack = self._parsed.of(file, partial(parse_pack, origin=file.name))
            if file.stem != pack.id:
                raise ConfigError(f"the pack in it is {pack.id}", where=str(file), fix=f"rename it to {pack.id}.yaml")
            yield pack

    # Runs

    def run_directory(self, run: str) -> Path:
        """Return ``runs/RUN``, made if it is not there."""
        path = self.run_path(run)
        try:
            path.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot make the run's folder: {error.strerror}", where=str(path)) from error
        return path

    def add_submission(self, run: str, parts: Mapping[str, bytes]) -> Path:
        """Keep the files of a new run, all or none; raise :class:`ConfigError` if the run is already there."""
        path = self.run_path(run)
        temporary = Path(tempfile.mkdtemp(prefix=f".{run[:64]}.", dir=path.parent))
        try:
            for file, content in parts.items():
                if not _FILE.fullmatch(file):
                    raise ConfigError(f"{file!r} cannot be the name of a run's file", where=str(path))
                write_atomically(temporary / file, content)
            temporary.rename(path)
            sync_directory(path.parent)
        except OSError as error:
            raise ConfigError(
                f"cannot keep the run: {error.strerror}", where=str(path), fix="a run is submitted once"
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return path

    def run_path(self, run: str) -> Path:
        """Return where ``runs/RUN`` is, or would be; raise :class:`ConfigError` for what cannot be a run's id."""
        if not _RUN.fullmatch(run):
            raise ConfigError(f"{run!r} cannot be a run's id", fix="use letters, digits and . _ - (at most 128)")
        return self.path / "runs" / run

    def __repr__(self) -> str:
        return f"Home({str(self.path)!r}, {self.name!r})"


def _fill(path: Path, settings: Settings, data: Iterable[DataSet]) -> None:
    """Write a whole new home into an empty directory."""
    for folder in _FOLDERS:
        (path / folder).mkdir(mode=0o700)
    create_keys(path / "keys", settings.name)
    write_data(path, data)
    Ledger(path / "ledger.db").close()
    Log(path / "log.db", f"silo/{settings.name}").close()
    write_settings(path, settings)


def _manifest(content: bytes, where: str) -> tuple[Signed[ConsortiumManifest], str]:
    """Return a consortium's manifest and its digest."""
    signed = parse_signed(ConsortiumManifest, content, where=where)
    return signed, signed.body.digest


def _public(name: str, keys: Keys) -> PublicIdentity:
    return PublicIdentity.from_json({"name": name, "keys": keys.to_dict()})
