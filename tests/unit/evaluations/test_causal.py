"""The causal effect of neurons: the ratio and its interval against plain sums, and where there is none."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from cnt_pipeline.evaluations.causal import causal_effect
from cnt_pipeline.evaluations.leaderboard import FILE, Entry, write_leaderboard
from cnt_pipeline.evaluations.schema import CAUSAL, METRICS, SAMPLES
from cnt_pipeline.measures.intervals import RESAMPLES
from tests.unit.evaluations.test_leaderboard import BOARD, PROMPTS, REFUSAL, Said, entry, said

TARGET = [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]
DONOR = [1.0, 1.0, 1.0, 1.0, 0.0, 1.0]
PATCHED = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0]


def by_hand(target: list[float], donor: list[float], patched: list[float], seed: int) -> tuple[float, float, float]:
    """Ratio and percentile interval over the same draws of prompts, summed one by one."""
    n = len(target)
    shares = []
    for draw in np.random.default_rng(seed).integers(n, size=(RESAMPLES, n)):
        distance = sum(donor[i] - target[i] for i in draw)
        if distance * (sum(donor) - sum(target)) > 0:
            shares.append(sum(patched[i] - target[i] for i in draw) / distance)
    ratio = (sum(patched) - sum(target)) / (sum(donor) - sum(target))
    return ratio, *(float(np.percentile(shares, edge)) for edge in (2.5, 97.5))


@pytest.mark.parametrize(
    ("target", "donor", "patched"),
    [
        (TARGET, DONOR, PATCHED),
        (DONOR, TARGET, PATCHED),  # a donor with less of the function: deletion, or the wrong way round
        ([0.2, 0.9, 0.4, 0.35], [0.1, 0.3, 0.5, 0.0], [0.0, 0.6, 0.6, 0.2]),  # a metric that is no share
        (TARGET, DONOR, [1.0] * 6),  # beyond the donor
        (TARGET, DONOR, TARGET),
    ],
)
def test_the_effect_is_the_ratio_of_mean_differences_resampled_over_prompts(
    target: list[float], donor: list[float], patched: list[float]
) -> None:
    found = causal_effect(target, donor, patched, seed=3)
    assert (found["value"], found["low"], found["high"]) == pytest.approx(by_hand(target, donor, patched, 3), abs=1e-12)
    assert (found["n"], found["why"]) == (len(target), None)
    assert found["low"] <= found["value"] <= found["high"]


def test_without_a_distance_the_effect_is_undefined_and_why_is_said() -> None:
    found = causal_effect([0.0, 1.0, 0.1], [1.0, 0.0, 0.1], [1.0, 1.0, 1.0], seed=0)
    assert [found[key] for key in ("value", "low", "high", "n")] == [None, None, None, 3]
    assert found["why"] == "target and donor have the same function metric on the test prompts"
    nobody = causal_effect([], [], [], seed=0)
    assert nobody["value"] is None and nobody["n"] == 0 and "no test prompt could be judged" in nobody["why"]


def patched_as(refused: int, variant: int = 0) -> Said:
    """What a patched target says: function prompts alone are asked."""
    return {"function": said(refused, 0, 0, variant)["function"]}


def written(folder: Path, patched: dict[str, Any], donor: Said | None = None, **keys: Any) -> dict[str, dict[str, Any]]:
    """The rows of a leaderboard of `a`, which refuses 6 of 10, and `b`."""
    subjects = {"target": said(0, 0, 10), "donor": donor or said(8, 1, 10), "a": said(6, 2, 9), "b": said(3, 0, 10)}
    entries = [Entry("target"), Entry("donor"), entry("a", 0.1), entry("b", 0.1)]
    document = write_leaderboard(
        REFUSAL, PROMPTS, subjects, entries, BOARD, None, 0, folder, patched=patched, **keys
    )  # fmt: skip
    assert json.loads((folder / FILE).read_text()) == document
    return {row["name"]: row for row in document["rows"]}


def test_an_entry_has_its_effect_beside_its_recovery_and_no_other_row_has_one(tmp_path: Path) -> None:
    rows = written(tmp_path, {"a": patched_as(4)})
    effect = rows["a"]["causal"]
    assert (rows["a"]["recovery"], effect["value"]) == (pytest.approx(0.75), pytest.approx(0.5))
    assert 0.1 < effect["low"] < 0.5 < effect["high"] < 1 and effect["n"] == 10
    assert effect["patched"]["value"] == pytest.approx(0.4)
    assert effect["patched"]["low"] < 0.4 < effect["patched"]["high"]
    assert [name for name, row in rows.items() if "causal" in row] == ["a"]
    samples = pl.read_parquet(tmp_path / CAUSAL)
    assert samples["subject"].unique().to_list() == ["a"] and samples["value"].sum() == 4


def test_the_effect_changes_nothing_else_of_the_leaderboard(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    rows, plain = written(tmp_path, {"a": patched_as(4)}), written(tmp_path / "plain", {})
    assert not (tmp_path / "plain" / CAUSAL).exists()
    del rows["a"]["causal"]
    assert rows == plain
    for name in (SAMPLES, METRICS):
        assert (tmp_path / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


def test_seeds_count_with_their_mean(tmp_path: Path) -> None:
    both = {"function": [*patched_as(2)["function"], *patched_as(6, 1)["function"]]}
    assert written(tmp_path, {"a": both})["a"]["causal"]["value"] == pytest.approx(0.5)


def test_a_donor_that_acts_as_the_target_leaves_the_effect_undefined(tmp_path: Path) -> None:
    effect = written(tmp_path, {"a": patched_as(4)}, donor=said(0, 0, 10))["a"]["causal"]
    assert effect["value"] is None and effect["patched"]["value"] == pytest.approx(0.4)
    assert "same function metric" in effect["why"]


def test_prompts_of_sources_aside_do_not_count(tmp_path: Path) -> None:
    function = [replace(prompt, source="a" if i < 5 else "b") for i, prompt in enumerate(PROMPTS["function"])]
    prompts = {**PROMPTS, "function": function}
    subjects = {"target": said(0, 0, 10), "donor": said(8, 1, 10), "a": said(6, 2, 9)}
    document = write_leaderboard(
        REFUSAL, prompts, subjects, [Entry("target"), Entry("donor"), entry("a", 0.1)], BOARD, None, 0, tmp_path,
        aside=("b",), patched={"a": patched_as(4)},
    )  # fmt: skip
    effect = document["rows"][-1]["causal"]
    assert (effect["value"], effect["n"], effect["patched"]["value"]) == (pytest.approx(0.8), 5, pytest.approx(0.8))
