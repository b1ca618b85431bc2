"""The command ``silo``: one file per noun, nothing heavy imported before a command needs it.

Results go to stdout, talk to stderr. An expected error is one line and an exit code of its own (`silo.errors`); a
traceback appears only with ``--debug``.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback

from silo.cli.app import app
from silo.cli.fail import report_failure

__all__ = ["app", "main"]


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    arguments = sys.argv[1:] if argv is None else argv
    debug = "--debug" in arguments  # wherever it stands: a person adds it at the end of the line that failed
    try:
        code = app(args=[word for word in arguments if word != "--debug"], prog_name="silo", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:  # `silo ... | head`: whoever read has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 128 + signal.SIGPIPE
    except Exception as error:
        if debug:
            traceback.print_exc()
        code = report_failure(error)
    sys.exit(code if isinstance(code, int) else 0)
