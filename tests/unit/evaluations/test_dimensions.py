"""Safety dimensions: every figure counted by hand, and rows that two dimensions share found."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cnt_pipeline.completions.schema import Completion
from cnt_pipeline.evaluations.dimensions import Worked, write_dimensions
from cnt_pipeline.evaluations.schema import (
    DIMENSION_SAMPLES_SCHEMA,
    DIMENSIONS,
    DIMENSIONS_SCHEMA,
    DIMENSIONS_TABLE,
    SAMPLES,
)
from cnt_pipeline.measures.intervals import mean_interval
from cnt_pipeline.prompt_sets.schema import Prompt
from cnt_pipeline.study.schema import Function

NO, YES = "I cannot help with that.", "Sure, here it is."
NAMES = ("traps", "banks")
PROMPTS = {name: [Prompt(f"{name}{i}", (("user", f"{name}{i}"),)) for i in range(10)] for name in NAMES}
MASKS = {
    "traps": {"a": np.array([True, False, True]), "b": np.array([False, True])},
    "banks": {"a": np.array([False, True, False])},
}


def said(**refused: int) -> dict[str, list[Completion]]:
    """So many refusals of each dimension, counted from its first prompt on."""
    return {
        name: [Completion(f"{name}{i}", 0, NO if i < count else YES, (1,), True, -1.0) for i in range(10)]
        for name, count in refused.items()
    }


def worked(masks: dict[str, dict[str, np.ndarray]] = MASKS) -> Worked:
    return Worked("fgsn", "fgsn", masks, {"traps": said(traps=7), "banks": said(traps=6, banks=9)})


def written(folder: Path, *entries: Worked) -> tuple[dict[str, object], pl.DataFrame]:
    found = write_dimensions(
        Function(name="refusal"), PROMPTS, said(traps=1, banks=2), said(traps=10, banks=10), entries, 0, folder
    )
    assert json.loads((folder / DIMENSIONS).read_text()) == found
    return found, pl.read_parquet(folder / DIMENSIONS_TABLE)


def test_every_dimension_so_far_is_measured_again_after_every_step(tmp_path: Path) -> None:
    _, table = written(tmp_path, worked())
    assert table.columns == DIMENSIONS_SCHEMA.names
    figures = {(row["entry"], row["step"], row["dimension"]): row for row in table.iter_rows(named=True)}
    values = {key: row["value"] for key, row in figures.items()}
    assert values == {
        ("target", 0, "traps"): 0.1, ("target", 0, "banks"): 0.2,
        ("donor", 0, "traps"): 1.0, ("donor", 0, "banks"): 1.0,
        ("fgsn", 1, "traps"): 0.7, ("fgsn", 2, "traps"): 0.6, ("fgsn", 2, "banks"): 0.9,
    }  # fmt: skip
    last = figures["fgsn", 2, "traps"]
    assert (last["after"], last["metric"], last["n"]) == ("banks", "refusal", 10)
    assert (last["low"], last["high"]) == pytest.approx(mean_interval([1.0] * 6 + [0.0] * 4, 0)[1:3])
    assert last["vs_target"] == pytest.approx(0.5)
    assert last["vs_target_low"] < 0.5 < last["vs_target_high"]


def test_every_figure_is_the_mean_of_the_samples_kept_for_it(tmp_path: Path) -> None:
    _, table = written(tmp_path, worked())
    samples = pl.read_parquet(tmp_path / SAMPLES)
    assert samples.columns == DIMENSION_SAMPLES_SCHEMA.names and len(samples) == 10 * len(table)
    keys = ["entry", "step", "after", "dimension", "metric"]
    means = samples.group_by(keys).agg(pl.col("value").mean(), n=pl.len().cast(pl.Int64))
    assert means.sort(keys).equals(table.select(*keys, "value", "n").sort(keys))
    refused = samples.filter(entry="fgsn", step=2, dimension="traps", value=1.0)
    assert refused["id"].to_list() == [f"traps{i}" for i in range(6)]


def test_rows_are_counted_and_those_of_an_earlier_dimension_are_found(tmp_path: Path) -> None:
    doubled = {**MASKS, "banks": {"a": np.array([True, True, False]), "b": np.array([False, True])}}
    document, _ = written(tmp_path, worked())
    other, table = written(tmp_path, worked(doubled))

    def counted(found: object) -> list[tuple[int, int]]:
        return [(step["rows"], step["shared"]) for step in found["entries"][0]["steps"]]  # type: ignore[index]

    assert counted(document) == [(3, 0), (1, 0)]
    assert counted(other) == [(3, 0), (3, 2)]
    assert table.filter(entry="fgsn", step=2)["shared"].to_list() == [2, 2]
    assert table.filter(entry="target")["rows"].to_list() == [None, None]


def test_what_cannot_be_judged_has_no_figure(tmp_path: Path) -> None:
    silent = {"traps": [Completion(f"traps{i}", 0, "", (1,), True, -1.0) for i in range(10)]}
    mute = Worked("fgsn", "fgsn", {"traps": MASKS["traps"]}, {"traps": silent})
    document = write_dimensions(
        Function(name="bias"), {"traps": PROMPTS["traps"]}, said(traps=1), said(traps=2), [mute], 0, tmp_path
    )
    assert document["entries"][0]["steps"][0]["figures"] == {}
    assert pl.read_parquet(tmp_path / SAMPLES)["value"].to_list() == [None] * 30
