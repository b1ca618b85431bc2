"""`silo policy`: read, test and pin packs, ask what the gate says, and waive a rule. The officer's page is
policies/README.md."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from silo.cli.common import (
    HomeOption,
    JsonOption,
    KeyOption,
    console,
    count,
    now,
    open_home,
    print_json,
    say,
    table_of,
    until,
)
from silo.cli.packs import find_pack, last_day, listed_packs, not_good, own_packs, shortened, text_of
from silo.errors import ConfigError, PolicyDenied, UsageError

if TYPE_CHECKING:
    from silo_policies import Pack, Waiver

    from silo.home import Home

app = typer.Typer(no_args_is_help=True, help="Packs of rules: which bind this silo, what they decide, and why.")

PackArgument = Annotated[str, typer.Argument(metavar="PACK", help="A pack file, or the id of a pack.")]
RunArgument = Annotated[
    str | None,
    typer.Argument(metavar="RUN", help="A run's id, its folder or its run.json; the newest run here if left out."),
]


@app.command("list")
def list_packs(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List the packs that bind this silo, and the templates that come with Silo.

    Example: silo policy list
    """
    rows = list(listed_packs(home))
    if as_json:
        print_json({"packs": rows})
        return
    table = table_of("pack", "rules", "until", "binds through")
    for row in rows:
        name = f"{row['id']} {row['version']}"
        table.add_row(name, str(row["rules"]), row["until"], f"{row['binds']}\n{row['title']}".strip())
    console().print(table)


@app.command()
def show(pack: PackArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show a pack's rules: what each says, when it is asked, and where it comes from.

    Example: silo policy show baseline
    """
    found = find_pack(pack, home)
    if as_json:
        print_json({"digest": found.digest, **found.document.to_dict()})
        return
    out, document = console(), found.document
    out.print(f"{document.id} {document.version}: {document.title}")
    out.print(f"for {document.jurisdiction}; in effect {document.effective_from:%Y-%m-%d} to {last_day(found)}")
    out.print(f"{document.notice}\n{found.digest}")
    table = table_of("rule", "must be true, asked when, source")
    for rule in document.rules:
        fixed = "" if rule.waivable else "\ncannot be waived"
        source = f"{rule.cite.instrument}, {rule.cite.article}"
        asked = f"at {', '.join(rule.moments)}"
        table.add_row(f"{rule.id}\n{rule.severity}{fixed}", f"{rule.expr.strip()}\n{asked}\n{source}")
    out.print(table)


@app.command()
def facts(as_json: JsonOption = False) -> None:
    """List the facts a rule may ask about, with their types and where each comes from.

    Example: silo policy facts
    """
    from silo_policies.facts import schema

    if as_json:
        print_json({"facts": [vars(info) for info in schema().values()]})
        return
    table = table_of("fact", "source", "meaning")
    for info in schema().values():
        table.add_row(f"{info.name}\n  {info.type}", info.source, info.meaning)
    console().print(table)


@app.command("test")
def run_tests(
    pack: PackArgument,
    mutants: Annotated[
        bool, typer.Option("--mutants", help="Also change every rule a little, and demand that a test notices.")
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run the tests that stand in a pack. Every rule needs one that passes and one that fails.

    Ends with 0 if the pack is good, with 3 if not.

    Example: silo policy test our-charter.yaml --mutants
    """
    from silo_policies import check_pack

    found = find_pack(pack, home)
    report = check_pack(found, mutate=mutants)
    problems = list(report.problems())
    if as_json:
        print_json(
            {
                "pack": found.id,
                "digest": found.digest,
                "ok": report.ok,
                "rules": len(found.rules),
                "tests": len(report.results),
                "problems": problems,
            }
        )
    elif report.ok:
        watched = "; they notice every small change of a rule" if mutants else ""
        console().print(
            f"{found.id}: {count(len(found.rules), 'rule')}, {count(len(report.results), 'test')}, all hold{watched}"
        )
    else:
        for problem in problems:
            console().print(problem)
    if problems:
        raise not_good(found, problems)


@app.command()
def check(run: RunArgument = None, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Say what the gate would decide about a run, without joining it; nothing is kept or sent.

    Ends with 0 if it would permit the run, with 4 if it would deny it.

    Example: silo policy check heart-disease-1a2b3c4d
    """
    from silo.cli.decisions import ask, counted, denied, find_run, lines_of_outcome, show_lines

    place = open_home(home)
    packs = (*place.federation_packs(), *place.packs())
    asked = find_run(place, run)
    facts, outcome = ask(place, asked)
    lines = lines_of_outcome(outcome, packs)
    if as_json:
        print_json(
            {
                "run": asked.run.run,
                "silo": place.name,
                "moment": outcome.moment,
                "decision": outcome.decision,
                "packs": dict(outcome.packs),
                "facts": facts.to_dict(),
                "rules": [line.to_dict() for line in lines],
                "refused_waivers": list(outcome.refused_waivers),
            }
        )
    else:
        out = console()
        out.print(f"{place.name} would {outcome.decision} run {asked.run.run}: {counted(lines)}")
        if not asked.has_code:
            out.print(f"the code is not beside {asked.where}: what it decides about is not known")
        show_lines(out, lines, whole=False)
        for refused in outcome.refused_waivers:
            out.print(f"a waiver does not count: {refused}")
    if not outcome.permitted:
        raise denied(asked.run.run, [line for line in lines if line.id in {each.id for each in outcome.denied}])


@app.command()
def explain(
    run: Annotated[
        str | None,
        typer.Argument(metavar="RUN", help="A run's id, or a decision file; the newest run here if left out."),
    ] = None,
    moment: Annotated[
        str | None, typer.Option("--moment", help="accept, round, release or join; the first decision if left out.")
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Explain a decision on record: every rule, its result, the facts it read, and its source.

    Example: silo policy explain heart-disease-1a2b3c4d
    """
    from silo.cli.decisions import chosen, counted, lines_of_record, packs_at_hand, records_asked, show_lines

    place = open_home(home)
    records = records_asked(place, run)
    record = chosen(records, moment)
    lines = lines_of_record(record, packs_at_hand(place))
    decision = record.decision
    if as_json:
        others = [{"moment": each.decision.moment, "decision": each.decision.decision} for each in records]
        shown = [line.to_dict() for line in lines]
        print_json({**decision.to_dict(), "rules": shown, "digest": decision.digest, "on_record": others})
        return
    out = console()
    verb = "permitted" if decision.decision == "permit" else "denied"
    out.print(f"{decision.silo} {verb} run {decision.run} at the moment {decision.moment}: {counted(lines)}")
    out.print(f"{decision.time:%Y-%m-%d %H:%M:%S} UTC, signed by {decision.silo}, {decision.digest}")
    show_lines(out, lines, whole=True)
    if record.facts is None:
        out.print("the facts behind it are not at hand: a silo keeps its own")
    if len(records) > 1:
        kept = ", ".join(sorted({each.decision.moment for each in records}))
        out.print(f"{len(records)} decisions on this run are on record ({kept}): choose with --moment")


@app.command()
def pin(pack: PackArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Make this very version of a pack binding for the silo. Its tests must hold.

    Example: silo policy pin our-charter.yaml
    """
    from silo_policies import check_pack, diff_packs, parse_pack

    place = open_home(home)
    text, origin = text_of(pack, place)
    found = parse_pack(text, origin)
    report = check_pack(found)
    if not report.ok:
        raise not_good(found, list(report.problems()))
    if not found.in_effect(now()):
        raise ConfigError(
            f"it is in effect from {found.document.effective_from:%Y-%m-%d} to {last_day(found)}",
            where=found.origin,
            fix="outside these dates a pack denies everything: pin one that is in effect",
        )
    if place.settings.consortium is not None and found.id in place.consortium().body.packs:
        raise ConfigError(
            f"the consortium pins a pack {found.id}, and two of one id deny everything",
            where=found.origin,
            fix="give yours another id; all packs count together",
        )
    before = next((each for each in own_packs(place) if each.id == found.id), None)
    place.add_pack(found, text)
    with place.log() as log:
        older = {"replaces_digest": before.digest} if before else {}
        log.append("policy", {"what": "pinned", "silo": place.name, "pack": found.id, "digest": found.digest, **older})
    loosened = [change for change in diff_packs(before, found) if change.loosens] if before else []
    if as_json:
        replaced = before.digest if before else None
        print_json({"pack": found.id, "digest": found.digest, "replaced": replaced, "loosens": len(loosened)})
        return
    console().print(f"pinned {found.id} {found.document.version} {found.digest}")
    for change in loosened:
        say(f"this loosens {found.id}/{change.rule}: {change.kind} {change.field}")


@app.command()
def unpin(
    pack: Annotated[str, typer.Argument(metavar="PACK", help="The id of a pack this silo pinned.")],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take back a pack of the silo's own. What the consortium pins stays.

    Example: silo policy unpin our-charter
    """
    place = open_home(home)
    if pack not in place.pins():
        raise ConfigError(f"this silo pins no pack {pack!r}", where=str(place.path / "policy"), fix="silo policy list")
    digest = place.pins()[pack]
    place.remove_pack(pack)
    with place.log() as log:
        log.append("policy", {"what": "unpinned", "silo": place.name, "pack": pack, "digest": digest})
    if as_json:
        print_json({"pack": pack, "pinned": False})
    else:
        console().print(f"{pack} no longer binds {place.name}")


@app.command()
def waive(
    rule: Annotated[str, typer.Argument(metavar="RULE", help="PACK/RULE, as the denial names it.")],
    reason: Annotated[str, typer.Option("--reason", help="Why, for everybody who reads the report.")],
    run: Annotated[str | None, typer.Option("--run", help="The run; the newest here if left out.")] = None,
    key: KeyOption = None,
    days: Annotated[int | None, typer.Option("--days", help="How long; until the run expires if left out.")] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take responsibility, as an officer of this silo, for one rule that a run does not meet.

    The waiver is signed, holds for one run and one version of the pack, and stands in every report.

    Example: silo policy waive our-charter/small-epsilon --reason "The board agreed on 3 May." --key keys/olga
    """
    from silo_policies import Waiver, sign
    from silo_policies.signing import parse_body

    from silo.cli.decisions import find_run
    from silo.cli.keys import load_named

    place = open_home(home)
    asked = find_run(place, run)
    pack = _waivable(place, rule)
    officer = load_named(place, key, "officer")
    if officer.name == asked.run.researcher:
        raise UsageError("the researcher may not waive a rule for their own run", where=rule)
    start = now()
    body = parse_body(
        Waiver,
        {
            "pack": pack.id,
            "pack_digest": pack.digest,
            "rule": rule.partition("/")[2],
            "silo": place.name,
            "run": asked.run.run,
            "approver": officer.name,
            "reason": reason,
            "created": start,
            "expires": asked.run.expires if days is None else until(start, days),
        },
        where=f"waiver of {rule}",
    )
    place.add_waiver(sign(body, officer))
    _record_waiver(place, body)
    if as_json:
        print_json({**body.to_dict(), "digest": body.digest})
    else:
        console().print(f"{officer.name} waived {rule} for run {body.run} until {body.expires:%Y-%m-%d %H:%M} UTC")


@app.command()
def diff(
    old: Annotated[str, typer.Argument(metavar="OLD", help="A pack file, or the id of a pack.")],
    new: PackArgument,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what changed between two versions of a pack, and mark what surely loosens.

    Ends with 0 if nothing surely loosens, with 4 if something does.

    Example: silo policy diff our-charter our-charter-2.yaml
    """
    from silo_policies import diff_packs

    changes = diff_packs(find_pack(old, home), find_pack(new, home))
    if as_json:
        print_json({"changes": [{**vars(change), "loosens": change.loosens} for change in changes]})
    elif not changes:
        console().print("the packs say the same")
    else:
        table = table_of("rule", "loosens", "what changed")
        for change in changes:
            verdict = {True: "yes", False: "no", None: "read it"}[change.loosens]
            table.add_row(
                change.rule or "(the pack)",
                verdict,
                f"{change.kind} {change.field}\n- {shortened(change.old)}\n+ {shortened(change.new)}",
            )
        console().print(table)
    loosened = sorted({change.rule for change in changes if change.loosens})
    if loosened:
        raise PolicyDenied(f"the new version loosens {', '.join(loosened)}", where=new, fix="read it before you pin it")


# What the commands share ---------------------------------------------------------------------------------------------


def _waivable(home: Home, rule: str) -> Pack:
    """Return the pack of a rule that binds this silo and may be waived."""
    pack_id, slash, rule_id = rule.partition("/")
    packs = {pack.id: pack for pack in (*home.federation_packs(), *home.packs())}
    if not slash or pack_id not in packs or rule_id not in packs[pack_id].rules:
        raise UsageError(
            f"no rule {rule!r} binds this silo", where="RULE", fix="write PACK/RULE as `silo policy check` names it"
        )
    if not packs[pack_id].rules[rule_id].waivable:
        raise ConfigError("the pack does not let this rule be waived", where=rule, fix="meet the rule")
    return packs[pack_id]


def _record_waiver(home: Home, waiver: Waiver) -> None:
    with home.log() as log:
        log.append(
            "waiver",
            {
                "digest": waiver.digest,
                "run": waiver.run,
                "silo": waiver.silo,
                "rule": f"{waiver.pack}/{waiver.rule}",
                "approver": waiver.approver,
            },
        )
