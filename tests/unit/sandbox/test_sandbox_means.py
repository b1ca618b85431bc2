"""What is in force for whom: as root, as anybody, and where the operating system lacks something."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from silo.errors import ConfigError
from silo.home import Home
from silo.sandbox import MEANS, Confined, Limits, Means, means
from silo.sandbox.channel import Channel, ChannelFault, Shape
from silo.sandbox.schema import schema_from_json, schema_to_json
from silo.sandbox.server import _PACKAGES

SAY = (
    "import json\nfrom silo.sandbox import means\nm = means()\nprint(json.dumps([m.isolation, m.in_force, m.missing]))"
)
needs_namespaces = pytest.mark.skipif(
    means().isolation != "process" or shutil.which("unshare") is None, reason="the test needs user namespaces itself"
)


def told_to(*command: str) -> tuple[str, list[str], dict[str, str]]:
    """Return what a process started by ``command`` finds in force."""
    path = os.pathsep.join(place for place in sys.path if place)
    ran = subprocess.run(
        [*command, sys.executable, "-c", SAY],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    isolation, in_force, missing = json.loads(ran.stdout)
    return isolation, in_force, dict(missing)


@needs_namespaces
def test_an_ordinary_user_has_every_mean() -> None:
    assert told_to("unshare", "--user", "--map-user=1000", "--map-group=1000") == ("process", list(MEANS), {})


@needs_namespaces
def test_without_namespaces_the_rest_holds_and_what_is_missing_is_said() -> None:
    """A container that allows none: the filter and Landlock are left; policies are told ``none``."""
    script = 'echo 0 > /proc/sys/user/max_user_namespaces; exec setpriv --bounding-set -all --inh-caps -all "$@"'
    isolation, in_force, missing = told_to("unshare", "--user", "--map-root-user", "sh", "-c", script, "sh")
    assert isolation == "none"
    assert in_force == ["filesystem", "memory", "network", "processes"]
    assert "cannot become another user" in missing["privileges"]
    assert "no namespaces" in missing["namespaces"]


ALONE = """
import json, os, pathlib, sys
from silo.api.load import digest_of
from silo.data.schema import HEART
from silo.errors import ConfigError
from silo.sandbox import Confined, Limits, means
home, attempts = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
found = means()
code = f'''
import ctypes, json, os, pathlib, resource, socket, tempfile
home, parent, got = pathlib.Path({str(home)!r}), {os.getpid()}, dict()
for number, attempt in enumerate({attempts!r}):
    try:
        got[number] = repr(eval(attempt))
    except BaseException as error:
        got[number] = type(error).__name__
raise RuntimeError("got " + json.dumps(list(got.values())))
'''.encode()
with Confined(Limits(memory_mib=1024, seconds=20), [home]) as confined:
    try:
        confined.examine(code, digest_of(code), HEART, seed=0)
    except ConfigError as error:
        got = dict(zip(attempts, json.loads(error.what.partition("got ")[2]), strict=True))
print(json.dumps([found.isolation, found.in_force, found.missing, got]))
"""
ATTEMPTS = (
    "(home / 'key').read_text()",
    "os.listdir(home)",
    "(home / 'key').write_text('x')",
    "(home / 'key').chmod(0o666)",
    "os.utime(home / 'key')",
    "os.truncate(home / 'key', 0)",
    "(home / 'key').rename(home / 'other')",
    "open(f'/proc/{parent}/environ').read()",
    "open('/etc/passwd').read()",
    "open('note', 'w')",
    "open('/tmp/note', 'w')",
    "tempfile.mkdtemp()",
    "socket.socket()",
    "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
    "os.kill(parent, 9)",
    "os.fork()",
    "resource.prlimit(parent, resource.RLIMIT_CPU, (1, 1))",
    "os.setpriority(os.PRIO_PROCESS, parent, 19)",
    "len(bytearray(100 << 30))",
)


@needs_namespaces
def test_an_ordinary_user_without_namespaces_is_confined_by_the_filter_and_landlock(tmp_path: Path) -> None:
    """As in a container whose agent is not root: every protection is held up once instead of twice, and it is said."""
    (tmp_path / "key").write_text("SECRET")
    inner = 'exec unshare --user --map-user=1000 --map-group=1000 "$@"'
    script = f"echo 1 > /proc/sys/user/max_user_namespaces; {inner}"
    path = os.pathsep.join(place for place in sys.path if place)
    ran = subprocess.run(
        [
            *("unshare", "--user", "--map-root-user", "sh", "-c", script, "sh"),
            *(sys.executable, "-c", ALONE, str(tmp_path), json.dumps(ATTEMPTS)),
        ],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    isolation, in_force, missing, got = json.loads(ran.stdout)
    assert isolation == "process"
    assert in_force == [mean for mean in MEANS if mean != "namespaces"]
    assert "no namespaces" in dict(missing)["namespaces"]
    allowed = {"PermissionError", "FileNotFoundError", "MemoryError", "OSError"}
    assert {attempt: outcome for attempt, outcome in got.items() if outcome not in allowed} == {}
    assert got.keys() == set(ATTEMPTS)
    assert (tmp_path / "key").read_text() == "SECRET"


def test_a_child_with_less_than_policies_were_told_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Namespaces can run out between the agent's start and a run."""
    told = means()
    monkeypatch.setattr("silo.sandbox.server.means", lambda: Means((*told.in_force, "another-machine")))
    with pytest.raises(ConfigError, match="lacks what was there before: another-machine"):
        Confined(Limits(), [])


def test_what_policies_and_people_are_told() -> None:
    assert Means(MEANS).isolation == "process"
    partly = Means(("memory",), (("network", "no namespaces"),))
    assert partly.isolation == "none"
    assert str(partly) == "confined: memory; not network: no namespaces"


@pytest.mark.skipif(means().isolation != "process", reason="nothing is started where it cannot be confined")
def test_the_children_end_with_the_agent_that_is_killed(tmp_path: Path) -> None:
    """kill -9 of the agent: its end of the socket closes, so the fork server and every child go."""
    code = (
        "import os, signal, pathlib\nfrom silo.sandbox import Limits, server\n"
        "child = server.start(Limits(), [])\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(server._server._process.pid))\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    path = os.pathsep.join(place for place in sys.path if place)
    ran = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, timeout=120, check=False)
    assert ran.returncode == -9
    nursery = int((tmp_path / "pid").read_text())
    end = time.monotonic() + 30
    while _descends_from(nursery) and time.monotonic() < end:
        time.sleep(0.1)
    assert not _descends_from(nursery)


def _descends_from(session: int) -> list[int]:
    """Return the live processes of the fork server's session: itself, guards and children."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def test_the_limits_stand_in_the_silo_s_settings(tmp_path: Path) -> None:
    home = Home.create(tmp_path / "h", "h", display_name="H", organisation_type="lab", jurisdiction="CH")
    assert home.settings.sandbox.memory_mib == 4096
    path = home.path / "silo.toml"
    path.write_text(path.read_text().replace("memory_mib = 4096", "memory_mib = 512"))
    assert Home.open(home.path).settings.sandbox.memory_mib == 512


# Frames --------------------------------------------------------------------------------------------------------------


def pair() -> tuple[Channel, Channel]:
    ours, theirs = socket.socketpair()
    return Channel(ours), Channel(theirs)


def test_arrays_arrive_as_they_were_sent() -> None:
    ours, theirs = pair()
    text, numbers = np.array(["a", "longer"]), np.arange(6, dtype=np.float32).reshape(2, 3)
    ours.send({"do": "x"}, {"text": text, "numbers": numbers, "none": np.empty(0)}, seconds=5)
    head, found = theirs.receive_any()
    assert head == {"do": "x"}
    assert found["text"].tolist() == ["a", "longer"]
    assert np.array_equal(found["numbers"], numbers)
    theirs.send({"ok": True}, {"numbers": numbers}, seconds=5)
    _, back = ours.receive({"numbers": Shape(("float32",), (2, None))}, seconds=5)
    assert np.array_equal(back["numbers"], numbers)
    ours.close()
    theirs.close()


@pytest.mark.parametrize(
    ("shape", "what"),
    [
        (Shape(("float64",), (2, 3)), "another dtype, shape or size"),
        (Shape(("float32",), (3, 3)), "another dtype, shape or size"),
        (Shape(("float32",), (2,)), "another dtype, shape or size"),
        (Shape(("float32",), (2, 3), most=8), "another dtype, shape or size"),
    ],
)
def test_what_was_not_asked_for_is_refused_before_memory_is_taken(shape: Shape, what: str) -> None:
    ours, theirs = pair()
    theirs.send({"ok": True}, {"numbers": np.zeros((2, 3), dtype=np.float32)}, seconds=5)
    with pytest.raises(ChannelFault, match=what):
        ours.receive({"numbers": shape}, seconds=5)
    ours.close()
    theirs.close()


def test_silence_is_not_waited_for() -> None:
    ours, theirs = pair()
    with pytest.raises(ChannelFault, match="did not answer in time"):
        ours.receive({}, seconds=0.1)
    with pytest.raises(ChannelFault, match="did not take the message in time"):
        ours.send({}, {"much": np.zeros(1 << 23)}, seconds=0.2)
    ours.close()
    theirs.close()


def test_a_schema_arrives_as_it_is() -> None:
    from silo.data.schema import HEART

    assert schema_from_json(json.loads(json.dumps(schema_to_json(HEART)))) == HEART


def test_source_trees_are_not_shown_whole() -> None:
    """A checkout may hold a demo's homes: of it, a child sees the packages alone."""
    from silo.sandbox.confine import readable_places

    root = Path(__file__).parents[3]
    assert not any(root.is_relative_to(place) for place in readable_places(_PACKAGES))
