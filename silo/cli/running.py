"""`silo status`, `silo runs`, `silo stop`: what goes on at this silo, for its own people, and how to end it.

Everything shown was read from the home: its settings, ledger and log. Nothing is asked of anybody, so it works while
the agent runs, while it does not, and without a network.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from silo.cli.common import HomeOption, JsonOption, console, count, open_home, print_json, table_of
from silo.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from silo.home import Home
    from silo.log import Entry

RUN_FILE = "run.json"


@dataclass
class RunHere:
    """One run as this home's log tells it. ``state`` is one of waiting, denied, running, finished, failed, stopped.

    ``epsilon`` is what the budget was charged with at ``delta``, once settled; ``reserved`` what the run may cost.
    """

    run: str
    state: str = "waiting"
    decision: str | None = None
    deciding: list[str] = field(default_factory=list)
    rounds: int = 0
    rounds_asked: int | None = None
    epsilon: float | None = None
    reserved: float | None = None
    delta: float | None = None
    population: str | None = None
    started: str | None = None
    last: str | None = None
    faults: list[str] = field(default_factory=list)


def status(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show what this home is, what it joined, its data, what is left of its budget, and its last runs.

    Example: silo status --home silo-demo/homes/cleveland
    """
    from silo.home.stops import agent_stopped

    place = open_home(home)
    facts = {
        "name": place.name,
        "display_name": place.settings.display_name,
        "home": str(place.path),
        "consortium": _consortium(place),
        "data": [_dataset(place, each.name) for each in place.data()],
        "packs": [pack.id for pack in place.packs()],
        "agent": _agent(place),
        "agent_asked_to_stop": agent_stopped(place) is not None,
        "runs": [asdict(each) for each in runs_of(place)],
    }
    if as_json:
        print_json(facts)
        return
    _print_status(facts)


def runs(
    run: Annotated[str | None, typer.Argument(help="One run, with everything that is known of it.")] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the runs this silo was asked to take part in, or show one.

    States: waiting (handed in, not decided), denied, running, finished, failed, stopped. Epsilon is what was charged.

    Example: silo runs --home silo-demo/homes/cleveland
    """
    place = open_home(home)
    found = runs_of(place)
    if run is not None:
        found = [each for each in found if each.run == run]
        if not found:
            raise ConfigError(f"there is no run {run!r}", where=str(place.path / "runs"), fix="list them: silo runs")
    if as_json:
        print_json(asdict(found[0]) if run is not None else [asdict(each) for each in found])
    elif run is not None:
        _print_run(found[0])
    else:
        _print_runs(found)


def stop(
    run: Annotated[str | None, typer.Argument(help="The run to end at this silo.", show_default=False)] = None,
    agent: Annotated[bool, typer.Option("--agent", help="End the agent, after the message it is at.")] = False,
    note: Annotated[str, typer.Option("--note", help="Why, for this silo's own record; nobody else is told.")] = "",
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take no further part in a run, or end the agent. Nothing that was charged to the budget comes back.

    The agent looks for this at every message; the others only learn that this silo stopped. A stopped run stays
    stopped. Start the agent again with: silo agent

    Example: silo stop heart-disease-f3c16560 --note "ethics board asked us to"
    """
    from silo.home.stops import stop_agent, stop_run

    if (run is None) == (not agent):
        raise UsageError("name one run, or give --agent", where="silo stop", fix="list the runs with: silo runs")
    place = open_home(home)
    if run is not None:
        stop_run(place, run, note)
        with place.log() as log:
            log.append("refusal", {"run": run, "what": f"stopped: {note}"[:500] if note else "stopped"})
    else:
        stop_agent(place, note)
    if as_json:
        print_json({"stopped": run or "agent", "note": note})
    else:
        console().print(f"{run or 'the agent'} is to stop: it ends at the agent's next message")


# What is known -------------------------------------------------------------------------------------------------------


def runs_of(home: Home) -> list[RunHere]:
    """Return every run the home was handed or invited to, oldest first."""
    found: dict[str, RunHere] = {}
    with home.log() as log:
        for entry in log.entries():
            name = entry.body.get("run")
            if isinstance(name, str) and not name.startswith("join-"):
                _tell(found.setdefault(name, RunHere(name)), entry)
    for path in sorted((home.path / "runs").glob(f"*/{RUN_FILE}")):
        asked = found.setdefault(path.parent.name, RunHere(path.parent.name))
        asked.rounds_asked = _rounds_asked(path.read_bytes(), str(path))
    return list(found.values())


def _rounds_asked(content: bytes, where: str) -> int:
    from silo_policies import RunManifest, parse_signed

    return parse_signed(RunManifest, content, where=where).body.rounds


def _tell(run: RunHere, entry: Entry) -> None:
    """Add what one log entry says of a run."""
    body, kind = entry.body, str(entry.kind)
    run.started, run.last = run.started or entry.time, entry.time
    if kind == "decision" and body.get("moment", "accept") == "accept" and "deciding" in body:
        run.decision, run.deciding = str(body["decision"]), list(body["deciding"])
    elif kind == "run-started":
        run.state = "running"
    elif kind == "refusal" and str(body["what"]).startswith("stopped"):
        run.state = "stopped"
    elif kind == "refusal" and run.state == "waiting":
        run.state = "denied"
    elif kind == "run-finished":
        run.state = "finished"
    elif kind == "fault":
        run.faults.append(str(body["what"]))
        run.state = run.state if run.state == "stopped" else "failed"
    elif kind in ("budget-reserved", "budget-settled"):
        run.population, run.delta = str(body["population"]), body.get("delta")
        if kind == "budget-reserved":
            run.reserved = body.get("epsilon")
        else:
            run.epsilon = body.get("epsilon")
    elif kind in ("upload", "aggregate"):
        run.rounds = max(run.rounds, int(body["round"]))
        if run.state not in ("stopped", "failed"):
            run.state = "running"


def _agent(home: Home) -> dict[str, Any]:
    """Return what the agent last said of itself (`silo agent`), or that none is at work: the lock knows."""
    import json

    from silo.storage import is_held

    lock, told = home.path / "agent.lock", home.path / "agent.json"
    if not told.exists() or not (lock.exists() and is_held(lock)):
        return {"state": "not running"}
    try:
        status = json.loads(told.read_bytes())
        return {name: status[name] for name in ("state", "detail", "since", "aggregator")}
    except (OSError, ValueError, KeyError, TypeError):
        return {"state": "running"}


def _consortium(home: Home) -> dict[str, Any] | None:
    if home.settings.consortium is None:
        return None
    body = home.consortium().body
    return {
        "name": body.name,
        "digest": body.digest,
        "members": sorted(body.names),
        "aggregator": body.aggregator.name,
        "expires": f"{body.expires:%Y-%m-%dT%H:%M:%SZ}",
    }


def _dataset(home: Home, name: str) -> dict[str, Any]:
    dataset = next(each for each in home.data() if each.name == name)
    facts = {"name": name, "population": dataset.population, "unit": dataset.unit, "delta": dataset.delta}
    with home.ledger() as ledger:
        spent = ledger.spent(dataset.population)
    return {
        **facts,
        "epsilon_cap": dataset.epsilon_cap,
        "epsilon_committed": spent.committed,
        "epsilon_left": spent.left,
    }


# How it is shown -----------------------------------------------------------------------------------------------------


def _print_status(facts: dict[str, Any]) -> None:
    out = console()
    out.print(f"{facts['display_name']} ({facts['name']}) in {facts['home']}")
    joined = facts["consortium"]
    if joined is None:
        out.print("consortium: none joined yet; next: silo consortium join FILE")
    else:
        members = count(len(joined["members"]), "member")
        out.print(f"consortium: {joined['name']}, {members}, expires {joined['expires'][:10]}")
    if not facts["data"]:
        out.print("data: none yet; next: silo data add")
    for each in facts["data"]:
        out.print(
            f"data: {each['name']}, epsilon {each['epsilon_left']:g} of {each['epsilon_cap']:g} left at delta "
            f"{each['delta']:g} per {each['unit']} for {each['population']}"
        )
    out.print(f"own policy packs: {', '.join(facts['packs']) or 'none'}")
    agent = facts["agent"]
    out.print(f"agent: {agent['state']}" + (f" ({agent['detail']}) since {agent['since']}" if "since" in agent else ""))
    if facts["agent_asked_to_stop"]:
        out.print("the agent was asked to stop")
    if facts["runs"]:
        _print_runs([RunHere(**each) for each in facts["runs"][-5:]])


def _print_runs(found: Iterable[RunHere]) -> None:
    found = list(found)
    if not found:
        console().print("no run was submitted to this silo yet")
        return
    table = table_of("run", "state", "rounds", "epsilon", "last entry")
    for each in found:
        rounds = f"{each.rounds} of {each.rounds_asked}" if each.rounds_asked else str(each.rounds)
        epsilon = "-" if each.epsilon is None else f"{each.epsilon:.3g}"
        table.add_row(each.run, each.state, rounds, epsilon, each.last or "")
    console().print(table)


def _print_run(run: RunHere) -> None:
    out = console()
    out.print(f"{run.run}: {run.state}")
    by = f" ({', '.join(run.deciding)})" if run.deciding else ""
    out.print(f"decision: {run.decision or 'none yet'}{by}")
    out.print(f"rounds: {run.rounds}" + (f" of {run.rounds_asked}" if run.rounds_asked else ""))
    if run.population is not None:
        charged = "not settled yet" if run.epsilon is None else f"{run.epsilon:g} charged"
        out.print(f"epsilon: {charged}, {run.reserved:g} reserved, delta {run.delta:g}, of {run.population}")
    for fault in run.faults:
        out.print(f"fault: {fault}")
    out.print(f"why, rule by rule: silo policy explain {run.run}")
