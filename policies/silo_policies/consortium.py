"""The consortium: who takes part, with which keys, under which packs; and how that changes.

Invariant: a manifest counts only if every member it names signed exactly these bytes (the first one), or if it is an
amendment: it names the digest of the one before, a quorum of the old members signed it, and so did everybody it adds.
A member's or the aggregator's keys change only with its own statement, signed by the old key, confirmed by the new one
and bound to the manifest it amends, and never back to keys that anybody had before: a quorum can remove a member, and
cannot speak for it. (Who lost its keys is removed, and added anew by a second amendment.)
Names and keys are unique across members, aggregator and people, so a signature belongs to one party only.

A member left out by an amendment is revoked: :meth:`ConsortiumManifest.active` of the newest manifest no longer yields
it, which takes effect at the next round. Source: PROTOCOL section 4, step 0; issue 5, item 7.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, StringConstraints, ValidationError, model_validator

from silo_policies.documents import (
    CLOCK_SKEW,
    AsTuple,
    Digest,
    Document,
    Instant,
    Jurisdiction,
    Name,
    Slug,
    first_problem,
    format_instant,
    problem_path,
)
from silo_policies.errors import DocumentError, SignatureRefused
from silo_policies.facts import ConsortiumFacts
from silo_policies.signing import Keyring, Keys, Signed, SignedBody, Statement, Verifier

NodeKey = Annotated[str, StringConstraints(pattern=r"^ecdsa-sha2-nistp384 [A-Za-z0-9+/]{100,300}={0,2}$")]
"""An ECDSA P-384 public key in OpenSSH's one-line form, without a comment."""


class Member(Document):
    """A silo of the consortium. ``node`` opens the aggregator's transport to it, and nothing else: what counts is
    signed with ``keys``."""

    name: Name
    organisation_type: Slug
    jurisdiction: Jurisdiction
    keys: Keys
    node: NodeKey | None = None


class Aggregator(Document):
    """Who runs the server side; holds no data and no decryption key."""

    name: Name
    keys: Keys


class Person(Document):
    """Somebody who signs but holds no data. ``silo`` is whom a steward or officer acts for; a researcher has none."""

    name: Name
    role: Literal["steward", "officer", "researcher"]
    keys: Keys
    silo: Name | None = None


def _unique(what: str, values: list[str]) -> None:
    twice = sorted({value for value in values if values.count(value) > 1})
    if twice:
        raise ValueError(f"the {what} {twice[0]} belongs to two parties")


class ConsortiumManifest(SignedBody):
    """What all members sign. ``packs`` maps a pack's id to its digest; ``previous`` is the digest it amends.

    ``witness_quorum`` is how many *other* parties must have cosigned a party's log before a run goes on; 0 asks for
    none. Members and aggregator are parties, so it can be as high as the number of members.
    """

    label: ClassVar[str] = "silo/v1/consortium"
    later: ClassVar[frozenset[str]] = frozenset({"rotations", "witness_quorum"})

    version: Literal[1] = 1
    name: Slug
    members: Annotated[tuple[Member, ...], AsTuple, Field(min_length=2, max_length=1024)]
    aggregator: Aggregator
    people: Annotated[tuple[Person, ...], AsTuple, Field(max_length=4096)] = ()
    custody: Literal["shared", "threshold"]
    threshold: Annotated[int, Field(ge=2)] | None = None
    minimum_silos: Annotated[int, Field(ge=2)]
    packs: Annotated[dict[Slug, Digest], Field(min_length=1)]
    amendment_quorum: Annotated[int, Field(ge=1)]
    witness_quorum: Annotated[int, Field(ge=0)] = 0
    previous: Digest | None = None
    rotations: dict[Name, Statement] = Field(default_factory=dict)
    created: Instant
    expires: Instant

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        parties: list[Member | Aggregator | Person] = [*self.members, self.aggregator, *self.people]
        _unique("name", [party.name for party in parties])
        _unique("signing key", [party.keys.ed25519 for party in parties])
        _unique("sealing key", [party.keys.x25519 for party in parties])
        _unique("node key", [member.node for member in self.members if member.node is not None])
        size, names = len(self.members), self.names
        for person in self.people:
            if person.role == "researcher" and person.silo is not None:
                raise ValueError(f"{person.name} is a researcher and acts for no silo")
            if person.role != "researcher" and person.silo not in names:
                raise ValueError(f"{person.name} is a {person.role} of {person.silo!r}, which is no member")
        if self.custody == "shared" and self.threshold is not None:
            raise ValueError("shared custody has no threshold")
        if self.custody == "threshold" and (self.threshold is None or size < 3 or not 2 <= self.threshold <= size):
            raise ValueError("threshold custody needs three members or more and a threshold from 2 to their number")
        if self.minimum_silos > size:
            raise ValueError(f"minimum_silos is {self.minimum_silos}, but there are {size} members")
        if not size // 2 < self.amendment_quorum <= size:
            # Below a majority, two halves could amend the same manifest in two ways.
            raise ValueError(f"amendment_quorum must be more than half of the {size} members, and no more than all")
        if self.rotations and self.previous is None:
            raise ValueError("keys rotate in an amendment, not in a first manifest")
        if self.witness_quorum > size:
            raise ValueError(f"witness_quorum is {self.witness_quorum}, but each party has only {size} others")
        if self.expires <= self.created:
            raise ValueError("expires must lie after created")
        return self

    @property
    def names(self) -> frozenset[str]:
        """The members' names."""
        return frozenset(member.name for member in self.members)

    @property
    def homes(self) -> Mapping[str, Keys]:
        """The keys of the parties that have a home, by name: the members and the aggregator."""
        parties: tuple[Member | Aggregator, ...] = (*self.members, self.aggregator)
        return {party.name: party.keys for party in parties}

    def member(self, name: str) -> Member:
        """Return one member; raises :class:`DocumentError` if there is none of that name."""
        for member in self.members:
            if member.name == name:
                return member
        raise DocumentError(f"{name} is not a member", where=f"consortium {self.name}")

    def active(self, invited: Collection[str]) -> tuple[Member, ...]:
        """Return those of ``invited`` who are members now, sorted by name."""
        return tuple(sorted((each for each in self.members if each.name in invited), key=lambda each: each.name))

    def verifiers(self, keyring: Keyring) -> Mapping[str, Verifier]:
        """Return every member's verifier by name."""
        return {member.name: keyring(member.name, member.keys) for member in self.members}

    def person(self, name: str, *, role: str, silo: str | None = None) -> Person:
        """Return somebody in a role (for one silo); raises :class:`DocumentError` if there is nobody."""
        for person in self.people:
            if (person.name, person.role) == (name, role) and silo in (None, person.silo):
                return person
        raise DocumentError(f"{name} is no {role}" + (f" of {silo}" if silo else ""), where=f"consortium {self.name}")

    def people_of(self, silo: str, keyring: Keyring, *roles: str) -> Mapping[str, Verifier]:
        """Return the verifiers of a silo's people in ``roles``: its stewards approve code, its officers waivers."""
        return {
            each.name: keyring(each.name, each.keys) for each in self.people if each.silo == silo and each.role in roles
        }

    def amended(self, *, created: datetime, **changes: Any) -> Self:
        """Return an unsigned amendment of this manifest; raises :class:`DocumentError` naming a field that is wrong."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        try:
            values |= {"rotations": {}, **changes, "previous": self.digest, "created": created}
            return type(self).model_validate(values)
        except ValidationError as error:
            path, sentence = first_problem(error)
            raise DocumentError(
                f"{problem_path(path) or 'manifest'}: {sentence}", where=f"amendment of {self.name}"
            ) from error

    def facts(self) -> ConsortiumFacts:
        """Return what rules may ask about the consortium."""
        return ConsortiumFacts(
            name=self.name,
            size=len(self.members),
            minimum_silos=self.minimum_silos,
            custody=self.custody,
            expires=self.expires,
        )


def verify_consortium(
    signed: Signed[ConsortiumManifest],
    keyring: Keyring,
    *,
    now: datetime,
    previous: ConsortiumManifest | None = None,
    pinned: str | None = None,
) -> ConsortiumManifest:
    """Return the manifest if it may be acted on now, else raise.

    Without ``previous`` it must be a first manifest, signed by all it names; with it, a direct amendment of it.
    ``pinned`` is the digest a party verified, with its history, when it joined: an amendment of that digest needs no
    predecessor, because every byte of it was checked then. Raises :class:`SignatureRefused` for missing, duplicate or
    foreign signatures, :class:`DocumentError` for the rest (wrong predecessor, expiry, clock).
    """
    manifest = signed.body
    where = f"consortium {manifest.name}"
    if pinned is not None and manifest.digest != pinned:
        raise DocumentError(f"its digest is {manifest.digest}, not the pinned {pinned}", where=where)
    if previous is not None:
        _verify_amendment(signed, previous, keyring, where)
    elif manifest.previous is None:
        signed.verify(manifest.verifiers(keyring))
    elif pinned is None:
        raise DocumentError(
            "it amends a manifest that is not here", where=where, fix=f"fetch the manifest {manifest.previous}"
        )
    if manifest.created > now + CLOCK_SKEW:
        raise DocumentError("it is dated in the future", where=where, fix="compare the clocks")
    if now >= manifest.expires:
        raise DocumentError(
            f"it expired at {format_instant(manifest.expires)}", where=where, fix="the members sign an amendment"
        )
    return manifest


def _verify_amendment(
    signed: Signed[ConsortiumManifest], previous: ConsortiumManifest, keyring: Keyring, where: str
) -> None:
    manifest = signed.body
    if manifest.previous != previous.digest:
        raise DocumentError(f"it amends {manifest.previous}, not {previous.digest}", where=where)
    if manifest.name != previous.name:
        raise DocumentError(f"it renames the consortium {previous.name}", where=where)
    if manifest.created < previous.created:
        raise DocumentError("it is older than what it amends", where=where)
    old, new = previous.verifiers(keyring), manifest.verifiers(keyring)
    added = {name: verifier for name, verifier in new.items() if name not in old}
    of_old = {name: text for name, text in signed.signatures.items() if name in old}
    # Old members sign with the keys they had: an amendment that changes a key is vouched for by the key it replaces.
    Signed(manifest, of_old).verify(old, quorum=previous.amendment_quorum)
    of_new = {name: text for name, text in signed.signatures.items() if name not in old}
    if added or of_new:
        Signed(manifest, of_new).verify(added)
    verify_rotations(manifest, previous, keyring, where)


def verify_rotations(manifest: ConsortiumManifest, previous: ConsortiumManifest, keyring: Keyring, where: str) -> None:
    """Return if keys changed exactly where their old and new holder said so, for this very amendment."""
    before = previous.homes
    changed = {name for name, keys in manifest.homes.items() if name in before and before[name] != keys}
    if silent := sorted(changed - manifest.rotations.keys()):
        raise SignatureRefused(
            f"the keys of {', '.join(silent)} change without a rotation of its own",
            where=where,
            fix="the party runs `silo keys rotate`; one that lost its keys is removed first, and added anew later",
        )
    if manifest.rotations.keys() - changed:
        unchanged = ", ".join(sorted(manifest.rotations.keys() - changed))
        raise SignatureRefused(f"it rotates the keys of {unchanged}, which do not change", where=where)
    for name in sorted(changed):
        old, new = keyring(name, before[name]), keyring(name, manifest.homes[name])
        try:
            old.hands_over_to(new, previous.digest_bytes, base64.b64decode(manifest.rotations[name]))
        # As with any signature: whatever the key's own library raises, it did not hold.
        except Exception as error:
            raise SignatureRefused(
                f"the rotation of {name} does not hold for this amendment: {error}",
                where=where,
                fix="rotations hold for one amendment; the party runs `silo keys rotate` again",
            ) from error


def refuse_reused_keys(history: Sequence[ConsortiumManifest]) -> None:
    """Raise :class:`DocumentError` if keys rotate, in a history from its first manifest, to keys that stood in it."""
    used: set[str] = set()
    for index, manifest in enumerate(history):
        where = f"consortium {manifest.name}"
        if manifest.previous != (history[index - 1].digest if index else None):
            if not any(each.rotations for each in history[index:]):
                return  # a part of a history; without rotations nothing depends on the rest
            raise DocumentError(
                "keys rotate in it, so it is checked from its first manifest on, and that is not here",
                where=where,
                fix="fetch the file with its whole history",
            )
        for name in sorted(manifest.rotations):
            keys = manifest.homes.get(name)
            if keys is not None and {keys.ed25519, keys.x25519} & used:
                raise DocumentError(f"{name} rotates to a key that stood in an older manifest", where=where)
        parties: list[Member | Aggregator | Person] = [*manifest.members, manifest.aggregator, *manifest.people]
        used |= {key for party in parties for key in (party.keys.ed25519, party.keys.x25519)}


def verify_chain(
    chain: Collection[Signed[ConsortiumManifest]], keyring: Keyring, *, now: datetime, pinned: str | None = None
) -> ConsortiumManifest:
    """Return the newest manifest of a history that starts with the first one, checking every step.

    Only the newest has to be unexpired. ``pinned`` is the digest with which the history starts; it may start with an
    amendment if that is the one pinned.
    """
    if not chain:
        raise DocumentError("there is no manifest", where="consortium")
    *older, newest = chain
    previous: ConsortiumManifest | None = None
    for signed in older:
        # Each was in force while it was the newest; what counts is that it was good when it was made.
        at = signed.body.created
        previous = verify_consortium(signed, keyring, now=at, previous=previous, pinned=pinned)
        pinned = None
    manifest = verify_consortium(newest, keyring, now=now, previous=previous, pinned=pinned)
    history = [signed.body for signed in chain]
    if history[0].previous is None:
        refuse_reused_keys(history)
    return manifest
