"""What the documents say about the tree is true of the tree."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = {path.name for path in (ROOT / "silo").iterdir() if path.is_dir() and any(path.glob("*.py"))}
MODULES = {path.name for path in (ROOT / "silo").glob("*.py")} - {"__init__.py"}


def test_the_map_names_every_room_and_module_and_no_other() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    the_map = text[text.index("## Map") : text.index("## Invariants")]
    named = set(re.findall(r"`silo/([a-z_]+)`", the_map))
    files = set(re.findall(r"`silo/([a-z_]+\.py)`", the_map))
    assert named == ROOMS
    assert files == MODULES


def test_every_dependency_has_its_reason() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    text = (ROOT / "ARCHITECTURE.md").read_text()
    reasons = text[text.index("## Dependencies") :]
    for requirement in project["dependencies"]:
        name = re.split(r"[<>=\[]", requirement)[0]
        assert re.search(rf"\b{re.escape(name)}\b", reasons), f"{name} stands without a reason"


@pytest.mark.parametrize("document", ["README.md", "ARCHITECTURE.md", "SECURITY.md", "policies/README.md"])
def test_every_path_that_a_document_names_exists(document: str) -> None:
    text = (ROOT / document).read_text()
    named = set(re.findall(r"`((?:tests|benchmarks|examples|crypto|policies)/[\w./-]+\.(?:py|yaml|md))`", text))
    links = {link for link in re.findall(r"\]\(([\w./-]+)\)", text) if "://" not in link}
    missing = [name for name in named if not (ROOT / name).exists()]
    missing += [link for link in links if not ((ROOT / document).parent / link).exists()]
    assert not missing


def test_every_claim_of_security_names_a_test() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    table = text[text.index("## Claims") : text.index("## What the linear MAC")]
    rows = [line for line in table.splitlines() if line.startswith("| ") and not line.startswith("| claim")]
    assert len(rows) > 10
    for row in rows:
        assert "`tests/" in row, row


def test_no_registry_host_and_no_machine_path_is_committed() -> None:
    constraints = (ROOT / "constraints.txt").read_text()
    assert "://" not in constraints
    assert "+cpu" not in constraints
    assert "torch==2.13.0" in constraints
