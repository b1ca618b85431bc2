"""Where a researcher's code runs: a child process without network, keys, ledger or home, which is believed nothing.

:class:`Confined` is one experiment in one child, :class:`RemoteGradients` what trainers use of it, :func:`means` what
the operating system lets be put in force. :mod:`silo.sandbox.worker` is the child's side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from silo.sandbox.confine import MEANS, Limits
from silo.sandbox.server import Means, means, warm

if TYPE_CHECKING:
    from silo.sandbox.remote import Confined, RemoteGradients

__all__ = ["MEANS", "Confined", "Limits", "Means", "RemoteGradients", "means", "warm"]


def __getattr__(name: str) -> object:
    """Import what needs torch only where it is used."""
    if name in ("Confined", "RemoteGradients"):
        from silo.sandbox import remote

        return getattr(remote, name)
    raise AttributeError(name)
