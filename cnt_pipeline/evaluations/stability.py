"""Stability: how far the ranking depends on which prompts the neurons were scored on.

Scoring prompts are drawn anew with replacement, kind by kind; each draw scores all neurons by the ranking's formula
and is compared with the ranking in use.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
from scipy.stats import rankdata

from cnt_pipeline.activation_caches.read import prompts_of_rows, weighted_means
from cnt_pipeline.evaluations.schema import STABILITY, STABILITY_SCHEMA
from cnt_pipeline.progress import Report, silent
from cnt_pipeline.store.parquet import write_parquet
from cnt_pipeline.study.schema import Effect

SHARES = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
"""Budgets at which the best neurons are compared, as shares of all parameters."""
_RANGE = (0.05, 0.95)

Array = npt.NDArray[np.float64]


def write_stability(
    effect: Effect,
    caches: Mapping[str, Sequence[Path]],
    ranking: Path,
    sizes: Mapping[tuple[int, str], int],
    total_parameters: int,
    damage_weight: float,
    resamples: int,
    seed: int,
    folder: Path,
    report: Report = silent,
) -> list[dict[str, Any]]:
    """Write and return the rows of `stability.parquet`.

    `caches` holds the raw shards by objective (transfer alone for `contrast`), `sizes` the parameters of a neuron by
    (layer, family).
    """
    means = resampled_means(caches, resamples, seed)
    full = pl.read_parquet(
        ranking, columns=["lookalike_weight", "layer", "family", "neuron", "score", "rank"], glob=False
    )
    rows: list[dict[str, Any]] = []
    weights = full["lookalike_weight"].unique().sort().to_list()
    for number, weight in enumerate(weights):
        one = full.filter(pl.col("lookalike_weight") == weight).sort("layer", "family", "neuron")
        size = np.array([sizes[key] for key in zip(one["layer"], one["family"], strict=True)])
        about = {"effect": effect, "lookalike_weight": weight, "resamples": resamples}
        order = np.argsort(one["rank"].to_numpy())
        moved = np.cumsum(size[order])
        counts = np.searchsorted(moved, np.array(SHARES) * total_parameters, side="right")
        counts = np.unique(counts[counts > 0])
        scores = scores_of(effect, means, weight, damage_weight)
        overlap, spearman = agreement(scores, one["rank"].to_numpy(), one["score"].to_numpy(), counts)
        for place, count in enumerate(counts.tolist()):
            shown = {"share": float(moved[count - 1]) / total_parameters, "neurons": count, "chance": count / len(one)}
            rows.append({**about, "measure": "overlap", **shown, **_spread(overlap[:, place])})
        rows.append({**about, "measure": "spearman", "neurons": len(one), "chance": 0.0, **_spread(spearman)})
        report("stability of the ranking", number + 1, len(weights))
    write_parquet(pa.Table.from_pylist(rows, schema=STABILITY_SCHEMA), folder / STABILITY)
    return rows


def resampled_means(caches: Mapping[str, Sequence[Path]], resamples: int, seed: int) -> dict[str, Array]:
    """Means `[resamples, neurons]` of every objective, neurons by layer, family and number.

    A prompt that several objectives read is drawn equally often for each of them.
    """
    roles: dict[str, set[str]] = {}
    for shards in caches.values():
        for role, found in prompts_of_rows(shards).items():
            roles.setdefault(role, set()).update(found)
    generator = np.random.default_rng(seed)
    drawn: dict[tuple[str, str], Array] = {}
    for role in sorted(roles):
        names = sorted(roles[role])
        counts = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
        columns = counts.T.astype(np.float64)
        drawn |= {(role, name): column for name, column in zip(names, columns, strict=True)}
    means = {}
    for objective, shards in caches.items():
        parts = weighted_means(shards, drawn)
        means[objective] = np.concatenate([parts[key] for key in sorted(parts)], axis=1)
    return means


def scores_of(effect: Effect, means: Mapping[str, Array], weight: float, damage_weight: float) -> Array:
    """The ranking's formula (`neuron_rankings/sql/`) on means of any shape."""
    if effect == "contrast":
        return np.sqrt(np.maximum(means["transfer"], 0))
    damage = np.maximum(-means["keep"], 0)
    scores: Array = means["transfer"] - weight * means["misfire"] - damage_weight * damage
    return scores


def agreement(
    scores: Array, rank: npt.NDArray[np.int32], full: Array, counts: npt.NDArray[np.int64]
) -> tuple[Array, Array]:
    """Overlap `[resamples, counts]` of the best neurons of `scores` and `rank` (from 1), and Spearman `[resamples]`."""
    overlap, spearman = np.empty((len(scores), len(counts))), np.empty(len(scores))
    ranks = rankdata(full)
    for number, row in enumerate(scores):
        # Where the k-th best of this resample stands in the full ranking; it is kept at a count if that is no further.
        places = rank[np.argsort(-row, kind="stable")]
        overlap[number] = [float((places[:count] <= count).mean()) for count in counts]
        # Models without a difference score every neuron alike: an order that agrees with no other.
        alike = np.ptp(row) == 0 or np.ptp(full) == 0
        spearman[number] = 0.0 if alike else float(np.corrcoef(rankdata(row), ranks)[0, 1])
    return overlap, spearman


def _spread(values: Array) -> dict[str, float]:
    low, high = np.quantile(values, _RANGE)
    return {"mean": float(values.mean()), "low": float(low), "high": float(high)}
