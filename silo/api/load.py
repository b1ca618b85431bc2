"""Loading an experiment file: its bytes are what is signed, so its bytes are what is digested and executed.

Invariant: the code that runs is the code whose SHA-256 is returned (or was asked for): the file is read once. The
module gets a name made from its digest, so no experiment can replace or be replaced by another module, and a failure
is one :class:`~silo.errors.ConfigError` naming file and line.

This is not a sandbox. An experiment is code that a silo approves by digest before it loads it (PROTOCOL section 1).
"""

from __future__ import annotations

import hashlib
import hmac
import sys
import traceback
from pathlib import Path
from types import ModuleType

from silo.api.experiment import Experiment
from silo.errors import ConfigError, VerificationFailed

MAX_BYTES = 1 << 20


def digest_of(source: bytes) -> str:
    """Return ``sha256:<hex>`` of an experiment's bytes."""
    return "sha256:" + hashlib.sha256(source).hexdigest()


def load_experiment(path: str | Path) -> tuple[Experiment, str]:
    """Execute an experiment file and return its ``experiment`` and the digest of its bytes.

    Raises :class:`~silo.errors.ConfigError` when it cannot be read or run, or defines no experiment.
    """
    try:
        source = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(
            f"the experiment cannot be read: {error.strerror or type(error).__name__}",
            where=str(path),
            fix="name a Python file that defines `experiment = Experiment(...)`",
        ) from error
    return _execute(source, str(path)), digest_of(source)


def load_experiment_bytes(source: bytes, digest: str) -> Experiment:
    """Execute an experiment that arrived as bytes, after recomputing its digest.

    Raises :class:`~silo.errors.VerificationFailed` when the bytes are not those of ``digest`` (nothing is executed),
    :class:`~silo.errors.ConfigError` as :func:`load_experiment`.
    """
    if not hmac.compare_digest(digest_of(source).encode(), digest.encode()):
        raise VerificationFailed(
            "the experiment's bytes are not the ones that were agreed",
            where=f"experiment {digest[:19]}",
            fix="ask the researcher to submit again; if it stays, someone alters the run on its way",
        )
    return _execute(source, f"<experiment {digest[:19]}>")


def _execute(source: bytes, filename: str) -> Experiment:
    if len(source) > MAX_BYTES:
        raise ConfigError(f"the experiment is larger than {MAX_BYTES} bytes", where=filename)
    name = "silo_experiment_" + hashlib.sha256(source).hexdigest()[:16]
    try:
        code = compile(source, filename, "exec", dont_inherit=True)
    except SyntaxError as error:
        where = f"{filename}:{error.lineno}" if error.lineno else filename
        raise ConfigError(f"the experiment is not Python: {error.msg}", where=where) from error
    except (ValueError, RecursionError, MemoryError) as error:  # null bytes; nesting beyond the compiler's stack
        raise ConfigError(f"the experiment is not Python: {error}", where=filename) from error
    module = ModuleType(name)
    module.__file__ = filename
    # Registered while it runs and after: dataclasses and pickle look classes up by their module's name.
    sys.modules[name] = module
    try:
        exec(code, module.__dict__)  # noqa: S102  approved by digest, see above
    except ConfigError as error:
        sys.modules.pop(name, None)
        what = f"{error.where}: {error.what}" if error.where else error.what
        raise ConfigError(what, where=_place(error, filename), fix=error.fix) from error
    except (Exception, SystemExit) as error:
        sys.modules.pop(name, None)
        what = f"the experiment stopped with {type(error).__name__}: {error}"
        raise ConfigError(what, where=_place(error, filename), fix="run the file with Python to see it fail") from error
    experiment = getattr(module, "experiment", None)
    if not isinstance(experiment, Experiment):
        sys.modules.pop(name, None)
        found = "defines no `experiment`" if experiment is None else f"`experiment` is a {type(experiment).__name__}"
        raise ConfigError(f"the file {found}", where=filename, fix="end it with `experiment = Experiment(...)`")
    return experiment


def _place(error: BaseException, filename: str) -> str:
    """Return file:line of the last frame inside the experiment."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == filename]
    return f"{filename}:{lines[-1]}" if lines else filename
