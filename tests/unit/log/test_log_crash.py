"""kill -9 in the middle of appending: the log opens, verifies, and has everything that was acknowledged."""

import random
import subprocess
import sys
import time

from silo.log import Log

ORIGIN = "silo/cleveland"
# Acknowledges an entry on stdout only after append() returned. Appends one by one and in batches.
CHILD = """
import sys
from pathlib import Path
from silo.log import Log
log = Log(Path(sys.argv[1]), "silo/cleveland")
while True:
    n = len(log)
    log.append("fault", {"what": f"fault {n}"})
    print(n, flush=True)
    log.extend([("fault", {"what": f"fault {n + 1 + k}"}) for k in range(7)])
    print(n + 7, flush=True)
"""
KILLS = 10


def test_nothing_acknowledged_is_lost(tmp_path):
    path = tmp_path / "log.db"
    chance = random.Random(7)
    acknowledged, witnessed = -1, []
    for _ in range(KILLS):
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        acknowledged = max(acknowledged, int(child.stdout.readline()))
        time.sleep(chance.uniform(0, 0.03))
        child.kill()
        rest, _ = child.communicate()
        complete = [line for line in rest.splitlines(keepends=True) if line.endswith("\n")]
        acknowledged = max([acknowledged, *(int(line) for line in complete)])
        with Log(path, ORIGIN) as log:
            head = log.verify(*witnessed)
            assert head.size > acknowledged
            assert [entry.body["what"] for entry in log.entries()] == [f"fault {n}" for n in range(head.size)]
            witnessed.append(head)
    assert acknowledged > KILLS
