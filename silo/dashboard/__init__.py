"""The admin's page: what one home holds now, shown on loopback to whoever has the token, and never changed.

:class:`Watcher` looks at a home and returns a :class:`View`, :mod:`silo.dashboard.page` turns a view into the blocks of
the report, :mod:`silo.dashboard.app` serves it.

Invariant: nothing here writes to a home, opens a private key, or sends a request; the databases are opened read only.
"""

from silo.dashboard.view import View
from silo.dashboard.watcher import Watcher

__all__ = ["View", "Watcher"]
