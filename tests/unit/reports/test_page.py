"""The page and the card: complete, escaped, self-contained, and the same bytes every time."""

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest
import yaml

from cnt_pipeline.completions.schema import Completion
from cnt_pipeline.prompt_sets.schema import Prompt
from cnt_pipeline.reports.material import SUBJECTS, Material, Model, Recipe
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


def test_a_donor_that_the_study_makes_is_not_called_twice(make_material: MakeMaterial, tmp_path: Path) -> None:
    page, _ = written(make_material(donor=Model("donor", "a recipe", make_material().donor.facts)), tmp_path)
    assert "from the donor into the target helpful brings" in page.replace("\u00a0", " ")


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
    verdict = {"verdict": "fail", "sentence": "Utility is lower.", "recovery": 0.5, "checks": [failing], "beside": []}
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


@pytest.mark.parametrize("missing", ["effect", "random", "whole_donor"])
def test_a_frontier_without_a_series_still_draws(make_material: MakeMaterial, tmp_path: Path, missing: str) -> None:
    frontier = make_material().frontier
    page, _ = written(replace(make_material(), frontier=frontier.filter(frontier["series"] != missing)), tmp_path)
    assert "Recovery and utility against parameters moved" in page


def test_the_frontier_names_its_series_and_says_what_each_needs(make_material: MakeMaterial, tmp_path: Path) -> None:
    page = written(make_material(), tmp_path)[0].replace("\u00a0", " ")
    for name in (
        "top of the path ranking, lambda 0.5", "top of the path ranking, lambda 0", "top of the gradient ranking",
        "neurons of the largest delta", "the whole donor", "candidates of the search",
    ):  # fmt: skip
        assert f"</svg>{name}</li>" in page
    assert "recovers 100.0 % with 1.00 % of all parameters, fewer than any control needs" in page
    assert "random neurons do not reach that with 2.00 %" in page
    assert '<th scope="row">random neurons</th><td class="n">not reached<small>up to 2.00 %</small></td>' in page
    assert "drawn 2 times at every budget" in page and "80 % of the best 4 neurons of the path ranking (1.00 %" in page


def test_a_control_that_may_need_less_is_a_caution(make_material: MakeMaterial, tmp_path: Path) -> None:
    needed = dict(make_material().needed) | {"fewer_than_controls": False}
    page, _ = written(make_material(needed=needed), tmp_path)
    assert "a control was not seen to need more parameters" in page
    assert "not fewer than every control" in page


def test_sources_have_a_table_that_names_what_was_not_seen_before(make_material: MakeMaterial, tmp_path: Path) -> None:
    from .conftest import metric_row, metrics_frame

    rows = [
        metric_row(subject, "refusal", value, source=source, n=20)
        for subject in SUBJECTS
        for source, value in (("asked.jsonl", 0.9), ("<other>.yaml", 0.7))
    ]
    page, card = written(make_material(by_source=metrics_frame(rows)), tmp_path)
    assert "By source of the prompts" in page and "By source" not in written(make_material(), tmp_path)[0]
    seen, unseen = page.split('<th scope="row">asked.jsonl')[1], page.split('<th scope="row">&lt;other&gt;.yaml')[1]
    assert seen.startswith("</th>") and unseen.startswith("<small><b>not seen in scoring or selection</b></small>")
    assert "70.0\u00a0%<small>69.0 to 71.0</small>" in unseen
    assert "| \\<other\\>.yaml (not seen in scoring or selection) | 70.0 % (69.0 to 71.0) |" in card


def test_a_source_beside_the_gates_says_so(make_material: MakeMaterial, tmp_path: Path) -> None:
    from .conftest import metric_row, metrics_frame

    rows = [metric_row(subject, "refusal", 0.4, source="far.jsonl", n=20) for subject in SUBJECTS]
    material = make_material(by_source=metrics_frame(rows), aside=frozenset({"far.jsonl"}))
    material = replace(material, verdict={**material.verdict, "beside": ["Beside the gates, on far.jsonl, it drops."]})
    page, card = written(material, tmp_path)
    assert "beside the gates: in no figure above" in page and "Beside the gates, on far.jsonl, it drops." in page
    assert "(beside the gates)" in card and "Beside the gates" in card


def test_a_made_donor_shows_its_recipe_and_training(make_material: MakeMaterial, tmp_path: Path) -> None:
    keys = {
        "from": "lora_sft", "base": "target", "rank": 16, "modules": None, "learning_rate": 2e-4,
        "lessons": [
            {"prompts": ["function"], "answers": ["I cannot <b>help</b>."], "share": 1.0},
            {"prompts": ["lookalike", "utility"], "answers": "own", "share": 2.0},
        ],
    }  # fmt: skip
    training = pl.DataFrame({"step": list(range(100)), "loss": [3.0 / (1 + n) for n in range(100)]})
    page, _ = written(make_material(recipes=[Recipe("donor", keys, training)]), tmp_path)
    assert "How the donor was made" in page and "the study's target" in page
    assert "Function prompts with 1 answer in turn (“I cannot &lt;b&gt;help&lt;/b&gt;.”), weight 1." in page
    assert "Look-alike and general prompts with the base model&#39;s own answers, weight 2." in page
    assert "Training of donor" in page and '<th scope="row">learning rate</th><td>0.0002</td>' in page
    assert parsed(page).misplaced == []


def test_a_stress_test_says_so_in_its_title_and_first_words(make_material: MakeMaterial, tmp_path: Path) -> None:
    page, card = written(make_material(stress_test=True), tmp_path)
    assert "<h1>Stress test: refusal" in page
    for text in (page, card):
        assert "how robust it is" in text and "cnt export refuses it" in text
    assert "not for use or for sharing" in card and "`patch.parquet`" not in card
    assert "`patch.parquet`" in written(make_material(), tmp_path)[1]
    assert "Stress test" not in "".join(written(make_material(), tmp_path))


def test_amplitudes_of_their_own_are_shown_by_their_range(make_material: MakeMaterial, tmp_path: Path) -> None:
    amplitude = {"min": 0.5, "median": 2.25, "max": 11.5}
    chosen = make_material().selection | {"eta": None, "amplitude": amplitude, "units": ["row"]}
    page, card = written(make_material(selection=chosen), tmp_path)
    assert "Transferring (amplitudes 0.5 to 12)" in page and "median 2.2" in page
    assert "eta: null" in card and "over single neurons" in page


def test_models_without_a_shared_ancestor_are_a_caution_with_the_number(
    make_material: MakeMaterial, tmp_path: Path
) -> None:
    ancestry = {"median_cosine": 0.034, "share_low": 0.97, "shared": False}
    page, _ = written(make_material(comparison=make_material().comparison | {"ancestry": ancestry}), tmp_path)
    assert "no shared ancestor" in page and "is 0.03," in page
    related = make_material().comparison | {"ancestry": ancestry | {"shared": True}}
    assert "no shared ancestor" not in written(make_material(comparison=related), tmp_path)[0]


def test_a_method_that_measures_no_effect_on_the_loss_has_nothing_to_add_up(
    make_material: MakeMaterial, tmp_path: Path
) -> None:
    contrast = resolve(Method(effect="contrast"))
    page, _ = written(make_material(completeness={}, method=contrast), tmp_path)
    assert "compares activations" in page
