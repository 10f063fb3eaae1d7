"""Recovery against parameters moved, on selection prompts: the method's ranking beside random and
largest-delta neurons."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from cnt_pipeline.evaluations.schema import CURVE, CURVE_SCHEMA
from cnt_pipeline.measures.intervals import bootstrap_mean, mean_interval
from cnt_pipeline.measures.metrics import METRICS
from cnt_pipeline.models.teacher import device_of
from cnt_pipeline.progress import Report, silent
from cnt_pipeline.store.parquet import write_parquet
from cnt_pipeline.transplants.select.candidates import Indices, Space
from cnt_pipeline.transplants.select.judge import Judge


def write_curve(
    judge: Judge,
    space: Space,
    chosen: Indices,
    ranking: Indices,
    largest: Indices,
    eta: float,
    budgets: Sequence[float],
    seed: int,
    folder: Path,
    report: Report = silent,
) -> None:
    """Write `curve.parquet`: three series at multiples of the transplant's parameters, and the transplant itself."""
    rows: list[dict[str, Any]] = []
    parameters = space.parameters(chosen)
    points: list[tuple[str, Indices]] = [("transplant", chosen)]
    for budget in budgets:
        top = space.top_within(ranking, round(budget * parameters))
        points += [
            ("ranking", top),
            ("random", space.random_like(top, seed)),
            ("largest_delta", space.top_within(largest, space.parameters(top))),
        ]
    for number, (series, neurons) in enumerate(points):
        rows.append(_point(judge, space, series, neurons, eta, seed))
        report("recovery curve", number + 1, len(points))
    write_parquet(pa.Table.from_pylist(rows, schema=CURVE_SCHEMA), folder / CURVE)


def _point(judge: Judge, space: Space, series: str, neurons: Indices, eta: float, seed: int) -> dict[str, Any]:
    gates = space.gates(neurons, eta, device_of(judge.swap.model))
    outcome, values = judge.outcome_and_scores(gates)
    estimate = (mean_interval if METRICS[judge.metric].share else bootstrap_mean)(values, seed)
    baselines = judge.baselines
    bounds = sorted(
        baselines.sign * (bound - baselines.target.function) / baselines.distance
        for bound in (estimate.low, estimate.high)
    )
    parameters = space.parameters(neurons)
    return {
        "series": series,
        "variant": 0,
        "neurons": len(neurons),
        "parameters": parameters,
        "share": parameters / space.total_parameters,
        "function": outcome.function,
        "recovery": baselines.recovery(outcome),
        "low": bounds[0],
        "high": bounds[1],
        "misfire": outcome.misfire,
        "utility": outcome.utility,
    }
