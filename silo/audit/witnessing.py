"""Mutual witnessing in rounds, as small packets that ride on messages which travel anyway.

Each party sends one packet an exchange: its signed head with consistency proofs, the sizes it saw of the others' logs,
and its cosignatures of the heads in the exchange before. The aggregator passes on to each party what is for it
(:func:`addressed`). It cannot alter a packet unseen: heads and cosignatures are signed, and so is the packet's number
in the run, so that a packet played again is stale and accuses nobody. Dropping one only delays it.

Invariant: a head is cosigned only through :class:`silo.log.Witness`, so a fork or rollback raises here, named, before
anything else of the round is believed. What is kept of one's own log is a head with verified cosignatures. A head is
cosigned one exchange after it was offered and its holder has that in the next, so a quorum can stand from the third
exchange on, and from then on :meth:`Witnessing.require` asks for it.

Source: issue 7, item 2; C2SP tlog-witness, tlog-cosignature.
"""

from __future__ import annotations

import base64
import binascii
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from silo.audit.trust import Trust, origin_of
from silo.canonical import canonical_bytes, parse_canonical
from silo.errors import PeerError, VerificationFailed
from silo.log import Log, Offer, VerifierKey, Witness, offer
from silo.log.note import NoteSigner, split, verify_checkpoint
from silo.log.witness import Overtaken, merge

LABEL = b"silo/v1/witness"
BLOB = "witness"
MAX_PARTIES = 1024
MAX_BYTES = 4 << 20
RESTART = 1000
FRESH = 2  # a cosignature counts for the heads of the last two exchanges
Packet = Mapping[str, Any]
_FIELDS = {"number", "offer", "seen", "cosigned", "signature"}


class Witnessing:
    """One party's part in witnessing during a run: :meth:`packet` once an exchange, :meth:`receive` what came of it."""

    def __init__(
        self, log: Log, signer: NoteSigner, memory: Witness, trust: Trust, run: str, *, after: int = 0
    ) -> None:
        self._log = log
        self._signer = signer
        self._memory = memory
        self._trust = trust
        self._run = run
        self._number = 0
        # A party that was restarted counts on from its last packet on record; it may have sent a few more.
        self._after = after + RESTART if after else 0
        self._numbers: dict[str, int] = {}  # by party: of the last packet that was taken
        self._offered: deque[int] = deque(maxlen=FRESH)  # who received the last exchange has seen one of these
        self._told: dict[str, int] = {}  # who did not says what it saw instead
        self._waiting: dict[str, str] = {}  # by origin: the last head, where it came without a proof
        self._heads: dict[str, deque[str]] = {}  # by party: the texts of its last heads
        self._cosigned: dict[str, str] = {}
        self._cosigners: tuple[str, ...] = ()
        self._standing: dict[str, set[str]] = {}

    @property
    def last(self) -> int:
        """The number of the last packet."""
        return self._after + self._number

    @property
    def cosigners(self) -> tuple[str, ...]:
        """Who cosigned a recent head of one's own log, by the last exchange."""
        return self._cosigners

    @property
    def standing(self) -> dict[str, int]:
        """How many others say, by the last exchange, that they cosigned a recent head of each party heard in it.

        Only who gets the packets whole can say that of others: the aggregator.
        """
        return {name: len(by) for name, by in sorted(self._standing.items())}

    def below(self, quorum: int) -> tuple[str, ...]:
        """Return the parties whose log has fewer than ``quorum`` cosigners; nobody while none can have them yet."""
        if self._number < FRESH:
            return ()
        return tuple(name for name, by in self.standing.items() if by < quorum)

    def require(self, quorum: int) -> None:
        """Raise :class:`PeerError` unless ``quorum`` others cosigned one's own log of late, once that can be so."""
        if self._number >= FRESH and len(self._cosigners) < quorum:
            by = ", ".join(self._cosigners) or "nobody"
            raise PeerError(
                f"this silo's log is cosigned by {by}; the consortium asks for {quorum} others",
                where="witnessing",
                fix="the aggregator repeats the exchange; are the other agents running?",
            )

    def packet(self) -> dict[str, Any]:
        """Return this exchange's packet, a JSON value."""
        self._number += 1
        seen = {origin: size for origin, size in self._memory.sizes().items() if origin in self._trust.logs}
        # Before anybody said what it saw, those who cosigned the last heads saw those.
        known = [] if self._told else [_size(note) for note in self._memory.cosigned(self._log.origin)[:FRESH]]
        offered = offer(self._log, self._signer, {*self._offered, *self._told.values(), *known})
        self._offered.append(_size(offered.note))
        message = _message(self._run, self._log.origin, self.last, offered.note)
        return {
            "number": self.last,
            "offer": offered.to_dict(),
            "seen": seen,
            "cosigned": dict(self._cosigned),
            "signature": base64.b64encode(self._signer.sign(message)).decode(),
        }

    def receive(self, packets: Mapping[str, Packet]) -> tuple[str, ...]:
        """Take the packets of all parties by name; return the names whose heads were cosigned.

        Raises :class:`VerificationFailed` naming the party whose log was rolled back, forked, or who sent what is no
        packet. A head without proof (its holder restarted) waits for the next exchange, once; a packet that was taken
        before is passed over.
        """
        if len(packets) > MAX_PARTIES:
            raise VerificationFailed(f"packets of {len(packets)} parties", where="witnessing")
        with self._memory.together():  # durable before any cosignature leaves: those travel with the next packet
            return self._received(packets)

    def _received(self, packets: Mapping[str, Packet]) -> tuple[str, ...]:
        mine: dict[str, str] = {}
        cosigned: dict[str, str] = {}
        own = self._log.origin.removeprefix("silo/")
        self._standing = {own: set()}
        notes_of: dict[str, Mapping[str, Any]] = {}
        for name, packet in sorted(packets.items()):
            origin = origin_of(name)
            if origin == self._log.origin:
                continue
            if origin not in self._trust.logs:
                raise VerificationFailed("not a party of the consortium", where=name)
            offered, seen, notes = self._opened(name, packet)
            if packet["number"] <= self._numbers.get(name, 0):
                continue
            self._numbers[name] = packet["number"]
            self._standing[name] = set()
            notes_of[name] = notes
            key = self._trust.log(origin)
            self._heads.setdefault(name, deque(maxlen=FRESH)).append(split(offered.note)[0])
            if not self._unproven(origin, offered, verify_checkpoint(offered.note, key).size):
                with suppress(Overtaken):  # then it is not cosigned, and that is nobody's fault
                    shown = self._waiting.pop(origin, None)
                    cosigned[origin] = self._memory.observe(offered, key, self._signer, shown=shown)
            if isinstance(seen.get(self._log.origin), int):
                self._told[name] = seen[self._log.origin]
            if isinstance(notes.get(self._log.origin), str):
                mine[name] = notes[self._log.origin]
        self._cosigned = cosigned
        self._count({**notes_of, own: cosigned})  # one's own cosignatures go out with the next packet
        self._keep(mine)
        return tuple(sorted(origin.removeprefix("silo/") for origin in cosigned))

    def _opened(self, name: str, packet: Packet) -> tuple[Offer, Mapping[str, Any], Mapping[str, Any]]:
        """Return a packet's parts once its holder is known to have sent it in this run, under this number."""
        try:
            number, seen, notes = packet["number"], packet["seen"], packet["cosigned"]
            if packet.keys() != _FIELDS or not isinstance(seen, dict) or not isinstance(notes, dict):
                raise ValueError
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise ValueError
            offered = Offer.from_dict(packet["offer"])
            signature = base64.b64decode(packet["signature"], validate=True)
        except (TypeError, KeyError, ValueError, AttributeError, binascii.Error) as error:
            raise VerificationFailed("not a witness packet", where=name, fix="the peer runs another version") from error
        origin = origin_of(name)
        self._trust.log(origin).verify(_message(self._run, origin, number, offered.note), signature)
        return offered, seen, notes

    def _unproven(self, origin: str, offered: Offer, size: int) -> bool:
        """Say whether the head came without the proof due; raise if that is so for the second time running.

        Once is honest: its holder restarted and has not been told yet what this party saw last. It is honest also as
        long as another run of this home sees later heads than this one.
        """
        saw = self._memory.sizes().get(origin)
        if not saw or size <= saw or saw in offered.proofs or self._memory.overtaken(origin):
            return False
        if origin in self._waiting:
            raise VerificationFailed(
                f"no proof in two rounds that its {size} entries begin with the {saw} seen before",
                where=origin,
                fix="stop the run and ask its holder: the log may have been forked",
            )
        self._waiting[origin] = offered.note
        return True

    def _count(self, notes_of: Mapping[str, Mapping[str, Any]]) -> None:
        """Count who says to have cosigned whom; the signatures are checked by whom they are for (:meth:`_keep`)."""
        for witness, notes in notes_of.items():
            for name, heads in self._heads.items():
                note = notes.get(origin_of(name))
                if name in self._standing and name != witness and isinstance(note, str) and _text(note) in heads:
                    self._standing[name].add(witness)

    def _keep(self, notes: Mapping[str, str]) -> None:
        """Verify the cosignatures that came back, each by its sender's key; keep the head that most gave."""
        own, others = self._trust.log(self._log.origin), self._trust.others(self._log.origin)
        keys = {key.name: key for key in others}
        by_head: dict[str, list[str]] = {}
        fresh: set[str] = set()
        for name, note in notes.items():
            _verify_cosignature(note, own, keys, name)
            by_head.setdefault(_text(note), []).append(note)
            if self._offered and _size(note) >= self._offered[0]:
                fresh.add(name)
        self._cosigners = tuple(sorted(fresh))
        self._standing[self._log.origin.removeprefix("silo/")] = fresh
        if by_head:
            best = max(by_head.values(), key=lambda group: (len(group), len(group[0])))
            self._memory.keep(merge(best), own, others)


def _verify_cosignature(note: str, own: VerifierKey, keys: Mapping[str, VerifierKey], name: str) -> None:
    try:
        verify_checkpoint(note, own, [keys[name]] if name in keys else [], quorum=1)
    except VerificationFailed as error:
        raise VerificationFailed(
            f"what it sent as its cosignature of {own.name} does not hold: {error.what}", where=origin_of(name)
        ) from error


def addressed(packets: Mapping[str, Packet], to: str) -> bytes:
    """Return as bytes what of all packets is for one party: everybody's head, and what they say of *its* log."""
    origin = origin_of(to)
    cut = {
        name: {
            **packet,
            **{part: {origin: packet[part][origin]} if origin in packet[part] else {} for part in ("seen", "cosigned")},
        }
        for name, packet in packets.items()
        if name != to
    }
    return encode(cut)


def encode(value: Mapping[str, Any]) -> bytes:
    """Return a packet, or packets by name, as the bytes that travel."""
    return canonical_bytes(dict(value))


def decode(blob: bytes, sender: str) -> dict[str, Any]:
    """Return what :func:`encode` wrote; raise :class:`VerificationFailed` naming ``sender`` for anything else."""
    try:
        if len(blob) > MAX_BYTES:
            raise ValueError("too long")
        value = parse_canonical(blob)
        if not isinstance(value, dict):
            raise ValueError("not an object")
    except ValueError as error:
        raise VerificationFailed("not a witness packet", where=sender, fix="the peer runs another version") from error
    return value


def merged(replies: Iterable[tuple[str, bytes | None]]) -> dict[str, Any]:
    """Return the packets in the blobs of several senders, by name; who sent none is left out."""
    return {name: decode(blob, name) for name, blob in replies if blob is not None}


def _message(run: str, origin: str, number: int, note: str) -> bytes:
    return LABEL + canonical_bytes({"run": run, "origin": origin, "number": number, "note": note})


def _text(note: str) -> str:
    return note.rpartition("\n\n")[0] + "\n"


def _size(note: str) -> int:
    return int(note.split("\n", 2)[1])
