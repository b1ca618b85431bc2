"""Joining a consortium: verify its file from what this home joined before, ask the gate, put the answer on record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from silo.cli.common import now
from silo.errors import ConfigError, PolicyDenied

if TYPE_CHECKING:
    from silo_policies import Agreement, ConsortiumManifest, Decision, Facts, Pack, Signed

    from silo.home import Home


def verified(home: Home, agreement: Agreement, replace: bool) -> ConsortiumManifest:
    """Return the newest manifest, verified from the one this home joined before, if it did."""
    from silo_policies import refuse_reused_keys

    from silo.submission import keyring

    joined = home.settings.consortium
    chain, pinned = agreement, None
    if joined is not None and not replace:
        later = agreement.since(joined)
        if later is None:
            raise ConfigError(
                "it does not continue the manifest that this home joined",
                where=f"consortium {agreement.name}",
                fix="fetch the file with its whole history, or leave the old one with --replace",
            )
        chain, pinned = later, joined
    manifest = chain.verified(keyring, now=now(), pinned=pinned)
    named = {member.name: member for member in manifest.members} | {manifest.aggregator.name: manifest.aggregator}
    party = named.get(home.name)
    if party is None and pinned is None:
        raise ConfigError(f"it does not name {home.name}", where=f"consortium {manifest.name}", fix="ask to be added")
    refuse_reused_keys([signed.body for signed in agreement.chain])
    if party is not None and home.epoch_of(keyring(home.name, party.keys)) is None:
        raise ConfigError(
            f"it names {home.name} with another key", where=f"consortium {manifest.name}", fix="have yours added"
        )
    return manifest


def require_packs(manifest: ConsortiumManifest, packs: Sequence[Pack | None]) -> None:
    """Return if the packs are exactly those of the manifest; else say which is missing or another."""
    found = {pack.id: pack for pack in packs if pack is not None}
    for name, digest in sorted(manifest.packs.items()):
        if name not in found:
            raise ConfigError(
                f"the pack {name} ({digest}) is not here",
                where=f"consortium {manifest.name}",
                fix="give it with --pack",
            )
        if found[name].digest != digest:
            raise PolicyDenied(
                f"the pack {name} is {found[name].digest}, but the members pinned {digest}",
                where=found[name].origin,
                fix="fetch the pack that the members signed",
            )


def ask(home: Home, manifest: ConsortiumManifest, packs: Sequence[Pack]) -> tuple[Facts, Signed[Decision]]:
    """Ask the gate at the moment ``join`` and sign what it says."""
    from silo_policies import Decision, Facts, Gate, Layer, SiloFacts, sign

    from silo.sandbox import means
    from silo.submission import keyring

    member = next((each for each in manifest.members if each.name == home.name), None)
    confinement = means()
    facts = Facts(
        silo=SiloFacts(
            name=home.name,
            jurisdiction=member.jurisdiction if member else None,
            organisation_type=member.organisation_type if member else None,
            member=member is not None,
            isolation=confinement.isolation,
            isolation_means=confinement.in_force,
            encrypted_at_rest=True,
            log_retention_days=home.settings.log_retention_days,
            evidence=home.settings.evidence,
        ),
        consortium=manifest.facts(),
    )
    officers = manifest.people_of(home.name, keyring, "officer")
    gate = Gate(Layer(tuple(packs), manifest.packs), Layer(home.packs(), home.pins()), approvers=officers)
    outcome = gate.evaluate("join", facts, now=now(), waivers=home.waivers())
    decision = Decision.of(outcome, run=_run_of(manifest), manifest=manifest.digest, silo=home.name)
    return facts, sign(decision, home.identity())


def _run_of(manifest: ConsortiumManifest) -> str:
    """Return the name under which joining is on record; a decision belongs to a run, and this one to none."""
    return f"join-{manifest.name}"[:64]


def keep(home: Home, manifest: ConsortiumManifest, facts: Facts, record: Signed[Decision]) -> None:
    """Put the decision on record as the agent does with those on runs."""
    from silo_policies import canonical

    from silo.storage import write_atomically

    decision = record.body
    with home.log() as log:
        log.append("manifest", {"digest": manifest.digest, "consortium": manifest.digest, "silo": home.name})
        entry = log.append(
            "decision",
            {
                "run": decision.run,
                "silo": home.name,
                "moment": decision.moment,
                "decision": decision.decision,
                "digest": decision.digest,
                "deciding": list(decision.deciding)[:64],
                "waivers": [],
            },
        )
    folder, stem = home.run_directory(decision.run), f"{entry.index:06d}-{decision.moment}.json"
    write_atomically(folder / f"facts-{stem}", canonical(facts.to_dict()))
    write_atomically(folder / f"decision-{stem}", record.to_json().encode())
