"""A researcher's side of a run after signing it: :func:`submit` it, follow the :class:`RemoteRun`, get a
:class:`RunResult`, which a demo and a run's folder give too.

Nothing heavy is imported here; pandas and matplotlib only where a frame or a plot is asked for.
"""

from silo.client.remote import RemoteRun, submit, submitted
from silo.client.result import RunResult, load_result, open_release

__all__ = ["RemoteRun", "RunResult", "load_result", "open_release", "submit", "submitted"]
