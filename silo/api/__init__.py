"""What a researcher writes: an :class:`Experiment`, its privacy, its encryption and how records become tensors.

Nothing heavy is imported here; torch appears in type hints only.
"""

from silo.api.experiment import (
    Aggregation,
    DistributedDP,
    Encryption,
    Experiment,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedYogi,
    LocalDP,
    Privacy,
)
from silo.api.load import load_experiment, load_experiment_bytes
from silo.api.records import Categorical, Numeric, Records, Schema

__all__ = [
    "Aggregation",
    "Categorical",
    "DistributedDP",
    "Encryption",
    "Experiment",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedYogi",
    "LocalDP",
    "Numeric",
    "Privacy",
    "Records",
    "Schema",
    "load_experiment",
    "load_experiment_bytes",
]
