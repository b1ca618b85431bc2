"""The only room that imports Flower: it carries packets and trusts Flower with none of them.

- :mod:`silo.flower.client_app` and :mod:`silo.flower.server_app`: the two apps that a deployment starts;
- :mod:`silo.flower.engine`: runs both in one process, every message through Flower's own serialisation;
- :mod:`silo.flower.records`: packets to and from Flower's records;
- :mod:`silo.flower.compat`: every private name of Flower, with a contract test.
"""
