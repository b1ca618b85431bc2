"""Witnessing in rounds: everybody cosigns everybody, who missed a round catches up, and who forks is named at once."""

import pytest
from silo_crypto.keys import Identity

from silo.audit import Trust, Witnessing
from silo.audit.witnessing import addressed, decode
from silo.errors import PeerError, VerificationFailed
from silo.log import Log, Witness, log_key, store, tree, verify_checkpoint, witness_key

NAMES = ("aggregator", "cleveland", "hungary", "switzerland")


class Party:
    def __init__(self, name, folder, identity, trust):
        self.name, self.identity, self.trust = name, identity, trust
        self.log = Log(folder / f"{name}.db", f"silo/{name}")
        self.memory = Witness(folder / f"{name}-witness.db")
        self.start()

    def start(self, run="run-1"):
        """Begin a run: memory and log are on disk, nothing else survives."""
        self.run = run
        self.part = Witnessing(self.log, self.identity, self.memory, self.trust, run)

    def forged(self, log):
        """Return the part of a holder of this key who shows another log, in the same run and in its turn."""
        false = Witnessing(log, self.identity, self.memory, self.trust, self.run)
        false._number = self.part._number
        return false

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
    passed = {name: decode(addressed(packets, name), name) for name in there} | {"aggregator": packets}
    return {name: each.part.receive(passed[name]) for name, each in there.items()}


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


def test_another_run_catches_up_with_what_was_seen_in_the_first(parties):
    exchange(parties)
    exchange(parties)
    parties["switzerland"].work(5)
    for each in parties.values():
        each.start("run-2")
    exchange(parties)
    assert exchange(parties)["switzerland"] == ("aggregator", "cleveland", "hungary")


def test_a_party_with_new_keys_still_has_to_extend_what_it_signed_with_the_old_ones(parties, tmp_path):
    exchange(parties)
    exchange(parties)
    hungary, cleveland = parties["hungary"], parties["cleveland"]
    cleveland.identity = Identity.generate("cleveland")
    trust = Trust(
        {**hungary.trust.logs, "silo/cleveland": log_key("silo/cleveland", cleveland.identity.public())},
        (*hungary.trust.witnesses, witness_key(cleveland.identity.public())),
    )
    for each in (hungary, cleveland):
        each.trust = trust
        each.start("run-2")
    assert hungary.part.receive({"cleveland": cleveland.part.packet()}) == ("cleveland",)
    with Log(tmp_path / "fork.db", "silo/cleveland") as fork:
        fork.extend([("fault", {"what": "another story"})] * 2)
        with pytest.raises(VerificationFailed, match="silo/cleveland: the log was rolled back"):
            hungary.part.receive({"cleveland": cleveland.forged(fork).packet()})


def test_the_quorum_is_counted_alike_by_who_lacks_it_and_by_who_passes_packets_on(parties):
    for number in range(1, 5):
        exchange(parties)
        assert number == 1 or parties["aggregator"].part.standing == dict.fromkeys(NAMES, 3)
        assert parties["aggregator"].part.below(3) == ()
        assert parties["aggregator"].part.below(4) == (() if number == 1 else NAMES)
        for each in parties.values():
            each.part.require(3)  # of nobody in the first exchange, for nobody can have it then
    exchange(parties, away=("hungary",))
    assert parties["aggregator"].part.standing == {"aggregator": 2, "cleveland": 2, "switzerland": 2}
    assert parties["aggregator"].part.below(3) == ("aggregator", "cleveland", "switzerland")
    with pytest.raises(PeerError, match="cosigned by aggregator, switzerland; the consortium asks for 3 others"):
        parties["cleveland"].part.require(3)
    parties["cleveland"].part.require(2)


def test_a_packet_played_again_is_stale_and_accuses_nobody(parties):
    exchange(parties)
    old = {name: each.part.packet() for name, each in parties.items()}
    for each in parties.values():
        each.part.receive(old)
    exchange(parties)
    before = parties["hungary"].memory.sizes()
    assert parties["hungary"].part.receive(old) == ()
    assert parties["hungary"].memory.sizes() == before
    assert parties["hungary"].memory.conflicts() == []


def test_a_packet_of_another_run_or_renumbered_is_refused(parties):
    exchange(parties)
    packet = parties["cleveland"].part.packet()
    with pytest.raises(VerificationFailed, match="silo/cleveland: the signature does not hold"):
        parties["hungary"].part.receive({"cleveland": {**packet, "number": 7}})
    parties["cleveland"].start("run-2")
    with pytest.raises(VerificationFailed, match="silo/cleveland: the signature does not hold"):
        parties["hungary"].part.receive({"cleveland": parties["cleveland"].part.packet()})
    with pytest.raises(VerificationFailed, match="stranger: not a party"):
        parties["hungary"].part.receive({"stranger": packet})


def test_two_runs_at_once_are_no_rollback(parties, tmp_path):
    """The second run's later heads arrive before the first run's: late is not forged, but it is not cosigned either."""
    exchange(parties)
    cleveland, hungary = parties["cleveland"], parties["hungary"]
    with Witness(hungary.memory.path) as memory:
        beside = Witnessing(hungary.log, hungary.identity, memory, hungary.trust, "run-2")
        other = Witnessing(cleveland.log, cleveland.identity, cleveland.memory, cleveland.trust, "run-2")
        other._told = {"hungary": hungary.memory.sizes()["silo/cleveland"]}
        for _ in range(3):
            cleveland.work()
            late = cleveland.part.packet()
            cleveland.work()
            other._told["hungary"] = hungary.memory.sizes()["silo/cleveland"]
            assert beside.receive({"cleveland": other.packet()}) == ("cleveland",)
            assert hungary.part.receive({"cleveland": late}) == ()
        assert hungary.memory.conflicts() == []
        # Who shows less than it did in this very run is still caught.
        with Log(tmp_path / "fork.db", "silo/cleveland") as fork:
            fork.extend([("fault", {"what": "another story"})] * 2)
            false = cleveland.forged(fork)
            hungary.part._memory._marks["silo/cleveland"] = 1 << 40
            with pytest.raises(VerificationFailed, match="silo/cleveland: the log was rolled back"):
                hungary.part.receive({"cleveland": false.packet()})


@pytest.mark.parametrize("liar", ["aggregator", "cleveland"])
@pytest.mark.parametrize("many", [2, 6, 30])
def test_a_fork_or_rollback_is_found_at_the_next_exchange_and_named(parties, tmp_path, liar, many):
    exchange(parties)
    exchange(parties)
    with Log(tmp_path / "fork.db", f"silo/{liar}") as fork:
        fork.extend([("fault", {"what": "another story"})] * many)
        false = parties[liar].forged(fork)
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
        false = parties["cleveland"].forged(fork)
        hungary = parties["hungary"].part
        assert "cleveland" not in hungary.receive({"cleveland": {**false.packet()}})
        packet = false.packet()
        packet["offer"]["proofs"] = {}
        with pytest.raises(VerificationFailed, match="silo/cleveland: no proof in two rounds"):
            hungary.receive({"cleveland": packet})


def test_a_head_that_came_without_a_proof_binds_its_holder_all_the_same(parties, tmp_path):
    """At the start of a run nobody has said yet what it saw; who uses that to show two stories is found out next."""
    exchange(parties)
    exchange(parties)
    hungary, cleveland = parties["hungary"], parties["cleveland"]
    cleveland.start("run-2"), hungary.start("run-2")
    cleveland.memory._database.connection.execute("DROP TRIGGER cosigned_no_DELETE")
    cleveland.memory._database.connection.execute("DELETE FROM cosigned")  # else it would know what others saw
    seen = hungary.memory.sizes()["silo/cleveland"]
    with Log(tmp_path / "fork.db", "silo/cleveland") as fork:
        for entry in cleveland.log.entries(end=seen):
            fork._database.connection.execute("BEGIN")
            fork._database.connection.execute("INSERT INTO entry VALUES (?, ?)", (entry.index, entry.data))
            nodes = list(tree.completed(entry.index, entry.hash, store._stored(fork._database.connection)))
            fork._database.connection.executemany("INSERT INTO hash VALUES (?, ?, ?)", nodes)
            fork._database.connection.execute("COMMIT")
        cleveland.work(5)
        packet = cleveland.part.packet()
        assert packet["offer"]["proofs"] == {}
        assert hungary.part.receive({"cleveland": packet}) == ()
        fork.extend([("fault", {"what": "another story"})] * 9)
        false = cleveland.forged(fork)
        false._offered, false._told = cleveland.part._offered, {"hungary": seen}
        with pytest.raises(VerificationFailed, match="silo/cleveland: the log was forked"):
            hungary.part.receive({"cleveland": false.packet()})
        assert len(hungary.memory.conflicts()) == 1


def test_an_altered_packet_is_no_packet(parties):
    packets = {name: each.part.packet() for name, each in parties.items()}
    for broken in ({}, None, {**packets["hungary"], "seen": 3}, {**packets["hungary"], "offer": {}}):
        with pytest.raises(VerificationFailed, match="not a"):
            parties["cleveland"].part.receive({**packets, "hungary": broken})


def test_a_cosignature_by_nobody_known_is_refused(parties):
    exchange(parties)
    packets = {name: each.part.packet() for name, each in parties.items()}
    packets["hungary"]["cosigned"] = {"silo/cleveland": packets["cleveland"]["offer"]["note"]}
    with pytest.raises(VerificationFailed, match=r"silo/hungary: what it sent as its cosignature .* 0 of 1"):
        parties["cleveland"].part.receive(packets)
