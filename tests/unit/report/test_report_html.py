"""The page: stands alone, escapes strangers, reads in order, and is the same bytes every time."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections import Counter
from functools import cache
from html.parser import HTMLParser
from importlib import resources
from itertools import pairwise
from pathlib import Path

import pytest

from silo.report import Report, render_html
from silo.report.facts.governance import Disclosure, Fault, Unprotected, Waiver
from silo.report.facts.parties import Reason
from tests.unit.report.sample import sample
from tests.unit.report.test_report_model import changed

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Tags with attributes, text by element, and whether everything that opens closes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[tuple[str, str]] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"{tag} has an attribute twice"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append((self.open[-1] if self.open else "", data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", " ".join(data for tag, data in self.text if tag != "style"))


@cache
def html() -> str:
    return render_html(sample())


@cache
def page() -> Page:
    return Page(html())


def words(report: Report) -> str:
    return Page(render_html(report)).words


# Stands alone


def test_no_script_no_request() -> None:
    names = {name for name, _ in page().tags}
    assert not names & {"script", "iframe", "link", "img", "object", "embed", "form", "base", "image", "foreignObject"}
    for _, attrs in page().tags:
        assert not attrs.keys() & {"src", "srcset", "action", "xlink:href", "ping", "background"}
        assert not [name for name in attrs if name.startswith("on")]
        assert (attrs.get("href") or "#").startswith("#")
        assert "url(" not in (attrs.get("style") or "").replace("url(#", "")
    style = "".join(data for tag, data in page().text if tag == "style")
    assert "url(" not in style
    assert "@import" not in style
    assert "http" not in html().replace("http-equiv", "")


def test_the_page_forbids_scripts_and_requests_itself() -> None:
    (policy,) = [meta["content"] for meta in page().all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_same_facts_same_bytes() -> None:
    assert render_html(sample()) == html()


def test_same_bytes_in_another_process_with_other_settings(tmp_path: Path) -> None:
    settings = tmp_path / "matplotlibrc"
    settings.write_text("font.size: 40\nsvg.fonttype: path\naxes.linewidth: 5\nxtick.major.size: 20\n")
    script = "import sys; from tests.unit.report.sample import sample; from silo.report import render_html; "
    script += "sys.stdout.buffer.write(render_html(sample()).encode())"
    environment = {
        **os.environ,
        "PYTHONHASHSEED": "7",
        "MATPLOTLIBRC": str(settings),
        "TZ": "Asia/Tokyo",
        "LC_ALL": "C",
    }
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, env=environment, capture_output=True, check=True)
    assert done.stdout.decode() == html()


def test_small_and_fast() -> None:
    assert len(html().encode()) < 120_000
    large = sample(rounds=100, silos=8)
    began = time.perf_counter()
    size = len(render_html(large).encode())
    assert time.perf_counter() - began < 3
    assert size < 300_000


def test_importing_the_report_does_not_import_matplotlib() -> None:
    script = "import sys, silo.report; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[3], check=True)


# Accessible


def test_language_title_and_viewport() -> None:
    assert page().all("html") == [{"lang": "en"}]
    assert len(page().all("title")) == 3  # the page's and one in each plot
    assert any(meta.get("name") == "viewport" for meta in page().all("meta"))


def test_headings_descend_one_step_at_a_time() -> None:
    levels = [int(tag[1]) for tag, _ in page().tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_ids_are_unique_and_every_link_and_label_leads_somewhere() -> None:
    ids = Counter(attrs["id"] for _, attrs in page().tags if "id" in attrs)
    assert [name for name, count in ids.items() if count > 1] == []
    targets = [attrs["href"][1:] for _, attrs in page().tags if attrs.get("href")]
    targets += [name for _, attrs in page().tags for name in (attrs.get("aria-labelledby") or "").split()]
    clips = re.findall(r"url\(#([^)]+)\)", html())
    assert len(targets) > 50
    assert set(targets) | set(clips) <= set(ids)


def test_tables_have_captions_and_scoped_headers() -> None:
    assert len(page().all("table")) == len(page().all("caption")) > 10
    assert {th.get("scope") for th in page().all("th")} == {"col", "row"}


def test_both_plots_are_described() -> None:
    plots = [attrs for attrs in page().all("svg") if attrs.get("role") == "img"]
    assert [plot["aria-labelledby"] for plot in plots] == ["privacy-title privacy-desc", "auc-title auc-desc"]
    described = {attrs["id"] for tag in ("title", "desc") for attrs in page().all(tag) if "id" in attrs}
    assert described == {"privacy-title", "privacy-desc", "auc-title", "auc-desc"}
    said = " ".join(data for tag, data in page().text if tag == "desc")
    assert "cleveland 2.97" in said
    assert "Federated, private 0.877 (0.835 to 0.919)" in said
    # Colours come from the page, so that dark mode and paper need no second drawing.
    drawn = html()[html().index("<svg") :]
    assert re.findall(r"(?:stroke|fill): #\w+", drawn) == []
    assert "var(--s1)" in drawn


def themes() -> dict[str, dict[str, str]]:
    css = resources.files("silo.report").joinpath("templates/report.css").read_text()
    blocks = re.findall(r":root \{([^}]*)\}", css)
    assert len(blocks) == 3
    return {
        name: dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
        for name, block in zip(("light", "dark", "print"), blocks, strict=True)
    }


def contrast(first: str, second: str) -> float:
    """WCAG 2.2 contrast ratio of two colours."""

    def luminance(colour: str) -> float:
        parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark", "print"])
def test_contrast_meets_wcag_aa(theme: str) -> None:
    colours = themes()[theme]
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    texts = ("ink", "muted", "accent", "good", "bad", "warn")
    for ground in ("paper", "raised", "bad-ground", "warn-ground"):
        for name in texts:
            assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)
    for series in range(1, 9):
        assert contrast(colours[f"s{series}"], colours["paper"]) >= 3, series


def test_every_colour_is_one_of_the_tested() -> None:
    css = resources.files("silo.report").joinpath("templates/report.css").read_text()
    assert re.findall(r"#[0-9a-f]{3,8}\b", re.sub(r":root \{[^}]*\}", "", css)) == []
    known = set(themes()["light"])
    assert themes()["dark"].keys() == themes()["print"].keys() == known
    assert set(re.findall(r"var\(--([\w-]+)\)", css + html())) <= known


# What it says


def test_the_verdict_in_plain_words() -> None:
    assert "Four institutions trained one model together in twelve rounds." in page().words
    assert "Lakeside General (fictional) refused under its own policy (rule epsilon-at-most-1)" in page().words
    assert "epsilon, came to 2.97 at most, within the 3 that was agreed" in page().words
    assert "held no key and could read none of them" in page().words


def test_a_refusal_shows_rule_reason_source_and_remedy() -> None:
    block = html()[html().index('class="refusal"') :].split("</section>")[0]
    for part in (
        "Refused",
        "Lakeside General",
        "up to epsilon 1",
        "epsilon-at-most-1",
        "House rules",
        "Propose the run",
    ):
        assert part in block


def test_it_says_what_encryption_does_not_do_and_what_is_not_claimed() -> None:
    assert "Encryption protects inputs, not outputs; differential privacy protects outputs." in page().words
    assert "Claims not made" in page().words
    assert "evidence for assessment" in page().words


def test_it_never_uses_the_two_words() -> None:
    assert not re.search(r"anonym|complian", page().words, re.IGNORECASE)


def bare() -> Report:
    """The least that a report can say: nothing but what has no `None`."""
    report = sample()
    silo = report.silos[0]
    return Report(
        run="r",
        name="n",
        purpose="p",
        started=report.started,
        verdict=report.verdict,
        silos=(type(silo)(name="a", display_name="A", epsilon=1.0, delta=1e-4, decision="permit"),),
        aggregator=type(report.aggregator)(has_secret_key=None),
        privacy=type(report.privacy)(mechanism="m", epsilon=3.0, delta=1e-4, unit="record", adjacency="add or remove"),
        encryption=type(report.encryption)(scheme="s", custody="shared"),
        auc=type(report.auc)(),
    )


def test_what_has_no_evidence_says_so() -> None:
    said = words(bare())
    assert said.count("not evidenced") > 60
    for statement in (
        "a key to them is not evidenced",
        "How well the model does is not evidenced",
        "Waivers: not evidenced",
        "Faults: not evidenced",
        "Attack tests: not evidenced",
        "Rounds: not evidenced",
        "No log entry backs these statements: not evidenced. consortium manifest run manifest decision of a key epoch",
    ):
        assert statement in said
    assert "held no key" not in said


def test_read_and_empty_is_not_the_same_as_not_evidenced() -> None:
    assert "Waivers: none recorded." in page().words
    assert "Faults: none recorded." in page().words
    assert "Every statement that should have a log entry has one." in page().words


def test_no_key_is_only_claimed_with_evidence() -> None:
    report = changed(aggregator=sample().aggregator.model_copy(update={"evidence": None}))
    assert "is said to hold no key to them; how that was established is not evidenced" in words(report)


def test_a_key_at_the_aggregator_is_shouted() -> None:
    said = words(changed(aggregator=sample().aggregator.model_copy(update={"has_secret_key": True})))
    assert "HELD THE KEY" in said
    assert "nothing was hidden from it" in said


def test_more_epsilon_than_asked_is_shouted() -> None:
    first, *rest = sample().silos
    said = words(changed(silos=(first.model_copy(update={"epsilon": 3.001}), *rest)))
    assert "3.01 at most, ABOVE the 3 that was agreed" in said
    assert "Cleveland Clinic Foundation spent epsilon 3.01, more than the 3 asked." in said


def test_an_unsafe_source_voids_epsilon() -> None:
    privacy = sample().privacy.model_copy(update={"void": "UnsafeSeededRandom was used"})
    said = words(changed(privacy=privacy))
    assert "The privacy promise of this run is VOID: UnsafeSeededRandom was used." in said
    assert "came to 2.97" not in said.split("Who took part")[0]


def test_a_failed_check_and_a_dropout_show() -> None:
    first, second, *rest = sample().rounds
    broken = first.model_copy(update={"verified": False})
    short = second.model_copy(update={"participants": second.participants[1:], "dropped": ("cleveland",), "attempt": 2})
    said = words(changed(rounds=(broken, short, *rest)))
    assert "The opened sum failed its check in round 1." in said
    assert "3 of 4 cleveland held" in said


def test_a_run_that_did_not_start() -> None:
    verdict = sample().verdict.model_copy(
        update={"outcome": "not-started", "rounds_completed": 0, "because": "one silo permitted it, three are needed"}
    )
    privacy = sample().privacy.model_copy(update={"spent": ()})
    refused = (sample().silos[-1],)
    report = changed(
        verdict=verdict,
        silos=refused,
        rounds=(),
        privacy=privacy,
        evidence=type(sample().evidence)(),
        policies=type(sample().policies)(),
    )
    assert "The run did not start: one silo permitted it, three are needed." in words(report)


def test_one_log_entry_may_back_two_statements() -> None:
    report = sample()
    log = report.evidence.logs[0]
    doubled = log.model_copy(
        update={"entries": (*log.entries, log.entries[0].model_copy(update={"subject": "release/model"}))}
    )
    shown = render_html(
        changed(evidence=report.evidence.model_copy(update={"logs": (doubled, *report.evidence.logs[1:])}))
    )
    assert "consortium manifest; release of model" in Page(shown).words
    assert shown.count('id="log-cleveland-0"') == 1


# Hostile strings

HOSTILE = (
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "</style><script>x</script>",
    "</title></svg><script>x</script>",
    "{{ 7*7 }}{% raw %}",
    "\u202egnp.exe",
    "\x00\x1b[31m",
    "&lt;b&gt;",
    "$\\alpha$",
    "W" * 20_000,
)


@pytest.mark.parametrize("hostile", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_strings_stay_text(hostile: str) -> None:
    report = sample()
    last = report.silos[-1].model_copy(
        update={
            "display_name": hostile,
            "jurisdiction": hostile,
            "reasons": (Reason(pack=hostile, rule=hostile, message=hostile, citation=hostile, remediation=hostile),),
        }
    )
    first = report.silos[0].model_copy(
        update={"display_name": hostile, "local_auc_missing": hostile, "local_auc_after": None}
    )
    log = report.evidence.logs[0].model_copy(update={"origin": hostile, "checkpoint": hostile})
    shown = render_html(
        changed(
            name=hostile,
            purpose=hostile,
            run=hostile,
            silos=(first, *report.silos[1:-1], last),
            privacy=report.privacy.model_copy(update={"unit": hostile, "mechanism": hostile, "random_source": hostile}),
            auc=report.auc.model_copy(update={"label": hostile, "how_pooled": hostile}),
            waivers=(
                Waiver(id=hostile, silo="hungary", pack=hostile, rule=hostile, approver=hostile, justification=hostile),
            ),
            faults=(Fault(party="hungary", what=hostile, consequence=hostile),),
            unprotected=Unprotected(others=(Disclosure(released=True, detail=hostile),)),
            evidence=report.evidence.model_copy(update={"logs": (log, *report.evidence.logs[1:])}),
        )
    )
    parsed = Page(shown)
    # Not one element or attribute name more than with honest strings (a waiver and a fault add tables, not kinds).
    kinds = {name for name, _ in page().tags}
    assert {name for name, _ in parsed.tags} <= kinds
    assert {name for _, attrs in parsed.tags for name in attrs} <= {name for _, attrs in page().tags for name in attrs}
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069]", shown)
    if len(hostile) < 100 and hostile.isprintable():
        assert hostile in "".join(data for _, data in parsed.text)
    assert len(shown.encode()) < 300_000
