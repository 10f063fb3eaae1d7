"""The page and the card: complete, escaped, self-contained, and the same bytes every time."""

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from cnt_pipeline.completions.schema import Completion
from cnt_pipeline.prompt_sets.schema import Prompt
from cnt_pipeline.reports.material import SUBJECTS, Material, Model
from cnt_pipeline.reports.page import CARD, REPORT, write_page
from cnt_pipeline.study.schema import KINDS, Function, Method
from cnt_pipeline.transplants.methods import resolve

MakeMaterial = Callable[..., Material]
VOID = {"meta", "path", "circle", "rect", "br", "link", "img"}


def written(material: Material, folder: Path) -> tuple[str, str]:
    write_page(material, folder)
    return (folder / REPORT).read_text(encoding="utf-8"), (folder / CARD).read_text(encoding="utf-8")


class Tags(HTMLParser):
    """Collects ids, links and text, and notes tags that are closed in the wrong order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.misplaced: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.names: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.links += [value for name, value in attrs if name in ("href", "src", "action") and value]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.misplaced.append(tag)


def parsed(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    return tags


def test_the_page_says_verdict_figures_and_fingerprints(make_material: MakeMaterial, tmp_path: Path) -> None:
    page, card = written(make_material(), tmp_path)
    for text in (page.replace("\u00a0", " "), card):
        assert "Copying 4 neurons (1.00 % of all parameters) from the donor aligned into the target helpful" in text
        assert "refusal from 0.0 % to 100.0 %" in text
        assert "a" * 64 in text and "b" * 64 in text and "d" * 64 in text
        assert "do not cite it as the paper" in text.replace("\\", "")
    assert "✓ pass" in page and "✗ fail" not in page


def test_the_page_is_well_formed_and_its_links_lead_somewhere(make_material: MakeMaterial, tmp_path: Path) -> None:
    tags = parsed(written(make_material(), tmp_path)[0])
    assert tags.open == [] and tags.misplaced == []
    assert len(set(tags.ids)) == len(tags.ids)
    assert all(link.startswith("#") and link[1:] in tags.ids for link in tags.links)


def test_nothing_is_loaded_and_no_script_runs(make_material: MakeMaterial, tmp_path: Path) -> None:
    page, _ = written(make_material(), tmp_path)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", page)
    assert parsed(page).names.isdisjoint({"script", "link", "img", "iframe", "object", "base"})
    assert "default-src 'none'" in page


def test_markup_in_prompts_completions_and_warnings_is_shown_as_text(
    make_material: MakeMaterial, tmp_path: Path
) -> None:
    bad = "</style></textarea><img src=x onerror=alert(1)>"
    comparison = {"agreements": [bad], "notes": [bad], "warnings": [bad], "non_neuron_tensors": {bad: 0.5}}
    material = make_material(comparison=comparison, target=Model(bad, bad, make_material().target.facts))
    page, card = written(material, tmp_path)
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in page
    assert {"script", "img", "textarea"}.isdisjoint(parsed(page).names)
    header, body = card.split("---\n")[1:3]
    assert yaml.safe_load(header)["target_model"] == bad
    assert not re.search(r"(?<!\\)<(?:img|script)", body)


def test_the_same_material_gives_the_same_bytes(make_material: MakeMaterial, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir(), second.mkdir()
    assert written(make_material(), first) == written(make_material(), second)
    assert str(tmp_path) not in written(make_material(), first)[0]


def test_failing_gates_are_words_and_not_only_colour(make_material: MakeMaterial, tmp_path: Path) -> None:
    failing = {
        "name": "utility_kept",
        "passed": False,
        "value": 0.04,
        "limit": 0.01,
        "sentence": "Utility is lower.",
    }
    verdict = {"verdict": "fail", "sentence": "Utility is lower.", "recovery": 0.5, "checks": [failing]}
    page, card = written(make_material(verdict=verdict), tmp_path)
    assert "1 of 1 quality gates fails. Utility is lower." in page
    assert 'class="verdict fail"' in page and page.count("✗ fail") == 2
    assert "Is it as useful as before?" in page and "−4.0\u00a0points" in page
    assert "**Fail.**" in card and "| **fail** | −4.0 points | at least −1.0 points |" in card


def test_a_deletion_reads_lower_as_better_and_shows_choices(make_material: MakeMaterial, tmp_path: Path) -> None:
    from .conftest import metric_row, metrics_frame, samples_frame

    gaps = {"target": 0.9, "transplant": 0.1}
    said = {
        subject: {
            kind: [Completion(f"{kind}0", 0, "he left.", (1,), True, -1.0, choice_loglik=(-0.1, -2.4))]
            for kind in KINDS
        }
        for subject in SUBJECTS
    }
    material = make_material(
        function=Function(name="bias", direction="delete"),
        metrics=metrics_frame([metric_row(s, "pronoun_gap", gaps.get(s, 0.0)) for s in SUBJECTS]),
        samples=samples_frame([(s, "pronoun_gap", "function", "function0", gaps.get(s, 0.0)) for s in SUBJECTS]),
        prompts={k: [Prompt(f"{k}0", (("user", "Go on"),), "The nurse said", (), (" he", " she"))] for k in KINDS},
        said=said,
    )
    page, card = written(material, tmp_path)
    assert "Bias, deleted from helpful" in page and "pronoun gap from 0.900 to 0.100" in page
    assert "lower is better" in page and "pronoun gap (lower is better)" in card
    assert "<li>he 91\u00a0%</li><li>she 9\u00a0%</li>" in page and "The nurse said" in page


def test_another_amplitude_is_not_called_a_copy(make_material: MakeMaterial, tmp_path: Path) -> None:
    material = make_material(selection=make_material().selection | {"eta": 4.0})
    page, card = written(material, tmp_path)
    assert "Transferring (amplitude 4) 4 neurons" in page and "copied byte for byte" not in page
    assert "by 4 times the difference" in card


def test_a_first_order_effect_is_not_asked_to_add_up(make_material: MakeMaterial, tmp_path: Path) -> None:
    gap = make_material().completeness | {"completeness_gap": 0.4}
    gradient = resolve(Method(name="cnt_gradient"))
    assert "need not add up" in written(make_material(completeness=gap, method=gradient), tmp_path)[0]
    assert "gap 40.0\u00a0%" in written(make_material(completeness=gap), tmp_path)[0]


@pytest.mark.parametrize("missing", ["ranking", "random"])
def test_a_curve_without_a_series_still_draws(make_material: MakeMaterial, tmp_path: Path, missing: str) -> None:
    curve = make_material().curve
    page, _ = written(replace(make_material(), curve=curve.filter(curve["series"] != missing)), tmp_path)
    assert "Recovery against parameters moved" in page
