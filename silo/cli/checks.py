"""What `silo doctor` looks at, one function a matter; each finds, says, and changes nothing.

Invariant: a check that cannot be made is a finding, never a pass; no finding shows a key, a passphrase or a record.
"""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from silo.errors import SiloError

if TYPE_CHECKING:
    from silo.home import Home

State = Literal["ok", "warn", "fail"]
DISTRIBUTION = "silo-fl"
TESTED = (3, 11)
SOON = timedelta(days=30)
LITTLE_DISK, NO_DISK = 1 << 30, 100 << 20
SECONDS = 5.0
# Documents are refused from clocks that differ by more than five minutes (silo_policies.documents.CLOCK_SKEW).
SKEW_WARN, SKEW_FAIL = timedelta(seconds=30), timedelta(minutes=5)


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, how it is, and what to do unless it is well."""

    name: str
    state: State
    found: str
    fix: str = ""


def python() -> Iterator[Finding]:
    """The interpreter, and the packages that Silo needs."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < TESTED:
        yield Finding("python", "fail", f"Python {version}", "install Python 3.11")
    elif sys.version_info[:2] != TESTED:
        yield Finding("python", "warn", f"Python {version}; 3.11 is what is tested", "use Python 3.11 where you can")
    else:
        yield Finding("python", "ok", f"Python {version}")
    yield _packages()


def confinement() -> Iterator[Finding]:
    """What this system lets be put in force around a researcher's code; tried, not looked up."""
    from silo.sandbox import means

    found = means()
    if found.isolation == "process":
        yield Finding("confinement", "ok", f"researchers' code is {found}")
    else:
        yield Finding(
            "confinement",
            "warn",
            f"researchers' code is {found}; policies are told silo.isolation none",
            "allow user namespaces (in a container: its seccomp profile), on Linux with kernel 5.13 or newer",
        )


def _packages() -> Finding:
    from importlib import metadata

    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(line) for line in metadata.requires(DISTRIBUTION) or ()]
    except metadata.PackageNotFoundError:
        return Finding("packages", "fail", f"{DISTRIBUTION} is not installed", "run `make setup`, or pip install it")
    wrong = []
    needed = [each for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""})]
    for each in needed:
        try:
            found = metadata.version(each.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{each.name} is missing")
            continue
        if not each.specifier.contains(found, prereleases=True):
            wrong.append(f"{each.name} is {found}, not {each.specifier}")
    if wrong:
        return Finding("packages", "fail", "; ".join(wrong), "install with constraints.txt: make setup")
    return Finding("packages", "ok", f"{len(needed)} packages in the versions that are asked for")


def keys(home: Home) -> Iterator[Finding]:
    """Owners and modes of the home's files, and whether the keys open."""
    from silo_crypto.errors import CryptoError

    wrong = []
    for path in [home.path, home.keys_directory, *sorted(home.keys_directory.iterdir())]:
        found = path.lstat()
        mode = stat.S_IMODE(found.st_mode)
        public = path.suffix in (".pub", ".json") or path == home.path
        if mode & (0o022 if public else 0o077):
            wrong.append(f"{path} has mode {mode:04o}")
        if found.st_uid != os.geteuid():
            wrong.append(f"{path} belongs to user {found.st_uid}, not to {os.geteuid()} who asks")
    if wrong:
        yield Finding("key files", "fail", "; ".join(wrong), "chown them to the agent's user, and chmod go-rwx them")
    else:
        yield Finding("key files", "ok", "nobody but their owner can read or change them")
    try:
        home.identity()
    except (SiloError, CryptoError) as error:
        yield Finding("keys", "fail", str(error), "set $SILO_PASSPHRASE as it was when the keys were made")
        return
    if (home.keys_directory / "passphrase").exists():
        yield Finding(
            "keys",
            "warn",
            "they open; their passphrase lies beside them, so a copy of the folder is enough to use them",
            "for more, make the home with $SILO_PASSPHRASE set from your secret store",
        )
    else:
        yield Finding("keys", "ok", "they open with $SILO_PASSPHRASE")


def disk(home: Home) -> Iterator[Finding]:
    """Room for ledger, log and runs: without it a run stops before an upload, never after."""
    free = shutil.disk_usage(home.path).free
    told = f"{free / (1 << 30):.1f} GiB free where the home is"
    if free < NO_DISK:
        yield Finding("disk", "fail", told, "make room: ledger and log cannot be written without")
    elif free < LITTLE_DISK:
        yield Finding("disk", "warn", told, "make room before the next run")
    else:
        yield Finding("disk", "ok", told)


def records(home: Home) -> Iterator[Finding]:
    """Ledger and log: every page, event, entry and hash."""
    from silo.ledger import Ledger

    try:
        with Ledger(home.path / "ledger.db", create=False) as ledger:
            events = ledger.verify().size
        yield Finding("ledger", "ok", f"{events} events, each where it was")
    except SiloError as error:
        yield Finding("ledger", "fail", str(error), "stop the agent, and restore the file from a copy")
    try:
        with home.log() as log:
            head = log.verify()
            last = max((entry.time for entry in log.entries(start=max(0, head.size - 1))), default=None)
        yield Finding("log", "ok", f"{head.size} entries, each where it was")
    except SiloError as error:
        yield Finding("log", "fail", str(error), "keep the file as it is, and call your auditor: silo audit verify")
        return
    if last is not None and datetime.fromisoformat(last) > datetime.now(UTC) + SKEW_FAIL:
        yield Finding("clock", "fail", f"it is before the log's last entry, {last}", "set the clock: timedatectl")


def consortium(home: Home) -> Iterator[Finding]:
    """The manifest the home joined: its signatures, and how long it holds."""
    from silo_policies import PolicyError, verify_consortium

    from silo.submission import keyring

    if home.settings.consortium is None:
        yield Finding("consortium", "warn", "none joined yet", "silo consortium join FILE")
        return
    now = datetime.now(UTC)
    try:
        signed = home.consortium()
        body = verify_consortium(signed, keyring, now=now, pinned=home.settings.consortium)
    except (SiloError, PolicyError) as error:
        yield Finding("consortium", "fail", str(error), "join again with the members' file: silo consortium join FILE")
        return
    told = f"{body.name}, {len(body.members)} members, until {body.expires:%Y-%m-%d}"
    if home.name not in {*body.names, body.aggregator.name}:
        yield Finding("consortium", "fail", f"{body.name} does not name {home.name} any more", "ask the members")
    elif body.expires - now < SOON:
        yield Finding("consortium", "warn", told, "sign anew before then: silo consortium amend FILE --days 365")
    else:
        yield Finding("consortium", "ok", told)


def packs(home: Home) -> Iterator[Finding]:
    """The policy packs, the consortium's and the silo's own: readable, pinned, in effect."""
    from silo_policies import PolicyError

    now = datetime.now(UTC)
    try:
        own, pins = home.packs(), home.pins()
        found = [(pack, pins.get(pack.id)) for pack in own]
        if home.settings.consortium is not None:
            found += [(pack, pack.digest) for pack in home.federation_packs()]  # which compares them itself
        lost = sorted(set(pins) - {pack.id for pack in own})
    except (SiloError, PolicyError) as error:
        yield Finding("policy packs", "fail", str(error), "until it is mended the gate denies every run")
        return
    if lost:
        yield Finding("policy packs", "fail", f"pinned and not here: {', '.join(lost)}", "silo policy add FILE")
    for pack, pin in found:
        until = pack.document.effective_until
        if pin != pack.digest:
            yield Finding(f"pack {pack.id}", "fail", "the file is not what was pinned", "review it: silo policy add")
        elif not pack.in_effect(now):
            yield Finding(f"pack {pack.id}", "fail", f"not in effect; it ended {until:%Y-%m-%d}", "add its successor")
        elif until - now < SOON:
            yield Finding(f"pack {pack.id}", "warn", f"in effect until {until:%Y-%m-%d}", "prepare its successor")
        else:
            yield Finding(f"pack {pack.id}", "ok", f"pinned, in effect until {until:%Y-%m-%d}")
    if not found and not lost:
        yield Finding("policy packs", "warn", "none: without rules the gate denies every run", "silo policy add FILE")


def data(home: Home) -> Iterator[Finding]:
    """Whether every table is still where it was; it is not read."""
    from silo.agent.prepare import PYTHON, REGISTERED, source_of

    tables = home.data()
    if not tables:
        yield Finding("data", "warn", "no table yet", "silo data add")
    now = datetime.now(UTC)
    for each in tables:
        place = source_of(each, home.path)
        if not place.startswith((REGISTERED, PYTHON)) and not os.access(place, os.R_OK):
            yield Finding(f"data {each.name}", "fail", f"cannot read {place}", "check path, owner and mode")
        elif min(each.consent_expires, each.retention_until) < now:
            yield Finding(f"data {each.name}", "warn", "its consent or retention has ended", "silo data remove it")
        else:
            yield Finding(f"data {each.name}", "ok", "there, and readable")


def aggregator(address: str | None, root_certificate: bytes | None) -> Iterator[Finding]:
    """Whether the aggregator answers over TLS, how long its certificate holds, and whether the clocks agree."""
    if address is None:
        yield Finding(
            "aggregator", "warn", "none is configured; the clock was compared with nothing", "silo agent --aggregator"
        )
        return
    host, _, port = address.rpartition(":")
    try:
        context = ssl.create_default_context(cadata=root_certificate.decode("ascii") if root_certificate else None)
        with (
            socket.create_connection((host.strip("[]"), int(port)), SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=host.strip("[]")) as channel,
        ):
            certificate = channel.getpeercert() or {}
            channel.sendall(f"HEAD / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode("ascii"))
            asked = datetime.now(UTC)
            head = channel.recv(4096)
    except ssl.SSLCertVerificationError as error:
        fix = "get the authority's certificate anew, or ask the aggregator to renew"
        yield Finding("aggregator", "fail", f"{address}: {error.verify_message}", fix)
        return
    except (OSError, ValueError) as error:
        yield Finding("aggregator", "fail", f"{address} does not answer: {error}", "check address, firewall and proxy")
        return
    yield Finding("aggregator", "ok", f"{address} answers over TLS")
    ends = datetime.fromtimestamp(ssl.cert_time_to_seconds(str(certificate["notAfter"])), UTC)
    soon = ends - asked < SOON
    fix = "ask the aggregator to renew it" if soon else ""
    yield Finding("certificate", "warn" if soon else "ok", f"the aggregator's holds until {ends:%Y-%m-%d}", fix)
    yield _clock(head, asked)


def _clock(head: bytes, asked: datetime) -> Finding:
    """Compare the clock with the Date header of an HTTP answer (RFC 9110 section 6.6.1)."""
    lines = [line for line in head.decode("latin-1").split("\r\n") if line.lower().startswith("date:")]
    try:
        apart = abs(parsedate_to_datetime(lines[0].partition(":")[2].strip()) - asked)
    except (IndexError, ValueError, TypeError):
        return Finding("clock", "warn", "the aggregator told no time", "compare it with another: timedatectl")
    told = f"{apart.total_seconds():.0f} s from the aggregator's"
    if apart > SKEW_FAIL:
        return Finding("clock", "fail", told, "set it: what is dated more than five minutes off is refused")
    if apart > SKEW_WARN:
        return Finding("clock", "warn", told, "let it be set by the network: timedatectl set-ntp true")
    return Finding("clock", "ok", told)


def examine(home: Home, address: str | None, root_certificate: bytes | None) -> Iterator[Finding]:
    """Make every check, in the order in which to mend."""
    checks: tuple[Callable[[Home], Iterator[Finding]], ...] = (keys, disk, records, consortium, packs, data)
    yield from python()
    try:
        yield from confinement()
    except SiloError as error:
        yield Finding("confinement", "fail", str(error), "without it no experiment can run here")
    for check in checks:
        try:
            yield from check(home)
        except (SiloError, OSError) as error:
            yield Finding(check.__name__, "fail", str(error), "mend this first")
    yield from aggregator(address, root_certificate)


def unreadable(path: Path, error: SiloError) -> Iterator[Finding]:
    """What is left to say of a home that cannot be opened."""
    yield from python()
    yield Finding("home", "fail", f"{path}: {error.what}", error.fix)
