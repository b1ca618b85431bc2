"""What a deployment adds to the two Flower apps: certificates, the edge, the supervisor, and requests of researchers.

- :mod:`silo.deploy.certificates`: a small authority for trials; checks of certificates that are given;
- :mod:`silo.deploy.place`: the files of an aggregator's transport;
- :mod:`silo.deploy.child`: runs a command that ends when its parent does;
- :mod:`silo.deploy.supervisor`: keeps SuperLink, SuperExec and runs going;
- :mod:`silo.deploy.edge`: the only port that others reach;
- :mod:`silo.deploy.requests`: what a researcher signs, and how it is checked.
"""
