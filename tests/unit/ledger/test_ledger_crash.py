"""kill -9 at every line between reserve and reply, and two processes at one budget."""

import json
import subprocess
import sys

from silo.ledger import Ledger
from tests.unit.ledger.conftest import DIGEST

# Forks a child for every line of silo.ledger and silo.storage that each call of the sequence executes, and lets it kill
# itself there. A child releases a step by writing it to a file and flushing it, right after charge() returned.
DRIVER = r"""
import json, os, shutil, signal, sys
from pathlib import Path
from dp_accounting import dp_event
from silo.ledger import Ledger

folder, digest = Path(sys.argv[1]), sys.argv[2]
event = dp_event.GaussianDpEvent(20.0)
terms = dict(delta=1e-5, code_digest=digest, data_digest=digest)
template, path, released = folder / "template.db", folder / "ledger.db", folder / "released"
call = 0

def sequence(ledger):
    global call
    call = 0
    run = ledger.reserve("cleveland", "7", event, 4, **terms)
    for round_ in range(2):
        call += 1
        ledger.charge(run, round_, 0, 2, upload_digest=digest)
        with released.open("ab", buffering=0) as file:
            file.write(b"%d\n" % round_)
            os.fsync(file.fileno())
    call += 1
    ledger.settle(run)

def at_each_line(act):
    wanted = {}
    def trace(frame, what, _):
        code = frame.f_code
        if code not in wanted:
            name = code.co_filename
            wanted[code] = "/silo/ledger/" in name or name.endswith("/silo/storage.py")
        if not wanted[code]:
            return None
        if what == "line":
            act(frame)
        return trace
    sys.settrace(trace)

def fresh():
    for leftover in [*folder.glob("ledger.db*"), released]:
        leftover.unlink(missing_ok=True)
    shutil.copy(template, path)

with Ledger(template) as ledger:
    ledger.open_population("cleveland", 2.0, 1e-5, "gdp")
first, count = {}, 0  # where in the sequence each call first comes to each line
def note(frame):
    global count
    count += 1
    first.setdefault((call, frame.f_code.co_filename, frame.f_lineno), count)
for _ in range(2):  # the first time imports things and fills caches
    first.clear()
    count = 0
    fresh()
    with Ledger(path) as ledger:
        at_each_line(note)
        sequence(ledger)
        sys.settrace(None)

outcomes = []
for left in [*first.values(), 0]:
    fresh()
    child = os.fork()
    if child == 0:
        ledger = Ledger(path)
        def die(frame):
            global left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        at_each_line(die)
        sequence(ledger)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status == (signal.SIGKILL if left else 0), status
    gone = len(released.read_bytes().splitlines()) if released.exists() else 0
    with Ledger(path) as ledger:
        runs = ledger.reservations()
        charged = runs[0].charged if runs else 0
        spent = ledger.spent("cleveland")
        resumable = not runs or not runs[0].open
        if not resumable:
            resumable = ledger.reserve("cleveland", "7", event, 4, **terms).charged == charged
    outcomes.append([gone * 2, charged, spent.epsilon, spent.committed, resumable])
print(json.dumps(outcomes))
"""

# Reserves one run after another until the budget refuses, and says how many it got.
SPENDER = """
import sys
from pathlib import Path
from dp_accounting import dp_event
from silo.errors import BudgetExceeded
from silo.ledger import Ledger
path, name, digest = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
ledger, got = Ledger(path), 0
print("ready", flush=True)
sys.stdin.readline()
try:
    while True:
        terms = dict(delta=1e-5, code_digest=digest, data_digest=digest)
        run = ledger.reserve("cleveland", f"{name}{got}", dp_event.GaussianDpEvent(20.0), 1, **terms)
        ledger.charge(run, 0, 0, 1, upload_digest=digest)
        got += 1
except BudgetExceeded:
    print(got, flush=True)
"""


def test_killed_at_every_line(in_memory):
    run = subprocess.run(
        [sys.executable, "-c", DRIVER, str(in_memory), DIGEST], capture_output=True, text=True, timeout=200
    )
    assert run.returncode == 0, run.stderr
    outcomes = json.loads(run.stdout)
    assert len(outcomes) > 150
    for released, charged, epsilon, committed, resumable in outcomes:
        assert released <= charged <= 4
        assert (epsilon > 0) == (charged > 0)
        assert epsilon <= committed
        assert resumable
    assert {charged for _, charged, *_ in outcomes} == {0, 2, 4}
    assert any(released < charged for released, charged, *_ in outcomes)  # it over-charges, and only that
    assert outcomes[-1][:2] == [4, 4]


def test_two_processes_cannot_spend_it_twice(tmp_path):
    path = tmp_path / "ledger.db"
    with Ledger(path) as ledger:
        ledger.open_population("cleveland", 1.0, 1e-5, "gdp")
    children = [
        subprocess.Popen(
            [sys.executable, "-c", SPENDER, str(path), name, DIGEST],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("a", "b")
    ]
    for child in children:
        assert child.stdout.readline() == "ready\n"
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    got = [int(child.communicate(timeout=60)[0]) for child in children]
    with Ledger(path) as ledger:
        spent = ledger.spent("cleveland")
        assert len(ledger.reservations()) == sum(got)
        assert 0.95 < spent.epsilon <= 1.0
        ledger.verify()
