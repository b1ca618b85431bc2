"""From a clean machine to a silo that has joined: the commands of the README's page, typed in a fresh clone.

The first installs everything, downloads included; the others are what an admin types afterwards. What the other members
and the aggregator do in between (keys, draft, signatures) is not counted.
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from tests.cli.test_readme_admin import blocks

ROOT = Path(__file__).parent.parent
OTHERS = {"alpha": "member", "beta": "member", "aggregator": "aggregator"}


def join(folder: Path) -> list[tuple[str, float]]:
    """Return each command and the seconds it took."""
    clone, place = folder / "silo", folder / "admin"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    place.mkdir()
    environment = {
        **{name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV", "MAKEFLAGS")},
        "HOME": str(place),
        "PATH": os.pathsep.join((str(clone / ".venv" / "bin"), os.environ["PATH"])),
        "PIP_CACHE_DIR": str(folder / "cache"),
    }

    def typed(command: str, where: Path = place) -> float:
        started = time.monotonic()
        done = subprocess.run(
            ["bash", "-ec", command], cwd=where, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"{command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return time.monotonic() - started

    install, *commands = blocks("For the silo admin")[0]
    taken = [(install, typed(install, clone))]
    for command in commands:
        if command.startswith("silo consortium sign"):
            for name, kind in OTHERS.items():
                typed(f"silo init --name {name} --home others/{name}")
                typed(f"silo keys show --as {kind} --home others/{name} > {name}.json")
            parties = " ".join(f"{name}.json" for name in ("riverside", *OTHERS))
            typed("silo consortium new heart.json --name heart")
            typed(f"silo consortium add heart.json {parties} --pack baseline")
        if command.startswith("silo consortium join"):
            for name, kind in OTHERS.items():
                if kind == "member":
                    typed(f"silo consortium sign heart.json --home others/{name}")
        taken.append((command, typed(command)))
    return taken
