"""Witnessing in rounds: everybody cosigns everybody, who missed a round catches up, and who forks is named at once."""

import pytest
from silo_crypto.keys import Identity

from silo.audit import Trust, Witnessing
from silo.errors import VerificationFailed
from silo.log import Log, Witness, log_key, verify_checkpoint, witness_key

NAMES = ("aggregator", "cleveland", "hungary", "switzerland")


class Party:
    def __init__(self, name, folder, identity, trust):
        self.name, self.identity, self.trust = name, identity, trust
        self.log = Log(folder / f"{name}.db", f"silo/{name}")
        self.memory = Witness(folder / f"{name}-witness.db")
        self.start()

    def start(self):
        self.part = Witnessing(self.log, self.identity, self.memory, self.trust)

    def work(self, many=3):
        self.log.extend([("fault", {"what": f"something at {self.name}"})] * many)


@pytest.fixture(scope="module")
def identities():
    return {name: Identity.generate(name) for name in NAMES}


@pytest.fixture
def parties(tmp_path, identities):
    publics = [each.public() for each in identities.values()]
    trust = Trust(
        {f"silo/{each.name}": log_key(f"silo/{each.name}", each) for each in publics},
        tuple(witness_key(each) for each in publics),
    )
    made = {name: Party(name, tmp_path, identities[name], trust) for name in NAMES}
    yield made
    for each in made.values():
        each.log.close()
        each.memory.close()


def exchange(parties, away=()):
    """One round: all work, all send, the aggregator passes everything to all."""
    for each in parties.values():
        each.work()
    there = {name: each for name, each in parties.items() if name not in away}
    packets = {name: each.part.packet() for name, each in there.items()}
    return {name: each.part.receive(packets) for name, each in there.items()}


def test_from_the_second_round_on_every_head_has_all_other_cosignatures(parties):
    exchange(parties)
    for _ in range(4):
        seen = exchange(parties)
    for name, each in parties.items():
        others = tuple(sorted(set(NAMES) - {name}))
        assert seen[name] == others
        assert each.part.cosigners == others
        note = each.memory.cosigned(each.log.origin)[0]
        trust = each.trust
        assert verify_checkpoint(note, trust.log(each.log.origin), trust.others(each.log.origin), quorum=3).size > 0


def test_who_missed_rounds_catches_up_without_a_false_alarm(parties):
    for away in ((), (), *[("hungary",)] * 6, (), (), ()):
        seen = exchange(parties, away)
    assert seen["hungary"] == ("aggregator", "cleveland", "switzerland")
    assert parties["hungary"].part.cosigners == ("aggregator", "cleveland", "switzerland")


def test_a_restart_in_between_is_caught_up_with(parties):
    exchange(parties)
    exchange(parties)
    parties["switzerland"].start()  # memory and log are on disk, nothing else survives
    exchange(parties)
    assert exchange(parties)["switzerland"] == ("aggregator", "cleveland", "hungary")


@pytest.mark.parametrize("liar", ["aggregator", "cleveland"])
@pytest.mark.parametrize("many", [2, 6, 30])
def test_a_fork_or_rollback_is_found_at_the_next_exchange_and_named(parties, tmp_path, liar, many):
    exchange(parties)
    exchange(parties)
    with Log(tmp_path / "fork.db", f"silo/{liar}") as fork:
        fork.extend([("fault", {"what": "another story"})] * many)
        false = Witnessing(fork, parties[liar].identity, parties[liar].memory, parties[liar].trust)
        false._told = {"hungary": 6}
        packets = {name: each.part.packet() for name, each in parties.items()} | {liar: false.packet()}
    honest = next(each for name, each in parties.items() if name != liar)
    with pytest.raises(VerificationFailed, match=rf"silo/{liar}: the log was (forked|rolled back)"):
        honest.part.receive(packets)
    assert len(honest.memory.conflicts()) == 1


def test_who_keeps_the_proof_back_is_named_in_the_second_round(parties, tmp_path):
    exchange(parties)
    exchange(parties)
    with Log(tmp_path / "fork.db", "silo/cleveland") as fork:
        fork.extend([("fault", {"what": "another story"})] * 30)
        cleveland = parties["cleveland"]
        false = Witnessing(fork, cleveland.identity, cleveland.memory, cleveland.trust)
        hungary = parties["hungary"].part
        assert "cleveland" not in hungary.receive({"cleveland": {**false.packet()}})
        packet = false.packet()
        packet["offer"]["proofs"] = {}
        with pytest.raises(VerificationFailed, match="silo/cleveland: no proof in two rounds"):
            hungary.receive({"cleveland": packet})


def test_an_altered_packet_is_no_packet(parties):
    packets = {name: each.part.packet() for name, each in parties.items()}
    for broken in ({}, None, {**packets["hungary"], "seen": 3}, {**packets["hungary"], "offer": {}}):
        with pytest.raises(VerificationFailed, match="not a"):
            parties["cleveland"].part.receive({**packets, "hungary": broken})


def test_a_cosignature_by_nobody_known_is_refused(parties):
    exchange(parties)
    packets = {name: each.part.packet() for name, each in parties.items()}
    packets["hungary"]["cosigned"] = {"silo/cleveland": packets["cleveland"]["offer"]["note"]}
    with pytest.raises(VerificationFailed, match="0 of 1 cosignatures"):
        parties["cleveland"].part.receive(packets)
