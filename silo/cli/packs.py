"""Finding packs by file or id, and saying in a line what they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from silo.cli.common import open_home, read_file, say
from silo.errors import ConfigError

if TYPE_CHECKING:
    from silo_policies import Pack

    from silo.home import Home


def listed_packs(home: Path | None) -> Iterator[dict[str, Any]]:
    """Yield every pack that binds the silo, and how, then the templates that ship."""
    from silo_policies import shipped_pack, shipped_packs

    seen: set[str] = set()
    place = _maybe_home(home)
    if place is not None:
        agreed = place.federation_packs() if place.settings.consortium is not None else ()
        pins = place.pins()
        for pack in agreed:
            seen.add(pack.id)
            yield _row(pack, "the consortium")
        for pack in place.packs():
            seen.add(pack.id)
            yield _row(pack, "the silo" if pins.get(pack.id) == pack.digest else "NOT PINNED: denies everything")
        for name in sorted(pins.keys() - seen):
            yield {"id": name, "version": "?", "rules": "?", "until": "?", "title": "", "digest": pins[name]} | {
                "binds": "PINNED, NOT HERE: denies everything"
            }
    for name in shipped_packs():
        if name not in seen:
            yield _row(shipped_pack(name), "nothing yet (a template)")


def _row(pack: Pack, binds: str) -> dict[str, Any]:
    return {
        "id": pack.id,
        "version": pack.document.version,
        "rules": len(pack.rules),
        "binds": binds,
        "until": last_day(pack),
        "title": pack.document.title,
        "digest": pack.digest,
    }


def _maybe_home(path: Path | None) -> Home | None:
    """Return the home if there is one: packs can be read and tested without."""
    from silo.home import default_path

    if path is None and not default_path().exists():
        return None
    return open_home(path)


def own_packs(home: Home) -> list[Pack]:
    """Return the home's own packs that can still be read: pinning repairs a broken one."""
    from silo_policies import PackError, load_pack

    found = []
    for path in sorted((home.path / "policy").glob("*.yaml")):
        try:
            found.append(load_pack(path))
        except PackError as error:
            say(f"ignored: {error}")
    return found


def find_pack(name: str, home: Path | None) -> Pack:
    """Return the pack in a file, or the silo's, the consortium's or the shipped one of this id."""
    from silo_policies import load_pack, shipped_pack, shipped_packs

    if Path(name).is_file() or "/" in name or name.endswith((".yaml", ".yml")):
        return load_pack(Path(name))
    place = _maybe_home(home)
    packs: list[Pack] = []
    if place is not None:
        packs = [*own_packs(place), *(place.federation_packs() if place.settings.consortium is not None else ())]
    known = {pack.id: pack for pack in reversed(packs)}
    if name in known:
        return known[name]
    if name in shipped_packs():
        return shipped_pack(name)
    raise ConfigError(
        f"there is no pack {name!r}",
        fix=f"give a file, or one of {', '.join(sorted({*known, *shipped_packs()}))}",
    )


def text_of(name: str, home: Home) -> tuple[bytes, str]:
    """Return the text of a pack to pin, and its name for messages: a file's, the silo's own, or a shipped one's."""
    from silo_policies import shipped_text

    path, own = Path(name), home.path / "policy" / f"{name}.yaml"
    if path.is_file() or "/" in name or name.endswith((".yaml", ".yml")):
        return read_file(path), path.name
    return (read_file(own), own.name) if own.is_file() else (shipped_text(name), f"{name}.yaml")


def last_day(pack: Pack) -> str:
    """Return the day on which the pack ends to be in effect."""
    return f"{pack.document.effective_until:%Y-%m-%d}"


def shortened(value: Any) -> str:
    """Return a value as a table's cell."""
    text = "-" if value is None else str(value)
    return text if len(text) <= 300 else text[:297] + "..."


def not_good(pack: Pack, problems: list[str]) -> ConfigError:
    """Return the error of a pack whose tests do not hold."""
    more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
    return ConfigError(f"{problems[0]}{more}", where=pack.origin, fix="a pack is pinned when all of its tests hold")
