"""The file that members pass round until a consortium stands: first a draft, then manifests with signatures.

Invariant: a draft can change and nobody has signed it; the first signature freezes it into a manifest, which no longer
changes: what comes later is an amendment, appended behind it, so that whoever joins can check the whole history
(:func:`~silo_policies.consortium.verify_chain`). A party is described by itself, in the JSON that
:func:`parse_public` reads, and never twice.

Forms of the file: ``{"kind": "silo/v1/consortium-draft", "body"}``; one signed manifest as everywhere else; or
``{"kind": "silo/v1/consortium-chain", "manifests": [...]}``, the oldest first. Source: issue 5, item 7.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field

from silo_policies.consortium import (
    Aggregator,
    ConsortiumManifest,
    Member,
    Person,
    refuse_reused_keys,
    verify_chain,
    verify_rotations,
)
from silo_policies.documents import AsTuple, Digest, Document, Instant, Slug, parse_json
from silo_policies.errors import DocumentError, SignatureRefused
from silo_policies.signing import Keyring, Signed, Signer, parse_body, parse_signed

DRAFT, CHAIN = "silo/v1/consortium-draft", "silo/v1/consortium-chain"
MAX_MANIFESTS = 1000

Party = Member | Aggregator | Person
_KINDS: Mapping[str, type[Party]] = {"member": Member, "aggregator": Aggregator, "person": Person}


def public_of(party: Party) -> dict[str, Any]:
    """Return the JSON value by which a party describes itself: its kind, and its public half."""
    kind = next(name for name, model in _KINDS.items() if isinstance(party, model))
    return {kind: party.to_dict()}


def parse_public(text: str | bytes, *, where: str = "") -> Party:
    """Read what :func:`public_of` wrote; raises :class:`DocumentError` for anything else."""
    value = parse_json(text, where=where)
    if not isinstance(value, dict) or len(value) != 1 or not value.keys() <= _KINDS.keys():
        raise DocumentError(
            "this is no party's public half", where=where, fix="each party prints its own with: silo keys show"
        )
    ((kind, body),) = value.items()
    return parse_body(_KINDS[kind], body, where=where)


@dataclass(frozen=True)
class Rotation:
    """A party as it will be, with its new keys, and the statement that its old and new keys signed."""

    party: Member | Aggregator
    statement: str

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON value that the party hands to the consortium."""
        return {"rotation": {**public_of(self.party), "statement": self.statement}}


def parse_rotation(text: str | bytes, *, where: str = "") -> Rotation:
    """Read what :meth:`Rotation.to_dict` wrote. Nothing is verified: see :meth:`Agreement.check_rotations`."""
    value = parse_json(text, where=where)
    inner = value.get("rotation") if isinstance(value, dict) and len(value) == 1 else None
    kinds = {"member", "aggregator"}
    kind = next((each for each in kinds if isinstance(inner, dict) and inner.keys() == {each, "statement"}), None)
    if kind is None or inner is None:
        raise DocumentError("this is no rotation of keys", where=where, fix="a party makes it with: silo keys rotate")
    party, statement = parse_body(_KINDS[kind], inner[kind], where=where), inner["statement"]
    if isinstance(party, Person) or not isinstance(statement, str):
        raise DocumentError("this is no rotation of keys", where=where)
    return Rotation(party, statement)


class Draft(Document):
    """A manifest in the making; the fields are those of :class:`ConsortiumManifest`, and may still be missing.

    ``created`` is fixed when the draft begins, so that all who sign copies of it sign the same bytes.
    """

    later: ClassVar[frozenset[str]] = frozenset({"witness_quorum"})

    name: Slug
    members: Annotated[tuple[Member, ...], AsTuple] = ()
    aggregator: Aggregator | None = None
    people: Annotated[tuple[Person, ...], AsTuple] = ()
    custody: Literal["shared", "threshold"]
    threshold: Annotated[int, Field(ge=2)] | None = None
    minimum_silos: Annotated[int, Field(ge=2)] = 3
    packs: dict[Slug, Digest] = Field(default_factory=dict)
    amendment_quorum: Annotated[int, Field(ge=1)] | None = None
    witness_quorum: Annotated[int, Field(ge=0)] = 0
    created: Instant
    expires: Instant

    def with_party(self, party: Party) -> Self:
        """Return a draft that also names ``party``; the same once more changes nothing, another of its name raises."""
        for known in self.parties():
            if known == party:
                return self
            if known.name == party.name:
                raise DocumentError(
                    f"{party.name} already stands in the draft, described otherwise",
                    where=f"draft of {self.name}",
                    fix="each party needs a name of its own; begin a new draft if a key changed",
                )
        if isinstance(party, Aggregator):
            if self.aggregator is not None:
                raise DocumentError(
                    f"the aggregator is {self.aggregator.name}", where=f"draft of {self.name}", fix="there is one"
                )
            return self.model_copy(update={"aggregator": party})
        field = "members" if isinstance(party, Member) else "people"
        listed = sorted((*getattr(self, field), party), key=lambda each: each.name)
        return self.model_copy(update={field: tuple(listed)})

    def with_pack(self, name: str, digest: str) -> Self:
        """Return a draft that pins a pack, in the place of another version of it."""
        return self.model_copy(update={"packs": {**self.packs, name: digest}})

    def parties(self) -> list[Party]:
        """Return everybody who stands in the draft."""
        return [*self.members, *([self.aggregator] if self.aggregator else []), *self.people]

    def missing(self) -> list[str]:
        """Return in words what is still to be added before anybody can sign."""
        wanted = {
            "members (two or more)": len(self.members) >= 2,
            "the aggregator": self.aggregator is not None,
            "a policy pack": bool(self.packs),
        }
        return [what for what, there in wanted.items() if not there]

    def frozen(self) -> ConsortiumManifest:
        """Return the manifest that members sign; raises :class:`DocumentError` saying what is missing or wrong."""
        where = f"draft of {self.name}"
        if self.missing():
            raise DocumentError(
                f"it lacks {', '.join(self.missing())}", where=where, fix="add them with: silo consortium add"
            )
        values = {name: getattr(self, name) for name in type(self).model_fields}
        values["amendment_quorum"] = self.amendment_quorum or majority(len(self.members))
        return parse_body(ConsortiumManifest, values, where=where)


def majority(members: int) -> int:
    """Return the smallest quorum that two disjoint groups of ``members`` cannot both reach."""
    return members // 2 + 1


@dataclass(frozen=True)
class Agreement:
    """What a consortium file holds: a draft, or the chain of manifests from the first to the newest."""

    draft: Draft | None = None
    chain: tuple[Signed[ConsortiumManifest], ...] = ()

    @property
    def name(self) -> str:
        """The consortium's name."""
        return self.draft.name if self.draft else self.newest.body.name

    @property
    def newest(self) -> Signed[ConsortiumManifest]:
        """The manifest that the others lead to; raises :class:`DocumentError` while there is only a draft."""
        if not self.chain:
            raise DocumentError(
                "nobody has signed it: it is a draft", where=self.name, fix="sign it with: silo consortium sign"
            )
        return self.chain[-1]

    def editable(self) -> Draft:
        """Return the draft; raises :class:`DocumentError` once it was signed."""
        if self.draft is None:
            raise DocumentError(
                "it was signed and can no longer change", where=self.name, fix="amend it with: silo consortium amend"
            )
        return self.draft

    def signers(self) -> frozenset[str]:
        """Return whose signature would count under the newest manifest: its members, and those it amends."""
        older = self.chain[-2].body.names if len(self.chain) > 1 else frozenset()
        return self.newest.body.names | older

    def lacking(self) -> tuple[int, tuple[str, ...]]:
        """Return how many signatures are still needed at least, and who could give one."""
        newest, given = self.newest, set(self.newest.signatures)
        if len(self.chain) < 2:
            missing = newest.body.names - given
            return len(missing), tuple(sorted(missing))
        older = self.chain[-2].body
        added = (newest.body.names - older.names) - given
        short = max(0, older.amendment_quorum - len(given & older.names))
        return len(added) + short, tuple(sorted(added | (older.names - given if short else set())))

    def signed(self, signer: Signer, keyring: Keyring) -> Self:
        """Return it with one more signature; a draft becomes the first manifest.

        Raises :class:`SignatureRefused` if the signer has no say, has signed, or holds another key than the one named.
        """
        chain = self.chain if self.draft is None else (Signed(self.draft.frozen()),)
        whole = type(self)(None, chain)
        if signer.name not in whole.signers():
            raise SignatureRefused(f"{signer.name} is no member and has no say in it", where=whole.name)
        whole.check_rotations(keyring)
        newest = chain[-1].sign(signer)
        # Old members vouch with the key they had; only who is new signs with a key of the newest manifest.
        older = chain[-2].body if len(chain) > 1 and signer.name in chain[-2].body.names else newest.body
        member = older.member(signer.name)
        Signed(newest.body, {signer.name: newest.signatures[signer.name]}).verify(
            {signer.name: keyring(member.name, member.keys)}
        )
        return type(self)(None, (*chain[:-1], newest))

    def merged(self, other: Self) -> Self:
        """Return it with the signatures of another copy of the same file; raises :class:`DocumentError` if it is
        not the same."""
        if [each.body for each in self.chain] != [each.body for each in other.chain] or not self.chain:
            raise DocumentError("these are not two signed copies of one file", where=self.name)
        signatures = {**other.newest.signatures, **self.newest.signatures}
        return type(self)(None, (*self.chain[:-1], Signed(self.newest.body, signatures)))

    def check_rotations(self, keyring: Keyring) -> None:
        """Return if the newest manifest changes keys only as their holders said, and to keys that nobody had; else
        raise. Signatures are not asked for: this is for whoever is about to give one."""
        if len(self.chain) > 1:
            verify_rotations(self.newest.body, self.chain[-2].body, keyring, f"consortium {self.name}")
        refuse_reused_keys([signed.body for signed in self.chain])

    def amended(self, manifest: ConsortiumManifest) -> Self:
        """Return it with an unsigned amendment of the newest manifest behind it."""
        if self.lacking()[0]:
            raise DocumentError(
                "its newest manifest is not fully signed", where=self.name, fix="finish it before amending it"
            )
        return type(self)(None, (*self.chain, Signed(manifest)))

    def verified(self, keyring: Keyring, *, now: datetime, pinned: str | None = None) -> ConsortiumManifest:
        """Return the newest manifest after checking the whole chain; ``pinned`` is the digest of its first."""
        return verify_chain((*self.chain[:-1], self.newest), keyring, now=now, pinned=pinned)

    def since(self, digest: str) -> Self | None:
        """Return the part of the chain that starts with the manifest of this digest, or None if it is not in it."""
        digests = [signed.body.digest for signed in self.chain]
        return type(self)(None, self.chain[digests.index(digest) :]) if digest in digests else None

    def to_json(self) -> str:
        """Return the file's text: indented, so that members can read what they sign."""
        value: Any
        if self.draft is not None:
            value = {"kind": DRAFT, "body": self.draft.to_dict()}
        elif len(self.chain) == 1:
            value = self.newest.to_dict()
        else:
            value = {"kind": CHAIN, "manifests": [signed.to_dict() for signed in self.chain]}
        return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def parse_agreement(text: str | bytes, *, where: str = "") -> Agreement:
    """Read a consortium file in any of its forms. Nothing is verified: see :meth:`Agreement.verified`."""
    value = parse_json(text, where=where)
    kind = value.get("kind") if isinstance(value, dict) else None
    if kind == DRAFT and value.keys() == {"kind", "body"}:
        return Agreement(parse_body(Draft, value["body"], where=where))
    if kind == CHAIN and value.keys() == {"kind", "manifests"}:
        listed = value["manifests"]
        if not isinstance(listed, list) or not 1 <= len(listed) <= MAX_MANIFESTS:
            raise DocumentError("it holds no list of manifests", where=where)
        return Agreement(chain=tuple(_one(each, f"{where}, manifest {i}") for i, each in enumerate(listed, start=1)))
    if kind == ConsortiumManifest.label:
        return Agreement(chain=(parse_signed(ConsortiumManifest, text, where=where),))
    raise DocumentError("this is no consortium file", where=where, fix="begin one with: silo consortium new")


def _one(value: Any, where: str) -> Signed[ConsortiumManifest]:
    return parse_signed(ConsortiumManifest, json.dumps(value), where=where)


def remaining(manifest: ConsortiumManifest, names: Collection[str]) -> dict[str, Sequence[Party]]:
    """Return the members and people that are left when ``names`` go, with everybody who acts for them.

    Raises :class:`DocumentError` for a name that is neither a member nor a person.
    """
    unknown = sorted(set(names) - manifest.names - {person.name for person in manifest.people})
    if unknown:
        raise DocumentError(f"{', '.join(unknown)} stands nowhere in it", where=f"consortium {manifest.name}")
    return {
        "members": tuple(each for each in manifest.members if each.name not in names),
        "people": tuple(each for each in manifest.people if each.name not in names and each.silo not in names),
    }
