"""What a researcher gets back: :class:`RunResult`, from a demo, from a run's folder, or fetched from an aggregator.

Nothing heavy is imported here; pandas and matplotlib only where a frame or a plot is asked for.
"""

from silo.client.result import RunResult, load_result, open_release

__all__ = ["RunResult", "load_result", "open_release"]
