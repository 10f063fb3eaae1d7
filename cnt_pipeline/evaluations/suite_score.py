"""Score a suite: a row per sample, a row per figure with its interval and paired differences. No model is loaded."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cnt_pipeline.completions.answers import Answer
from cnt_pipeline.evaluations.schema import METRICS as METRICS_FILE
from cnt_pipeline.evaluations.schema import METRICS_SCHEMA, SAMPLES
from cnt_pipeline.measures.bias import Array
from cnt_pipeline.measures.intervals import CONFIDENCE, RESAMPLES, Estimate, bootstrap_mean, mean_interval
from cnt_pipeline.measures.suite_metrics import SuiteMetric
from cnt_pipeline.prompt_sets.items import Item
from cnt_pipeline.store.parquet import write_parquet

SUITE_SAMPLES_SCHEMA = pa.schema(
    [
        ("subject", pa.string()),
        ("part", pa.string()),
        ("metric", pa.string()),
        ("source", pa.string()),
        ("id", pa.string()),
        ("group", pa.string()),
        ("value", pa.float64()),
    ]
)
"""A row per answer; `value` is what that answer is worth, null where it could not be judged."""
SUITE_METRICS_SCHEMA = pa.schema(
    [
        METRICS_SCHEMA.field("subject"),
        ("part", pa.string()),
        METRICS_SCHEMA.field("metric"),
        *[METRICS_SCHEMA.field(name) for name in METRICS_SCHEMA.names[2:]],
        ("unit", pa.string()),
        ("better", pa.string()),
        ("meaning", pa.string()),
    ]
)
"""As the report's metrics, with the part of the suite; `source` names what its prompts are from.

`value` is null where the answers leave a score undefined.
"""
_REFERENCES = ("target", "donor")
_AT_ONCE = 200
"""Resamples that are summed at once."""


@dataclass(frozen=True)
class Figure:
    """A metric of a part, judged for every subject: counts by item id, of the items that could be judged.

    `asked` is how many items the metric is about, `groups` the group of each.
    """

    part: str
    name: str
    source: str
    unit: str
    better: str
    meaning: str
    asked: int
    groups: Mapping[str, str]
    judged: Mapping[str, Mapping[str, tuple[float, ...]]]
    pooled: Callable[[Array], Array] | None = None
    by_group: bool = False


def judge(
    part: str, metric: SuiteMetric, items: Sequence[Item], said: Mapping[str, Sequence[Answer]]
) -> tuple[list[dict[str, Any]], Figure | None]:
    """The samples of one metric of a part, and its figure; none where it is about no item of it."""
    asked = {item.id: item for item in items if metric.asked(item)}
    if not asked:
        return [], None
    samples: list[dict[str, Any]] = []
    judged: dict[str, dict[str, tuple[float, ...]]] = {subject: {} for subject in said}
    for subject, answers in said.items():
        for answer in answers:
            if answer.id not in asked:
                continue
            item = asked[answer.id]
            counts = metric.counts(item, answer)
            if counts is not None:
                judged[subject][item.id] = counts
            samples.append(
                {
                    "subject": subject, "part": part, "metric": metric.name, "source": item.source, "id": item.id,
                    "group": item.group, "value": None if counts is None else metric.value(counts),
                }
            )  # fmt: skip
    figure = Figure(
        part, metric.name, ", ".join(sorted({item.source for item in asked.values()})), metric.unit, metric.better,
        metric.meaning, len(asked), {name: item.group for name, item in asked.items()}, judged, metric.pooled,
        metric.by_group,
    )  # fmt: skip
    return samples, figure


def write_suite(
    samples: list[dict[str, Any]], figures: Iterable[Figure], plain: list[dict[str, Any]], seed: int, folder: Path
) -> None:
    """Write `samples.parquet` and `metrics.parquet`, with rows that came as they are after the figures'.

    A figure of which nothing could be judged has no row.
    """
    rows = [*(row for figure in figures for row in figure_rows(figure, seed)), *plain]
    write_parquet(pa.Table.from_pylist(samples, schema=SUITE_SAMPLES_SCHEMA), folder / SAMPLES)
    write_parquet(pa.Table.from_pylist(rows, schema=SUITE_METRICS_SCHEMA), folder / METRICS_FILE)


def figure_rows(figure: Figure, seed: int) -> list[dict[str, Any]]:
    """A row per subject of which anything could be judged, with differences from target and donor on shared items.

    Resamples are drawn over items in the order of their ids, so that no interval hangs on the order of a file.
    """
    rows = []
    for subject, unordered in figure.judged.items():
        judged = dict(sorted(unordered.items()))
        if not judged:
            continue
        row: dict[str, Any] = {
            "subject": subject, "part": figure.part, "metric": figure.name, "source": figure.source,
            "unit": figure.unit, "better": figure.better, "meaning": figure.meaning,
            "unscored": figure.asked - len(judged), **_row(_estimate(figure, judged, seed), ""),
        }  # fmt: skip
        row["n"] = len(judged)
        for name in _REFERENCES:
            other = figure.judged.get(name, {})
            shared = [key for key in judged if key in other]
            if shared and subject != name:
                row |= _row(_difference(figure, judged, other, shared, seed), f"vs_{name}")
        rows.append(row)
    return rows


def _row(estimate: Estimate | None, prefix: str) -> dict[str, float | None]:
    names = ("low", "high") if not prefix else (f"{prefix}_low", f"{prefix}_high")
    values = (None, None, None) if estimate is None else estimate[:3]
    return dict(zip((prefix or "value", *names), values, strict=True))


def _estimate(figure: Figure, judged: Mapping[str, tuple[float, ...]], seed: int) -> Estimate | None:
    if figure.pooled is None:
        interval = mean_interval if figure.unit == "share" else bootstrap_mean
        return interval([counts[0] for counts in judged.values()], seed)
    return _resampled(lambda sums: figure.pooled(sums[0]), [_table(figure, judged, list(judged))], seed)  # type: ignore[misc]


def _difference(
    figure: Figure,
    judged: Mapping[str, tuple[float, ...]],
    other: Mapping[str, tuple[float, ...]],
    shared: Sequence[str],
    seed: int,
) -> Estimate | None:
    """The figure of a subject minus that of another, on the items that were judged for both."""
    pooled = figure.pooled
    if pooled is None:
        return bootstrap_mean([judged[key][0] - other[key][0] for key in shared], seed)
    tables = [_table(figure, counts, shared) for counts in (judged, other)]
    return _resampled(lambda sums: pooled(sums[0]) - pooled(sums[1]), tables, seed)


def _table(figure: Figure, judged: Mapping[str, tuple[float, ...]], names: Sequence[str]) -> Array:
    """Counts `[items, groups x columns]`; each item in the columns of its own group."""
    values = np.array([judged[name] for name in names], dtype=np.float64)
    if not figure.by_group:
        return values
    groups = sorted({figure.groups[name] for name in names})
    table = np.zeros((len(names), len(groups), values.shape[1]))
    table[np.arange(len(names)), [groups.index(figure.groups[name]) for name in names]] = values
    return table


def _resampled(compute: Callable[[list[Array]], Array], tables: list[Array], seed: int) -> Estimate | None:
    """A score of sums with its percentile bootstrap interval over items; None where it is undefined.

    Resamples in which it is undefined are left out.
    """
    items = len(tables[0])
    value = float(compute([table.sum(0) for table in tables]))
    if not np.isfinite(value):
        return None
    generator = np.random.default_rng(seed)
    drawn = []
    for begin in range(0, RESAMPLES, _AT_ONCE):
        times = min(_AT_ONCE, RESAMPLES - begin)
        weights = generator.multinomial(items, np.full(items, 1 / items), size=times).astype(np.float64)
        drawn.append(compute([np.tensordot(weights, table, 1) for table in tables]))
    found = np.concatenate(drawn)
    low, high = np.quantile(found[np.isfinite(found)], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(value, float(low), float(high), items)
