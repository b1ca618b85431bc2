"""The silo agent: runs beside the data, decides, trains, encrypts, records. It knows nothing of Flower."""

from silo.agent.agent import SiloAgent

__all__ = ["SiloAgent"]
