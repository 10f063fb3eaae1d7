"""Samples, metrics and differences equal what numpy says of the same completions; nothing unscored becomes a zero."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.stats import binomtest

from cnt_pipeline.completions.schema import Completion
from cnt_pipeline.evaluations.schema import METRICS, SAMPLES
from cnt_pipeline.evaluations.score import score
from cnt_pipeline.prompt_sets.schema import Prompt
from cnt_pipeline.study.schema import KINDS, Kind

NO, YES = "I cannot help with that.", "Sure, here it is."
PROMPTS: dict[Kind, list[Prompt]] = {
    "function": [Prompt(f"f{i}", (("user", f"f{i}"),)) for i in range(10)],
    "lookalike": [Prompt(f"l{i}", (("user", f"l{i}"),)) for i in range(6)],
    "utility": [Prompt(f"u{i}", (("user", f"u{i}"),), answers=(f"answer {i}",) if i < 6 else ()) for i in range(8)],
}
Said = dict[Kind, list[Completion]]


def said(refused: int, misfired: int, right: int, agreement: float | None = 1.0, variant: int = 0) -> Said:
    """So many refusals, refused look-alikes and right answers, counted from the first prompt on."""
    return {
        "function": [Completion(f"f{i}", variant, NO if i < refused else YES, (1,), True, -1.0) for i in range(10)],
        "lookalike": [Completion(f"l{i}", variant, NO if i < misfired else YES, (1,), True, -1.0) for i in range(6)],
        "utility": [
            Completion(
                f"u{i}", variant, f"Answer {i}." if i < right else "Something else.", (1,), True, -1.0,
                answer_nll=0.5 + i / 10 if i < 6 else None, target_agreement=agreement,
            )
            for i in range(8)
        ],
    }  # fmt: skip


def both(*variants: Said) -> Said:
    return {kind: [row for one in variants for row in one[kind]] for kind in KINDS}


def run(folder: Path, subjects: Mapping[str, Said], *metrics: str) -> tuple[pl.DataFrame, dict[tuple[str, str], Any]]:
    score(PROMPTS, subjects, metrics, 0, folder)
    rows = pl.read_parquet(folder / METRICS).iter_rows(named=True)
    return pl.read_parquet(folder / SAMPLES), {(row["subject"], row["metric"]): row for row in rows}


SUBJECTS = {
    "target": said(1, 0, 6),
    "donor": said(9, 1, 5, 0.5),
    "transplant": said(8, 1, 6, 0.75),
    "control_random": both(said(2, 0, 6, 0.9, 0), said(4, 0, 6, 0.7, 1)),
}


def test_shares_are_counted_and_differences_are_paired(tmp_path: Path) -> None:
    _, rows = run(tmp_path, SUBJECTS, "refusal", "over_refusal", "utility")
    assert [rows[s, "refusal"]["value"] for s in SUBJECTS] == pytest.approx([0.1, 0.9, 0.8, 0.3])
    assert [rows[s, "over_refusal"]["value"] for s in SUBJECTS] == pytest.approx([0, 1 / 6, 1 / 6, 0])
    assert [rows[s, "utility"]["value"] for s in SUBJECTS] == pytest.approx(
        [1.0, (5 + 2 * 0.5) / 8, (6 + 2 * 0.75) / 8, (6 + 2 * 0.8) / 8]
    )
    assert rows["transplant", "refusal"]["vs_target"] == pytest.approx(0.7)
    assert rows["transplant", "refusal"]["vs_donor"] == pytest.approx(-0.1)
    assert rows["target", "refusal"]["vs_target"] is None
    assert rows["donor", "refusal"]["vs_donor"] is None
    low, high = rows["transplant", "refusal"]["vs_target_low"], rows["transplant", "refusal"]["vs_target_high"]
    assert 0.3 < low < 0.7 < high <= 1.0


def test_paired_intervals_are_those_of_the_differences_and_not_of_the_two_means(tmp_path: Path) -> None:
    _, rows = run(tmp_path, {**SUBJECTS, "transplant": said(9, 1, 5, 0.5)}, "refusal")
    row = rows["transplant", "refusal"]
    assert (row["vs_donor"], row["vs_donor_low"], row["vs_donor_high"]) == (0.0, 0.0, 0.0)
    assert row["low"] < row["value"] < row["high"]
    draws = np.random.default_rng(1).integers(0, 10, (20_000, 10))
    difference = np.array([0.0] + [1.0] * 8 + [0.0])
    expected = np.percentile(difference[draws].mean(1), [2.5, 97.5])
    assert [row["vs_target_low"], row["vs_target_high"]] == pytest.approx(expected, abs=0.05)


def test_variants_of_a_subject_are_averaged_by_prompt_before_anything_else(tmp_path: Path) -> None:
    samples, rows = run(tmp_path, SUBJECTS, "refusal")
    mine = samples.filter(pl.col("subject") == "control_random")
    assert len(mine) == 20 and set(mine["variant"]) == {0, 1}
    assert rows["control_random", "refusal"]["n"] == 10
    assert rows["control_random", "refusal"]["vs_target"] == pytest.approx(0.2)


def test_perplexity_is_the_exponential_of_the_mean_and_leaves_out_what_has_no_reference(tmp_path: Path) -> None:
    samples, rows = run(tmp_path, SUBJECTS, "perplexity", "exact_match")
    row = rows["target", "perplexity"]
    assert row["value"] == pytest.approx(np.exp(np.mean([0.5, 0.6, 0.7, 0.8, 0.9, 1.0])))
    assert row["low"] < row["value"] < row["high"]
    assert (row["n"], row["unscored"]) == (6, 2)
    assert (rows["donor", "exact_match"]["n"], rows["donor", "exact_match"]["unscored"]) == (6, 2)
    assert rows["donor", "exact_match"]["value"] == pytest.approx(5 / 6)
    unjudged = samples.filter((pl.col("metric") == "perplexity") & pl.col("value").is_null())
    assert len(unjudged) == 2 * 5
    assert set(unjudged["id"]) == {"u6", "u7"}


def test_differences_are_over_the_prompts_that_both_could_be_judged_on(tmp_path: Path) -> None:
    silent = {**SUBJECTS["target"], "utility": [
        row if i != 6 else Completion(row.id, 0, row.text, (1,), True, -1.0)
        for i, row in enumerate(SUBJECTS["target"]["utility"])
    ]}  # fmt: skip
    _, rows = run(tmp_path, {**SUBJECTS, "target": silent}, "utility")
    assert (rows["target", "utility"]["n"], rows["target", "utility"]["unscored"]) == (7, 1)
    assert rows["donor", "utility"]["vs_target"] == pytest.approx((-1 + (0.5 - 1)) / 7)


def test_a_metric_that_can_judge_nothing_has_samples_and_no_row(tmp_path: Path) -> None:
    samples, rows = run(tmp_path, SUBJECTS, "multiple_choice", "refusal")
    assert {metric for _, metric in rows} == {"refusal"}
    assert samples.filter(pl.col("metric") == "multiple_choice")["value"].null_count() == 8 * 5


def test_coherence_is_over_all_kinds_and_silence_counts_against_it(tmp_path: Path) -> None:
    mute = {kind: [Completion(row.id, 0, "", (2,), True, 0.0) for row in rows] for kind, rows in said(1, 0, 6).items()}
    samples, rows = run(tmp_path, {**SUBJECTS, "transplant": mute}, "coherence", "refusal", "utility")
    assert rows["target", "coherence"]["n"] == 24
    assert (rows["target", "coherence"]["value"], rows["transplant", "coherence"]["value"]) == (1.0, 0.0)
    assert rows["transplant", "refusal"]["value"] == 0.0
    assert rows["transplant", "utility"]["value"] == 0.0
    assert rows["transplant", "utility"]["unscored"] == 2
    assert set(samples.filter(pl.col("metric") == "coherence")["kind"]) == set(KINDS)


def test_every_source_has_its_own_row_and_the_gates_read_all_of_them_together(tmp_path: Path) -> None:
    """Six function prompts come from one set and four from another; look-alikes come from one alone."""
    prompts = {kind: [replace(p, source="first") for p in of_kind] for kind, of_kind in PROMPTS.items()}
    prompts["function"][6:] = [replace(p, source="second") for p in prompts["function"][6:]]
    score(prompts, SUBJECTS, ("refusal", "over_refusal", "coherence"), 0, tmp_path)
    rows = pl.read_parquet(tmp_path / METRICS)
    refusal = {row["source"]: row for row in rows.filter(subject="transplant", metric="refusal").to_dicts()}
    assert {source: (row["value"], row["n"]) for source, row in refusal.items()} == {
        "": (pytest.approx(0.8), 10), "first": (1.0, 6), "second": (pytest.approx(0.5), 4),
    }  # fmt: skip
    wilson = binomtest(2, 4).proportion_ci(method="wilson")
    assert (refusal["second"]["low"], refusal["second"]["high"]) == pytest.approx((wilson.low, wilson.high))
    assert refusal["second"]["vs_donor"] == pytest.approx(-0.25)
    assert set(rows.filter(pl.col("metric") != "refusal")["source"]) == {""}


def test_the_same_completions_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        run(tmp_path / name, SUBJECTS, "refusal", "utility", "perplexity")
    for file in (METRICS, SAMPLES):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_sources_beside_the_gates_count_in_their_own_rows_alone(tmp_path: Path) -> None:
    prompts = dict(PROMPTS)
    prompts["function"] = [replace(p, source="far" if i < 4 else "near") for i, p in enumerate(PROMPTS["function"])]
    score(prompts, SUBJECTS, ("refusal",), 0, tmp_path, aside=("far",))
    rows = pl.read_parquet(tmp_path / METRICS).filter(subject="transplant")
    found = {row["source"]: (row["value"], row["n"]) for row in rows.iter_rows(named=True)}
    assert found == {"": (4 / 6, 6), "near": (4 / 6, 6), "far": (1.0, 4)}
    assert set(pl.read_parquet(tmp_path / SAMPLES)["source"]) == {"far", "near"}
