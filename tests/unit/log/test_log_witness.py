"""Witnesses: they cosign what only grew, remember it across restarts, and name who rolled back or forked."""

import pytest
from silo_crypto.keys import Identity

from silo.errors import ConfigError, VerificationFailed
from silo.log import Log, Offer, Witness, log_key, offer, verify_checkpoint, witness_key
from silo.log.witness import merge

ORIGIN = "silo/cleveland"
FAULT = [("fault", {"what": "x"})]


@pytest.fixture(scope="module")
def people():
    return Identity.generate("cleveland"), Identity.generate("hungary"), Identity.generate("switzerland")


@pytest.fixture
def key(people):
    return log_key(ORIGIN, people[0].public())


@pytest.fixture
def log(tmp_path):
    with Log(tmp_path / "log.db", ORIGIN) as log:
        log.extend(FAULT * 5)
        yield log


@pytest.fixture
def witness(tmp_path):
    with Witness(tmp_path / "witness.db") as witness:
        yield witness


def travelled(offered):
    return Offer.from_dict(offered.to_dict())


def test_growth_is_cosigned_and_remembered_across_a_restart(log, tmp_path, people, key):
    keeper, hungary, _ = people
    for grown in (0, 1, 7, 40):
        log.extend(FAULT * grown)
        with Witness(tmp_path / "witness.db") as witness:  # opened anew each time: the memory is the file
            note = witness.observe(travelled(offer(log, keeper, witness.sizes().values())), key, hungary)
            head = verify_checkpoint(note, key, [witness_key(hungary.public())], quorum=1)
            assert head.size == len(log)
            assert witness.sizes() == {ORIGIN: len(log)}


def test_the_same_head_twice_is_cosigned_twice_and_kept_once(log, witness, people, key):
    for _ in range(2):
        witness.observe(offer(log, people[0], [5]), key, people[1])
    assert len(witness.all_seen(ORIGIN)) == 1


def test_growth_without_proof_is_not_cosigned_and_not_called_a_fork(log, witness, people, key):
    witness.observe(offer(log, people[0]), key, people[1])
    log.extend(FAULT)
    with pytest.raises(VerificationFailed, match="no proof that the head of 6 entries extends the one of 5"):
        witness.observe(offer(log, people[0]), key, people[1])
    assert witness.conflicts() == []
    assert witness.sizes() == {ORIGIN: 5}


def test_a_rollback_is_named_and_kept(log, witness, people, key, tmp_path):
    early = offer(log, people[0])
    log.extend(FAULT)
    witness.observe(offer(log, people[0]), key, people[1])
    with pytest.raises(VerificationFailed, match="silo/cleveland: the log was rolled back: it had 6 entries and now"):
        witness.observe(early, key, people[1])
    assert [verify_checkpoint(note, key).size for note in witness.conflicts()] == [5]


@pytest.mark.parametrize("size", [5, 9])
def test_a_fork_is_named_and_kept(log, witness, people, key, tmp_path, size):
    witness.observe(offer(log, people[0]), key, people[1])
    with Log(tmp_path / "fork.db", ORIGIN) as fork:
        fork.extend([("fault", {"what": "another story"})] * size)
        with pytest.raises(VerificationFailed, match="the log was forked"):
            witness.observe(offer(fork, people[0], [5]), key, people[1])
    assert len(witness.conflicts()) == 1
    assert witness.sizes() == {ORIGIN: 5}


def test_together_is_one_commit_and_keeps_what_contradicts(log, witness, people, key, tmp_path):
    keeper, hungary, _ = people
    early = offer(log, keeper)
    log.extend(FAULT)
    beside = Witness(tmp_path / "witness.db")  # what is not committed yet, nobody else sees

    def see() -> None:
        with witness.together():
            witness.observe(offer(log, keeper), key, hungary)
            assert witness.sizes() == {ORIGIN: 6}
            assert beside.sizes() == {}
            witness.observe(early, key, hungary)

    with pytest.raises(VerificationFailed, match="rolled back"):
        see()
    assert beside.sizes() == {ORIGIN: 6}
    assert len(beside.conflicts()) == 1
    beside.close()


def test_what_breaks_off_in_between_leaves_nothing(log, witness, people, key):
    def see() -> None:
        with witness.together():
            witness.observe(offer(log, people[0]), key, people[1])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        see()
    assert witness.sizes() == {}
    witness.observe(offer(log, people[0]), key, people[1])
    assert witness.sizes() == {ORIGIN: 5}


def test_another_s_signature_is_no_head(log, witness, people, key):
    with pytest.raises(VerificationFailed, match="not signed by silo/cleveland"):
        witness.observe(offer(log, people[1]), key, people[1])


def test_strangers_signatures_are_not_passed_on(log, witness, people, key):
    keeper, hungary, stranger = people
    offered = offer(log, keeper)
    from silo.log import cosign

    note = witness.observe(Offer(cosign(offered.note, stranger), {}), key, hungary)
    assert " switzerland " not in note


def test_the_holder_keeps_what_its_witnesses_cosigned(log, witness, people, key, tmp_path):
    keeper, hungary, swiss = people
    offered = offer(log, keeper)
    with Witness(tmp_path / "swiss.db") as other:
        notes = [witness.observe(offered, key, hungary), other.observe(offered, key, swiss)]
    keys = [witness_key(each.public()) for each in (hungary, swiss)]
    with Witness(tmp_path / "own.db") as own:
        assert set(own.keep(merge(notes), key, keys).cosigned) == {"hungary", "switzerland"}
        assert verify_checkpoint(own.cosigned(ORIGIN)[0], key, keys, quorum=2).size == 5
        with pytest.raises(VerificationFailed, match="0 of 1 cosignatures"):
            own.keep(offered.note, key, keys)


def test_only_cosignatures_of_one_head_merge(log, people):
    first = offer(log, people[0]).note
    log.extend(FAULT)
    with pytest.raises(ConfigError, match="different heads"):
        merge([first, offer(log, people[0]).note])


@pytest.mark.parametrize(
    "value",
    [None, {}, {"note": 1, "proofs": {}}, {"note": "x", "proofs": {"a": []}}, {"note": "x", "proofs": {"1": ["AA=="]}}],
)
def test_what_is_no_offer_is_refused(value):
    with pytest.raises(VerificationFailed, match="not an offered log head"):
        Offer.from_dict(value)
