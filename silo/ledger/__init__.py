"""The silo's privacy budget: kept by the silo, per population, over runs, restarts and years.

:class:`Ledger` reserves before a run and charges before each upload; :mod:`silo.ledger.filters` says when a sum of
releases still keeps the cap.
"""

from silo.ledger.book import Charge, Population, Reservation
from silo.ledger.journal import Event, Head
from silo.ledger.store import Ledger, Spent

__all__ = ["Charge", "Event", "Head", "Ledger", "Population", "Reservation", "Spent"]
