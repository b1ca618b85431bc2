"""kill -9 in the middle of appending: the log opens, verifies, and has everything that was acknowledged."""

import os
import random
import signal
import subprocess
import sys
import time

from silo.log import Log

ORIGIN = "silo/cleveland"
KILLS, KILLS_PER_FILE = 200, 20  # a new file now and then: some kills hit its making, and verifying stays short
# Forks a child for each line it reads, says its pid, and then how it ended. A child acknowledges an entry in a file,
# which outlives it, only after append() returned. It appends one by one and in batches.
NURSERY = """
import os, sys
from pathlib import Path
from silo.log import Log

def append_for_ever(path, file):
    log = Log(path, "silo/cleveland")
    def acknowledge(n):
        os.write(file, b"%d\\n" % n)
    while True:
        n = len(log)
        log.append("fault", {"what": f"fault {n}"})
        acknowledge(n)
        log.extend([("fault", {"what": f"fault {n + 1 + k}"}) for k in range(7)])
        acknowledge(n + 7)

for line in sys.stdin:
    path = Path(line.strip())
    file = os.open(path.with_suffix(".acknowledged"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    pid = os.fork()
    if pid == 0:
        append_for_ever(path, file)
    os.close(file)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


def test_nothing_acknowledged_is_lost(tmp_path):
    chance = random.Random(7)
    nursery = subprocess.Popen(
        [sys.executable, "-c", NURSERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert nursery.stdin is not None
    assert nursery.stdout is not None
    busy = 0
    try:
        for number in range(KILLS):
            path = tmp_path / f"log-{number // KILLS_PER_FILE}.db"
            said = path.with_suffix(".acknowledged")
            if number % KILLS_PER_FILE == 0:
                witnessed, before = [], 0
                said.touch()
            told = said.stat().st_size
            nursery.stdin.write(f"{path}\n")
            child = int(nursery.stdout.readline())
            while number % 2 and said.stat().st_size == told:
                time.sleep(0.001)  # every other kill comes while it appends, the rest may also come before
            time.sleep(chance.uniform(0, 0.02))
            os.kill(child, signal.SIGKILL)
            assert int(nursery.stdout.readline()) == -signal.SIGKILL
            acknowledged = max(map(int, said.read_text().split()), default=-1)
            with Log(path, ORIGIN) as log:
                head = log.verify(*witnessed)
                assert head.size > acknowledged
                assert [entry.body["what"] for entry in log.entries()] == [f"fault {n}" for n in range(head.size)]
            witnessed.append(head)
            busy += head.size > before
            before = head.size
    finally:
        nursery.stdin.close()
        nursery.wait(timeout=60)
        nursery.stdout.close()
    assert busy >= KILLS / 2
