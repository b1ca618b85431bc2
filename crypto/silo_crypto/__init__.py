"""Encrypted aggregation: the aggregator adds ciphertexts and can decrypt nothing.

Start at :mod:`silo_crypto.protocol` (the roles and the round header); each custody is one implementation of it. The
package imports neither Flower nor torch nor ``silo``: it works on bytes and NumPy arrays.

    protocol       roles and header                  keys           identities, sealed boxes, keystore
    codec          float32 to integers and back      wire           signed envelopes
    verification   presence, MAC, chain              parameters     named sets and bounds of shared custody
    shared         custody "shared": SEAL's BFV      threshold      custody "threshold": our own ring
"""
