"""The dashboard beside a run that goes on: it follows round by round, and the run does not notice."""

from __future__ import annotations

import http.client
import json
import threading

from silo.dashboard import Watcher
from silo.messages import Packet
from tests.e2e.federation import ROUNDS, Federation, Tap
from tests.unit.dashboard.serving import Served


class Stream(threading.Thread):
    """Reads the event stream of a dashboard, and remembers every headline."""

    def __init__(self, served: Served) -> None:
        super().__init__(daemon=True)
        self._connection = http.client.HTTPConnection(served.host, served.port, timeout=60)
        self._connection.request("GET", f"{served.path}events", headers={"Cookie": served.cookie()})
        self._answer = self._connection.getresponse()
        self.told: list[str] = []
        self._new = threading.Condition()

    def run(self) -> None:
        for line in self._answer:
            if line.startswith(b"data: "):
                with self._new:
                    self.told.append(json.loads(line[6:])["words"])
                    self._new.notify_all()
        self._answer.close()
        self._connection.close()

    def wait_for(self, words: str) -> None:
        with self._new:
            assert self._new.wait_for(lambda: any(words in each for each in self.told), timeout=120), self.told


def test_a_run_is_followed_round_by_round_and_is_not_disturbed(federation: Federation) -> None:
    home = federation.homes["cleveland"]
    before = Watcher(home).look().alarms  # the other tests of this process attacked the same homes
    with Served(home.path) as served:
        stream = Stream(served)
        stream.start()
        sent = 0

        def request(name: str, packet: Packet) -> Packet:
            """Hold each message to Cleveland until the page shows what the one before it changed."""
            nonlocal sent
            if name == "cleveland":
                sent += 1
                with home.log() as log:
                    size = len(log)
                stream.wait_for(f"the log has {size:,} entries")
            return packet

        submission = federation.submit()
        result = federation.play(submission, Tap(federation, request=request))
        with home.log() as log:
            size = log.verify().size
        stream.wait_for(f"the log has {size:,} entries")
    assert result
    assert sent > ROUNDS
    for number in range(1, ROUNDS):  # the last sum is applied together with the end
        assert any(f"round {number} of {ROUNDS}" in each for each in stream.told), stream.told
    view = Watcher(home).look()
    assert view.runs[0].state == "finished"
    assert view.log is not None
    assert sum(each.cosigned is not None for each in view.log.witnesses) >= view.log.quorum > 0
    new = set(view.alarms) - set(before)
    assert not [alarm for alarm in new if alarm.level == "bad" or "cosigned" in alarm.what]


def test_the_aggregator_s_page_names_every_silo_s_decision(federation: Federation) -> None:
    federation.play(federation.submit(rounds=1))
    view = Watcher(federation.aggregator).look()
    assert view.role == "aggregator"
    assert {each.silo for each in view.decisions} == set(federation.homes)
    assert view.runs[0].state == "finished"
