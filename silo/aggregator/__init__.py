"""The aggregator: adds ciphertexts, carries sealed keys, records, and can decrypt nothing."""

from silo.aggregator.aggregator import RESULT, Aggregator
from silo.aggregator.events import Events, Follower

__all__ = ["RESULT", "Aggregator", "Events", "Follower"]
