"""The selection as an artifact: the plan, every trial on the way, and the controls at the same budget."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from cnt_pipeline.errors import InadmissibleError
from cnt_pipeline.measures.metrics import ROUNDING, falls_short
from cnt_pipeline.store.parquet import write_parquet
from cnt_pipeline.study.schema import Accept, Function
from cnt_pipeline.transplants.plan import TransplantPlan
from cnt_pipeline.transplants.select.candidates import Floats, Indices, Space
from cnt_pipeline.transplants.select.judge import Baselines
from cnt_pipeline.transplants.select.learn import Curve
from cnt_pipeline.transplants.select.search import Found, Trial

PLAN = "plan.parquet"
TRIALS = "trials.parquet"
SELECTION = "selection.json"
LEARNING = "learning.parquet"


def refuse_inadmissible(baselines: Baselines, function: Function, accept: Accept) -> None:
    """Stop where the donor does not lead the target by the study's margin: there is nothing to transplant.

    Raises:
        InadmissibleError: with both figures.
    """
    if baselines.distance < accept.donor_margin - ROUNDING:
        short = falls_short(function, baselines.target.function, baselines.donor.function, accept.donor_margin)
        raise InadmissibleError(
            f"the donor is not admissible: {short}; choose another donor, or other function prompts"
        )


def plan_of(found: Found, space: Space, ranking: Path) -> TransplantPlan:
    """The chosen neurons as a plan, in the order of the checkpoint's bytes."""
    frame = space.frame(found.chosen)
    scores = _scores(ranking, found.trial.lookalike_weight)
    starts = np.array(list(space.offsets.values()))
    matrices = [space.matrices[i] for i in np.searchsorted(starts, found.chosen, side="right") - 1]
    neurons = frame["neuron"].to_list()
    frame = frame.with_columns(
        pl.Series("tensor", [m.tensor for m in matrices], dtype=pl.String),
        pl.Series("axis", [m.axis for m in matrices], dtype=pl.Int8),
        pl.Series("position", [int(m.positions[n]) for m, n in zip(matrices, neurons, strict=True)], dtype=pl.Int64),
        pl.Series("bias", [m.bias for m in matrices], dtype=pl.String),
        pl.Series("amplitude", found.amplitudes, dtype=pl.Float32),
    )
    joined = frame.join(scores, on=["layer", "family", "neuron"], how="left", maintain_order="left")
    return TransplantPlan.from_frame(joined.sort("tensor", "position"))


def _scores(ranking: Path, lookalike_weight: float) -> pl.DataFrame:
    """Score, rank and standard error (null where the rule gives none) of every neuron at one look-alike weight."""
    lazy = pl.scan_parquet(ranking, glob=False).filter(pl.col("lookalike_weight") == lookalike_weight)
    known = lazy.collect_schema().names()
    error = pl.col("standard_error") if "standard_error" in known else pl.lit(None, pl.Float64).alias("standard_error")
    return lazy.select("layer", "family", "neuron", "score", "rank", error).collect()


def write_trials(trials: tuple[Trial, ...], path: Path) -> None:
    """One row per candidate that the search tried, in order; `asked` numbers its samples (see `samples`), which it
    shares with an equal candidate that was tried before."""
    rows = [
        {
            "number": number,
            "asked": t.outcome.asked,
            "phase": t.phase,
            "lookalike_weight": t.lookalike_weight,
            "eta": t.eta,
            "neurons": t.neurons,
            "parameters": t.parameters,
            "share": t.share,
            "function": t.outcome.function,
            "misfire": t.outcome.misfire,
            "utility": t.outcome.utility,
            "coherence": t.outcome.coherence,
            "recovery": t.recovery,
            "holds": t.holds,
        }
        for number, t in enumerate(trials)
    ]
    write_parquet(pa.Table.from_pylist(rows, schema=_TRIALS_SCHEMA), path)


_TRIALS_SCHEMA = pa.schema(
    [
        ("number", pa.int32()),
        ("asked", pa.int32()),
        ("phase", pa.string()),
        ("lookalike_weight", pa.float64()),
        ("eta", pa.float64()),
        ("neurons", pa.int64()),
        ("parameters", pa.int64()),
        ("share", pa.float64()),
        ("function", pa.float64()),
        ("misfire", pa.float64()),
        ("utility", pa.float64()),
        ("coherence", pa.float64()),
        ("recovery", pa.float64()),
        ("holds", pa.bool_()),
    ]
)


def write_learning(curve: Curve, path: Path) -> None:
    """One row per training step: `step`, the loss of each term in nats, `mean_gate` and `units` of those left."""
    write_parquet(pa.Table.from_pylist(curve.rows), path)


def write_selection(
    found: Found, space: Space, baselines: Baselines, selection: str, units: Sequence[str], path: Path
) -> dict[str, Any]:
    """Write and return the chosen setting with the figures it was chosen by.

    `eta` is null where neurons have amplitudes of their own; `amplitude` holds their range in any case. `asked` numbers
    the transplant's samples.
    """
    trial = found.trial
    document = {
        "selection": selection,
        "units": list(units),
        "neurons": trial.neurons,
        "parameters": trial.parameters,
        "total_parameters": space.total_parameters,
        "share": trial.share,
        "eta": trial.eta,
        "amplitude": {
            "min": float(found.amplitudes.min()),
            "median": float(np.median(found.amplitudes)),
            "max": float(found.amplitudes.max()),
        },
        "lookalike_weight": trial.lookalike_weight,
        "recovery": trial.recovery,
        "meets_every_limit": trial.holds,
        "trials": len(found.trials),
        "asked": trial.outcome.asked,
        "target": baselines.target.figures(),
        "donor": baselines.donor.figures(),
        "transplant": trial.outcome.figures(),
    }
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return document


def write_controls(
    space: Space, chosen: Indices, amplitudes: Floats, largest: Indices, seeds: range, folder: Path
) -> None:
    """Write `random.parquet` (a variant per seed) and `largest_delta.parquet`: variant, layer, family, neuron,
    amplitude.

    Random neurons get the amplitudes of the chosen ones of their layer and family in random order; the largest deltas,
    which match no layer and family, get the median of all.
    """
    random = []
    for seed in seeds:
        drawn = space.random_like(chosen, seed)
        random.append((drawn, space.shuffled_amplitudes(chosen, amplitudes, drawn, seed)))
    top = space.top_within(largest, space.parameters(chosen))
    median = np.full(len(top), np.median(amplitudes))
    for name, variants in {"random": random, "largest_delta": [(top, median)]}.items():
        frames = [
            space.frame(neurons).with_columns(
                pl.lit(variant, pl.Int32).alias("variant"), pl.Series("amplitude", values, dtype=pl.Float32)
            )
            for variant, (neurons, values) in enumerate(variants)
        ]
        write_parquet(pl.concat(frames).to_arrow(), folder / f"{name}.parquet")
