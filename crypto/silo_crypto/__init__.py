"""Encrypted aggregation: the aggregator adds ciphertexts and can decrypt nothing.

Start at :mod:`silo_crypto.protocol` (the roles and the round header); each custody is one implementation of it. The
package imports neither Flower nor torch nor ``silo``: it works on bytes and NumPy arrays.
"""
