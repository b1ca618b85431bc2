"""The aggregator: adds ciphertexts, carries sealed keys, records, and can decrypt nothing."""

from silo.aggregator.aggregator import FAILURE, RESULT, SERVING, Aggregator, write_failure
from silo.aggregator.asking import Interrupted
from silo.aggregator.events import Events, Follower

__all__ = ["FAILURE", "RESULT", "SERVING", "Aggregator", "Events", "Follower", "Interrupted", "write_failure"]
