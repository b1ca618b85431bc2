"""Mutual witnessing in rounds, as small packets that ride on messages which travel anyway.

Each party sends one packet a round: its signed head with consistency proofs, the sizes it saw of the others' logs, and
its cosignatures of the heads in the round before. The aggregator passes all packets on to all; it cannot alter one
unseen, because heads and cosignatures are signed, and dropping one only delays it.

Invariant: a head is cosigned only through :class:`silo.log.Witness`, so a fork or rollback raises here, named, before
anything else of the round is believed. What is kept of one's own log is a head with verified cosignatures.

Source: issue 7, item 2; C2SP tlog-witness, tlog-cosignature.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from silo.audit.trust import Trust
from silo.errors import VerificationFailed
from silo.log import Log, Offer, Witness, offer
from silo.log.note import NoteSigner, verify_checkpoint
from silo.log.witness import merge

MAX_PARTIES = 1024
Packet = Mapping[str, Any]


class Witnessing:
    """One party's part in witnessing during a run: :meth:`packet` once a round, :meth:`receive` what came of it."""

    def __init__(self, log: Log, signer: NoteSigner, memory: Witness, trust: Trust) -> None:
        self._log = log
        self._signer = signer
        self._memory = memory
        self._trust = trust
        self._offered: deque[int] = deque(maxlen=2)  # who received the last round has seen one of these
        self._told: dict[str, int] = {}  # who did not says what it saw instead
        self._waiting: set[str] = set()  # logs whose last head came without a proof
        self._cosigned: dict[str, str] = {}
        self._cosigners: tuple[str, ...] = ()

    @property
    def cosigners(self) -> tuple[str, ...]:
        """Who cosigned the head of one's own log that was kept last; compare their number with the quorum."""
        return self._cosigners

    def packet(self) -> dict[str, Any]:
        """Return this round's packet, a JSON value."""
        seen = {origin: size for origin, size in self._memory.sizes().items() if origin in self._trust.logs}
        offered = offer(self._log, self._signer, {*self._offered, *self._told.values()})
        self._offered.append(verify_checkpoint(offered.note, self._trust.log(self._log.origin)).size)
        return {
            "offer": offered.to_dict(),
            "seen": seen,
            "cosigned": dict(self._cosigned),
        }

    def receive(self, packets: Mapping[str, Packet]) -> tuple[str, ...]:
        """Take the packets of all parties by name; return the names whose heads were cosigned.

        Raises :class:`VerificationFailed` naming the party whose log was rolled back, forked, or who sent what is no
        packet. A head without proof (its holder restarted) waits for the next round, once.
        """
        if len(packets) > MAX_PARTIES:
            raise VerificationFailed(f"packets of {len(packets)} parties", where="witnessing")
        mine: list[str] = []
        cosigned: dict[str, str] = {}
        for name, packet in sorted(packets.items()):
            origin = f"silo/{name}"
            offered, seen, notes = _parsed(name, packet)
            if origin == self._log.origin:
                continue
            key = self._trust.log(origin)
            if self._unproven(origin, offered, verify_checkpoint(offered.note, key).size):
                continue
            cosigned[origin] = self._memory.observe(offered, key, self._signer)
            if isinstance(seen.get(self._log.origin), int):
                self._told[name] = seen[self._log.origin]
            if isinstance(notes.get(self._log.origin), str):
                mine.append(notes[self._log.origin])
        self._cosigned = cosigned
        self._keep(mine)
        return tuple(sorted(origin.removeprefix("silo/") for origin in cosigned))

    def _unproven(self, origin: str, offered: Offer, size: int) -> bool:
        """Say whether the head came without the proof due; raise if that is so for the second time running.

        Once is honest: its holder restarted and has not been told yet what this party saw last.
        """
        saw = self._memory.sizes().get(origin)
        if not saw or size <= saw or saw in offered.proofs:
            self._waiting.discard(origin)
            return False
        if origin in self._waiting:
            raise VerificationFailed(
                f"no proof in two rounds that its {size} entries begin with the {saw} seen before",
                where=origin,
                fix="stop the run and ask its holder: the log may have been forked",
            )
        self._waiting.add(origin)
        return True

    def _keep(self, notes: list[str]) -> None:
        """Keep the head that most others cosigned, of those they sent back."""
        own, others = self._trust.log(self._log.origin), self._trust.others(self._log.origin)
        by_head: dict[str, list[str]] = {}
        for note in notes:
            verify_checkpoint(note, own, others, quorum=1)  # else the sender is no witness, or altered it
            by_head.setdefault(note.rpartition("\n\n")[0], []).append(note)
        if by_head:
            best = max(by_head.values(), key=lambda group: (len(group), len(group[0])))
            kept = self._memory.keep(merge(best), own, others)
            self._cosigners = tuple(sorted(kept.cosigned))


def _parsed(name: str, packet: Packet) -> tuple[Offer, Mapping[str, Any], Mapping[str, Any]]:
    try:
        seen, notes = packet["seen"], packet["cosigned"]
        if packet.keys() != {"offer", "seen", "cosigned"} or not isinstance(seen, dict) or not isinstance(notes, dict):
            raise ValueError
        return Offer.from_dict(packet["offer"]), seen, notes
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise VerificationFailed("not a witness packet", where=name, fix="the peer runs another version") from error
