"""A researcher's code that means harm: what it gets, what a person at the silo sees, and what leaves.

Every case runs real code in a real child. What the code finds out before it has seen a record it may say, so the cases
end by raising what they got; after that its words stay in the child.
"""

from __future__ import annotations

import os
import re
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from silo.api import Records, load_experiment_bytes
from silo.api.load import digest_of
from silo.data import load
from silo.errors import ConfigError
from silo.sandbox import MEANS, Confined, Limits, RemoteGradients, means
from silo.training.accounting import Plan
from silo.training.trainer import LocalTrainer
from silo.training.units import units_of

EXAMPLE = (Path(__file__).parents[3] / "examples" / "heart" / "experiment.py").read_bytes()
LIMITS = Limits(memory_mib=1024, seconds=20)
D = 32

pytestmark = pytest.mark.skipif(means().isolation != "process", reason=f"this system cannot confine: {means()}")


@pytest.fixture(scope="module")
def records() -> Records:
    return load("uci-heart:cleveland").take(np.arange(40))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A silo's home with a key and a ledger, readable by everybody: only confinement is in the way."""
    home = tmp_path_factory.mktemp("home")
    for name in ("keys/identity.ed25519.pem", "ledger.db"):
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).write_text("SECRET")
    return home


def bundle(code: str) -> bytes:
    return EXAMPLE + b"\n" + textwrap.dedent(code).encode()


def examined(records: Records, home: Path, code: str = "", limits: Limits = LIMITS) -> Confined:
    confined = Confined(limits, [home])
    try:
        confined.examine(bundle(code), digest_of(bundle(code)), records.schema, seed=0)
    except BaseException:
        confined.close()
        raise
    return confined


def said(records: Records, home: Path, expression: str, setup: str = "", limits: Limits = LIMITS) -> str:
    """Return what code gets when it evaluates ``expression`` at the silo, as the agent is told it."""
    code = f"""
import os, pathlib, socket, subprocess, sys, ctypes
{textwrap.dedent(setup)}
try:
    got = repr({expression})
except BaseException as error:
    got = type(error).__name__
raise RuntimeError("got " + got)
"""
    with pytest.raises(ConfigError) as caught:
        examined(records, home, code, limits).close()
    return caught.value.what.partition("got ")[2]


ATTEMPTS = {
    "opens a socket": ("socket.socket(socket.AF_INET, socket.SOCK_STREAM)", "PermissionError"),
    "opens a local socket": ("socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)", "PermissionError"),
    "opens a pair of sockets": ("socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)", "PermissionError"),
    "outlives its parent": ("ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)", "-1"),
    "limits another process": ("__import__('resource').prlimit(1, 7, (0, 0))", "PermissionError"),
    "slows another process": ("os.sched_setaffinity(1, {{0}})", "PermissionError"),
    "reads the identity key": ("open({home!r} + '/keys/identity.ed25519.pem').read()", "FileNotFoundError"),
    "reads the ledger through silo": (
        "__import__('silo.ledger').ledger.Ledger(pathlib.Path({home!r}) / 'ledger.db')",
        "ConfigError|OperationalError|FileNotFoundError",
    ),
    "lists the directory beside": ("os.listdir({parent!r})", "FileNotFoundError"),
    "reads the password file": ("open('/etc/passwd').read()", "FileNotFoundError"),
    "lists root's home": ("open(os.path.expanduser('~root') + '/.bashrc').read()", "FileNotFoundError"),
    "looks at processes": ("os.listdir('/proc')", "FileNotFoundError"),
    "sees its parent": ("os.getppid()", "0"),
    "kills its parent": ("os.kill(os.getppid() or 1, 9)", "PermissionError"),
    "kills everything": ("os.kill(-1, 9)", "PermissionError"),
    "forks": ("os.fork()", "PermissionError"),
    "starts a program": ("subprocess.run(['/bin/sh'])", "PermissionError|FileNotFoundError"),
    "allocates 100 GB": ("len(bytearray(100 << 30))", "MemoryError"),
    "writes beside its libraries": ("open(os.path.dirname(os.__file__) + '/x', 'w')", "OSError|PermissionError"),
    "writes at the root": ("open('/x', 'w')", "OSError|PermissionError"),
    "fills the disk": ("[open(str(i), 'wb').write(bytes(32 << 20)) for i in range(3)]", "OSError"),
    "reads the environment": ("[name for name in os.environ if 'SILO' in name or 'PYTEST' in name or 'HOME' in name]",
                              r"\[\]"),
    "prints": ("{{os.fstat(n).st_rdev for n in (0, 1, 2)}}", rf"\{{{os.makedev(1, 3)}\}}"),
    "becomes root": ("os.setuid(0)", "PermissionError"),
    "traces a process": ("ctypes.CDLL(None, use_errno=True).ptrace(16, 1, 0, 0)", "-1"),
    "mounts": ("ctypes.CDLL(None).mount(b'none', b'/silo-scratch', b'tmpfs', 0, None)", "-1"),
    "leaves its namespaces": ("ctypes.CDLL(None).unshare(0x10000000)", "-1"),
    "makes memory that no limit counts": ("os.memfd_create('x')", "PermissionError"),
}  # fmt: skip


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_what_it_tries_does_not_work(records: Records, home: Path, attempt: str) -> None:
    expression, outcome = ATTEMPTS[attempt]
    got = said(records, home, expression.format(home=str(home), parent=str(home.parent)))
    assert re.fullmatch(outcome, got), got


def test_a_harmless_file_can_be_written_and_is_gone_afterwards(records: Records, home: Path) -> None:
    setup = "open('silo-sandbox-note', 'w').write('x')"
    assert said(records, home, "(os.getcwd(), os.listdir('.'))", setup) == "('/silo-scratch', ['silo-sandbox-note'])"
    assert said(records, home, "os.listdir('.')") == "[]"
    assert not Path("/silo-scratch").exists()


def test_descriptors_of_the_agent_are_not_there(records: Records, home: Path) -> None:
    setup = """
    def exists(n):
        try:
            os.fstat(n)
        except OSError:
            return False
        return True
    """
    assert said(records, home, "[n for n in range(1024) if exists(n)]", setup) == "[0, 1, 2, 3]"


def test_threads_are_allowed_and_fork_bombs_are_not(records: Records, home: Path) -> None:
    setup = """
    import threading
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    def bomb():
        for _ in range(10_000):
            os.fork()
    """
    assert said(records, home, "bomb()", setup) == "PermissionError"


def test_one_that_sleeps_for_ever_is_stopped_and_told_of(records: Records, home: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(ConfigError, match="stopped: it did not answer in time"):
        examined(records, home, "import time\ntime.sleep(3600)", Limits(seconds=1.0))
    assert time.monotonic() - begun < 20


def test_one_that_dies_is_told_of_and_never_asked_again(records: Records, home: Path) -> None:
    code = """
    import os
    first = tensors
    def tensors(records):
        return os._exit(7) if len(records) == 40 else first(records)
    """
    confined = examined(records, home, textwrap.dedent(code) + AGAIN)
    for _ in range(2):
        with pytest.raises(ConfigError, match="stopped: it ended"):
            confined.tensors(records)


# After it has seen records -------------------------------------------------------------------------------------------

AGAIN = """
import dataclasses
experiment = dataclasses.replace(experiment, tensors=tensors)
"""
PATCH = """
import os
import numpy as np
import silo.sandbox.worker as worker
honest = worker.Worker.gradients
def cheat(self, head, arrays):
    {body}
worker.Worker.gradients = cheat
"""


@pytest.fixture
def prepared(records: Records, home: Path) -> Iterator[object]:
    """Give a maker of a trainer over code that cheats about gradients."""
    opened: list[Confined] = []

    def make(body: str, noise: float = 1.0) -> LocalTrainer:
        confined = examined(records, home, PATCH.format(body=body))
        opened.append(confined)
        confined.tensors(records)
        rows = np.arange(len(records))
        confined.split(rows[:30], rows[30:])
        plan = Plan(
            epsilon=1,
            delta=1e-6,
            clipping_norm=1,
            noise_multiplier=noise,
            sample_rate=1,
            steps_per_round=1,
            expected_batch=10,
            learning_rate=1,
            rounds=2,
            parameters=D,
        )
        units = units_of("record", None, None, 30)
        return LocalTrainer.over(RemoteGradients(confined, units, parameters=D), plan, "hostile")

    yield make
    for confined in opened:
        confined.close()


START = np.zeros(D, dtype=np.float32)


def test_records_as_gradients_are_clipped_and_noised(prepared: object) -> None:
    """30 records of norm 1 at most, divided by 10: the update cannot be longer than 3, whatever is sent."""
    body = "return {}, {'gradients': np.float32(1e6) * self._gradients._features[arrays['rows']].numpy()[:, [0] * 32]}"
    quiet = prepared(body, noise=1e-6).run(START).vector
    assert 0.1 < np.linalg.norm(quiet) <= 3.001
    loud = prepared(body, noise=100.0).run(START).vector
    assert np.linalg.norm(loud - quiet) > 10  # noise of deviation 10 a value, which the code never learns


def test_gradients_that_are_not_finite_count_as_none(prepared: object) -> None:
    body = "return {}, {'gradients': np.full((len(arrays['rows']), 32), np.nan, dtype=np.float32)}"
    assert np.linalg.norm(prepared(body, noise=1e-6).run(START).vector) < 1e-3


FORMS = {
    "another dtype": "return {}, {'gradients': np.zeros((len(arrays['rows']), 32))}",
    "another shape": "return {}, {'gradients': np.zeros((len(arrays['rows']) + 1, 32), dtype=np.float32)}",
    "the sum of all": "return {}, {'gradients': np.zeros((1, 32), dtype=np.float32)}",
    "an extra array": "return {}, {'more': np.zeros(9), **honest(self, head, arrays)[1]}",
    "no array": "return {}, {}",
    "text": "return {}, {'gradients': np.array(['records'])}",
    "a huge array announced": 'os.write(3, (99).to_bytes(4, \'big\') + b\'{"ok": true, "arrays": '
    '[["gradients", "float32", [2000000000, 2000000000]]]}\'.ljust(99))',
    "no message at all": "os.write(3, b'\\x00\\x00\\x00\\x04abcd')",
    "a head without end": "os.write(3, b'\\xff' * 100)",
    "deep nesting": "os.write(3, (60000).to_bytes(4, 'big') + b'[' * 60000)",
    "a pickle": "import pickle; os.write(3, (9).to_bytes(4, 'big') + pickle.dumps(1).ljust(9))",
}


@pytest.mark.parametrize("form", FORMS)
def test_any_other_form_of_answer_ends_the_child(prepared: object, form: str) -> None:
    trainer = prepared(FORMS[form])
    with pytest.raises(ConfigError, match=r"the experiment's process was stopped: it (sent|ended)"):
        trainer.run(START)
    with pytest.raises(ConfigError, match="was stopped"):
        trainer.run(START)


def test_what_it_says_of_records_is_not_repeated(records: Records, home: Path) -> None:
    """Neither its message nor the name it gave its exception: both could hold a record."""
    code = """
    class Patient17IsIll(Exception):
        pass
    def tensors(records):
        if len(records) == 40:
            raise Patient17IsIll("age 63")
        return first(records)
    """
    confined = examined(records, home, "first = tensors\n" + textwrap.dedent(code) + AGAIN)
    with confined, pytest.raises(ConfigError) as caught:
        confined.tensors(records)
    assert "an error of its own" in str(caught.value)
    assert "Patient" not in str(caught.value)
    assert "63" not in str(caught.value)


def test_its_messages_cannot_write_to_a_terminal(records: Records, home: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        examined(records, home, "raise ValueError('\\x1b[2J\\x07 gone')")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("taken", ["bytearray(1 << 38)", "torch.empty(1 << 38)"])
def test_who_needs_more_memory_is_told_which_limit_it_met(records: Records, home: Path, taken: str) -> None:
    with pytest.raises(ConfigError) as caught:
        examined(records, home, f"def tensors(records):\n    return {taken}\n" + AGAIN)
    assert "memory_mib" in caught.value.fix


# Honest code ---------------------------------------------------------------------------------------------------------


def test_honest_gradients_and_scores_are_those_of_this_process(
    records: Records, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from silo.training.evaluate import scores
    from silo.training.gradients import RecordGradients
    from silo.training.model import build_model, flatten
    from silo.training.trainer import to_tensors

    experiment = load_experiment_bytes(EXAMPLE, digest_of(EXAMPLE))
    features, targets = to_tensors(experiment, records)
    here = RecordGradients(experiment, features, targets, parameters=D, seed=3)
    weights = flatten(build_model(experiment, 3))
    rows = np.array([3, 0, 39, 17])
    with here.at(weights):
        here.take(rows)
        expected = np.concatenate([p.grad_sample.reshape(len(rows), -1).numpy() for p in here.parameters], axis=1)
    with Confined(LIMITS, [home]) as confined:
        initial = confined.examine(EXAMPLE, digest_of(EXAMPLE), records.schema, seed=3)
        assert initial.tobytes() == weights.tobytes()
        assert confined.metrics == ("auc",)
        assert np.array_equal(confined.tensors(records), targets.numpy())
        confined.split(np.arange(40), np.arange(30, 40))
        assert np.allclose(np.concatenate(list(confined.gradients(weights, rows))), expected, atol=1e-6)
        monkeypatch.setattr("silo.sandbox.remote._CHUNK_BYTES", 8 * D)
        parts = list(confined.gradients(weights, np.tile(rows, 2)[:7]))
        assert [len(part) for part in parts] == [2, 2, 2, 1]
        assert np.allclose(np.concatenate(parts), np.tile(expected, (2, 1))[:7], atol=1e-6)
        outputs = confined.scores(weights, 10)
        assert np.allclose(outputs, scores(experiment, weights, features[30:], seed=3), atol=1e-6)
        assert confined.measure(outputs, targets.numpy()[30:].astype(float))["auc"] is not None


def test_every_mean_is_in_force_in_the_child_itself(records: Records, home: Path) -> None:
    with Confined(LIMITS, [home]) as confined:
        assert confined.means.in_force == MEANS
