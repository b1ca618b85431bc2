"""Silo: institutions that may not share records train one model together.

Nothing heavy is imported here: ``silo --help`` must stay under a second, so torch, Flower, Opacus and TenSEAL are
imported by the modules that use them, when they are used.
"""

__version__ = "0.1.0"
