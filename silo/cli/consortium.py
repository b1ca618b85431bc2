"""`silo consortium`: one file goes round until every member has signed it; later changes take a quorum."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from silo.cli.common import (
    HomeOption,
    JsonOption,
    console,
    count,
    now,
    open_home,
    print_json,
    read_file,
    say,
    table_of,
    until,
)
from silo.errors import ConfigError, PolicyDenied, UsageError

if TYPE_CHECKING:
    from silo_policies import Agreement, Pack


app = typer.Typer(no_args_is_help=True, help="The agreement between members: one file, signed by all of them.")

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="The consortium's file.")]
AddOption = Annotated[
    list[Path] | None, typer.Option("--add", help="A party's public half, from `silo keys show` or person.json.")
]
PackOption = Annotated[list[str] | None, typer.Option("--pack", help="A pack file, or the id of a shipped pack.")]


@app.command()
def new(
    file: FileArgument,
    name: Annotated[str, typer.Option("--name", help="Lower-case words with hyphens.")],
    custody: Annotated[str, typer.Option("--custody", help="Who can open a sum: shared or threshold.")] = "shared",
    threshold: Annotated[
        int | None, typer.Option("--threshold", help="Silos that must act together (threshold custody).")
    ] = None,
    minimum_silos: Annotated[int, typer.Option("--minimum-silos", help="Silos below which no sum is opened.")] = 3,
    quorum: Annotated[
        int | None, typer.Option("--quorum", help="Members who can amend; more than half if left out.")
    ] = None,
    witnesses: Annotated[
        int | None,
        typer.Option(
            "--witness-quorum", help="Others who must cosign each log, or runs pause; the minimum of silos if left out."
        ),
    ] = None,
    days: Annotated[int, typer.Option("--days", help="Until the agreement has to be signed anew.")] = 365,
    as_json: JsonOption = False,
) -> None:
    """Begin the draft of a consortium. Add the parties and packs next, then have every member sign.

    Example: silo consortium new heart.json --name heart --minimum-silos 3
    """
    from silo_policies import Agreement, Draft
    from silo_policies.signing import parse_body

    if file.exists():
        raise ConfigError("the file is already there", where=str(file), fix="choose another name")
    start = now()
    draft = parse_body(
        Draft,
        {
            "name": name,
            "custody": custody,
            "threshold": threshold,
            "minimum_silos": minimum_silos,
            "amendment_quorum": quorum,
            # With the minimum of silos a party has that many others (the aggregator is one): every run can reach it.
            "witness_quorum": minimum_silos if witnesses is None else witnesses,
            "created": start,
            "expires": until(start, days),
        },
        where=str(file),
    )
    _write(file, Agreement(draft))
    _tell(Agreement(draft), as_json)


@app.command()
def add(
    file: FileArgument,
    parties: Annotated[
        list[Path] | None,
        typer.Argument(metavar="PARTY...", help="Public halves to add, or another signed copy of the same file."),
    ] = None,
    packs: PackOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add members, people, the aggregator and packs to a draft, or another copy's signatures to a signed file.

    Example: silo consortium add heart.json riverside.json aggregator.json keys/rita/person.json --pack baseline
    """
    from silo_policies import PolicyError, parse_agreement, parse_public

    if not parties and not packs:
        raise UsageError("there is nothing to add", fix="give public halves, or --pack")
    agreement = _read(file)
    for path in parties or ():
        text = read_file(path)
        try:
            other = parse_agreement(text, where=str(path))
        except PolicyError:
            draft = agreement.editable().with_party(parse_public(text, where=str(path)))
            agreement = type(agreement)(draft)
        else:
            agreement = agreement.merged(other)
    for name in packs or ():
        pack = _pack(name)
        agreement = type(agreement)(agreement.editable().with_pack(pack.id, pack.digest))
    _write(file, agreement)
    _tell(agreement, as_json)


@app.command()
def sign(file: FileArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Sign the file with the home's key. The first signature freezes the draft; read it first with `show`.

    Example: silo consortium sign heart.json
    """
    from silo.submission import keyring

    agreement = _read(file).signed(open_home(home).identity(), keyring)
    _write(file, agreement)
    _tell(agreement, as_json)


@app.command()
def verify(file: FileArgument, as_json: JsonOption = False) -> None:
    """Check every signature, the history of amendments, and the dates; nothing but the file is needed.

    Ends with 0 if the newest manifest may be acted on now.

    Example: silo consortium verify heart.json
    """
    from silo.submission import keyring

    agreement = _read(file)
    manifest = agreement.verified(keyring, now=now())
    if as_json:
        print_json({"ok": True, "digest": manifest.digest, "manifests": len(agreement.chain), "name": manifest.name})
        return
    signed = ", ".join(sorted(agreement.newest.signatures))
    out = console()
    out.print(f"{manifest.name} holds: signed by {signed}; expires {manifest.expires:%Y-%m-%d}")
    out.print(f"{manifest.digest}\ncompare this digest with the other members, by telephone for instance")


@app.command()
def show(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="The file; what this home joined if left out.")
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what the members agree on, and who has yet to sign.

    Example: silo consortium show heart.json
    """
    from silo_policies import Agreement

    agreement = _read(file) if file is not None else Agreement(chain=(open_home(home).consortium(),))
    _tell(agreement, as_json, whole=True, joined=file is None)


@app.command()
def amend(
    file: FileArgument,
    added: AddOption = None,
    rotations: Annotated[
        list[Path] | None, typer.Option("--rotate", help="A party's new keys, from `silo keys rotate`.")
    ] = None,
    remove: Annotated[
        list[str] | None, typer.Option("--remove", help="A member or person who goes; a member's people go too.")
    ] = None,
    packs: PackOption = None,
    drop_packs: Annotated[list[str] | None, typer.Option("--drop-pack", help="A pack's id.")] = None,
    minimum_silos: Annotated[int | None, typer.Option("--minimum-silos", help="A new minimum.")] = None,
    threshold: Annotated[int | None, typer.Option("--threshold", help="A new threshold.")] = None,
    quorum: Annotated[int | None, typer.Option("--quorum", help="A new quorum.")] = None,
    witnesses: Annotated[int | None, typer.Option("--witness-quorum", help="A new quorum of witnesses.")] = None,
    days: Annotated[int | None, typer.Option("--days", help="Expiry, counted from now.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Append an amendment to the file. It takes effect when a quorum of the old members, and all new ones, signed.

    Who is removed takes no part from the next round on, in every silo that has joined the amendment.

    Example: silo consortium amend heart.json --remove northgate --days 365
    """
    from silo_policies import Aggregator, Member, Person, parse_public, parse_rotation
    from silo_policies.agreement import majority, remaining

    from silo.submission import keyring

    agreement = _read(file)
    old, start = agreement.newest.body, now()
    left = remaining(old, remove or ())
    members: list[Any] = [each for each in left["members"] if isinstance(each, Member)]
    people: list[Any] = [each for each in left["people"] if isinstance(each, Person)]
    changes: dict[str, Any] = {}
    for path in added or ():
        party = parse_public(read_file(path), where=str(path))
        if isinstance(party, Member):
            members = [each for each in members if each.name != party.name] + [party]
        elif isinstance(party, Person):
            people = [each for each in people if each.name != party.name] + [party]
        else:
            changes["aggregator"] = party
    if rotations:
        changes["rotations"] = {}
    for path in rotations or ():
        rotation = parse_rotation(read_file(path), where=str(path))
        party = rotation.party
        if isinstance(party, Aggregator):
            changes["aggregator"] = party
        else:
            members = [each for each in members if each.name != party.name] + [party]
        changes["rotations"][party.name] = rotation.statement
    pinned = {name: digest for name, digest in old.packs.items() if name not in (drop_packs or ())}
    for name in packs or ():
        pack = _pack(name)
        pinned[pack.id] = pack.digest
    size = len(members)
    fits = size // 2 < old.amendment_quorum <= size
    changes |= {
        "members": tuple(sorted(members, key=lambda each: each.name)),
        "people": tuple(sorted(people, key=lambda each: each.name)),
        "packs": pinned,
        "minimum_silos": old.minimum_silos if minimum_silos is None else minimum_silos,
        "threshold": old.threshold if threshold is None else threshold,
        "amendment_quorum": quorum or (old.amendment_quorum if fits else majority(size)),
        "witness_quorum": min(old.witness_quorum, size) if witnesses is None else witnesses,
        "expires": old.expires if days is None else until(start, days),
    }
    if all(getattr(old, field) == value for field, value in changes.items()):
        raise UsageError("this changes nothing", where=str(file), fix="see: silo consortium amend --help")
    agreement = agreement.amended(old.amended(created=start, **changes))
    agreement.check_rotations(keyring)
    _write(file, agreement)
    _tell(agreement, as_json)


@app.command()
def join(
    file: FileArgument,
    packs: PackOption = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Leave the consortium that the home joined before.")
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Join what the file says: verify it, ask this silo's gate, and keep manifest and packs in the home.

    Packs that do not ship with Silo are given with --pack. Ends with 4 if a rule denies joining; the home then stays
    as it was, and the denial is on record: silo policy explain join-NAME.

    Example: silo consortium join heart.json --pack our-consortium.yaml
    """
    from silo_policies import load_pack, shipped_packs

    from silo.cli.joining import ask, keep, require_packs, verified

    place = open_home(home)
    agreement = _read(file)
    manifest = verified(place, agreement, replace)
    given = {pack.id: pack for pack in (load_pack(Path(name)) for name in packs or ())}
    needed = [given.get(name) or (_pack(name) if name in shipped_packs() else None) for name in sorted(manifest.packs)]
    require_packs(manifest, needed)
    found = [pack for pack in needed if pack is not None]
    facts, record = ask(place, manifest, found)
    decision = record.body
    epoch = place.settings.key_epoch
    if decision.decision == "permit":
        place.join(agreement.newest, found)
    rotated = place.settings.key_epoch != epoch
    keep(place, manifest, facts, record)
    if as_json:
        print_json({**decision.to_dict(), "consortium": manifest.digest})
    if decision.decision != "permit":
        first = decision.reasons[0]
        raise PolicyDenied(
            f"denied by {first.pack}/{first.id}: {first.message.strip()}",
            where=f"joining {manifest.name}",
            fix=first.remediation.strip(),
        )
    if not as_json:
        console().print(f"{place.name} joined {manifest.name}: {len(manifest.members)} members\n{manifest.digest}")
        if rotated:
            console().print("its keys changed with it: restart the agent")
    if place.name not in {*manifest.names, manifest.aggregator.name}:
        say(f"{place.name} is no member any more: from now on it denies every run")


# What the commands share ---------------------------------------------------------------------------------------------


def _read(file: Path) -> Agreement:
    from silo_policies import parse_agreement

    return parse_agreement(read_file(file), where=str(file))


def _write(file: Path, agreement: Agreement) -> None:
    from silo.storage import write_atomically

    if not file.parent.is_dir():
        raise ConfigError("there is no such folder", where=str(file.parent), fix="make it first")
    write_atomically(file, agreement.to_json().encode(), mode=0o644)


def _pack(name: str) -> Pack:
    from silo_policies import load_pack, shipped_pack

    return load_pack(Path(name)) if Path(name).is_file() or name.endswith((".yaml", ".yml")) else shipped_pack(name)


def _tell(agreement: Agreement, as_json: bool, *, whole: bool = False, joined: bool = False) -> None:
    """Print what a file holds now, and what it still lacks."""
    draft = agreement.draft
    needed, who = (0, ()) if draft or joined else agreement.lacking()
    body = draft if draft is not None else agreement.newest.body
    if as_json:
        state = "draft" if draft else "complete" if not needed else "unsigned"
        print_json(
            {
                "name": agreement.name,
                "state": state,
                "digest": None if draft else agreement.newest.body.digest,
                "missing": draft.missing() if draft else [],
                "signed_by": [] if draft else sorted(agreement.newest.signatures),
                "signatures_needed": needed,
                "may_sign": list(who),
                "manifest": body.to_dict(),
            }
        )
        return
    out = console()
    if whole:
        _print_parties(body)
    if draft is not None:
        lacking = draft.missing()
        out.print(f"{draft.name}: a draft" + (f" that lacks {', '.join(lacking)}" if lacking else ", ready to sign"))
    elif needed:
        out.print(f"{agreement.name}: {count(needed, 'more signature')} needed, of {', '.join(who)}")
    else:
        out.print(f"{agreement.name}: complete\n{agreement.newest.body.digest}")


def _print_parties(body: Any) -> None:
    table = table_of("name", "role", "key begins", "of")
    for member in body.members:
        table.add_row(
            member.name, "member", member.keys.ed25519[:12], f"{member.organisation_type}, {member.jurisdiction}"
        )
    if body.aggregator is not None:
        table.add_row(body.aggregator.name, "aggregator", body.aggregator.keys.ed25519[:12], "")
    for person in body.people:
        table.add_row(person.name, person.role, person.keys.ed25519[:12], person.silo or "")
    out = console()
    out.print(table)
    threshold = f", {body.threshold} silos together open a sum" if body.threshold else ""
    quorum = body.amendment_quorum or "more than half"
    out.print(f"custody {body.custody}{threshold}; at least {body.minimum_silos} silos; {quorum} members can amend")
    if body.witness_quorum:
        out.print(f"each log is cosigned by at least {body.witness_quorum} others in every round, or the run pauses")
    out.print(f"created {body.created:%Y-%m-%d %H:%M} UTC, expires {body.expires:%Y-%m-%d %H:%M} UTC")
    for name, digest in sorted(body.packs.items()):
        out.print(f"pack {name} {digest}")
