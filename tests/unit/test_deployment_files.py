"""The unit, Dockerfile and compose file name only what exists here, and keep what the sandbox needs.

There is no Docker engine where this runs and no running systemd, so nothing here starts them: systemd's own checker
reads the unit, and every command, path, user and port is looked up.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
import yaml

from silo.cli import app
from silo.home.home import HOME_VARIABLE

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "deployment"
UNIT, DOCKERFILE, COMPOSE = (FOLDER / name for name in ("silo-agent.service", "Dockerfile", "compose.yaml"))
STATE, USER = "/var/lib/silo", "silo"


def service() -> dict[str, list[str]]:
    """Return the unit's [Service] lines, all values of each key."""
    found: dict[str, list[str]] = {}
    text = UNIT.read_text()
    for line in text[text.index("[Service]") : text.index("[Install]")].splitlines()[1:]:
        if line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions with their arguments."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.M).replace("\\\n", " ")
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1].strip()) for line in text.splitlines() if line.strip()]


def argument_of(name: str) -> str:
    (found,) = [rest for each, rest in instructions() if each == name]
    return found


def agent() -> dict[str, object]:
    body = yaml.safe_load(COMPOSE.read_text())
    assert list(body["services"]) == ["agent"]
    return dict(body["services"]["agent"])


def exists(words: list[str]) -> bool:
    """Say whether ``silo WORDS`` is a command with these options."""
    assert words[0].rpartition("/")[2] == "silo"
    command = typer.main.get_command(app)
    options = [word for word in words[1:] if word.startswith("-")]
    for word in (word for word in words[1:] if not word.startswith("-") and word.islower()):
        command = command.commands[word]  # type: ignore[attr-defined]
    known = {option for parameter in command.params for option in parameter.opts}
    return set(options) <= known


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    """With the program's path put where this machine has it; all else as it stands."""
    checker = shutil.which("systemd-analyze")
    if checker is None and not os.environ.get("SILO_REQUIRE_SYSTEMD"):
        pytest.skip("systemd-analyze is not here; CI has it")
    assert checker is not None
    copy = tmp_path / UNIT.name
    program = service()["ExecStart"][0].split()[0]
    copy.write_text(UNIT.read_text().replace(f"ExecStart={program}", f"ExecStart={Path(sys.executable).parent}/silo"))
    done = subprocess.run([checker, "verify", copy], capture_output=True, text=True, env={"PATH": os.environ["PATH"]})
    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_is_hardened_and_writes_only_below_its_state() -> None:
    told = service()
    for key in ("NoNewPrivileges", "PrivateTmp", "ProtectHome", "PrivateDevices", "RestrictSUIDSGID"):
        assert told[key] == ["yes"], key
    assert told["ProtectSystem"] == ["strict"]
    assert told["ReadWritePaths"] == [STATE]
    assert told["CapabilityBoundingSet"] == [""]
    assert told["User"] == told["Group"] == [USER]
    assert told["UMask"] == ["0077"]


def test_the_unit_lets_the_sandbox_make_its_namespaces() -> None:
    told = service()
    for key in ("RestrictNamespaces", "PrivateUsers", "PrivateNetwork", "MemoryDenyWriteExecute"):
        assert key not in told, key
    (filtered,) = told["SystemCallFilter"]
    assert filtered.startswith("~")  # a list of what is refused, and none of these needs to be:
    assert not set(filtered[1:].split()) & {"@mount", "@process", "@sandbox", "@privileged", "@keyring", "@setuid"}
    assert agent()["security_opt"] == ["no-new-privileges:true", "seccomp=unconfined"]


def test_every_command_that_is_started_exists() -> None:
    started = [service()["ExecStart"][0].split(), json.loads(argument_of("CMD")), list(agent()["command"])]  # type: ignore[call-overload]
    assert all(words[-1] == "agent" for words in started)
    started.append(json.loads(argument_of("HEALTHCHECK").partition("CMD ")[2]))
    for text in (UNIT, DOCKERFILE):
        told = re.findall(r"^#.*?(silo (?:init|agent|doctor)(?: --?[a-z-]+)*)", text.read_text(), flags=re.M)
        started += [words.split() for words in told]
    assert len(started) >= 6
    for words in started:
        assert exists(words), words


def test_every_path_and_user_is_one_and_the_same() -> None:
    unit, container = service(), agent()
    home = f"{STATE}/home"
    assert f"{HOME_VARIABLE}={home}" in unit["Environment"]
    assert f"{HOME_VARIABLE}={home}" in argument_of("ENV")
    assert container["environment"] == {HOME_VARIABLE: home}
    assert argument_of("VOLUME") == STATE
    assert f"home:{STATE}" in container["volumes"]  # type: ignore[operator]
    assert argument_of("USER") == container["user"] == USER
    (made,) = [rest for name, rest in instructions() if name == "RUN" and "useradd" in rest]
    assert made.split()[-1] == USER
    assert f"--home-dir {STATE}" in made
    assert f"useradd --system --home-dir {STATE}" in UNIT.read_text()


def test_every_file_that_is_copied_exists_and_the_package_needs_no_other() -> None:
    import tomllib

    copied = [source for name, rest in instructions() if name == "COPY" for source in rest.split()[:-1]]
    for source in copied:
        assert (ROOT / source).exists(), source
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = build["tool"]["hatch"]["build"]["targets"]["wheel"]
    for needed in [*wheel["packages"], *wheel["force-include"], build["project"]["readme"], "constraints.txt"]:
        assert any(needed == each or needed.startswith(f"{each}/") for each in copied), needed
    body = agent()["build"]
    assert isinstance(body, dict)
    assert (FOLDER / body["context"]).resolve() == ROOT
    assert ROOT / body["dockerfile"] == DOCKERFILE


def test_nothing_listens_and_the_one_port_is_the_edges() -> None:
    from silo.deploy.place import DEFAULT_PORT

    assert "EXPOSE" not in [name for name, _ in instructions()]
    assert "ports" not in agent()
    named = {port for path in (UNIT, DOCKERFILE, COMPOSE) for port in re.findall(r"HOST:(\d+)", path.read_text())}
    assert named == {str(DEFAULT_PORT)}


def test_the_unit_has_the_three_sections() -> None:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT)
    assert parser.sections() == ["Unit", "Service", "Install"]
