"""Policies that decide who takes part: packs, facts, gate, signed decisions, and the manifests of consortium and run.

Invariant: everything that is in doubt is a denial. See README.md beside this package for the officer's page.
"""

from silo_policies.agreement import (
    Agreement,
    Draft,
    Rotation,
    parse_agreement,
    parse_public,
    parse_rotation,
    public_of,
)
from silo_policies.approval import Approval, code_signers
from silo_policies.consortium import (
    Aggregator,
    ConsortiumManifest,
    Member,
    Person,
    refuse_reused_keys,
    verify_chain,
    verify_consortium,
)
from silo_policies.decision import Decision, verify_decision
from silo_policies.diff import Change, diff_packs
from silo_policies.documents import CLOCK_SKEW, canonical, digest, format_instant, parse_instant, parse_json
from silo_policies.errors import (
    DocumentError,
    EvaluationError,
    ExpressionError,
    FactError,
    PackError,
    PolicyError,
    SignatureRefused,
)
from silo_policies.evaluator import Evaluator
from silo_policies.facts import (
    ConsortiumFacts,
    DatasetFacts,
    Facts,
    MemberFacts,
    ReleaseFacts,
    RunFacts,
    SiloFacts,
)
from silo_policies.gate import Gate, Layer, Outcome, RuleResult
from silo_policies.pack import MOMENTS, Moment, Pack, load_pack, parse_pack, shipped_pack, shipped_packs, shipped_text
from silo_policies.run import (
    AggregationSpec,
    EncryptionSpec,
    ModelSpec,
    PrivacySpec,
    RunManifest,
    verify_run,
)
from silo_policies.signing import Keyring, Keys, Signed, SignedBody, Signer, Verifier, parse_signed, sign
from silo_policies.testing import FixtureResult, PackReport, check_pack
from silo_policies.waiver import Waiver, check_waiver

__all__ = [
    "CLOCK_SKEW",
    "MOMENTS",
    "AggregationSpec",
    "Aggregator",
    "Agreement",
    "Approval",
    "Change",
    "ConsortiumFacts",
    "ConsortiumManifest",
    "DatasetFacts",
    "Decision",
    "DocumentError",
    "Draft",
    "EncryptionSpec",
    "EvaluationError",
    "Evaluator",
    "ExpressionError",
    "FactError",
    "Facts",
    "FixtureResult",
    "Gate",
    "Keyring",
    "Keys",
    "Layer",
    "Member",
    "MemberFacts",
    "ModelSpec",
    "Moment",
    "Outcome",
    "Pack",
    "PackError",
    "PackReport",
    "Person",
    "PolicyError",
    "PrivacySpec",
    "ReleaseFacts",
    "Rotation",
    "RuleResult",
    "RunFacts",
    "RunManifest",
    "SignatureRefused",
    "Signed",
    "SignedBody",
    "Signer",
    "SiloFacts",
    "Verifier",
    "Waiver",
    "canonical",
    "check_pack",
    "check_waiver",
    "code_signers",
    "diff_packs",
    "digest",
    "format_instant",
    "load_pack",
    "parse_agreement",
    "parse_instant",
    "parse_json",
    "parse_pack",
    "parse_public",
    "parse_rotation",
    "parse_signed",
    "public_of",
    "refuse_reused_keys",
    "shipped_pack",
    "shipped_packs",
    "shipped_text",
    "sign",
    "verify_chain",
    "verify_consortium",
    "verify_decision",
    "verify_run",
]
