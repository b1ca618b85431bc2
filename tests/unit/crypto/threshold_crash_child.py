"""One silo as a real process, to be killed: it answers messages over a pipe and dies by SIGKILL at a given event.

An event is each SQL statement, just before it runs, and each answer, just before it leaves.
"""

from __future__ import annotations

import os
import signal

from Crypto.PublicKey import ECC
from silo_crypto.errors import CryptoError
from silo_crypto.keys import Identity, seal
from silo_crypto.threshold.attempt import ThresholdSilo
from silo_crypto.threshold.ceremony import load_keys
from silo_crypto.threshold.keys import Party
from silo_crypto.threshold.state import State

CHAIN = bytes(32)


def export(identity: Identity) -> tuple[str, str, str]:
    """Return what rebuilds a test's throw-away identity in another process."""
    return identity.name, identity._signing.export_key(format="PEM"), identity._sealing.export_key(format="PEM")


def run(pipe, path, epoch, exported, public, length, kill_at):
    """Serve ``(method, argument, ...)`` until the pipe closes; answer ("ok", value) or ("error", name)."""
    name, signing, sealing = exported
    identity = Identity(name, ECC.import_key(signing), ECC.import_key(sealing))
    party = Party(identity, lambda to, info, plain: seal(public[to], info, plain), identity.open, public)
    state = State(path)
    silo = ThresholdSilo(load_keys(epoch, party, state), party, state, length)
    events = 0

    def event(_statement: str) -> None:
        nonlocal events
        events += 1
        if events == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    state._db.set_trace_callback(event)
    header = None
    while True:
        try:
            method, *arguments = pipe.recv()
        except EOFError:
            return
        try:
            if method == "begin_and_encrypt":
                header = silo.begin(arguments[0], CHAIN)
                answer = silo.encrypt(header, arguments[1])
            else:
                answer = getattr(silo, method)(*arguments)
        except CryptoError as error:
            pipe.send(("error", type(error).__name__))
            continue
        event("about to answer")
        pipe.send(("ok", answer))
