"""What will stop a silo some day: a full disk, keys that others can read, and everything that has an end date.

Invariant: files are looked at, never changed; of a private key only its mode is looked at, never its content.
"""

from __future__ import annotations

import shutil
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from silo_policies import Approval, PolicyError, Waiver, format_instant, parse_signed

from silo.dashboard.view import Alarm
from silo.errors import ConfigError, SiloError
from silo.home import FOREVER, Home

SOON = timedelta(days=30)
LOW_BYTES, LEAST_BYTES = 2 << 30, 256 << 20
_CERTIFICATES = (".crt", ".cer")
_DEPTH = 2
_MAX_FILES = 64


def on_disk(home: Home) -> list[Alarm]:
    """Return alarms about free space and about key files that others could read."""
    alarms = []
    free = shutil.disk_usage(home.path).free
    if free < LOW_BYTES:
        alarms.append(
            Alarm(
                "bad" if free < LEAST_BYTES else "warn",
                f"{free >> 20} MiB are free on the disk of {home.path}",
                "make room: when nothing can be written, log and ledger refuse and the run stops",
            )
        )
    for path in sorted(home.keys_directory.rglob("*")):
        if path.suffix == ".pem" or path.name == "passphrase":
            mode = stat.S_IMODE(path.stat().st_mode)
            if mode & 0o077:
                alarms.append(
                    Alarm(
                        "bad",
                        f"others can read {path.relative_to(home.path)} (mode {mode:04o})",
                        "chmod go-rwx; make new keys",
                    )
                )
    return alarms


def expiring(home: Home, now: datetime | None = None) -> list[Alarm]:
    """Return alarms about what has expired or does so within 30 days: manifest, packs, consents, approvals, waivers,
    certificates. What cannot be read is an alarm as well."""
    moment = now or datetime.now(UTC)
    alarms: list[Alarm] = []
    for part in (_manifest, _packs, _data, _approvals, _waivers, _certificates):
        try:
            for what, ends, fix in part(home):
                alarms += _due(what, ends, fix, moment)
        except (SiloError, PolicyError) as error:
            where = f"{error.where}: " if error.where else ""
            alarms.append(Alarm("bad", f"{where}{error.what}", error.fix or "run `silo audit verify`"))
        except OSError as error:
            alarms.append(Alarm("bad", f"{error.filename}: {error.strerror}", "check the file's owner"))
    return alarms


_Ending = tuple[str, datetime, str]


def _due(what: str, ends: datetime, fix: str, now: datetime) -> list[Alarm]:
    days = (ends - now).days
    if ends <= now:
        return [Alarm("bad", f"{what} expired on {format_instant(ends)}", fix)]
    if ends - now <= SOON:
        return [Alarm("warn", f"{what} expires in {days} days, on {format_instant(ends)}", fix)]
    return []


def _manifest(home: Home) -> Iterator[_Ending]:
    if home.settings.consortium is not None:
        body = home.consortium().body
        yield f"the manifest of consortium {body.name}", body.expires, "amend it with `silo consortium`, and join again"


def _packs(home: Home) -> Iterator[_Ending]:
    packs = home.packs() + (home.federation_packs() if home.settings.consortium is not None else ())
    for pack in packs:
        yield f"policy pack {pack.id}", pack.document.effective_until, "an expired pack denies every run: renew it"


def _data(home: Home) -> Iterator[_Ending]:
    for each in home.data():
        for name, ends in (("consent", each.consent_expires), ("retention", each.retention_until)):
            if ends != FOREVER:
                yield f"the {name} of data set {each.name}", ends, "take the data set out, or renew it in data.toml"


def _approvals(home: Home) -> Iterator[_Ending]:
    for path in sorted((home.path / "approvals").glob("*.json"))[:_MAX_FILES]:
        body = parse_signed(Approval, path.read_bytes(), where=str(path)).body
        yield from _lately(f"the approval of code {body.code_digest[:19]} by {body.by}", body.expires)


def _waivers(home: Home) -> Iterator[_Ending]:
    for path in sorted((home.path / "waivers").glob("*.json"))[:_MAX_FILES]:
        body = parse_signed(Waiver, path.read_bytes(), where=str(path)).body
        yield from _lately(f"the waiver of {body.pack}/{body.rule} for run {body.run}", body.expires)


def _lately(what: str, ends: datetime) -> Iterator[_Ending]:
    """These go out of use quietly: one that ended long ago is no news."""
    if ends > datetime.now(UTC) - SOON:
        yield what, ends, "ask for a new one if runs still need it"


def _certificates(home: Home) -> Iterator[_Ending]:
    """Certificates that lie in the home or in one of its folders, such as ``transport/``; never a private key."""
    from cryptography import x509

    for path in _certificate_files(home.path):
        content = path.read_bytes()
        try:
            certificates = x509.load_pem_x509_certificates(content)
        except ValueError as error:
            raise ConfigError("not a certificate", where=str(path), fix="put the right file there") from error
        for each in certificates:
            name = path.relative_to(home.path)
            yield f"the certificate {name}", each.not_valid_after_utc, "replace it, and restart what serves it"


def _certificate_files(home: Path) -> list[Path]:
    folders = [home]
    for _ in range(_DEPTH):  # run folders are many, and hold none
        folders += [each for folder in folders for each in folder.iterdir() if each.is_dir() and each.name != "runs"]
    files = {path for folder in folders for suffix in _CERTIFICATES for path in folder.glob(f"*{suffix}")}
    return sorted(files)[:_MAX_FILES]
