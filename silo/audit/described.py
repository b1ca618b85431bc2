"""What a signed run says of itself, in the report's words: its privacy, its encryption, what policies decided.

Invariant: every value is computed from the documents that were signed, never from what somebody measured or claims;
but for what confined the researcher's code, which each silo's log says of that silo.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from silo_crypto import parameters
from silo_crypto.threshold import parameters as threshold_parameters
from silo_policies import Decision, RunManifest, format_instant
from silo_policies import Pack as SourcePack
from silo_policies.decision import DecidedRule

from silo.log import Entry
from silo.report.facts.governance import Access, Outcome, Pack, Policies, Waiver
from silo.report.facts.parties import Reason
from silo.report.facts.protection import Collusion, Encryption, EpsilonSeries, Parameter, Privacy, SpentAfter, openings

EARLY_STOPPING = "the number of rounds stands in the signed manifest"


def access_of(started: Iterable[tuple[str, Entry]]) -> Access:
    """Return how identities, keys and code are kept; of the code what each silo logged when it started the run."""
    confined: dict[str, list[str]] = {}
    for name, entry in started:
        if entry.body.get("confinement"):
            confined.setdefault(", ".join(entry.body["confinement"]), []).append(name)
    held = "; ".join(f"{means} at {', '.join(dict.fromkeys(names))}" for means, names in sorted(confined.items()))
    return Access(
        signatures="Ed25519 over every message, decision, upload and log head",
        sealing="HPKE (RFC 9180): X25519, HKDF-SHA256, AES-256-GCM",
        keys_at_rest="PKCS#8, scrypt and AES-256-GCM, file mode 0600",
        rotation="one encryption key for each run",
        confinement=f"in a child process; in force, by the silos' logs: {held}" if held else None,
    )


def reasons_of(decision: Decision) -> tuple[Reason, ...]:
    """Return why a silo refused, in its packs' words; nothing for a permit."""
    return tuple(
        Reason(
            pack=reason.pack,
            rule=reason.id,
            message=reason.message,
            citation=f"{reason.cite.instrument}, {reason.cite.article}" if reason.cite else None,
            remediation=reason.remediation,
        )
        for reason in decision.reasons
        if decision.decision == "deny"
    )


def privacy_of(run: RunManifest, taken: Mapping[str, Sequence[int]]) -> Privacy:
    """Return the promise of a run and its parameters; ``taken`` are the rounds each silo took part in."""
    from silo.training.distributed_plan import DistributedPlan
    from silo.training.mechanism import plan_of

    spec = run.privacy
    plan = plan_of(run)
    distributed = isinstance(plan, DistributedPlan)
    series = []
    for name, rounds in taken.items():
        points = tuple(
            SpentAfter(round=number, epsilon=plan.epsilon_after(index * spec.steps_per_round))
            for index, number in enumerate(rounds, start=1)
        )
        series.append(EpsilonSeries(silo=name, points=points))
    return Privacy(
        mechanism="distributed-dp: one clipped gradient sum a silo and round, each with a share of the noise; only "
        "sums are opened"
        if distributed
        else "local-dp: DP-SGD inside each silo (Opacus gradients, the silo's own sampling and noise)",
        epsilon=spec.epsilon,
        delta=spec.delta,
        unit=spec.unit,
        adjacency=f"add or remove one {spec.unit}",
        accountant="dp_accounting PLD, pessimistic, rounded up",
        composition="rounds compose, over the sampled union of the silos' records"
        if distributed
        else "steps compose within a silo; silos hold different records (parallel composition)",
        contribution_bound="one record, its gradient clipped to the norm below in every step it is sampled in"
        if spec.unit == "record"
        else f"the first {spec.records_per_patient} records of one patient, the sum of their gradients clipped once to "
        "the norm below in every step the patient is sampled in",
        clipping_norm=spec.clipping_norm,
        noise_multiplier=spec.noise_multiplier,
        sample_rate=spec.sample_rate,
        expected_batch=spec.expected_batch,
        steps_per_round=spec.steps_per_round,
        rounds=run.rounds,
        random_source="AES-256-CTR under fresh 32-byte keys from the operating system, in the silo's process",
        floating_point="clipped sums in float64, "
        + (
            "discrete Gaussian noise around a real centre"
            if distributed
            else "discretised Gaussian noise on a fixed grid"
        )
        + ", sensitivity widened by 2^-10 for arithmetic",
        collusion=tuple(Collusion(silos=c, epsilon=epsilon) for c, epsilon in plan.collusion())
        if isinstance(plan, DistributedPlan)
        else (),
        spent=tuple(series),
    )


def encryption_of(run: RunManifest, upload: int | None) -> Encryption:
    """Return the encryption of a run; ``upload`` is the largest upload in bytes, None if nobody recorded it."""
    plain = run.model.parameters * 4
    details = _shared_details if run.encryption.custody == "shared" else _threshold_details
    scheme, named, beside = details(run)
    return Encryption(
        scheme=scheme,
        custody=run.encryption.custody,
        threshold=run.encryption.threshold,
        parameters=tuple(Parameter(name=name, value=value) for name, value in named.items()),
        security_bits=run.encryption.security_bits,
        failure_probability=0.0,
        failure_reason="noise and field bounds are hard bounds, computed for this many silos before anything is "
        "encrypted",
        upload_bytes=upload,
        plain_bytes=plain,
        ratio=None if upload is None else upload / plain,
        ratio_reason=f"the model has only {run.model.parameters} values; beside them an upload carries {beside}. At a "
        "million values the ratio is below 1.05.",
        who_can_open=openings(run.encryption.custody, run.encryption.threshold),
    )


def _shared_details(run: RunManifest) -> tuple[str, dict[str, str], str]:
    spec = run.encryption
    chosen = parameters.shared(spec.parameters, value_bits=spec.value_bits, max_additions=spec.max_additions)
    named = {
        "parameter set": chosen.name,
        "ring dimension": str(parameters.DEGREE),
        "ciphertext modulus": " x ".join(str(prime) for prime in parameters.PRIMES),
        "plaintext modulus": "2^60 - 16383",
        "fields": f"{chosen.fields} of {chosen.field_bits} bits a coefficient",
        "uploads a sum may hold": str(chosen.max_additions),
        "source of the security claim": parameters.SECURITY_SOURCE,
    }
    beside = "presence and MAC fields, a 64-byte seed and a signed envelope"
    return "BFV (Microsoft SEAL through TenSEAL), exact integer sums", named, beside


def _threshold_details(run: RunManifest) -> tuple[str, dict[str, str], str]:
    spec = run.encryption
    chosen = threshold_parameters.named(spec.parameters)
    named = {
        "parameter set": chosen.name,
        "ring dimension": str(chosen.degree),
        "ciphertext modulus": f"{chosen.modulus.bit_length()} bits, {len(chosen.primes)} primes",
        "plaintext modulus": f"2^{chosen.plaintext_bits}",
        "fields": f"{chosen.fields} of {chosen.field_bits} bits a coefficient",
        "flood bound": f"2^{chosen.flood_bits}",
        "uploads a sum may hold": str(chosen.max_silos),
        "source of the security claim": chosen.source,
    }
    scheme = "T-of-n opening of sums over a ring (after LERNA, ASIACRYPT 2023), our own code, not audited by others"
    return scheme, named, "presence and MAC fields and a signed envelope, and a coefficient is 390 bits wide"


def policies_of(decisions: Mapping[str, Decision], packs: Mapping[str, SourcePack]) -> Policies:
    """Return each rule's outcome at each silo, by signed decision; ``packs`` by digest say what the rules cite."""

    def citation(decision: Decision, rule: DecidedRule) -> str | None:
        pack = packs.get(decision.packs.get(rule.pack, ""))
        cite = pack.rules[rule.id].cite if pack else None
        return f"{cite.instrument}, {cite.article}" if cite else None

    return Policies(
        packs=tuple(
            Pack(id=pack.id, version=pack.document.version, digest=digest, jurisdiction=pack.document.jurisdiction)
            for digest, pack in sorted(packs.items(), key=lambda item: item[1].id)
        ),
        outcomes=tuple(
            Outcome(silo=name, pack=rule.pack, rule=rule.id, result=rule.result, citation=citation(decision, rule))
            for name, decision in sorted(decisions.items())
            for rule in decision.rules
        ),
    )


def waivers_of(decisions: Mapping[str, Decision]) -> Iterator[Waiver]:
    """Yield every waiver that a silo's signed decision names."""
    for name, decision in sorted(decisions.items()):
        for each in decision.waivers:
            yield Waiver(
                id=each.waiver,
                silo=name,
                pack=each.pack,
                rule=each.id,
                approver=each.approver,
                justification=each.reason,
                expires=format_instant(each.expires),
            )
