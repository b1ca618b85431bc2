"""Data rooms: one silo's records, from the hospitals shipped with the package or from the silo's own CSV."""

from silo.data.load import HOSPITALS, load
from silo.data.schema import HEART, SCHEMAS
from silo.data.split import split_each, split_rows

__all__ = ["HEART", "HOSPITALS", "SCHEMAS", "load", "split_each", "split_rows"]
