"""kill -9 at every step: whatever a silo's process had sent, its successor never contradicts.

A real process is killed before each SQL statement and before each answer in turn. Its successor, on the same
``shares.db``, is then asked for everything that must not happen twice.
"""

import multiprocessing
from dataclasses import replace

import pytest
from silo_crypto.threshold import adder
from silo_crypto.threshold.messages import Agreement, Confirm, Start, upload_digest

from tests.unit.crypto import threshold_crash_child as child
from tests.unit.crypto.threshold_support import CHAIN, IDENTITIES, PUBLIC, Consortium, make_epoch, random_values

LENGTH = 50
OTHERS = ("s1", "s2", "s3", "s4")
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload([child.__name__])


class Process:
    """The silo s0, outside this process."""

    def __init__(self, consortium, kill_at=0):
        self.pipe, theirs = SERVER.Pipe()
        path = consortium.folder / "s0.db"
        arguments = (theirs, path, consortium.epoch, child.export(IDENTITIES["s0"]), PUBLIC, LENGTH, kill_at)
        self.process = SERVER.Process(target=child.run, args=arguments, daemon=True)
        self.process.start()
        theirs.close()

    def ask(self, *message):
        """Return ("ok", value), ("error", class name) or ("dead", None)."""
        try:
            self.pipe.send(message)
            return self.pipe.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return "dead", None

    def stop(self):
        self.pipe.close()
        self.process.join(10)
        return self.process.exitcode


class Aggregator:
    """The aggregator and four honest silos around s0; it keeps all that s0 ever sent in an attempt."""

    def __init__(self, consortium, attempt):
        self.consortium, self.attempt = consortium, attempt
        self.uploads, self.confirms, self.shares = set(), set(), []
        self.header = self.proposal = None
        self.values = random_values(consortium.epoch.members, LENGTH)

    def ask(self, process, kind, *message):
        status, answer = process.ask(kind, *message)
        if status == "ok" and kind == "begin_and_encrypt":
            self.uploads.add(answer)
        if status == "ok" and kind == "confirm":
            self.confirms.add(Confirm.decode(answer).agreement)
        if status == "ok" and kind == "share":
            self.shares.append((message[0], answer))
        return status, answer

    def start(self, nonce):
        silos = self.consortium.silos
        nonces = {name: silos[name].nonce("run", 0, self.attempt) for name in OTHERS}
        return adder.start(self.consortium.epoch, "run", 0, self.attempt, CHAIN, {"s0": nonce, **nonces})

    def collect(self, start, upload):
        """Upload for the others, and for s0 if its upload came; propose."""
        self.header = Start.decode(start).header
        self.adder = adder.ThresholdAdder(self.consortium.epoch, self.header, LENGTH, PUBLIC)
        for name in OTHERS:
            self.consortium.silos[name].begin(start, CHAIN)
            self.adder.add(name, self.consortium.silos[name].encrypt(self.header, self.values[name]))
        if upload is not None:
            self.adder.add("s0", upload)
        self.proposal = self.adder.proposal()
        for name in OTHERS:
            self.adder.confirm(name, self.consortium.silos[name].confirm(self.proposal))

    def first_life(self, process):
        """Drive s0 through an attempt for as long as it lives; return whether it reached the end."""
        status, nonce = self.ask(process, "nonce", "run", 0, self.attempt)
        if status == "dead":
            return False
        self.start_message = self.start(nonce)
        status, upload = self.ask(process, "begin_and_encrypt", self.start_message, self.values["s0"])
        self.collect(self.start_message, upload)
        if status == "dead" or self.ask(process, "confirm", self.proposal)[0] == "dead":
            return False
        return self.ask(process, "share", self.adder.request(("s0", "s1", "s2")))[0] != "dead"

    def second_life(self, process):
        """Ask the successor for all that could contradict what its predecessor may have sent."""
        again = self.ask(process, "begin_and_encrypt", self.start_message, self.values["s1"])
        assert again == ("error", "ProtocolError")  # its nonce died with the process
        _, nonce = self.ask(process, "nonce", "run", 0, self.attempt)
        self.ask(process, "begin_and_encrypt", self.start(nonce), self.values["s1"])  # a new header, other values
        honest = Agreement.decode(self.proposal)
        without = tuple(place for place, name in enumerate(honest.uploaders) if name != "s0")
        others = replace(
            honest,
            uploaders=tuple(honest.uploaders[p] for p in without),
            digests=(bytes(32), *(honest.digests[p] for p in without[1:])),
        )
        forged = replace(
            honest,
            uploaders=honest.header.members,
            digests=tuple(upload_digest(honest.header, n, b"") for n in honest.header.members),
        )
        for agreement in (others, forged, honest, others):
            self.ask(process, "confirm", agreement.encode())
        for sharers in (("s0", "s1", "s2"), ("s0", "s2", "s3"), ("s0", "s1", "s2")):
            self.ask(process, "share", self.adder.request(sharers))

    def judge(self):
        """The invariants over both lives."""
        assert len(self.uploads) <= 1, "two messages left in one attempt"
        assert len(self.confirms) <= 1, "two sets were confirmed for one attempt"
        requests = [request for request, _ in self.shares]
        assert len(requests) == len(set(requests)), "two shares left for one S"
        agreed = Agreement.decode(self.proposal).digest(self.consortium.epoch.digest())
        if self.shares:
            assert self.confirms <= {agreed}, "shares of one set, a confirm of another"


@pytest.fixture(scope="module")
def consortium(tmp_path_factory):
    made = Consortium.ready(make_epoch(5, 3), tmp_path_factory.mktemp("crash"), LENGTH)
    made.states["s0"].close()  # the child's
    yield made
    made.close()


def test_no_kill_at_any_step_lets_a_silo_contradict_itself(consortium):
    died_after = []
    for kill_at in range(1, 80):
        aggregator = Aggregator(consortium, kill_at)
        first = Process(consortium, kill_at)
        ended = aggregator.first_life(first)
        code = first.stop()
        died_after.append((len(aggregator.uploads), len(aggregator.confirms), len(aggregator.shares)))
        if aggregator.proposal is None:
            continue  # it died before its nonce left: nothing to contradict
        second = Process(consortium)
        aggregator.second_life(second)
        assert second.stop() == 0
        aggregator.judge()
        if ended:
            assert code == 0
            break
        assert code == -9
    else:
        pytest.fail("the sequence has more steps than were tried")
    # The kills fell into every gap: before the upload, before the confirm, before the share, and none.
    assert sorted(set(died_after)) == [(0, 0, 0), (1, 0, 0), (1, 1, 0), (1, 1, 1)]
    assert len(died_after) > 15


def test_the_successor_can_still_finish_what_was_agreed(consortium):
    """Killed after its confirm left, the silo's successor gives the share, and the sum opens."""
    aggregator = Aggregator(consortium, 500)
    first = Process(consortium)
    _, nonce = aggregator.ask(first, "nonce", "run", 0, 500)
    start = aggregator.start(nonce)
    _, upload = aggregator.ask(first, "begin_and_encrypt", start, aggregator.values["s0"])
    aggregator.collect(start, upload)
    assert aggregator.ask(first, "confirm", aggregator.proposal)[0] == "ok"
    first.process.kill()
    first.process.join()
    assert first.process.exitcode == -9
    second = Process(consortium)
    request = aggregator.adder.request(("s0", "s1", "s2"))
    status, share = aggregator.ask(second, "share", request)
    assert status == "ok"
    aggregator.adder.add_share("s0", share)
    for name in ("s1", "s2"):
        aggregator.adder.add_share(name, consortium.silos[name].share(request))
    sums = consortium.silos["s4"].open(aggregator.header, aggregator.adder.aggregate(), LENGTH)
    assert sums.tolist() == sum(v.astype(int) for v in aggregator.values.values()).tolist()
    assert second.stop() == 0
