"""The frontier asks the judge about rankings and controls at every budget, and says what each needs."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from cnt_pipeline.completions.schema import Completion
from cnt_pipeline.evaluations.frontier import Chosen, Settings, write_frontier
from cnt_pipeline.evaluations.needed import Needed, needed
from cnt_pipeline.evaluations.schema import FRONTIER, FRONTIER_SAMPLES, NEEDED, WORTH_ASKING
from cnt_pipeline.models.architecture import Matrix
from cnt_pipeline.prompt_sets.schema import Prompt
from cnt_pipeline.study.schema import KINDS, Kind
from cnt_pipeline.transplants.select.candidates import Indices, Space
from cnt_pipeline.transplants.select.judge import Baselines, Outcome
from cnt_pipeline.transplants.select.samples import Samples

MATRIX = Matrix(
    layer=0, family="gate", tensor="w", module="m", side="row", axis=0, positions=np.arange(200), bias=None, width=10
)
SPACE = Space.of(SimpleNamespace(matrices=(MATRIX,)), 2_000)  # type: ignore[arg-type]
PROMPTS = 40
BEST, WORST = np.arange(200), np.arange(200)[::-1].copy()
BUDGETS = (0.05, 0.1, 0.2, 0.4, 0.8)


ASKED = {
    kind: [Prompt(f"{kind}{n}", (("user", f"{kind} {n}"),), answers=("blue",)) for n in range(PROMPTS)]
    for kind in KINDS
}  # fmt: skip


def answers(refused: int, misfires: int = 0, right: int = PROMPTS) -> dict[Kind, list[Completion]]:
    """Refusals of so many function prompts and look-alikes, and so many right answers to general prompts."""
    refusal, counts = "I cannot help with that.", {"function": refused, "lookalike": misfires, "utility": right}
    said = {"function": (refusal, "Sure."), "lookalike": (refusal, "Gladly."), "utility": ("blue", "green")}
    return {
        kind: [
            Completion(f"{kind}{n}", 0, said[kind][n >= counts[kind]], (1, 2), True, -1.0) for n in range(PROMPTS)
        ]
        for kind in KINDS
    }  # fmt: skip


class Judge:
    """Each of the first 100 neurons is worth a hundredth of the function; harm is asked where it is worth it."""

    metric = "refusal"

    def __init__(self, sign: int = 1) -> None:
        self.samples = Samples()
        low, high = (Outcome(value, 0.0, 1.0, 1.0, (value,) * PROMPTS) for value in (0.0, 1.0))
        for outcome in (low, high) if sign == 1 else (high, low):
            self.samples.add(self.metric, ASKED, answers(int(PROMPTS * outcome.function)))
        low, high = (replace(low, asked=int(sign == -1)), replace(high, asked=int(sign == 1)))
        self.baselines = Baselines(low, high, 1) if sign == 1 else Baselines(high, low, -1)
        self.sign = sign
        self.swap = SimpleNamespace(model=SimpleNamespace(get_input_embeddings=lambda: torch.nn.Embedding(1, 1)))
        self.asked: list[bytes] = []

    def outcome(self, gates: Mapping[tuple[int, str], torch.Tensor], enough: float | None = None) -> Outcome:
        gate = gates[0, "gate"]
        self.asked.append(gate.numpy().tobytes())
        share = int((gate[:100] > 0).sum()) / 100
        moved = round(share * PROMPTS)
        values = [1.0] * moved + [0.0] * (PROMPTS - moved)
        if self.sign == -1:
            values = [1 - value for value in values]
        function = sum(values) / PROMPTS
        said = answers(moved if self.sign == 1 else PROMPTS - moved, PROMPTS // 10, PROMPTS * 9 // 10)
        if enough is not None and moved / PROMPTS < enough:
            asked = self.samples.add(self.metric, ASKED, {"function": said["function"]})
            return Outcome(function, values=tuple(values), asked=asked)
        return Outcome(function, 0.1, 0.9, 1.0, tuple(values), self.samples.add(self.metric, ASKED, said))


def chosen(neurons: Indices, eta: float | None = 1.0, sign: int = 1) -> Chosen:
    """A transplant of which the search found what the judge would say."""
    outcome = Judge(sign).outcome(SPACE.gates(neurons, eta or 1.0, torch.device("cpu")))
    return Chosen(neurons, replace(outcome, asked=None), "bisect", "path", eta, 0.5)


def drawn(
    judge: Judge, folder: Path, orders: dict[Any, dict[float, Indices]] | None = None, **changes: Any
) -> tuple[pl.DataFrame, dict[str, Any]]:
    settings = Settings(
        **(
            {"budgets": BUDGETS, "closer": 2, "etas": (1.0,), "control_etas": (1.0,), "random_seeds": 3, "seed": 3}
            | changes
        )
    )
    orders = orders or {"path": {0.5: BEST}}
    transplant = chosen(np.arange(40), sign=judge.sign)
    write_frontier(judge, SPACE, transplant, orders, WORST, settings, folder)  # type: ignore[arg-type]
    return pl.read_parquet(folder / FRONTIER), json.loads((folder / NEEDED).read_text())


@pytest.mark.parametrize("sign", [1, -1])
def test_recovery_at_every_budget_with_its_controls(tmp_path: Path, sign: int) -> None:
    rows, _ = drawn(Judge(sign), tmp_path)
    assert rows["series"].unique(maintain_order=True).to_list() == [
        "transplant", "effect", "random", "largest_delta", "whole_donor",
    ]  # fmt: skip
    method = rows.filter(series="effect")
    assert method["neurons"].to_list() == [10, 20, 40, 80, 95, 113, 160]  # two more where 95 % is reached
    assert method["recovery"].to_list() == pytest.approx([0.1, 0.2, 0.4, 0.8, 0.95, 1.0, 1.0])
    assert (rows["low"] <= rows["recovery"]).all() and (rows["recovery"] <= rows["high"]).all()
    assert rows.filter(series="transplant")["share"].to_list() == [0.2]
    (donor,) = rows.filter(series="whole_donor").to_dicts()
    assert (donor["share"], donor["recovery"]) == (1.0, 1.0)
    shares = rows.filter(pl.col("series") != "whole_donor")
    assert shares["share"].to_list() == pytest.approx((shares["parameters"] / 2_000).to_list())


def test_harm_is_asked_only_where_the_function_is_half_there(tmp_path: Path) -> None:
    rows, _ = drawn(Judge(), tmp_path)
    lines = rows.filter(pl.col("series").is_in(["effect", "largest_delta"]))
    asked = lines["recovery"] >= WORTH_ASKING
    assert lines["utility"].is_not_null().to_list() == asked.to_list()
    assert lines["coherence"].is_not_null().to_list() == asked.to_list()


def test_random_neurons_are_matched_draws_and_a_row_that_covers_them(tmp_path: Path) -> None:
    rows, _ = drawn(Judge(), tmp_path)
    random = rows.filter(series="random")
    for share, part in random.group_by("share"):
        draws, mean = part.filter(pl.col("variant").is_not_null()), part.filter(pl.col("variant").is_null())
        assert draws["variant"].to_list() == [0, 1, 2], share
        assert mean["recovery"].item() == pytest.approx(draws["recovery"].to_numpy().mean())
        assert mean["low"].item() <= draws["low"].to_numpy().mean() + 1e-12
        assert mean["high"].item() >= draws["high"].to_numpy().mean() - 1e-12
    assert set(random["parameters"]) <= set(rows.filter(series="effect")["parameters"])


def test_a_series_ends_after_two_budgets_of_everything_or_nothing(tmp_path: Path) -> None:
    budgets = (0.01, 0.02, 0.03, 0.04, 0.5, 0.6, 0.7, 0.8, 0.9)
    rows, _ = drawn(Judge(), tmp_path, budgets=budgets, random_seeds=1)
    method = rows.filter(series="effect")["share"].to_list()
    assert [share for share in method if share in budgets] == [0.01, 0.02, 0.03, 0.04, 0.5, 0.6]
    largest = rows.filter(series="largest_delta")
    assert largest["share"].to_list() == pytest.approx([0.04, 0.5, 0.6, 0.7, 0.8, 0.9])
    assert largest["recovery"].to_list()[:2] == [0.0, 0.0]


def test_equal_sets_of_neurons_are_asked_about_once(tmp_path: Path) -> None:
    judge = Judge()
    rows, _ = drawn(judge, tmp_path, {"path": {0.5: BEST, 0.0: BEST}, "gradient": {0.0: BEST}}, random_seeds=1)
    assert len(judge.asked) == len(set(judge.asked))
    series = rows.filter(series="effect")
    assert len(series) == 3 * (len(BUDGETS) + 2)
    assert set(series.select("effect", "lookalike_weight").unique().iter_rows()) == {
        ("path", 0.5), ("path", 0.0), ("gradient", 0.0),
    }  # fmt: skip


def test_controls_are_drawn_at_amplitudes_of_their_own(tmp_path: Path) -> None:
    rows, document = drawn(Judge(), tmp_path, etas=(1.0, 2.0), control_etas=(1.0, 2.0, 4.0))
    assert set(rows.filter(series="effect")["eta"]) == {1.0, 2.0}
    for series in ("random", "largest_delta"):
        assert set(rows.filter(series=series)["eta"]) == {1.0, 2.0, 4.0}
    assert len(document["series"]) == 2 + 2 * 3


def test_no_more_budgets_are_added_than_asked_for(tmp_path: Path) -> None:
    rows, _ = drawn(Judge(), tmp_path, closer=0)
    assert rows.filter(series="effect")["share"].to_list() == pytest.approx(BUDGETS)


def test_a_transplant_is_drawn_as_the_search_found_it(tmp_path: Path) -> None:
    judge = Judge()
    transplant = chosen(np.arange(60), None)
    settings = Settings(BUDGETS, 2, (1.0,), (1.0,), 1, 0)
    write_frontier(judge, SPACE, transplant, {"path": {0.0: BEST}}, WORST, settings, tmp_path)  # type: ignore[arg-type]
    (row,) = pl.read_parquet(tmp_path / FRONTIER).filter(series="transplant").to_dicts()
    assert (row["recovery"], row["eta"], row["neurons"]) == (0.6, None, 60)
    assert SPACE.gates(np.arange(60), 1.0, torch.device("cpu"))[0, "gate"].numpy().tobytes() not in judge.asked


@pytest.mark.parametrize("sign", [1, -1])
def test_what_every_set_said_reproduces_its_figures(tmp_path: Path, sign: int) -> None:
    rows, _ = drawn(Judge(sign), tmp_path, {"path": {0.5: BEST, 0.0: BEST}})
    samples = pl.read_parquet(tmp_path / FRONTIER_SAMPLES)
    unasked = (pl.col("series") == "transplant") | ((pl.col("series") == "random") & pl.col("variant").is_null())
    assert rows.filter(pl.col("asked").is_null()).equals(rows.filter(unasked))
    assert rows.filter(series="whole_donor")["asked"].item() == 1
    means = {
        (asked, metric): value
        for asked, metric, value in samples.group_by("asked", "metric").agg(pl.mean("value")).iter_rows()
    }
    for row in rows.filter(~unasked).iter_rows(named=True):
        for figure, metric in (("function", "refusal"), ("misfire", "over_refusal"), ("utility", "utility")):
            assert row[figure] == pytest.approx(means.get((row["asked"], metric))), row
    assert set(rows["asked"].drop_nulls()) == set(samples["asked"]) - {0}
    one, other = (rows.filter(series="effect", lookalike_weight=weight)["asked"].to_list() for weight in (0.5, 0.0))
    assert one == other and len(set(one)) == len(one)


def test_parameters_needed_lie_between_the_budgets_by_their_logarithm() -> None:
    points = [(0.01, 0.2), (0.1, 0.6), (1.0, 1.0)]
    assert needed(points, 0.4) == Needed("between", pytest.approx(math.sqrt(0.001)))
    assert needed(points[::-1], 0.6) == Needed("between", pytest.approx(0.1))
    assert needed(points, 0.1) == Needed("at_most", 0.01)
    assert needed(points[:2], 0.95) == Needed("not_reached", 0.1)


def test_the_summary_says_whether_any_control_needs_fewer(tmp_path: Path) -> None:
    _, document = drawn(Judge(), tmp_path)
    assert document["fewer_than_controls"] is True
    assert document["levels"] == [0.5, 0.8, 0.9, 0.95, 0.4]
    by_series = {entry["series"]: entry["needed"] for entry in document["series"]}
    assert by_series["effect"][-1] == {"how": "between", "share": pytest.approx(0.2)}
    assert by_series["largest_delta"][-1]["share"] > 0.5
    better, worse = tmp_path / "better", tmp_path / "worse"
    better.mkdir(), worse.mkdir()
    transplant = chosen(np.arange(60, 160))
    settings = Settings(BUDGETS, 2, (1.0,), (1.0,), 3, 3)
    document = dict(
        write_frontier(Judge(), SPACE, transplant, {"path": {0.0: WORST}}, BEST, settings, worse)  # type: ignore[arg-type]
    )
    assert document["fewer_than_controls"] is False
