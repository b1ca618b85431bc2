"""Coverage-guided fuzzing of everything that parses bytes from outside: ``python -m tests.fuzz.wire --seconds 20``.

Atheris (libFuzzer) watches which branches of ``silo_crypto`` an input reaches and mutates towards new ones, from one
good message of each kind. The first byte of an input chooses the parser. What must hold for any bytes: a parser returns
or raises CryptoError, within five seconds and 2 GB; what it accepts encodes to the same bytes again; a refused payload
leaves a sum as it was. A crash ends with a non-zero status and leaves the input in the current directory.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Target = tuple[Callable[[bytes], None], bytes]
TIMEOUT_S, MEMORY_MB, LENGTH = 5, 2048, 4096


def targets() -> dict[str, Target]:
    """Return each parser, wrapped so that it checks what it accepted, with one good input."""
    from silo_crypto import labels, ring_packing, wire
    from silo_crypto.errors import CryptoError
    from silo_crypto.protocol import Header
    from silo_crypto.shared import custody, residues
    from silo_crypto.threshold import messages
    from silo_crypto.threshold.adder import Accumulator
    from silo_crypto.threshold.encoding import Layout

    from tests.unit.crypto import test_threshold_messages as threshold
    from tests.unit.crypto.threshold_support import IDENTITIES, make_epoch

    header = Header(bytes(32), "run", 1, 2, 3, ("s0", "s1", "s2"))

    class Anybody:
        name = "s0"

        def verify(self, message: bytes, signature: bytes) -> None:
            """Let everything through: what follows the signature is to be reached."""

    def unpack(data: bytes) -> None:
        payload = wire.unpack(
            data, kind=labels.UPLOAD, parameters_digest=bytes(32), header=header, verifier=Anybody(), max_length=64
        )
        same(wire.envelope_bytes(labels.UPLOAD, header, "s0", len(payload)), len(data))
        wire.digest(data)

    def again(decode: Callable[[bytes], Any]) -> Callable[[bytes], None]:
        return lambda data: same(decode(data).encode(), data)

    envelope = wire.pack(labels.UPLOAD, bytes(32), header, IDENTITIES["s0"], b"payload")
    found: dict[str, Target] = {
        "envelope": (unpack, envelope),
        "sender": (lambda data: wire.claimed_sender(data) and None, envelope),
        "header": (lambda data: same(messages.decode_header(data).encode(), data), threshold.HEADER.encode()),
        "uploaders": (lambda data: custody.uploaders(header, data) and None, b"\x07"),
    }
    for message, decode in threshold.SAMPLES:
        found[type(message).__name__] = again(decode), message.encode()

    few = 8
    zeros = b"\1" + bytes(residues.packed_bytes(few) - 1)

    def shared(data: bytes) -> None:
        words = residues.unpack(data, few, pad=few, where="fuzz")
        same(residues.pack(words), data)

    found["shared residues"] = shared, zeros
    epoch = make_epoch(3, 2)
    layout = Layout(epoch.parameters, 20)
    total = Accumulator(layout)
    before = total.payload()

    def threshold_residues(data: bytes) -> None:
        sums = Accumulator(layout)
        try:
            sums.add(data)
        except CryptoError:
            same(sums.payload(), before)
            raise
        same(sums.payload(), data)

    found["threshold residues"] = threshold_residues, before
    ring = epoch.parameters.ring
    found["packed ring"] = (
        lambda data: same(ring_packing.pack(ring_packing.unpack(data, ring, 16)), data),
        bytes(ring_packing.packed_bytes(ring.count, 16)),
    )
    return found


def same(got: object, due: object) -> None:
    """Raise AssertionError unless they are equal: an accepted message has one encoding."""
    if got != due:
        raise AssertionError(f"accepted, but {got!r:.80} is not {due!r:.80}")


def one_input(parsers: Sequence[Callable[[bytes], None]]) -> Callable[[bytes], None]:
    """Return what is called with each input: the first byte chooses the parser, CryptoError is the only way to fail."""
    from silo_crypto.errors import CryptoError

    def run(data: bytes) -> None:
        if data:
            try:
                parsers[data[0] % len(parsers)](data[1:])
            except CryptoError:
                return

    return run


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.wire", description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the mutations; 0 for another one each time")
    options = parser.parse_args(arguments)
    try:
        import atheris
    except ImportError:
        sys.stderr.write("atheris is not installed (it has wheels for Linux on x86-64 only): make setup\n")
        return 3
    with atheris.instrument_imports(include=["silo_crypto"]):
        found = targets()
    with tempfile.TemporaryDirectory() as corpus:
        for index, (name, (_, good)) in enumerate(found.items()):
            (Path(corpus) / name.replace(" ", "-")).write_bytes(bytes([index]) + good)
        flags = [f"-max_total_time={options.seconds}", f"-timeout={TIMEOUT_S}", f"-rss_limit_mb={MEMORY_MB}"]
        flags += [f"-max_len={LENGTH}", f"-seed={options.seed}", "-print_final_stats=1"]
        atheris.Setup([sys.argv[0], *flags, corpus], one_input([check for check, _ in found.values()]))
        atheris.Fuzz()  # ends the process itself
    return 0


if __name__ == "__main__":
    sys.exit(main())
