"""Whose signatures count: the public keys an auditor was given, as C2SP vkeys or as the consortium's manifest.

Invariant: keys come from the caller, never from the evidence under audit. A manifest given here is itself evidence of
nothing but its keys; that all its parties signed it is checked, so that one of them cannot hand out a key of their own.

Sources: C2SP signed-note (vkey); tlog-cosignature (a witness signs in its own name, a log in its origin's).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from silo_policies import ConsortiumManifest
from silo_policies.agreement import parse_agreement

from silo.errors import ConfigError, VerificationFailed
from silo.log import VerifierKey, log_key, witness_key
from silo.log.note import COSIGNATURE
from silo.submission import keyring


def origin_of(name: str) -> str:
    """Return the origin of a party's log."""
    return f"silo/{name}"


@dataclass(frozen=True)
class Trust:
    """Log keys by origin, and the keys of witnesses."""

    logs: Mapping[str, VerifierKey] = field(default_factory=dict)
    witnesses: tuple[VerifierKey, ...] = ()

    @classmethod
    def of_keys(cls, keys: Iterable[VerifierKey]) -> Trust:
        """Trust these keys: type 1 for the log they name, type 4 as witnesses."""
        keys = tuple(keys)
        logs: dict[str, VerifierKey] = {}
        for key in keys:
            if key.algorithm == COSIGNATURE:
                continue
            if logs.setdefault(key.name, key) != key:
                raise ConfigError("two keys for one log", where=key.name, fix="give the one you trust")
        return cls(logs, tuple(key for key in keys if key.algorithm == COSIGNATURE))

    @classmethod
    def of_manifest(cls, manifest: ConsortiumManifest) -> Trust:
        """Trust the keys of a manifest that was verified: each party for its own log, and as witness of the others'."""
        aggregator = manifest.aggregator
        people = [keyring(member.name, member.keys) for member in manifest.members]
        people.append(keyring(aggregator.name, aggregator.keys))
        return cls(
            {origin_of(each.name): log_key(origin_of(each.name), each) for each in people},
            tuple(witness_key(each) for each in people),
        )

    @classmethod
    def of_file(cls, content: bytes, *, where: str = "") -> Trust:
        """Read a file of vkeys (one a line, ``#`` begins a comment) or a consortium's manifest or history of manifests.

        A manifest that expired meanwhile still names the keys of its time, so the clock is not asked.
        """
        if content.lstrip()[:1] == b"{":
            agreement = parse_agreement(content, where=where)
            if not agreement.chain:
                raise VerificationFailed("this consortium is a draft: nobody signed it", where=where)
            newest, first = agreement.newest.body, agreement.chain[0].body
            # An amendment alone cannot be checked back to the start; whoever gives it to an auditor vouches for it.
            pinned = first.digest if first.previous is not None else None
            return cls.of_manifest(agreement.verified(keyring, now=newest.created, pinned=pinned))
        try:
            lines = [line.partition("#")[0].strip() for line in content.decode().splitlines()]
        except UnicodeDecodeError as error:
            raise ConfigError("neither vkeys nor a manifest", where=where) from error
        return cls.of_keys(VerifierKey.parse(line) for line in lines if line)

    def __or__(self, other: Trust) -> Trust:
        for origin in self.logs.keys() & other.logs.keys():
            if self.logs[origin] != other.logs[origin]:
                raise ConfigError("two keys for one log", where=origin, fix="give the one you trust")
        return Trust({**self.logs, **other.logs}, tuple(dict.fromkeys((*self.witnesses, *other.witnesses))))

    def log(self, origin: str) -> VerifierKey:
        """Return the key of a log; raise :class:`ConfigError` if none was given."""
        if origin not in self.logs:
            known = ", ".join(sorted(self.logs)) or "none"
            raise ConfigError(
                f"no key for the log {origin} (keys given: {known})", fix="give it with --key or --consortium"
            )
        return self.logs[origin]

    def others(self, origin: str) -> tuple[VerifierKey, ...]:
        """Return the witnesses that are not the log's own holder: nobody is a witness of themselves."""
        own = self.logs.get(origin)
        return tuple(key for key in self.witnesses if own is None or key.ed25519 != own.ed25519)
