"""NVFlare's own encryptor, aggregator and decryptor with its defaults; runs in the environment of ``make bench-setup``.

Sizes and times are those of FOBS messages, as NVFlare sends them. The context is HEBuilder's: N = 8192, 60+40+40 bits,
scale 2^40, symmetric. NVFlare's transport, which would add to them, is left out.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import numpy as np
import tenseal as ts
from numpy.typing import NDArray
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable  # type: ignore[import-not-found]
from nvflare.apis.event_type import EventType  # type: ignore[import-not-found]
from nvflare.apis.fl_constant import ReservedKey  # type: ignore[import-not-found]
from nvflare.apis.fl_context import FLContext  # type: ignore[import-not-found]
from nvflare.apis.shareable import Shareable  # type: ignore[import-not-found]
from nvflare.app_common.app_constant import AppConstants  # type: ignore[import-not-found]
from nvflare.app_opt.he.homomorphic_encrypt import serialize_nested_dict  # type: ignore[import-not-found]
from nvflare.app_opt.he.intime_accumulate_model_aggregator import (  # type: ignore[import-not-found]
    HEInTimeAccumulateWeightedAggregator,
)
from nvflare.app_opt.he.model_decryptor import HEModelDecryptor  # type: ignore[import-not-found]
from nvflare.app_opt.he.model_encryptor import HEModelEncryptor  # type: ignore[import-not-found]
from nvflare.fuel.utils import fobs  # type: ignore[import-not-found]
from nvflare.lighter.impl.he import HEBuilder  # type: ignore[import-not-found]

from benchmarks.measure import Spec, Vector, measure


def _context(name: str, peer: FLContext | None = None) -> FLContext:
    context = FLContext()
    context.set_prop(ReservedKey.IDENTITY_NAME, name, private=False, sticky=False)
    context.set_prop(AppConstants.CURRENT_ROUND, 0)
    if peer is not None:
        context.set_peer_context(peer)
    return context


class NvFlare:
    """FedAvg over one WEIGHT_DIFF of each site; every site weighs its update by one local step."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        builder = HEBuilder()
        builder.initialize(None, None)
        site = builder.get_serialized_context(is_client=True)
        self.encryptor, self.decryptor = HEModelEncryptor(), HEModelDecryptor()
        self.encryptor.encrypt_layers = [True]  # what START_RUN sets by default
        self.encryptor.tenseal_context = ts.context_from(site)
        self.decryptor.tenseal_context = ts.context_from(site)
        self.aggregator = HEInTimeAccumulateWeightedAggregator()
        self.server = _context("server")
        self.aggregator.handle_event(EventType.START_RUN, self.server)

    def rehearse(self, update: list[Vector]) -> None:
        self.encrypt(0, update)

    def encrypt(self, silo: int, update: list[Vector]) -> bytes:
        dxo = DXO(DataKind.WEIGHT_DIFF, {f"layer-{i:03d}": tensor for i, tensor in enumerate(update)})
        dxo.set_meta_prop(MetaKey.NUM_STEPS_CURRENT_ROUND, 1)
        encrypted = self.encryptor.process_dxo(dxo, Shareable(), _context(f"site-{silo}", _context("server")))
        message: bytes = fobs.dumps(encrypted.to_shareable())
        return message

    def add(self, silo: int, upload: bytes) -> None:
        shareable = fobs.loads(upload)
        shareable.set_peer_props({ReservedKey.IDENTITY_NAME: f"site-{silo}"})
        shareable.add_cookie(AppConstants.CONTRIBUTION_ROUND, 0)
        if not self.aggregator.accept(shareable, self.server):
            raise RuntimeError("NVFlare's aggregator refused an update")

    def aggregate(self) -> tuple[bytes, float]:
        dxo = from_shareable(self.aggregator.aggregate(self.server))
        serialize_nested_dict(dxo.data)  # as HEModelShareableGenerator does before the server sends
        return fobs.dumps(dxo.to_shareable()), 0.0

    def decrypt(self, download: bytes) -> Vector:
        dxo = from_shareable(fobs.loads(download))
        decrypted = self.decryptor.process_dxo(dxo, Shareable(), _context("site-0"))
        return np.concatenate([np.array(decrypted.data[name]) for name in sorted(decrypted.data)])

    def reference(self, mean: NDArray[np.float64]) -> NDArray[np.float64]:
        return mean

    def close(self) -> None:
        pass


def main() -> None:
    logging.disable(logging.CRITICAL)
    name, values, tensors, silos = sys.argv[1:]
    spec = Spec(name, int(values), int(tensors), int(silos))
    row: dict[str, Any] = measure(spec, NvFlare(spec))
    print(json.dumps(row))


if __name__ == "__main__":
    main()
