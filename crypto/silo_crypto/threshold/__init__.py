"""Custody ``threshold``: T of n silos together open one sum per attempt, and nobody ever holds the key.

The construction is the common-randomness, key-homomorphic one of LERNA (ASIACRYPT 2023) over R_q with Shamir-shared
keys: upload b_i = a s_i + e_i + encode(m_i) with ``a`` from the silos' own nonces; T silos open the sum over an agreed
set U with masked, padded and flooded shares of a sum s_i. PROTOCOL section 3, "threshold custody". It is unaudited.

    parameters   the named sets, and the bounds computed from them
    encoding     integer fields to polynomials and back, exactly
    sampling     public, masking and secret randomness
    epoch        who takes part under one set of keys, the quorum, Lagrange coefficients
    messages     every message between a silo and the aggregator: bytes, parsed strictly
    keys         a silo's secrets of one epoch
    cipher       encrypt, share, open: the three computations on polynomials
    state        what must survive a crash (SQLite)
    ceremony     a silo's side of dealing and testing the keys
    attempt      a silo's side of one attempt
    adder        the aggregator's side of both; it holds no key and imports no crypto library

Import from these modules; this one imports nothing, so that the aggregator loads only what it needs.
"""
