"""`silo keys`: the keys of people who sign but hold no data, and the public halves that a consortium names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from silo.cli.common import HomeOption, JsonOption, console, open_home, print_json, read_file
from silo.errors import ConfigError, UsageError, VerificationFailed

if TYPE_CHECKING:
    from silo_crypto.keys import Identity
    from silo_policies import Aggregator, Member, Person

    from silo.home import Home

app = typer.Typer(no_args_is_help=True, help="Keys of people, and the public halves that a consortium names.")

ROLES = ("steward", "officer", "researcher")


@app.command()
def new(
    role: Annotated[str, typer.Option("--role", help="steward, officer or researcher.")],
    name: Annotated[str, typer.Option("--name", help="1 to 32 of a-z, 0-9 and -.")],
    out: Annotated[Path, typer.Option("--out", help="A new folder for the keys; keep it to yourself.")],
    silo: Annotated[
        str | None, typer.Option("--silo", help="The silo a steward or officer acts for; researchers have none.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make the keys of a person. Only OUT/person.json is for others: the consortium adds it to its manifest.

    A steward approves code, an officer waives rules, a researcher signs runs. With $SILO_PASSPHRASE set the keys are
    encrypted under it, else under a random one that lies beside them.

    Example: silo keys new --role officer --name olga --silo riverside --out keys/olga
    """
    from silo_crypto.keys import Identity
    from silo_policies import Person, public_of
    from silo_policies.signing import parse_body

    from silo.home.keys import PERSON_FILE, save_person

    if role not in ROLES:
        raise UsageError(f"there is no role {role!r}", where="--role", fix=f"one of {', '.join(ROLES)}")
    if (role == "researcher") == (silo is not None):
        raise UsageError(
            "a researcher acts for no silo" if silo else f"{_article(role)} acts for a silo",
            where="--silo",
            fix="leave it out" if silo else "name the silo",
        )
    if out.exists():
        raise ConfigError("something is already there", where=str(out), fix="choose a new folder")
    identity = Identity.generate(name)
    keys = identity.public().to_json()["keys"]
    person = parse_body(Person, {"name": name, "role": role, "silo": silo, "keys": keys}, where="the person")
    save_person(out, identity, person)
    if as_json:
        print_json({**public_of(person), "folder": str(out)})
    else:
        console().print(f"made the keys of {name} ({role}) in {out}; hand {out / PERSON_FILE} to the consortium")


@app.command()
def show(
    folder: Annotated[
        Path | None, typer.Argument(help="A person's keys; the home's own if left out.", show_default=False)
    ] = None,
    as_what: Annotated[
        str, typer.Option("--as", help="What the home is to the consortium: member or aggregator.")
    ] = "member",
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the public half as JSON, to hand to the consortium. There is nothing secret in it.

    Example: silo keys show > riverside.json
    """
    from silo_policies import public_of

    if as_what not in ("member", "aggregator"):
        raise UsageError(f"a home is not {as_what!r}", where="--as", fix="member or aggregator")
    if folder is not None:
        party: Person | Member | Aggregator = _person(folder)
    else:
        party = party_of(open_home(home), as_what)  # type: ignore[arg-type]  # checked above
    print_json(public_of(party))


@app.command()
def rotate(
    out: Annotated[
        Path | None, typer.Option("--out", help="Where the statement goes; stdout if left out.", show_default=False)
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make new keys for this home, and the statement, signed by the old and the new, that they follow the old ones.

    The old keys stay in use until the home joins an amendment that names the new ones, and are kept after that: what
    was sealed to them still opens. Runs under way are finished first. Called again before that, it repeats the same
    keys, for the manifest that the home joined last.

    Example: silo keys rotate --out rotation.json, and then: silo consortium amend heart.json --rotate rotation.json
    """
    import base64

    from silo_policies import Keys, Rotation, digest

    from silo.storage import write_atomically

    place = open_home(home)
    manifest = place.consortium().body
    parties: tuple[Member | Aggregator, ...] = (*manifest.members, manifest.aggregator)
    party = next((each for each in parties if each.name == place.name), None)
    if party is None:
        raise ConfigError(
            f"{place.name} is no party of {manifest.name}", where=str(place.path), fix="there is nothing to rotate"
        )
    if party.keys != Keys(**place.public().to_json()["keys"]):
        raise VerificationFailed("the manifest names other keys than those in use", where=manifest.name)
    old = place.identity()
    new, made = place.next_identity()
    keys = new.public().to_json()["keys"]
    statement = base64.b64encode(old.hand_over(new, manifest.digest_bytes)).decode()
    rotation = Rotation(party.model_copy(update={"keys": Keys(**keys)}), statement)
    epoch = place.settings.key_epoch + 1
    if made:
        with place.log() as log:
            log.append("key-rotation", {"silo": place.name, "epoch": epoch, "digest": digest(rotation.to_dict())})
    if out is None:
        print_json(rotation.to_dict())
        return
    write_atomically(out, (json.dumps(rotation.to_dict(), indent=2) + "\n").encode(), mode=0o644)
    if as_json:
        print_json({"silo": place.name, "epoch": epoch, "made": made, "file": str(out), "keys": keys})
        return
    console().print(
        f"{'made' if made else 'there are'} the keys of {place.name}, epoch {epoch}; the old ones stay in use until "
        f"this home joins an amendment that names the new ones\nhand {out} to the consortium: "
        f"silo consortium amend FILE --rotate {out}"
    )


def party_of(home: Home, as_what: Literal["member", "aggregator"]) -> Member | Aggregator:
    """Return a home as a consortium names it."""
    from silo_policies import Aggregator, Keys, Member

    keys = Keys(**home.public().to_json()["keys"])
    if as_what == "aggregator":
        return Aggregator(name=home.name, keys=keys)
    settings = home.settings
    return Member(
        name=home.name,
        organisation_type=settings.organisation_type,
        jurisdiction=settings.jurisdiction,
        keys=keys,
        node=home.node_public_key(),
    )


def load_person(folder: Path | None, role: str) -> tuple[Identity, Person]:
    """Return a person's keys and public half; raise if they do not belong together or the role is another."""
    from silo.home.keys import load_identity

    if folder is None:
        raise UsageError(
            f"this is signed by {_article(role)}, with keys of their own",
            where="--key",
            fix=f"make them with: silo keys new --role {role}, and give their folder",
        )
    person = _person(folder)
    if person.role != role:
        raise UsageError(f"{person.name} is {_article(person.role)}, not {_article(role)}", where=str(folder))
    identity = load_identity(folder)
    if identity.public().to_json() != {"name": person.name, "keys": person.keys.to_dict()}:
        raise VerificationFailed(
            "these keys are not those of person.json", where=str(folder), fix="make new keys, and add them anew"
        )
    return identity, person


def load_named(home: Home, folder: Path | None, role: str) -> Identity:
    """Return the keys of somebody whom the home's consortium names in ``role`` for this silo; else raise."""
    identity, person = load_person(folder, role)
    people = home.consortium().body.people
    if person not in people:
        named = sorted(each.name for each in people if each.role == role and each.silo == home.name)
        raise VerificationFailed(
            f"the consortium does not name {person.name}, with these keys, as {_article(role)} of {home.name}",
            where=str(folder),
            fix=f"it names {', '.join(named)}" if named else "amend it with: silo consortium amend --add person.json",
        )
    if person.silo != home.name:
        raise UsageError(f"{person.name} acts for {person.silo}, not for {home.name}", where=str(folder))
    return identity


def _person(folder: Path) -> Person:
    from silo_policies import Person, parse_public

    from silo.home.keys import PERSON_FILE

    path = folder / PERSON_FILE
    party = parse_public(read_file(path), where=str(path))
    if not isinstance(party, Person):
        raise ConfigError("this describes no person", where=str(path), fix="make keys with: silo keys new")
    return party


def _article(role: str) -> str:
    return f"an {role}" if role[0] in "aeiou" else f"a {role}"
