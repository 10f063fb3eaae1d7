"""The recovery curve asks the judge about three series at every budget, each point with its bounds."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch

from cnt_pipeline.evaluations.curve import write_curve
from cnt_pipeline.evaluations.schema import CURVE
from cnt_pipeline.models.architecture import Matrix
from cnt_pipeline.transplants.select.candidates import Space
from cnt_pipeline.transplants.select.judge import Baselines, Outcome

MATRIX = Matrix(
    layer=0, family="gate", tensor="w", module="m", side="row", axis=0, positions=np.arange(200), bias=None, width=10
)
SPACE = Space.of(SimpleNamespace(matrices=(MATRIX,)), 10_000)  # type: ignore[arg-type]
PROMPTS = 40


class Judge:
    """Each of the first 100 neurons is worth a hundredth of the function."""

    metric = "refusal"

    def __init__(self, sign: int) -> None:
        low, high = Outcome(0.0, 0.0, 1.0, 1.0), Outcome(1.0, 0.0, 1.0, 1.0)
        self.baselines = Baselines(low, high, 1) if sign == 1 else Baselines(high, low, -1)
        self.sign = sign
        self.swap = SimpleNamespace(model=torch.nn.Linear(1, 1))

    def outcome_and_scores(
        self, gates: Mapping[tuple[int, str], torch.Tensor], enough: float | None = None
    ) -> tuple[Outcome, list[float]]:
        assert enough is None
        gate = gates[0, "gate"]
        share = int((gate[:100] > 0).sum()) / 100
        moved = round(share * PROMPTS)
        values = [1.0] * moved + [0.0] * (PROMPTS - moved)
        if self.sign == -1:
            values = [1 - value for value in values]
        return Outcome(sum(values) / PROMPTS, 0.1, 0.9, 1.0), values


@pytest.mark.parametrize("sign", [1, -1])
def test_recovery_at_every_budget_with_its_controls(tmp_path: Path, sign: int) -> None:
    ranking, largest = np.arange(200), np.arange(200)[::-1].copy()
    chosen = np.arange(40)
    steps: list[tuple[int, int]] = []
    write_curve(
        Judge(sign), SPACE, chosen, ranking, largest, 1.0, (0.5, 1.0, 2.0), 3, tmp_path,  # type: ignore[arg-type]
        lambda what, done, total: steps.append((done, total)),
    )  # fmt: skip
    curve = pl.read_parquet(tmp_path / CURVE)
    assert steps[-1] == (10, 10)
    assert curve["series"].to_list() == ["transplant", *["ranking", "random", "largest_delta"] * 3]
    method = curve.filter(pl.col("series") == "ranking")
    assert method["neurons"].to_list() == [20, 40, 80]
    assert method["recovery"].to_list() == pytest.approx([0.2, 0.4, 0.8])
    assert (curve["low"] <= curve["recovery"]).all() and (curve["recovery"] <= curve["high"]).all()
    for series in ("random", "largest_delta"):
        control = curve.filter(pl.col("series") == series)
        assert control["parameters"].to_list() == method["parameters"].to_list()
    assert curve.filter(pl.col("series") == "largest_delta")["recovery"].to_list() == [0.0, 0.0, 0.0]
    assert curve["share"].to_list() == pytest.approx((curve["parameters"] / 10_000).to_list())
