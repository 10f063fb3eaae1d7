"""The leaderboard: figures counted by hand, who is on the Pareto front, and draws as one entry."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from cnt_pipeline.completions.schema import Completion
from cnt_pipeline.errors import InputError
from cnt_pipeline.evaluations.leaderboard import FILE, Cost, Entry, write_leaderboard
from cnt_pipeline.evaluations.schema import METRICS, SAMPLES
from cnt_pipeline.prompt_sets.schema import Prompt
from cnt_pipeline.study.block import Block
from cnt_pipeline.study.schema import KINDS, Function, Kind
from cnt_pipeline.transplants.edit.row import EditRow

NO, YES = "I cannot help with that.", "Sure, here it is."
BOARD = ("refusal", "over_refusal", "utility", "coherence", "attack_success", "exact_match")
REFUSAL = Function(name="refusal")
PROMPTS: dict[Kind, list[Prompt]] = {
    "function": [Prompt(f"f{i}", (("user", f"f{i}"),)) for i in range(10)],
    "lookalike": [Prompt(f"l{i}", (("user", f"l{i}"),)) for i in range(10)],
    "utility": [
        Prompt(f"u{i}", (("user", f"u{i}"),), answers=(f"answer {i}",), source="sums" if i < 4 else "talk")
        for i in range(10)
    ],
}
Said = dict[Kind, list[Completion]]


def said(refused: int, misfired: int, right: int, variant: int = 0) -> Said:
    """So many refusals, refused look-alikes and right answers, counted from the first prompt on."""
    return {
        "function": [Completion(f"f{i}", variant, NO if i < refused else YES, (1,), True, -1.0) for i in range(10)],
        "lookalike": [Completion(f"l{i}", variant, NO if i < misfired else YES, (1,), True, -1.0) for i in range(10)],
        "utility": [
            Completion(f"u{i}", variant, f"Answer {i}." if i < right else "Else it is.", (1,), True, -1.0)
            for i in range(10)
        ],
    }


def entry(label: str, share: float | None = None, **changes: Any) -> Entry:
    return Entry(label, method=label, grade="A", source="a paper", share=share, **changes)


def written(
    folder: Path,
    subjects: dict[str, Said],
    entries: Sequence[Entry],
    task: str | None = None,
    prompts: dict[Kind, list[Prompt]] = PROMPTS,
) -> dict[str, dict[str, Any]]:
    """The document's rows by name."""
    baselines = {"target": said(0, 0, 10), "donor": said(8, 1, 10)}
    everything = [Entry("target"), Entry("donor"), *entries]
    document = write_leaderboard(
        REFUSAL, prompts, {**baselines, **subjects}, everything, BOARD, task, 0, folder
    )  # fmt: skip
    assert json.loads((folder / FILE).read_text()) == document
    return {row["name"]: row for row in document["rows"]}


def test_figures_are_those_counted_by_hand(tmp_path: Path) -> None:
    rows = written(tmp_path, {"a": said(6, 2, 9)}, [entry("a", 0.1)])
    figures = {metric: row["value"] for metric, row in rows["a"]["metrics"].items()}
    assert figures["refusal"] == pytest.approx(0.6)
    assert figures["over_refusal"] == pytest.approx(0.2)
    assert figures["exact_match"] == pytest.approx(0.9)
    assert figures["attack_success"] == pytest.approx(0.4)
    assert figures["coherence"] == 1.0
    assert rows["a"]["metrics"]["refusal"]["n"] == 10
    assert rows["a"]["metrics"]["refusal"]["vs_target"] == pytest.approx(0.6)
    assert rows["a"]["metrics"]["refusal"]["low"] < 0.6 < rows["a"]["metrics"]["refusal"]["high"]
    assert "task" not in figures


def test_recovery_is_the_share_of_the_way_from_target_to_donor(tmp_path: Path) -> None:
    rows = written(tmp_path, {"a": said(6, 2, 9), "b": said(10, 0, 10)}, [entry("a", 0.1), entry("b", 0.1)])
    recovered = {name: row["recovery"] for name, row in rows.items()}
    assert recovered == {
        "target": 0.0, "donor": 1.0, "a": pytest.approx(0.75), "b": pytest.approx(1.25),
    }  # fmt: skip


def test_recovery_is_resampled_over_prompts_with_all_three_models(tmp_path: Path) -> None:
    rows = written(tmp_path, {"a": said(6, 2, 9), "whole": said(8, 0, 10)}, [entry("a", 0.1), entry("whole", 0.1)])
    assert 0.3 < rows["a"]["recovery_low"] < 0.75 < rows["a"]["recovery_high"] <= 1.0
    # The same refusals as the donor's on the same prompts are all of the way, whichever prompts are drawn.
    assert (rows["whole"]["recovery_low"], rows["whole"]["recovery_high"]) == (1.0, 1.0)


def test_recovery_of_several_draws_is_that_of_their_mean(tmp_path: Path) -> None:
    both: Said = {kind: [row for one in (said(4, 0, 10, 0), said(8, 0, 10, 1)) for row in one[kind]] for kind in KINDS}
    rows = written(tmp_path, {"a": both}, [entry("a", 0.1, seeds=2)])
    assert rows["a"]["recovery"] == pytest.approx(0.75)
    assert rows["a"]["by_seed"] == pytest.approx([0.4, 0.8])


def test_a_donor_that_does_not_lead_leaves_nothing_to_recover(tmp_path: Path) -> None:
    rows = written(tmp_path, {"donor": said(0, 0, 10), "a": said(6, 2, 9)}, [entry("a", 0.1)])
    assert {row["recovery"] for row in rows.values()} == {None}


def test_the_front_holds_whom_nobody_beats_in_everything(tmp_path: Path) -> None:
    subjects = {
        "strong": said(9, 3, 9), "careful": said(6, 0, 10), "small": said(3, 0, 10), "beaten": said(6, 1, 10),
        "twin": said(6, 0, 10),
    }  # fmt: skip
    shares = {"strong": 0.5, "careful": 0.1, "small": 0.001, "beaten": 0.1, "twin": 0.1}
    rows = written(tmp_path, subjects, [entry(name, share) for name, share in shares.items()])
    assert {name for name, row in rows.items() if row["pareto"]} == {"strong", "careful", "small", "twin"}


def test_seeds_are_variants_of_one_entry(tmp_path: Path) -> None:
    draws = [said(4, 0, 10, 0), said(6, 0, 8, 1)]
    both: Said = {kind: [row for one in draws for row in one[kind]] for kind in KINDS}
    rows = written(tmp_path, {"a": both}, [entry("a", 0.1, seeds=2)])
    assert rows["a"]["metrics"]["refusal"]["value"] == pytest.approx(0.5)
    assert rows["a"]["metrics"]["refusal"]["n"] == 10
    assert rows["a"]["by_seed"] == pytest.approx([0.4, 0.6])
    assert rows["target"]["by_seed"] == []


def test_the_task_is_judged_on_its_own_prompts(tmp_path: Path) -> None:
    rows = written(tmp_path, {"a": said(6, 0, 3)}, [entry("a", 0.1)], task="sums")
    task = rows["a"]["metrics"]["task"]
    assert (task["value"], task["n"]) == (pytest.approx(0.75), 4)
    assert rows["target"]["metrics"]["task"]["value"] == 1.0


def test_the_only_source_may_be_the_task(tmp_path: Path) -> None:
    alone = {**PROMPTS, "utility": [replace(prompt, source="folder/sums") for prompt in PROMPTS["utility"]]}
    rows = written(tmp_path, {"a": said(6, 0, 3)}, [entry("a", 0.1)], task="sums", prompts=alone)
    assert (rows["a"]["metrics"]["task"]["value"], rows["a"]["metrics"]["task"]["n"]) == (pytest.approx(0.3), 10)


def test_a_task_that_no_prompt_comes_from_names_the_sources(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"compare.task names 'poems'.*sums, talk"):
        written(tmp_path, {}, [], task="poems")


def test_samples_and_metrics_lie_beside_the_document(tmp_path: Path) -> None:
    written(tmp_path, {"a": said(6, 2, 9)}, [entry("a", 0.1)])
    assert set(pl.read_parquet(tmp_path / METRICS)["subject"]) == {"target", "donor", "a"}
    assert len(pl.read_parquet(tmp_path / SAMPLES).filter(subject="a", metric="refusal")) == 10


def test_an_entry_is_the_mean_of_its_edits_and_their_largest_peak() -> None:
    row = EditRow("some_edit", "s", "s", "e", "m:f", Block, "B", "a paper", "words")
    edits = [{"parameters": 10, "total": 100, "modules": 2}, {"parameters": 30, "total": 100, "modules": 3}]
    costs = [{"seconds": 1.0, "peak_memory": 5}, {"seconds": 2.0, "peak_memory": None}]
    made = Entry.of_edits("some-edit", row, list(zip(edits, costs, strict=True)))
    assert (made.method, made.grade, made.seeds) == ("some_edit", "B", 2)
    assert (made.parameters, made.share, made.modules) == (20, pytest.approx(0.2), 2.5)
    assert made.cost == Cost(1.5, 5)
    unknown = Entry.of_edits("some-edit", row, [(edits[0], costs[1])])
    assert unknown.cost == Cost(2.0, None)
