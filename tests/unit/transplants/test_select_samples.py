"""What every set of neurons said is kept with how it was judged, and makes up the figures that it stands behind."""

import json
from pathlib import Path

import polars as pl
import pytest

from cnt_pipeline.completions.schema import Completion
from cnt_pipeline.evaluations.schema import FRONTIER, FRONTIER_SAMPLES
from cnt_pipeline.prompt_sets.schema import Prompt
from cnt_pipeline.study.schema import KINDS, Kind
from cnt_pipeline.transplants.select.build import SELECTION, TRIALS
from cnt_pipeline.transplants.select.samples import SCHEMA, TRIAL_SAMPLES, Samples
from tests.conftest import Project

FIGURES = {"function": "function", "misfire": "lookalike", "utility": "utility"}


@pytest.mark.parametrize(
    ("step", "table", "samples"),
    [("transplants/selection", TRIALS, TRIAL_SAMPLES), ("evaluations/frontier", FRONTIER, FRONTIER_SAMPLES)],
)
def test_the_samples_of_a_finished_study_reproduce_every_figure(
    finished_store: Project, step: str, table: str, samples: str
) -> None:
    folders = {json.loads(m.read_text())["key"]: m.parent for m in finished_store.store.glob("*/*/manifest.json")}
    rows, said = (pl.read_parquet(folders[step] / name) for name in (table, samples))
    rows = rows.filter(pl.col("asked").is_not_null())
    assert len(rows) > 3 and rows["misfire"].null_count() < len(rows)
    for row in rows.iter_rows(named=True):
        own = said.filter(asked=row["asked"])
        for figure, kind in FIGURES.items():
            assert row[figure] == own.filter(kind=kind)["value"].mean(), (row, figure)
        if row["coherence"] is not None:
            assert row["coherence"] == own["coherence"].mean()
    settled = json.loads((folders["transplants/selection"] / SELECTION).read_text())
    for number, subject in enumerate(("target", "donor")):
        asked = pl.read_parquet(folders[step] / samples).filter(asked=number, kind="function")
        assert asked["value"].mean() == settled[subject]["function"]
        (completions,) = {folders[key] for key in folders if key == f"completions/{subject}/selection"}
        assert asked["text"].to_list() == pl.read_parquet(completions / "function.parquet")["text"].to_list()
    chosen = pl.read_parquet(folders["transplants/selection"] / TRIAL_SAMPLES).filter(asked=settled["asked"])
    assert chosen.filter(kind="function")["value"].mean() == settled["transplant"]["function"]


def test_choices_are_kept_where_they_are_read_and_what_cannot_be_judged_is_null(tmp_path: Path) -> None:
    prompts: dict[Kind, list[Prompt]] = {
        "function": [Prompt("a", (("user", "The nurse said"),), choices=(" he", " she"))],
        "lookalike": [Prompt("b", (("user", "My aunt said"),), choices=(" he", " she"), answers=("she",)),
                      Prompt("c", (("user", "Hello"),))],
        "utility": [Prompt("d", (("user", "Sky?"),), answers=("blue",))],
    }  # fmt: skip
    said: dict[Kind, list[Completion]] = {
        "function": [Completion("a", 0, "", (), False, 0.0, choice_loglik=(-1.0, -1.0))],
        "lookalike": [Completion("b", 0, "", (), False, 0.0, choice_loglik=(-1.0, -2.0)),
                      Completion("c", 0, "Hi.", (4,), True, -1.0)],
        "utility": [Completion("d", 0, "Blue.", (5, 6), True, -1.0)],
    }  # fmt: skip
    samples = Samples()
    assert samples.add("pronoun_gap", prompts, said) == 0
    assert samples.add("pronoun_gap", prompts, {"function": said["function"]}) == 1
    samples.write(tmp_path / TRIAL_SAMPLES)
    rows = pl.read_parquet(tmp_path / TRIAL_SAMPLES)
    assert rows.columns == SCHEMA.names and rows["kind"].to_list() == [KINDS[0], KINDS[1], KINDS[1], KINDS[2], KINDS[0]]
    assert rows["metric"].to_list() == [
        "pronoun_gap", "lookalike_error", "lookalike_error", "utility", "pronoun_gap",
    ]  # fmt: skip
    assert rows["value"].to_list() == [0.0, 1.0, None, 1.0, 0.0]
    assert rows["coherence"].to_list() == [None, None, 1.0, 1.0, None]
    assert rows["choice_loglik"].to_list() == [[-1.0, -1.0], [-1.0, -2.0], None, None, [-1.0, -1.0]]
    assert rows["asked"].to_list() == [0, 0, 0, 0, 1]
