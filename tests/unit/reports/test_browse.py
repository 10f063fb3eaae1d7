"""The samples behind the figures: every one counted once, in a page whose size is bounded."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from markupsafe import Markup

from cnt_pipeline.completions.schema import Completion
from cnt_pipeline.measures.scorers import lookalike_error, multiple_choice
from cnt_pipeline.prompt_sets.items import Item
from cnt_pipeline.prompt_sets.schema import Prompt
from cnt_pipeline.reports import browse, every, listing, words
from cnt_pipeline.reports.choices import told_choices
from cnt_pipeline.reports.columns import VERDICT_LETTERS, Measured
from cnt_pipeline.reports.every import browser
from cnt_pipeline.reports.links import Links
from cnt_pipeline.reports.material import SUBJECTS, Material
from cnt_pipeline.reports.views import view_of
from cnt_pipeline.study.schema import Function

from .conftest import metric_row, metrics_frame, samples_frame
from .counted import counted_material

MakeMaterial = Callable[..., Material]


def entries(found: browse.Browser) -> list[listing.Entry]:
    return [entry for shelf in found.shelves for entry in shelf.entries]


def classes(found: browse.Browser, subject: str, kind: str) -> list[set[str]]:
    """Classes of a subject's answers on a kind of prompts."""
    (shelf,) = (each for each in found.shelves if each.key == kind)
    answers = (set(each.classes.split()) for entry in shelf.entries for each in entry.answers)
    return [each for each in answers if f"by-{subject}" in each]


def number(found: browse.Browser, metric: str) -> int:
    """The number of a metric in classes."""
    columns = (each for shelf in found.shelves for each in shelf.columns if isinstance(each, Measured))
    return next(each.number for each in columns if each.metric == metric)


def test_every_prompt_is_listed_with_every_answer_and_judgement(make_material: MakeMaterial) -> None:
    found = browser(make_material())
    assert [(shelf.key, len(shelf.entries)) for shelf in found.shelves] == [
        ("function", 5), ("lookalike", 5), ("utility", 5),
    ]  # fmt: skip
    assert all(len(entry.answers) == len(SUBJECTS) for entry in entries(found))
    assert found.held_back == () and not found.mixed
    refused = next(each for each in entries(found)[0].answers if "by-transplant" in each.classes.split())
    assert refused.judged == ("refusal: yes",)


def test_classes_say_what_is_wanted_and_what_differs(make_material: MakeMaterial) -> None:
    found = browser(make_material())
    refusal = number(found, "refusal")
    for each in classes(found, "transplant", "function"):
        assert {f"g{refusal}", "good", f"t{refusal}", "new"} <= each and f"d{refusal}" not in each
    for each in classes(found, "target", "function"):
        assert {f"b{refusal}", "bad", f"d{refusal}"} <= each and not {"new", f"t{refusal}"} & each
    deleted = browser(make_material(function=Function(name="refusal", direction="delete"), stress_test=True))
    assert all("bad" in each for each in classes(deleted, "transplant", "function"))


def test_views_say_their_figure_and_keep_not_judged_apart(make_material: MakeMaterial) -> None:
    plain = make_material()
    lost = (pl.col("metric") == "refusal") & (pl.col("subject") == "transplant") & (pl.col("id") == "function0")
    samples = plain.samples.with_columns(value=pl.when(lost).then(None).otherwise(pl.col("value")))
    rows = [metric_row(s, "refusal", 1.0, vs_target=0.8, vs_donor=0.0) for s in ("transplant", "donor")]
    found = browser(replace(plain, samples=samples, metrics=metrics_frame(rows))).views
    value = found[view_of("refusal", "transplant")]
    assert value.heading == "4 prompts behind refusal of the transplant, 4 refused"
    assert value.text == "100.0\u00a0%. As wanted: 4, not as wanted: 0."
    assert found[value.links[0][0]].heading == "1 prompt on which refusal of the transplant could not be judged"
    against = found[view_of("refusal", "transplant", "target")]
    assert against.heading == "4 of 4 prompts on which refusal differs between the transplant and the target"
    assert against.text == "+80.0\u00a0points: higher on 4, lower on 0, the same on 0."
    alike = found[view_of("refusal", "transplant", "donor")]
    assert alike.id.endswith("-all") and alike.heading == "4 prompts behind refusal of the transplant against the donor"


def test_of_many_prompts_those_not_as_wanted_come_first(
    make_material: MakeMaterial, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = make_material()
    missed = (pl.col("subject") == "transplant") & (pl.col("id") == "function4")
    samples = plain.samples.with_columns(value=pl.when(missed).then(0.0).otherwise(pl.col("value")))
    sizes = [sum(entry.size for entry in shelf.entries) for shelf in browser(plain).shelves]
    monkeypatch.setattr(listing, "BUDGET", sum(sizes) * 2 // 3)
    found = browser(replace(plain, samples=samples))
    assert [entry.id for entry in found.shelves[0].entries] == ["function0", "function1", "function4"]
    assert ("Function", 3, 5) in found.held_back
    assert found.views[view_of("refusal", "transplant")].text.endswith("3 of them are in this page.")


def test_short_lists_stay_whole_beside_a_long_one() -> None:
    assert listing._allowed([500, 10, 20, 300], 100) == [35, 10, 20, 35]
    assert listing._allowed([10, 20], 100) == [10, 20]


def test_draws_that_say_the_same_are_one_answer(make_material: MakeMaterial) -> None:
    plain = make_material()
    more = [
        plain.samples.filter(subject="control_random").with_columns(variant=pl.lit(draw, pl.Int32)) for draw in (1, 2)
    ]
    said = dict(plain.said)
    said["control_random"] = {
        kind: [
            *rows,
            *(replace(row, variant=1, text="another draw") for row in rows),
            *(replace(row, variant=2) for row in rows),
        ]
        for kind, rows in plain.said["control_random"].items()
    }
    found = browser(replace(plain, samples=pl.concat([plain.samples, *more]), said=said))
    answers = [each for each in entries(found)[0].answers if "by-control_random" in each.classes.split()]
    assert [(each.name, each.draws, each.text == "another draw") for each in answers] == [
        ("Control: random neurons, draws 1 and 3", 2, False), ("Control: random neurons, draw 2", 1, True),
    ]  # fmt: skip
    heading = found.views[view_of("refusal", "control_random")].heading
    assert heading == "5 prompts behind refusal of random neurons, 0 of 15 answers refused"


def test_figures_that_are_no_shares_are_neither_right_nor_wrong(make_material: MakeMaterial) -> None:
    plain = make_material()
    rows = [(s, "perplexity", "utility", f"utility{n}", 0.5 + n / 10) for s in SUBJECTS for n in range(5)]
    found = browser(replace(plain, samples=pl.concat([plain.samples, samples_frame(rows)])))
    place = number(found, "perplexity")
    for each in classes(found, "transplant", "utility"):
        assert not {f"g{place}", f"b{place}", f"u{place}"} & each
    assert "NLL per token: 0.9000" in entries(found)[-1].answers[0].judged
    told = found.views[view_of("perplexity", "transplant")]
    assert "Single answers have NLL per token from 0.5000 to 0.9000." in told.text and not told.right


def test_long_texts_are_cut_and_say_by_how_much(make_material: MakeMaterial) -> None:
    plain = make_material()
    prompts = dict(plain.prompts) | {"function": [Prompt("function0", (("user", "w" * 1500),), source="asked.jsonl")]}
    said = {
        subject: dict(kinds) | {"function": [Completion("function0", 0, "x" * 700, (1,), True, -1.0)]}
        for subject, kinds in plain.said.items()
    }
    entry = entries(browser(replace(plain, prompts=prompts, said=said)))[0]
    assert (len(entry.prompt), entry.left_out) == (1000, 500)
    assert {(len(each.text), each.left_out) for each in entry.answers} == {(600, 100)}


def test_suites_and_judges_have_lists_and_letters_of_their_own(make_material: MakeMaterial, tmp_path: Path) -> None:
    found = browser(counted_material(make_material, tmp_path))
    assert [shelf.title for shelf in found.shelves[3:9]] == [
        "Jailbreak, plain", "Jailbreak, role play", "Bias, stereoset", "Bias, crows pairs", "Bias, bbq", "Bias, text",
    ]  # fmt: skip
    asked = {entry.classes for entry in found.shelves[7].entries}
    assert asked == {"x0", "x1"} and found.unasked[:2] == (0, 1)
    crows, text = found.shelves[6].entries[0], found.shelves[8].entries[0]
    assert [role for _, role in crows.choices] == ["more", "less"] and crows.answers[0].choices[0][0] == "1"
    assert "sentence 0" in text.prompt and text.choices == () == text.answers[0].choices
    answers = [set(each.classes.split()) for each in found.shelves[0].entries[1].answers]
    assert any("dis" in each for each in answers) and set(VERDICT_LETTERS.values()) == set("hrsoi")


def test_of_a_question_behind_examples_the_end_is_kept(make_material: MakeMaterial, tmp_path: Path) -> None:
    plain = counted_material(make_material, tmp_path)
    asked = [Item("plain0", (("user", "w" * 1500 + " the question"),), source="document 0 of sums")]
    suite = replace(plain.suites[0], prompts={**plain.suites[0].prompts, "plain": asked}, tasks=frozenset({"plain"}))
    entry = browser(replace(plain, suites=[suite])).shelves[3].entries[0]
    assert entry.prompt.endswith("the question") and len(entry.prompt) == 1000
    assert (entry.skipped, entry.left_out, entry.source) == (513, 0, "document 0 of sums")


def test_choices_are_listed_with_what_their_metric_compares(make_material: MakeMaterial, tmp_path: Path) -> None:
    found = browser(counted_material(make_material, tmp_path))
    assert found.choices
    shelves = {shelf.title: shelf for shelf in found.shelves}
    assert all("per token" in told for _, told in shelves["Bias, stereoset"].entries[0].answers[0].choices)
    assert not any("per" in told for _, told in shelves["Bias, bbq"].entries[0].answers[0].choices)
    assert not browser(make_material()).choices


def test_the_choice_that_a_metric_picks_is_the_one_with_the_highest_percentage() -> None:
    prompt = Prompt("0", (("user", "?"),), answers=(" a much longer choice",), choices=(" A", " a much longer choice"))
    row = Completion("0", 0, "", (), True, 0.0, choice_loglik=(-1.0, -1.4))
    assert multiple_choice(prompt, row) == 1.0 and lookalike_error(prompt, row) == 1.0
    assert told_choices(prompt, row, ("utility", "multiple_choice", "coherence")) == (
        ("A", "37\u00a0% per character"), ("a much longer choice", "93\u00a0% per character"),  # exp -1, exp -0.07
    )  # fmt: skip
    whole = told_choices(prompt, row, ("lookalike_error",))
    assert whole == (("A", "60\u00a0%"), ("a much longer choice", "40\u00a0%"))
    assert whole == told_choices(prompt, row, ("coherence",)) == told_choices(prompt, row, ())
    assert told_choices(prompt, row, ("acc (none)", "acc_norm"))[0] == ("A", "60\u00a0%, 37\u00a0% per character")
    assert told_choices(prompt, replace(row, choice_loglik=()), ("utility",)) == ()


def test_percentages_have_as_many_decimals_as_tell_the_best_two_apart() -> None:
    prompt = Prompt("0", (("user", "?"),), choices=(" he", " she", " they"))

    def told(*logliks: float) -> list[str]:
        row = Completion("0", 0, "", (), True, 0.0, choice_loglik=logliks)
        return [each.replace("\u00a0", " ") for _, each in told_choices(prompt, row, ("pronoun_gap",))]

    assert told(math.log(0.4), math.log(0.399), math.log(0.201)) == ["40.0 %", "39.9 %", "20.1 %"]
    assert told(-1.0, -1.0, -50.0) == ["50 %", "50 %", "0 %"]
    assert told(math.nan, -1.0, -2.0) == ["–", "–", "–"]


def test_answers_to_selection_prompts_are_listed_once_for_all_that_gave_them(
    make_material: MakeMaterial, tmp_path: Path
) -> None:
    found = browser(counted_material(make_material, tmp_path))
    function, lookalike, utility = found.shelves[9:]
    assert [(shelf.title, len(shelf.entries)) for shelf in (function, lookalike, utility)] == [
        ("Selection, function", 12), ("Selection, look-alike", 8), ("Selection, general", 10),
    ]  # fmt: skip
    assert [each.name for each in function.entries[2].answers] == [
        "Target (before)", "Whole donor (reference)", "8 of 9 candidates and points", "1 of 9 candidates and points",
    ]  # fmt: skip
    # The transplant, the top of the ranking and two candidates say the same throughout and share its class; the mean
    # of three draws has a class of its own and counts as none of those that say a thing.
    assert function.alike == {"transplant": 4, "n1": 0, "n2": 1, "n3": 1, "n4": 1, "n5": 2}
    assert lookalike.alike == utility.alike == {"transplant": 4, "n1": 1}
    assert found.alike == ("n1", "n2", "n3", "n4", "n5")
    for shelf in (function, lookalike, utility):
        for entry in shelf.entries:
            ours = [each for each in entry.answers if "candidates" in each.name]
            assert len({(each.text, each.judged) for each in ours}) == len(ours)
            assert sum(int(each.name.split()[0]) for each in ours) == sum(shelf.alike.values())
    draw = found.views["v-recovery-f5-draw2"]
    assert draw.text.startswith(
        "9.1\u00a0% of the way from target to donor in refusal. As wanted: 2, not as wanted: 10."
    )
    assert draw.parent == "v-recovery-f5" and "v-misfire-f5" not in found.views
    assert found.views["v-utility-f6-open"].heading.startswith("1 prompt of the selection on which utility of neurons")


def test_selection_prompts_take_no_room_from_test_prompts(
    make_material: MakeMaterial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = counted_material(make_material, tmp_path)
    found = browser(made)
    whole = sum(entry.size for shelf in found.shelves[9:] for entry in shelf.entries)
    monkeypatch.setattr(every, "SELECTION_BUDGET", whole // 2)
    fewer = browser(made)
    assert [shelf.entries for shelf in fewer.shelves[:9]] == [shelf.entries for shelf in found.shelves[:9]]
    assert [title for title, *_ in fewer.held_back] == [shelf.title for shelf in found.shelves[9:]]
    function, _, utility = fewer.shelves[9:]
    assert fewer.views["v-recovery-t0"].text.endswith(f" {len(function.entries)} of them are in this page.")
    missed = [entry.id for entry in found.shelves[11].entries if entry.missed]  # by the transplant
    kept = [entry.id for entry in utility.entries]
    assert set(missed) < set(kept) and kept != [entry.id for entry in found.shelves[11].entries][: len(kept)]


def test_a_figure_is_linked_where_it_has_samples_and_back_from_them(make_material: MakeMaterial) -> None:
    to = Links(browser(make_material()).views)
    assert "id=" not in to("v-refusal-donor", "5", told=True) and to.reached() == []
    first, second = to("v-refusal-donor", Markup("1.0<small>0 to 1</small>")), to("v-refusal-donor", "<5>")
    assert first == '<a class="to" id="f-refusal-donor" href="#v-refusal-donor">1.0<small>0 to 1</small></a>'
    assert second == '<a class="to" href="#v-refusal-donor">&lt;5&gt;</a>'
    assert to("v-refusal-donor", words.NONE) == words.NONE and to("v-none", "<7>") == "&lt;7&gt;"
    assert [(view.id, figure) for view, figure in to.reached()] == [("v-refusal-donor", "f-refusal-donor")]


def test_unseen_characters_are_told_by_their_number() -> None:
    assert words.visible("a\u202eb\x00\u2066") == "a‹U+202E›b‹U+0000›‹U+2066›"
    assert words.visible("tab\tline\nשלום 👩‍👧 é") == "tab\tline\nשלום 👩‍👧 é"
