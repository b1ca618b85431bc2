"""Two silos of one process encrypt at the same time: the local engine runs them in threads."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from silo_crypto import parameters
from silo_crypto.protocol import Header
from silo_crypto.shared import SharedAdder, SharedEncryptor, SharedKey, SharedOpener

MEMBERS = ("a", "b", "c", "d")


def test_uploads_made_in_threads_open_to_their_exact_sum() -> None:
    # The decompressor of python-zstandard is not safe for threads; one shared by all uploads mixed them up.
    chosen = parameters.shared_for(value_bits=16, silos=len(MEMBERS))
    values = np.arange(30_000, dtype=np.uint32)
    with ThreadPoolExecutor(len(MEMBERS)) as pool:
        for number in range(1, 11):
            header = Header(bytes(32), "run", 1, number, 1, MEMBERS)
            key = SharedKey.generate(chosen, header)
            encryptors = [SharedEncryptor(key) for _ in MEMBERS]
            uploads = list(pool.map(lambda each, header=header: each.encrypt(header, values), encryptors))
            adder = SharedAdder(chosen, header, length=len(values), minimum=len(MEMBERS))
            for name, upload in zip(MEMBERS, uploads, strict=True):
                adder.add(name, upload)
            sums = SharedOpener(key).open(header, adder.aggregate(), len(values))
            assert np.array_equal(sums, values.astype(np.int64) * len(MEMBERS))
