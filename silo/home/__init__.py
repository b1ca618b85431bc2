"""One party's directory: keys, data sets, policies, ledger, log and runs. Start at :class:`Home`."""

from silo.home.home import Home, default_path
from silo.home.settings import FOREVER, DataSet, Settings
from silo.storage import write_atomically

__all__ = ["FOREVER", "DataSet", "Home", "Settings", "default_path", "write_atomically"]
