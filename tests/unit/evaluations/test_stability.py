"""Stability equals what numpy and scipy say of the same resampled prompts."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from scipy.stats import spearmanr

from cnt_pipeline.activation_caches.capture import Item, capture
from cnt_pipeline.activation_caches.read import weighted_means
from cnt_pipeline.activation_caches.schema import STATISTICS
from cnt_pipeline.evaluations.schema import STABILITY
from cnt_pipeline.evaluations.stability import SHARES, write_stability
from cnt_pipeline.neuron_rankings.query import RANKING, rank

WIDTHS = {(0, "q"): 40, (0, "down"): 70, (1, "q"): 40, (1, "down"): 70, (10, "q"): 40}
SIZES = {key: 8 if key[1] == "q" else 24 for key in WIDTHS}
TOTAL = 2 * sum(SIZES[key] * width for key, width in WIDTHS.items())
ROLES = {"transfer": {"function": 50}, "misfire": {"lookalike": 21}, "keep": {"lookalike": 21, "utility": 34}}
RESAMPLES, SEED, MU, WEIGHTS = 12, 5, 0.7, [0.0, 0.5]
Values = npt.NDArray[np.float64]


def names(role: str) -> list[str]:
    return [f"{role[0]}{number:03d}" for number in range({r: n for c in ROLES.values() for r, n in c.items()}[role])]


def made(folder: Path, positive: bool = False) -> tuple[dict[str, list[Path]], dict[str, dict[str, Values]]]:
    """Caches of every objective, and their values `[prompts, neurons]` by role with neurons in ranking order."""
    generator = np.random.default_rng(1)
    means = {key: generator.normal(0.1, 0.4, width) for key, width in WIDTHS.items()}
    shards: dict[str, list[Path]] = {}
    values: dict[str, dict[str, Values]] = {}
    for objective, roles in ROLES.items():
        items = [Item(name, role, 5 + number % 7) for role in roles for number, name in enumerate(names(role))]
        raw = {
            key: (mean + generator.normal(0, 0.5, (len(items), len(mean)))).astype(np.float32)
            for key, mean in means.items()
        }
        if positive:
            raw = {key: np.square(array) for key, array in raw.items()}
        place = folder / objective
        place.mkdir()
        capture(lambda members, raw=raw: {key: array[members] for key, array in raw.items()}, items, place)  # type: ignore[misc]
        shards[objective] = sorted(place.glob("*-[0-9]*.parquet"))
        whole = np.concatenate([raw[key] for key in sorted(raw)], axis=1).astype(np.float64)
        values[objective] = {role: whole[[item.role == role for item in items]] for role in roles}
    return shards, values


def draws() -> dict[str, npt.NDArray[np.int64]]:
    """Counts `[resamples, prompts]` by role: seeded, roles in alphabetical order."""
    generator = np.random.default_rng(SEED)
    return {
        role: generator.multinomial(len(names(role)), [1 / len(names(role))] * len(names(role)), size=RESAMPLES)
        for role in ("function", "lookalike", "utility")
    }


def resampled(values: dict[str, Values], counts: dict[str, npt.NDArray[np.int64]], number: int) -> Values:
    """Mean over prompts repeated as often as they were drawn."""
    rows = [np.repeat(array, counts[role][number], axis=0) for role, array in values.items()]
    mean: Values = np.concatenate(rows).mean(0)
    return mean


@pytest.mark.parametrize("effect", ["path", "contrast"])
def test_overlap_and_rank_correlation_equal_a_reference_by_repetition(tmp_path: Path, effect: str) -> None:
    shards, values = made(tmp_path, positive=effect == "contrast")
    if effect == "contrast":
        shards, values = {"transfer": shards["transfer"]}, {"transfer": values["transfer"]}
    tables = {name: tmp_path / name / STATISTICS for name in shards}
    parameters = {} if effect == "contrast" else {"weights": WEIGHTS, "damage_weight": MU}
    rank("contrast" if effect == "contrast" else "effect", tables, parameters, tmp_path)
    write_stability(
        effect, shards, tmp_path / RANKING, SIZES, TOTAL, MU, RESAMPLES, SEED, tmp_path,  # type: ignore[arg-type]
    )  # fmt: skip
    rows = pl.read_parquet(tmp_path / STABILITY)
    ranking = pl.read_parquet(tmp_path / RANKING)
    counts = draws()
    for weight in [0.0] if effect == "contrast" else WEIGHTS:
        full = ranking.filter(lookalike_weight=weight).sort("layer", "family", "neuron")
        scores = []
        for number in range(RESAMPLES):
            mean = {name: resampled(by_role, counts, number) for name, by_role in values.items()}
            if effect == "contrast":
                scores.append(np.sqrt(mean["transfer"]))
            else:
                damage = np.maximum(-mean["keep"], 0)
                scores.append(mean["transfer"] - weight * mean["misfire"] - MU * damage)
        part = rows.filter(lookalike_weight=weight)
        (found,) = part.filter(measure="spearman").to_dicts()
        expected = [float(spearmanr(score, full["score"].to_numpy()).statistic) for score in scores]
        assert found["mean"] == pytest.approx(np.mean(expected))
        assert (found["low"], found["high"]) == pytest.approx(tuple(np.quantile(expected, [0.05, 0.95])))
        overlaps = part.filter(measure="overlap").to_dicts()
        assert len(overlaps) > 3
        for row in overlaps:
            count = row["neurons"]
            best = set(np.flatnonzero(full["rank"].to_numpy() <= count))
            kept = [len(best & set(np.argsort(-score)[:count])) / count for score in scores]
            assert row["mean"] == pytest.approx(np.mean(kept))
            assert (row["low"], row["high"]) == pytest.approx(tuple(np.quantile(kept, [0.05, 0.95])))
            size = sum(SIZES[key] for key in full.filter(pl.col("rank") <= count).select("layer", "family").iter_rows())
            assert row["share"] == pytest.approx(size / TOTAL)
            assert any(row["share"] <= share for share in SHARES)


def test_equal_weights_give_the_ranking_itself(tmp_path: Path) -> None:
    shards, values = made(tmp_path)
    once = {("function", name): np.ones(1) for name in names("function")}
    means = weighted_means(shards["transfer"], once)
    joined = np.concatenate([means[key][0] for key in sorted(means)])
    assert joined == pytest.approx(values["transfer"]["function"].mean(0))
