"""``python -m silo.deploy.child PARENT COMMAND...``: becomes COMMAND, and the kernel ends it when process PARENT ends.

Without it a supervisor that is killed would leave a SuperLink behind, which holds the port and the database. Source:
prctl(2), PR_SET_PDEATHSIG, which survives execve(2). Elsewhere than on Linux the command just runs.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Arrange to be ended with the parent, then become the command."""
    parent, *command = arguments
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != int(parent):  # it ended before the kernel was told
            sys.exit(1)
    os.execvp(command[0], command)  # noqa: S606  the supervisor's own command, no shell


if __name__ == "__main__":
    main(sys.argv[1:])
