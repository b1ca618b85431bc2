"""Silo: institutions that may not share records train one model together.

Nothing heavy is imported here: ``silo --help`` must stay under a second, so torch, Flower, Opacus and TenSEAL are
imported by the modules that use them, when they are used. The researcher's names are looked up when first asked for
(PEP 562).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from silo.api import (
        DistributedDP,
        Encryption,
        Experiment,
        FedAdam,
        FedAvg,
        FedAvgM,
        FedYogi,
        LocalDP,
        Records,
        load_experiment,
    )
    from silo.client import RemoteRun, RunResult, load_result, submit

__version__ = "0.1.0"

__all__ = [
    "DistributedDP",
    "Encryption",
    "Experiment",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedYogi",
    "LocalDP",
    "Records",
    "RemoteRun",
    "RunResult",
    "load_experiment",
    "load_result",
    "submit",
]
_CLIENT = ("RemoteRun", "RunResult", "load_result", "submit")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'silo' has no attribute {name!r}")
    if name in _CLIENT:
        from silo import client

        return getattr(client, name)
    from silo import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
