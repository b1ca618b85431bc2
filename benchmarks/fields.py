"""How many bits a value needs, and which ring: ``python -m benchmarks.fields [--json]`` or ``make bench-fields``.

Two questions about the size and speed of uploads, with figures:

- Field width. The heart example's own model, privacy and rounds (LocalDP), trained with the product's trainer and codec
  at each width, on the same splits: AUC beside the bytes of an upload. Noise is drawn anew each time, so two columns
  differ by chance too; ``difference`` is paired with the widest column, with a 95 % interval. A non-private evaluation
  of public data.
- Ring degree. SEAL's symmetric encryption and serialisation of the same number of coefficients at each degree N that
  has room for shared custody's two primes.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.encryption import machine

Row = dict[str, Any]
WIDTHS = (4, 6, 8, 10, 12, 16, 24)
DEGREES = (4096, 8192, 16384)
SILOS, VALUES = 8, 1_000_000
README = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- fields: begin -->", "<!-- fields: end -->"


def aucs(bits: int, seeds: Sequence[int]) -> list[float]:
    """Return the AUC of the heart example with values of ``bits`` bits, one a split."""
    from silo_crypto.codec import FixedPoint

    from benchmarks.privacy_mechanisms import auc, average, dataset, trained
    from silo.api import LocalDP
    from silo.training.accounting import make_plan
    from silo.training.mechanism import LocalMechanism, Mechanism
    from silo.training.model import build_model, count
    from silo.training.trainer import LocalTrainer

    data = dataset("heart")
    experiment = data.experiment
    assert isinstance(experiment.privacy, LocalDP)
    plan = make_plan(experiment.privacy, experiment.rounds, count(build_model(experiment, 0)))
    found = []
    for seed in seeds:
        split = data.split(seed)
        mechanisms: list[Mechanism] = [
            LocalMechanism(
                LocalTrainer(experiment, plan, *part, seed=seed), FixedPoint(value_bound(plan), bits), average()
            )
            for part in split.train
        ]
        found.append(auc(data, trained(data, mechanisms, experiment.rounds, seed), split.test, seed))
    return found


def value_bound(plan: Any) -> float:
    """Return a bound from public constants: twice the expected batch, all clipped in one direction, and ten deviations
    of the noise. Values beyond it are cut off, and this is what a narrow field has to share out."""
    step = plan.learning_rate * plan.clipping_norm * plan.steps_per_round
    return float(2 * step + 10 * deviation(plan))


def deviation(plan: Any) -> float:
    """Return the standard deviation of one silo's noise in one round, in units of the weights."""
    size = plan.learning_rate * plan.noise_multiplier * plan.clipping_norm / plan.expected_batch
    return float(size * math.sqrt(plan.steps_per_round))


def width_rows(seeds: int) -> list[Row]:
    """Return one row a width: bytes of an upload of a million values from one of 8 silos, and AUC."""
    from silo_crypto.codec import FixedPoint
    from silo_crypto.parameters import shared_for
    from silo_crypto.shared import upload_bytes
    from silo_crypto.verification import field_count

    from benchmarks.privacy import paired
    from benchmarks.privacy_mechanisms import dataset
    from silo.api import LocalDP
    from silo.training.accounting import make_plan

    experiment = dataset("heart").experiment
    assert isinstance(experiment.privacy, LocalDP)
    plan = make_plan(experiment.privacy, experiment.rounds, 32)
    measured = {}
    for bits in WIDTHS:
        sys.stderr.write(f"{bits} bits, {seeds} splits ...\n")
        measured[bits] = aucs(bits, range(seeds))
    rows = []
    for bits in WIDTHS:
        parameters = shared_for(value_bits=bits, silos=SILOS)
        size = upload_bytes(parameters, field_count(VALUES, SILOS, bits))
        mean, half = paired(measured[bits], measured[WIDTHS[-1]])
        rows.append(
            {
                "name": "field width",
                "bits": bits,
                "parameters": parameters.name,
                "upload_bytes": size,
                "step_over_noise": FixedPoint(value_bound(plan), bits).step / deviation(plan),
                "auc": round(statistics.fmean(measured[bits]), 4),
                "difference": round(mean, 4),
                "half_width": None if math.isnan(half) else round(half, 4),
                "splits": seeds,
            }
        )
    return rows


def degree_rows() -> list[Row]:
    """Return one row a degree: seconds to encrypt and serialise the coefficients of a million 16-bit values."""
    import os

    import tenseal.sealapi as api
    from silo_crypto.parameters import KEY_PRIME, PLAIN_MODULUS, PRIMES

    coefficients = math.ceil(VALUES / 3)
    rows = []
    for degree in DEGREES:
        setting = api.EncryptionParameters(api.SCHEME_TYPE.BFV)
        setting.set_poly_modulus_degree(degree)
        widths = [prime.bit_length() for prime in (*PRIMES, KEY_PRIME)]
        setting.set_coeff_modulus(api.CoeffModulus.Create(degree, [max(each, 20) for each in widths]))
        setting.set_plain_modulus(PLAIN_MODULUS)
        context = api.SEALContext(setting, True, api.SEC_LEVEL_TYPE.TC128)
        encryptor = api.Encryptor(context, api.KeyGenerator(context).secret_key())
        plaintext = api.Plaintext(degree)
        file = os.memfd_create("silo", os.MFD_CLOEXEC)
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            for _ in range(math.ceil(coefficients / degree)):
                encryptor.encrypt_symmetric(plaintext).save(f"/proc/self/fd/{file}")
            seconds.append(time.perf_counter() - start)
        os.close(file)
        padded = math.ceil(coefficients / degree) * degree
        rows.append(
            {"name": "ring degree", "degree": degree, "seconds": round(min(seconds), 4), "coefficients": padded}
        )
    return rows


def section(widths: Sequence[Row], degrees: Sequence[Row]) -> str:
    """Return this benchmark's part of benchmarks/README.md."""
    lines = [
        "| bits a value | set | upload, 1M values, 8 silos | x float32 | grid over noise | AUC | less 24 bits |",
        "|---:|---|---:|---:|---:|---:|---:|",
    ]
    for row in widths:
        less = "" if row["half_width"] is None else f"{row['difference']:+.4f} ± {row['half_width']:.4f}"
        lines.append(
            f"| {row['bits']} | {row['parameters']} | {row['upload_bytes'] / 1e6:.2f} MB"
            f" | {row['upload_bytes'] / (4 * VALUES):.2f} | {row['step_over_noise']:.2g} | {row['auc']:.4f} | {less} |"
        )
    rings = "; ".join(f"N = {row['degree']}: {row['seconds'] * 1e3:.0f} ms" for row in degrees)
    intro = (
        "The heart example with its model, rounds and LocalDP, at each width of a value (shared custody's named sets); "
        f"the mean over {widths[0]['splits']} splits."
    )
    return f"""{BEGIN}
## Narrower fields, larger rings: `make bench-fields`

{textwrap.fill(machine() + ". " + intro, 119)}

{chr(10).join(lines)}

"Grid over noise" is the distance of two grid points over the noise's deviation; the product refuses more than 1.
SEAL's encryption and serialisation of the same {VALUES:,} 16-bit values, one thread, at larger degrees with primes of
the same widths: {rings}.
{END}
"""


def write_readme(text: str) -> None:
    """Replace this benchmark's section of benchmarks/README.md; other sections stay."""
    page = README.read_text()
    if BEGIN in page:
        before, rest = page.split(BEGIN, 1)
        page = before + text + rest.split(END, 1)[1].lstrip("\n")
    else:
        page = page.rstrip("\n") + "\n\n" + text
    README.write_text(page)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fields", description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=30, help="splits")
    parser.add_argument("--quick", action="store_true", help="three splits")
    parser.add_argument("--json", action="store_true", help="rows as JSON on stdout instead of a table")
    parser.add_argument("--write", action="store_true", help="also update benchmarks/README.md")
    options = parser.parse_args(arguments)
    widths, degrees = width_rows(3 if options.quick else options.seeds), degree_rows()
    text = section(widths, degrees)
    if options.write:
        write_readme(text)
    print(json.dumps({"rows": [*widths, *degrees]}, indent=1) if options.json else text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
