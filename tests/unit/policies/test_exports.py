"""The names that others rely on."""

from __future__ import annotations

import inspect
import subprocess
import sys

import silo_policies


def test_exported_names_exist_and_are_documented() -> None:
    for name in silo_policies.__all__:
        thing = getattr(silo_policies, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert inspect.getdoc(thing), name


def test_the_package_knows_neither_the_product_nor_its_cryptography() -> None:
    foreign = ("silo", "silo_crypto", "torch", "flwr", "cel")
    code = f"import silo_policies, sys; print([m for m in sys.modules if m.split('.')[0] in {foreign}])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
