"""The samples behind the figures: every one counted once, in a page whose size is bounded."""

from collections.abc import Callable
from dataclasses import replace

import polars as pl
import pytest

from cnt_pipeline.completions.schema import Completion
from cnt_pipeline.prompt_sets.schema import Prompt
from cnt_pipeline.reports import browse, words
from cnt_pipeline.reports.browse import browser, view_of
from cnt_pipeline.reports.material import SUBJECTS, Material
from cnt_pipeline.study.schema import Function

from .conftest import metric_row, metrics_frame, samples_frame

MakeMaterial = Callable[..., Material]


def classes(found: browse.Browser, subject: str, kind: str) -> list[set[str]]:
    """Classes of a subject's answers on a kind of prompts."""
    answers = (set(each.classes.split()) for entry in found.entries if entry.kind == kind for each in entry.answers)
    return [each for each in answers if f"by-{subject}" in each]


def test_every_prompt_is_listed_with_every_answer_and_judgement(make_material: MakeMaterial) -> None:
    found = browser(make_material())
    assert [entry.kind for entry in found.entries] == ["function"] * 5 + ["lookalike"] * 5 + ["utility"] * 5
    assert all(len(entry.answers) == len(SUBJECTS) for entry in found.entries)
    assert found.held_back == () and not found.mixed
    refused = next(each for each in found.entries[0].answers if "by-transplant" in each.classes.split())
    assert refused.judged == ("refusal: yes",)


def test_classes_say_what_is_wanted_and_what_differs(make_material: MakeMaterial) -> None:
    found = browser(make_material())
    refusal = found.metrics.index("refusal")
    for each in classes(found, "transplant", "function"):
        assert {f"g{refusal}", "good", f"t{refusal}", "new"} <= each and f"d{refusal}" not in each
    for each in classes(found, "target", "function"):
        assert {f"b{refusal}", "bad", f"d{refusal}"} <= each and not {"new", f"t{refusal}"} & each
    deleted = browser(make_material(function=Function(name="refusal", direction="delete"), stress_test=True))
    assert all("bad" in each for each in classes(deleted, "transplant", "function"))


def test_views_count_their_samples_and_keep_not_judged_apart(make_material: MakeMaterial) -> None:
    plain = make_material()
    lost = (pl.col("metric") == "refusal") & (pl.col("subject") == "transplant") & (pl.col("id") == "function0")
    samples = plain.samples.with_columns(value=pl.when(lost).then(None).otherwise(pl.col("value")))
    rows = [metric_row(s, "refusal", 1.0, vs_target=0.8, vs_donor=0.0) for s in ("transplant", "donor")]
    found = browser(replace(plain, samples=samples, metrics=metrics_frame(rows)))
    told = {view.id: view.sentence for view in found.views}
    assert told[view_of("refusal", "transplant")].endswith("5 samples, 4 as wanted and 1 not judged.")
    against = told[view_of("refusal", "transplant", "target")]
    assert "+80.0\u00a0points. 4 of 5 pairs of samples are judged differently; only they are shown." in against
    assert "None of the 5 pairs" in told[view_of("refusal", "transplant", "donor")]
    assert view_of("refusal", "target") not in found and view_of("refusal", "donor") in found


def test_of_many_prompts_those_not_as_wanted_come_first(
    make_material: MakeMaterial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browse, "PER_KIND", 3)
    plain = make_material()
    missed = (pl.col("subject") == "transplant") & (pl.col("id") == "function4")
    samples = plain.samples.with_columns(value=pl.when(missed).then(0.0).otherwise(pl.col("value")))
    found = browser(replace(plain, samples=samples))
    listed = [entry.prompt.split()[2] for entry in found.entries if entry.kind == "function"]
    assert listed == ["0", "1", "4"]
    assert found.held_back == (("function", 3, 5), ("look-alike", 3, 5), ("general", 3, 5))


def test_of_several_draws_the_first_is_listed_and_said_to_be(make_material: MakeMaterial) -> None:
    plain = make_material()
    second = plain.samples.filter(subject="control_random").with_columns(variant=pl.lit(1, pl.Int32))
    said = dict(plain.said)
    said["control_random"] = {
        kind: [*rows, *(replace(row, variant=1, text="another draw") for row in rows)]
        for kind, rows in plain.said["control_random"].items()
    }
    found = browser(replace(plain, samples=pl.concat([plain.samples, second]), said=said))
    assert not any(answer.text == "another draw" for entry in found.entries for answer in entry.answers)
    (told,) = (view.sentence for view in found.views if view.id == view_of("refusal", "control_random"))
    assert "the mean over 2 draws, of which the first is listed. 5 samples" in told


def test_figures_that_are_no_shares_are_neither_right_nor_wrong(make_material: MakeMaterial) -> None:
    plain = make_material()
    rows = [(s, "perplexity", "utility", f"utility{n}", 0.5 + n / 10) for s in SUBJECTS for n in range(5)]
    found = browser(replace(plain, samples=pl.concat([plain.samples, samples_frame(rows)])))
    place = found.metrics.index("perplexity")
    for each in classes(found, "transplant", "utility"):
        assert not {f"g{place}", f"b{place}", f"u{place}"} & each
    judged = found.entries[-1].answers[0].judged
    assert "NLL per token: 0.9000" in judged


def test_long_texts_are_cut_and_say_by_how_much(make_material: MakeMaterial) -> None:
    plain = make_material()
    prompts = dict(plain.prompts) | {"function": [Prompt("function0", (("user", "w" * 1500),))]}
    said = {
        subject: dict(kinds) | {"function": [Completion("function0", 0, "x" * 700, (1,), True, -1.0)]}
        for subject, kinds in plain.said.items()
    }
    entry = browser(replace(plain, prompts=prompts, said=said)).entries[0]
    assert (len(entry.prompt), entry.left_out) == (1000, 500)
    assert {(len(each.text), each.left_out) for each in entry.answers} == {(600, 100)}


def test_unseen_characters_are_told_by_their_number() -> None:
    assert words.visible("a\u202eb\x00\u2066") == "a‹U+202E›b‹U+0000›‹U+2066›"
    assert words.visible("tab\tline\nשלום 👩‍👧 é") == "tab\tline\nשלום 👩‍👧 é"
