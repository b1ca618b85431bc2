"""The formats for other people's tools: each is read by software that is not ours, and is the same bytes each time."""

import base64
import json
import re
import sys
from datetime import date
from typing import Annotated, Literal

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field
from silo_crypto.keys import Identity

from silo.errors import ConfigError
from silo.report import render_html, render_intoto, render_json, render_oscal, render_pdf, render_registry
from silo.report.as_intoto import key_id, pae
from silo.report.facts.evidence import Evidence
from silo.report.facts.governance import Policies
from tests.unit.report.outside import outside
from tests.unit.report.sample import sample


@pytest.fixture(scope="module")
def signer():
    return Identity.generate("aggregator")


@pytest.mark.parametrize("render", [render_html, render_json, render_oscal, render_registry])
def test_the_same_facts_are_the_same_bytes(render):
    assert render(sample()) == render(sample())


# OSCAL


def oscal(report):
    return json.loads(render_oscal(report))["assessment-results"]


def read_by_trestle(report, tmp_path):
    results = outside("trestle.oscal.assessment_results", "compliance-trestle")
    path = tmp_path / "assessment-results.json"
    path.write_text(render_oscal(report))
    return results.AssessmentResults.oscal_read(path)


def test_trestle_reads_the_oscal(tmp_path):
    report = sample()
    (result,) = read_by_trestle(report, tmp_path).results
    assert len(result.findings) == len(report.policies.outcomes)
    assert len(result.observations) == sum(len(log.entries) for log in report.evidence.logs)
    assert result.reviewed_controls.control_selections[0].include_controls


def test_trestle_reads_a_report_of_strangers_texts_and_of_no_evidence(tmp_path):
    strange = sample().model_copy(
        update={"name": "two\nlines \u202e and <b>", "run": "7 run/ü", "evidence": Evidence(), "policies": Policies()}
    )
    assert read_by_trestle(strange, tmp_path).results[0].findings is None


def test_trestle_refuses_what_is_not_oscal(tmp_path):
    results = outside("trestle.oscal.assessment_results", "compliance-trestle")
    value = {"assessment-results": oscal(sample())}
    del value["assessment-results"]["results"][0]["reviewed-controls"]
    path = tmp_path / "assessment-results.json"
    path.write_text(json.dumps(value))
    with pytest.raises(Exception, match=r"reviewed.controls"):
        results.AssessmentResults.oscal_read(path)


def test_only_a_true_rule_is_satisfied_and_every_finding_has_its_decision():
    report = sample()
    findings = {each["uuid"]: each for each in oscal(report)["results"][0]["findings"]}
    assert len(findings) == len(report.policies.outcomes)
    observed = {each["uuid"] for each in oscal(report)["results"][0]["observations"]}
    for finding, outcome in zip(findings.values(), report.policies.outcomes, strict=True):
        assert (finding["target"]["status"]["state"] == "satisfied") == (outcome.result == "true")
        for related in finding.get("related-observations", ()):
            assert related["observation-uuid"] in observed


def test_what_nothing_backs_is_said_in_oscal():
    bare = sample().model_copy(update={"evidence": Evidence()})
    (result,) = oscal(bare)["results"]
    assert "observations" not in result
    assert "Not evidenced: consortium manifest" in result["remarks"]
    assert all("not evidenced" in finding["remarks"] for finding in result["findings"])
    assert "Claims not made" in result["remarks"]


# OpenDP's registry: a schema written from its published records and schema file


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


Filled = Annotated[str, Field(min_length=1)]


class Product(Closed):
    name: Filled
    data_curators: Annotated[list[Filled], Field(min_length=1)]
    intended_use: Filled
    data_product_type: Literal["Summary statistics", "Machine learning model", "Dataset"]
    data_product_region: Filled
    description: Filled
    publication_date: Filled


class Flavor(Closed):
    name: Literal["Pure DP", "Approximate DP", "Zero-concentrated DP", "Renyi DP", "Custom"]
    input_metric: Filled
    data_domain: Filled
    unprotected_quantities: Filled


class Parameters(Closed):
    epsilon: float
    delta: float


class Loss(Closed):
    privacy_unit: Filled
    privacy_unit_description: Filled
    privacy_parameters: Parameters | None = None
    privacy_parameters_description: Filled


class Model(Closed):
    model_name: Literal["Local", "Central", "Shuffle", "Federated"]
    model_name_description: Filled
    actors: Filled
    release_type: Literal["One release", "Many releases"]
    data_source_type: Literal["Static", "Dynamic"]
    access_type: Literal["Interactive", "Non-interactive"]


class Accounting(Closed):
    post_processing: Filled
    composition: Filled


class Implementation(Closed):
    pre_processing_eda_hyperparameter_tuning: Filled
    mechanisms: Filled
    justification: Filled


class Resources(Closed):
    sources: Filled
    registry_authors: Annotated[list[Filled], Field(min_length=1)]


class Deployment(Closed):
    product: Product
    dp_flavor: Flavor
    privacy_loss: Loss
    model: Model
    accounting: Accounting
    implementation: Implementation
    resources: Resources


class Record(Closed):
    url_slug: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
    status: Literal["Draft"]
    tier: Literal[1, 2, 3]
    deployment: Deployment


def test_the_registry_record_fits_the_registry():
    report = sample()
    record = Record.model_validate(yaml.safe_load(render_registry(report)))
    date.fromisoformat(record.deployment.product.publication_date)
    assert record.deployment.privacy_loss.privacy_parameters.epsilon == max(s.epsilon for s in report.permitted)
    assert "lakeside" not in render_registry(report).lower()  # who refused published nothing


def test_a_void_promise_publishes_no_epsilon():
    report = sample()
    void = report.model_copy(update={"privacy": report.privacy.model_copy(update={"void": "UnsafeSeededRandom"})})
    loss = Record.model_validate(yaml.safe_load(render_registry(void))).deployment.privacy_loss
    assert loss.privacy_parameters is None
    assert loss.privacy_parameters_description.startswith("VOID")


def test_a_hostile_text_stays_a_text_in_yaml():
    strange = sample().model_copy(update={"purpose": "x: !!python/object\n- &a *a", "name": "\u202eevil"})
    product = yaml.safe_load(render_registry(strange))["deployment"]["product"]
    assert product["intended_use"] == "x: !!python/object\n- &a *a"
    assert product["name"] == "[U+202E]evil"


# in-toto


def test_securesystemslib_verifies_the_envelope(signer):
    dsse = outside("securesystemslib.dsse", "compliance-trestle")
    keys = outside("securesystemslib.signer", "compliance-trestle")
    public = signer.public().ed25519
    key = keys.SSlibKey(key_id(public), "ed25519", "ed25519", {"public": public.hex()})
    envelope = dsse.Envelope.from_dict(json.loads(render_intoto(sample(), signer)))
    assert set(envelope.verify([key], 1)) == {key_id(public)}
    forged = json.loads(render_intoto(sample(), signer))
    forged["payload"] = base64.b64encode(base64.b64decode(forged["payload"]).replace(b"2.96", b"0.96")).decode()
    with pytest.raises(Exception, match=r"(?i)verif|signature"):
        dsse.Envelope.from_dict(forged).verify([key], 1)


def test_the_statement_is_in_toto_s(signer):
    report = sample()
    envelope = json.loads(render_intoto(report, signer))
    payload = base64.b64decode(envelope["payload"])
    statement = json.loads(payload)
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    digests = {each["name"].rpartition("/")[2]: each["digest"]["sha256"] for each in statement["subject"]}
    assert "sha256:" + digests["run-manifest"] == report.evidence.manifest_digest
    assert statement["predicate"] == json.loads(render_json(report))
    signature = base64.b64decode(envelope["signatures"][0]["sig"])
    signer.public().verify(pae(envelope["payloadType"], payload), signature)
    assert render_intoto(report, signer) == render_intoto(sample(), signer)


def test_the_encoding_that_is_signed_is_dsse_s():
    # The example in the DSSE specification (protocol.md).
    assert pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_a_report_without_digests_vouches_for_nothing(signer):
    with pytest.raises(ConfigError, match="names no artefact"):
        render_intoto(sample().model_copy(update={"evidence": Evidence()}), signer)


# PDF and proofs


def test_pdf_without_weasyprint_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "weasyprint", None)
    with pytest.raises(ConfigError, match=r"silo-fl\[pdf\]"):
        render_pdf(sample())


def test_a_proof_at_hand_is_linked_and_only_a_file_beside_the_report():
    report = sample()
    log = report.evidence.logs[0]
    entry = log.entries[0].model_copy(update={"proof": "proofs/cleveland-3.tlog-proof"})
    evidence = report.evidence.model_copy(
        update={"logs": (log.model_copy(update={"entries": (entry, *log.entries[1:])}), *report.evidence.logs[1:])}
    )
    page = render_html(report.model_copy(update={"evidence": evidence}))
    assert page.count('<a href="proofs/cleveland-3.tlog-proof">sha256:') == 1
    assert not re.search(r'href="(?!#|proofs/)', page)
    assert f"<code>{log.entries[1].hash}</code>" in page  # no proof at hand: the whole hash
    for elsewhere in ("../x.tlog-proof", "/x.tlog-proof", "javascript:x", "https://a/b.tlog-proof", "x.tlog-proof\n"):
        with pytest.raises(ValueError):
            type(entry).model_validate({**entry.model_dump(), "proof": elsewhere})
