"""The run manifest: what a researcher asks of the members, signed, and its digest bound into every message of the run.

Invariant: a manifest that :func:`verify_run` returns was signed by a researcher of the consortium, names this very
consortium manifest, invites only its members, asks for the custody they agreed on and for no fewer silos than they
demand, and is neither expired nor dated in the future. What it *claims* about privacy is not believed: the silo
recomputes epsilon, model size and code digest and passes those to :meth:`RunManifest.facts`.

Source: PROTOCOL section 4, step 1.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from silo_policies.consortium import ConsortiumManifest
from silo_policies.documents import CLOCK_SKEW, AsTuple, Digest, Document, Instant, Name, Slug, Text, format_instant
from silo_policies.errors import DocumentError
from silo_policies.facts import MAX_INTEGER, MemberFacts, RunFacts
from silo_policies.signing import Keyring, Signed, SignedBody

RunId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
_Positive = Annotated[float, Field(gt=0)]
_Count = Annotated[int, Field(ge=1, le=MAX_INTEGER)]
_Decay = Annotated[float, Field(ge=0, lt=1)]
_ADAPTIVE = ("learning_rate", "beta1", "beta2", "tau")
_NUMBERS = {"fedavgm": ("learning_rate", "momentum"), "fedadam": _ADAPTIVE, "fedyogi": _ADAPTIVE}


class PrivacySpec(Document):
    """Differential privacy of the run; every number is public. ``epsilon`` and ``delta`` are for the whole run.

    ``records_per_patient`` is how many records of one patient count, for unit "patient". The last four are
    distributed-dp's: how many uploads are in every sum that is opened, how many of those silos' noise
    is not counted on, the width of one silo's noise share in steps of its integers, and integers per unit of gradient.
    """

    mechanism: Literal["local-dp", "distributed-dp"]
    epsilon: _Positive
    delta: Annotated[float, Field(gt=0, lt=1)]
    unit: Literal["record", "patient"]
    adjacency: Literal["add-remove", "replace"]
    accountant: Slug
    clipping_norm: _Positive
    noise_multiplier: _Positive
    sample_rate: Annotated[float, Field(gt=0, le=1)]
    steps_per_round: _Count
    expected_batch: _Positive
    learning_rate: _Positive
    records_per_patient: Annotated[int, Field(ge=1, le=4096)] | None = None
    minimum_silos: Annotated[int, Field(ge=3, le=128)] | None = None
    colluders: Annotated[int, Field(ge=1, le=127)] | None = None
    share_sigma: Annotated[float, Field(ge=4)] | None = None
    scale: _Positive | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.unit == "patient") != (self.records_per_patient is not None):
            raise ValueError("unit patient has records_per_patient, unit record has none")
        own = (self.minimum_silos, self.colluders, self.share_sigma, self.scale)
        if any((each is None) == (self.mechanism == "distributed-dp") for each in own):
            raise ValueError("minimum_silos, colluders, share_sigma and scale are for distributed-dp, and all of them")
        if self.minimum_silos is not None and self.colluders is not None and self.colluders >= self.minimum_silos:
            raise ValueError("colluders leave nobody whose noise counts")
        if self.mechanism == "distributed-dp" and self.steps_per_round != 1:
            raise ValueError("distributed-dp takes one step a round")
        return self


class EncryptionSpec(Document):
    """How updates are encrypted. ``parameters`` is a named set; ``security_bits`` is classical."""

    custody: Literal["shared", "threshold"]
    scheme: Slug
    parameters: Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9._-]{1,64}$")]
    security_bits: Annotated[int, Field(ge=0, le=1024)]
    threshold: Annotated[int, Field(ge=2)] | None = None
    value_bits: Annotated[int, Field(ge=1, le=32)]
    value_bound: _Positive
    max_additions: _Count

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.custody == "threshold") != (self.threshold is not None):
            raise ValueError("threshold custody has a threshold, shared custody has none")
        return self


class AggregationSpec(Document):
    """How updates become one, and the step that every silo takes with it; a rule has the numbers it needs, no others.

    ``fedavg`` has none; ``fedavgm`` has ``learning_rate`` and ``momentum``; ``fedadam`` and ``fedyogi`` have
    ``learning_rate``, ``beta1``, ``beta2`` and ``tau``. (A rule this package does not know is for the silos to refuse.)
    """

    rule: Slug
    weighting: Literal["uniform", "examples"]
    learning_rate: _Positive | None = None
    momentum: _Decay | None = None
    beta1: _Decay | None = None
    beta2: _Decay | None = None
    tau: _Positive | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        wanted = _NUMBERS.get(self.rule, ())
        for name in ("learning_rate", "momentum", "beta1", "beta2", "tau"):
            if (getattr(self, name) is None) == (name in wanted):
                raise ValueError(f"the rule {self.rule} " + ("needs " if name in wanted else "takes no ") + name)
        return self


class ModelSpec(Document):
    """The model's size in trainable parameters and the public seed of its initialisation."""

    parameters: _Count
    seed: Annotated[int, Field(ge=0, le=MAX_INTEGER)]


class RunManifest(SignedBody):
    """What the researcher signs. ``consortium`` is the digest of the consortium manifest it was written for."""

    label: ClassVar[str] = "silo/v1/run"

    version: Literal[1] = 1
    run: RunId
    consortium: Digest
    name: Text
    purpose: Slug
    code_digest: Digest
    researcher: Name
    rounds: _Count
    privacy: PrivacySpec
    encryption: EncryptionSpec
    aggregation: AggregationSpec
    model: ModelSpec
    releases: Annotated[tuple[Literal["model", "metrics", "records"], ...], AsTuple]
    members: Annotated[tuple[Name, ...], AsTuple, Field(min_length=2, max_length=1024)]
    minimum_silos: Annotated[int, Field(ge=2)]
    created: Instant
    expires: Instant

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for field, listed in (("releases", self.releases), ("members", self.members)):
            if list(listed) != sorted(set(listed)):
                raise ValueError(f"{field} must be sorted and without repetition")
        if self.minimum_silos > len(self.members):
            raise ValueError(f"minimum_silos is {self.minimum_silos}, but {len(self.members)} silos are invited")
        if self.encryption.max_additions < len(self.members):
            raise ValueError("max_additions is below the number of silos invited")
        if self.privacy.mechanism == "distributed-dp":
            self._check_distributed()
        if self.expires <= self.created:
            raise ValueError("expires must lie after created")
        return self

    def _check_distributed(self) -> None:
        """The noise of distributed-dp is what stands together in a sum that no fewer silos open: both must hold."""
        least, colluders = self.privacy.minimum_silos or 0, self.privacy.colluders or 0
        if self.encryption.custody != "threshold":
            raise ValueError(
                "distributed-dp needs threshold custody: any holder of a shared key could open one upload alone, and "
                "one upload carries one share of the noise only"
            )
        if self.minimum_silos < least:
            raise ValueError(
                f"the noise is that of {least} silos, but sums of {self.minimum_silos} would be opened: raise "
                "minimum_silos of the run"
            )
        if colluders < (self.encryption.threshold or 0) - 1:
            raise ValueError("colluders is below threshold - 1: the noise must hold against as many as the keys do")
        if self.aggregation.weighting != "uniform":
            raise ValueError("distributed-dp weighs no silo: the noise is for a sum")

    def facts(
        self,
        consortium: ConsortiumManifest,
        *,
        epsilon: float,
        model_size: int,
        security_bits: int,
        code_digest: str,
        code_approved: bool,
        code_signers: Collection[str] = (),
        round_number: int = 0,
    ) -> RunFacts:
        """Return what rules may ask about the run, with what the silo measured in the place of what is claimed.

        ``consortium`` is the newest verified manifest, so a revoked member is gone from ``run.members``.
        """
        privacy, encryption = self.privacy, self.encryption
        return RunFacts(
            id=self.run,
            name=self.name[:200],
            purpose=self.purpose,
            researcher=self.researcher,
            rounds=self.rounds,
            round=round_number,
            mechanism=privacy.mechanism,
            epsilon=epsilon,
            delta=privacy.delta,
            unit=privacy.unit,
            adjacency=privacy.adjacency,
            accountant=privacy.accountant,
            clipping_norm=privacy.clipping_norm,
            noise_multiplier=privacy.noise_multiplier,
            sample_rate=privacy.sample_rate,
            custody=encryption.custody,
            scheme=encryption.scheme,
            security_bits=security_bits,
            threshold=encryption.threshold or 1,
            value_bits=encryption.value_bits,
            value_bound=encryption.value_bound,
            aggregation=self.aggregation.rule,
            weighting=self.aggregation.weighting,
            model_size=model_size,
            releases=self.releases,
            members=tuple(
                MemberFacts(name=each.name, organisation_type=each.organisation_type, jurisdiction=each.jurisdiction)
                for each in consortium.active(self.members)
            ),
            minimum_silos=self.minimum_silos,
            colluders=privacy.colluders or 0,
            code_digest=code_digest,
            code_signers=tuple(sorted(code_signers)),
            code_approved=code_approved,
            created=self.created,
            expires=self.expires,
        )


def verify_run(
    signed: Signed[RunManifest], consortium: ConsortiumManifest, keyring: Keyring, *, now: datetime
) -> RunManifest:
    """Return the manifest if it may be considered now, else raise.

    Raises :class:`SignatureRefused` if the researcher did not sign it or somebody else did, :class:`DocumentError` for
    everything that does not fit the consortium or the clock.
    """
    run = signed.body
    where = f"run {run.run}"
    person = consortium.person(run.researcher, role="researcher")
    signed.verify({person.name: keyring(person.name, person.keys)})
    if run.consortium != consortium.digest:
        raise DocumentError(
            f"it was written for the consortium {run.consortium}, not {consortium.digest}",
            where=where,
            fix="write and sign it anew for the newest consortium manifest",
        )
    strangers = sorted(set(run.members) - consortium.names)
    if strangers:
        raise DocumentError(f"it invites {', '.join(strangers)}, who are no members", where=where)
    if run.minimum_silos < consortium.minimum_silos:
        raise DocumentError(
            f"it wants at least {run.minimum_silos} silos, the consortium {consortium.minimum_silos}", where=where
        )
    if run.encryption.custody != consortium.custody or run.encryption.threshold != consortium.threshold:
        raise DocumentError(
            f"it asks for custody {run.encryption.custody} (threshold {run.encryption.threshold}), "
            f"the consortium agreed on {consortium.custody} (threshold {consortium.threshold})",
            where=where,
        )
    if run.created > now + CLOCK_SKEW:
        raise DocumentError("it is dated in the future", where=where, fix="compare the clocks")
    if now >= min(run.expires, consortium.expires):
        end = format_instant(min(run.expires, consortium.expires))
        raise DocumentError(f"it expired at {end}", where=where, fix="have it signed anew")
    return run
