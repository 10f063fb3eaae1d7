"""Figures of suites: means, pooled scores, intervals and paired differences, against plain recomputation."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cnt_pipeline.completions.answers import Answer
from cnt_pipeline.evaluations.suite_score import figure_rows, judge, write_suite
from cnt_pipeline.measures.intervals import mean_interval
from cnt_pipeline.measures.suite_metrics import SUITE_METRICS
from cnt_pipeline.prompt_sets.items import Item

STEREO = ("anti-stereotype", "stereotype", "unrelated")


def items(count: int, roles: tuple[str, ...] = STEREO, terms: int = 3, condition: str = "") -> list[Item]:
    return [
        Item(
            f"{i:04}", (("user", ""),), choices=tuple("abc"[: len(roles)]), answers=("a",), roles=roles,
            group=f"t{i % terms}", condition=condition, source="made",
        )
        for i in range(count)
    ]  # fmt: skip


def answers(asked: list[Item], seed: int) -> list[Answer]:
    draw = np.random.default_rng(seed)
    return [
        Answer(item.id, 0, "", (), True, 0.0, choice_loglik=tuple(map(float, row)), choice_tokens=(1,) * len(row))
        for item, row in zip(asked, draw.normal(size=(len(asked), len(asked[0].roles))), strict=True)
    ]


def rows_of(metric: str, asked: list[Item], said: dict[str, list[Answer]], seed: int = 0) -> dict[str, dict]:
    _, figure = judge("part", SUITE_METRICS[metric], asked, said)
    assert figure is not None
    return {row["subject"]: row for row in figure_rows(figure, seed)}


def test_stereoset_by_plain_python() -> None:
    asked = items(40, terms=5)
    said = {"target": answers(asked, 1), "donor": answers(asked, 2), "transplant": answers(asked, 3)}
    by_term: dict[str, list[tuple[float, float]]] = {}
    for item, answer in zip(asked, said["transplant"], strict=True):
        anti, stereo, unrelated = answer.choice_loglik
        by_term.setdefault(item.group, []).append(((stereo > unrelated) + (anti > unrelated), stereo > anti))
    lms = np.mean([100 * sum(m for m, _ in rows) / (2 * len(rows)) for rows in by_term.values()])
    ss = np.mean([100 * sum(s for _, s in rows) / len(rows) for rows in by_term.values()])
    found = {name: rows_of(f"stereoset_{name}", asked, said)["transplant"] for name in ("lms", "ss", "icat")}
    assert found["lms"]["value"] == pytest.approx(lms) and found["ss"]["value"] == pytest.approx(ss)
    assert found["icat"]["value"] == pytest.approx(lms * min(ss, 100 - ss) / 50)
    for row in found.values():
        assert row["low"] <= row["value"] <= row["high"] and row["n"] == 40 and row["unscored"] == 0


def test_differences_of_a_pooled_score_are_paired() -> None:
    asked = items(40)
    target = answers(asked, 1)
    rows = rows_of("stereoset_icat", asked, {"target": target, "donor": answers(asked, 2), "transplant": target})
    assert (rows["transplant"]["vs_target"], rows["transplant"]["vs_target_low"]) == (0.0, 0.0)
    assert rows["transplant"]["vs_donor"] == pytest.approx(rows["target"]["value"] - rows["donor"]["value"])
    assert rows["transplant"]["vs_donor_low"] < rows["transplant"]["vs_donor"] < rows["transplant"]["vs_donor_high"]
    assert "vs_target" not in rows["target"] and "vs_donor" not in rows["donor"]


def test_the_bootstrap_of_a_pooled_score_has_the_spread_of_the_textbook() -> None:
    """s_DIS of answers that are never unknown is 2p - 1, whose standard error is known."""
    asked = items(400, ("biased", "other"), condition="disambiguated")
    row = rows_of("bbq_bias_disambiguated", asked, {"target": answers(asked, 5)})["target"]
    share = (row["value"] + 1) / 2
    error = 2 * math.sqrt(share * (1 - share) / 400)
    assert (row["high"] - row["low"]) / (2 * 1.96 * error) == pytest.approx(1, abs=0.08)


def test_a_share_has_the_projects_interval_and_what_is_not_judged_counts_in_no_value() -> None:
    asked = items(30, ("more", "less"))
    said = answers(asked, 1)
    said[0] = dataclasses.replace(said[0], choice_loglik=(float("nan"), 0.0))
    row = rows_of("crows_pairs", asked, {"target": said})["target"]
    values = [float(one.choice_loglik[0] > one.choice_loglik[1]) for one in said[1:]]
    assert (row["value"], row["low"], row["high"], row["n"]) == mean_interval(values, 0)
    assert row["unscored"] == 1
    samples, _ = judge("part", SUITE_METRICS["crows_pairs"], asked, {"target": said})
    assert [sample["value"] for sample in samples] == [None, *values]


def test_a_score_without_anything_to_rest_on_is_null_and_one_about_no_item_has_no_row(tmp_path: Path) -> None:
    asked = items(3, ("biased", "other", "unknown"), condition="disambiguated")
    said = [Answer(item.id, 0, "", (), True, 0.0, choice_loglik=(-3.0, -2.0, -1.0), choice_tokens=(1, 1, 1))
            for item in asked]  # fmt: skip
    figures = [judge("p", SUITE_METRICS[f"bbq_bias_{which}"], asked, {"target": said}) for which in
               ("ambiguous", "disambiguated")]  # fmt: skip
    assert figures[0] == ([], None)
    write_suite(figures[1][0], [figures[1][1]], [], 0, tmp_path)
    (row,) = pl.read_parquet(tmp_path / "metrics.parquet").to_dicts()
    assert (row["value"], row["low"], row["high"], row["n"]) == (None, None, None, 3)
    assert pl.read_parquet(tmp_path / "samples.parquet")["value"].to_list() == [0.0] * 3


def test_a_figure_of_which_nothing_could_be_judged_has_no_row() -> None:
    asked = items(2, ("more", "less"))
    silent = [Answer(item.id, 0, "", (), True, 0.0) for item in asked]
    assert rows_of("crows_pairs", asked, {"target": answers(asked, 1), "transplant": silent}).keys() == {"target"}


def test_figures_do_not_hang_on_the_order_of_the_answers() -> None:
    asked = items(25)
    said = {"target": answers(asked, 1), "transplant": answers(asked, 2)}
    turned = {subject: list(reversed(rows)) for subject, rows in said.items()}
    for metric in ("stereoset_lms", "stereoset_icat"):
        one, two = rows_of(metric, asked, said), rows_of(metric, asked, turned)
        assert one == two
