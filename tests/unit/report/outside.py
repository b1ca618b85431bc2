"""Other people's software, which checks what we write. It is in the dev extra; what the extra names must be there."""

from __future__ import annotations

import importlib
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

PROJECT = Path(__file__).parents[3] / "pyproject.toml"


def outside(module: str, distribution: str) -> ModuleType:
    """Return a module; skip if it is missing and the dev extra does not name it, fail if it does."""
    try:
        return importlib.import_module(module)
    except ImportError:
        extras = tomllib.loads(PROJECT.read_text())["project"]["optional-dependencies"]["dev"]
        if any(each.startswith(distribution) for each in extras):
            raise
        pytest.skip(f"{distribution} is not installed")
