"""Builders of the `neuron_rankings` stage."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnt_pipeline.activation_caches.schema import STATISTICS
from cnt_pipeline.neuron_rankings.deltas import DELTAS, write_deltas
from cnt_pipeline.neuron_rankings.query import rank
from cnt_pipeline.pipeline.context import Context
from cnt_pipeline.store import JSON


def by_effect(context: Context, folder: Path) -> Mapping[str, JSON]:
    """Score from the statistics of the effect caches."""
    tables = {name: context.path(name, STATISTICS) for name in context.step.inputs}
    slice_ = context.step.slice
    parameters: dict[str, Any] = {}
    if "lambda" in slice_:
        weights = [float(weight) for weight in slice_["lambda"]]
        parameters = {"weights": weights, "damage_weight": float(slice_["mu"])}
    return {"rows": rank(str(slice_["rule"]), tables, parameters, folder)}


def by_delta(context: Context, folder: Path) -> Mapping[str, JSON]:
    """Order by how far the donor's weights lie from the target's."""
    models = context.models
    write_deltas(models.index("target"), models.index("donor"), models.architecture(), folder)
    return {"rows": rank("delta_norm", {"deltas": folder / DELTAS}, {}, folder)}
