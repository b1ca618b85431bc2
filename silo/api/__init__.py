"""What a researcher writes: an :class:`Experiment`, its privacy, its encryption and how records become tensors.

Nothing heavy is imported here; torch appears in type hints only.
"""

from silo.api.experiment import Encryption, Experiment, FedAvg, LocalDP
from silo.api.load import load_experiment, load_experiment_bytes
from silo.api.records import Categorical, Numeric, Records, Schema

__all__ = [
    "Categorical",
    "Encryption",
    "Experiment",
    "FedAvg",
    "LocalDP",
    "Numeric",
    "Records",
    "Schema",
    "load_experiment",
    "load_experiment_bytes",
]
