"""From an exception to one line on stderr and an exit code."""

from __future__ import annotations

import sys

import click

from silo.errors import SiloError


def exit_code(error: BaseException) -> int:
    """Return the exit code of an error (STYLE: 2 usage, 3 config, 4 policy, 5 budget, 6 crypto, 7 peer, else 1)."""
    if isinstance(error, SiloError):
        return error.exit_code
    if isinstance(error, click.ClickException):
        return 2
    # The two packages below have error bases of their own, because they know nothing of the product. Imported here:
    # `silo --help` fails seldom, and need not wait for them.
    from silo_crypto.errors import CryptoError
    from silo_policies.errors import PolicyError

    foreign: tuple[tuple[type[Exception], int], ...] = ((CryptoError, 6), (PolicyError, 3))
    for kind, code in foreign:
        if isinstance(error, kind):
            return int(getattr(error, "exit_code", code))
    return 1


def report_failure(error: Exception) -> int:
    """Print one line about ``error`` on stderr and return its exit code."""
    code = exit_code(error)
    if isinstance(error, click.ClickException):
        line = error.format_message()
    elif code != 1 or isinstance(error, SiloError):
        line = str(error)
    else:
        line = f"internal error: {type(error).__name__}: {error} (run again with --debug and report the traceback)"
    if line:  # none when a command without arguments has printed its help
        sys.stderr.write("silo: " + " ".join(line.split()) + "\n")
    return code
