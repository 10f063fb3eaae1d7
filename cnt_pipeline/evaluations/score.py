"""Score completions: a row per sample, a row per metric with its interval, and paired differences. No model is
loaded."""

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from cnt_pipeline.completions.schema import Completion
from cnt_pipeline.evaluations.schema import METRICS as METRICS_FILE
from cnt_pipeline.evaluations.schema import METRICS_SCHEMA, SAMPLES, SAMPLES_SCHEMA
from cnt_pipeline.measures.intervals import bootstrap_mean, mean_interval
from cnt_pipeline.measures.metrics import METRICS, Metric
from cnt_pipeline.measures.scorers import SCORERS
from cnt_pipeline.prompt_sets.schema import Prompt
from cnt_pipeline.store.parquet import write_parquet
from cnt_pipeline.study.schema import Kind

Said = Mapping[Kind, Sequence[Completion]]
Values = dict[str, float]
"""Mean over variants by prompt id, of the samples that could be judged."""


def score(
    prompts: Mapping[Kind, Sequence[Prompt]],
    said: Mapping[str, Said],
    metrics: Sequence[str],
    seed: int,
    folder: Path,
    aside: Collection[str] = (),
) -> None:
    """Write `samples.parquet` and `metrics.parquet` for every subject of `said` (`target` and `donor` among them).

    Prompts from the sources `aside` count in rows of their own source alone.

    A metric that can judge no sample of any subject (multiple choice without choices) has samples but no row.
    """
    samples, rows = scored(prompts, said, metrics, seed, aside)
    write_parquet(pa.Table.from_pylist(samples, schema=SAMPLES_SCHEMA), folder / SAMPLES)
    write_parquet(pa.Table.from_pylist(rows, schema=METRICS_SCHEMA), folder / METRICS_FILE)


def scored(
    prompts: Mapping[Kind, Sequence[Prompt]],
    said: Mapping[str, Said],
    metrics: Sequence[str],
    seed: int,
    aside: Collection[str] = (),
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of `samples.parquet` and of `metrics.parquet`, of the kinds that `metrics` ask for."""
    samples: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for metric in (METRICS[name] for name in metrics):
        values = {subject: _values(metric, subject, prompts, by_kind, samples) for subject, by_kind in said.items()}
        for source, ids in _sources(metric, prompts, aside).items():
            for subject, judged in values.items():
                here = {name: value for name, value in judged.items() if name in ids}
                if here:
                    row = _row(subject, metric, here, len(ids), values["target"], values["donor"], seed)
                    rows.append(row | {"source": source})
    return samples, rows


def paired(judged: pl.DataFrame, subjects: Sequence[str]) -> list[list[float]]:
    """Values of each of the `subjects` on the prompts that could be judged for all of them, in one order.

    `judged` has the columns subject, id and value; a prompt that has several values counts with their mean.
    """
    chosen = judged.filter(pl.col("subject").is_in(list(subjects)))
    means = chosen.group_by("subject", "id").agg(pl.col("value").mean())
    wide = means.pivot("subject", index="id", values="value")
    if not set(subjects) <= set(wide.columns):
        return [[] for _ in subjects]
    complete = wide.drop_nulls().sort("id")
    return [complete[subject].to_list() for subject in subjects]


def _sources(metric: Metric, prompts: Mapping[Kind, Sequence[Prompt]], aside: Collection[str]) -> dict[str, set[str]]:
    """Prompt ids by source, all that are not `aside` under the empty name first; alone there where one source gave
    them all.

    A metric over several kinds is not split: its sources would be kinds.
    """
    asked = [prompt for kind in metric.kinds for prompt in prompts[kind]]
    found = {"": {prompt.id for prompt in asked if prompt.source not in aside}}
    sources = sorted({prompt.source for prompt in asked})
    if len(metric.kinds) == 1 and len(sources) > 1:
        found |= {source: {prompt.id for prompt in asked if prompt.source == source} for source in sources}
    return found


def _values(
    metric: Metric, subject: str, prompts: Mapping[Kind, Sequence[Prompt]], said: Said, samples: list[dict[str, Any]]
) -> Values:
    scorer = SCORERS[metric.scorer][0]
    judged: dict[str, list[float]] = {}
    for kind in metric.kinds:
        by_id = {prompt.id: prompt for prompt in prompts[kind]}
        for row in said[kind]:
            value = scorer(by_id[row.id], row)
            samples.append(
                {
                    "subject": subject,
                    "metric": metric.name,
                    "kind": kind,
                    "source": by_id[row.id].source,
                    "id": row.id,
                    "variant": row.variant,
                    "value": value,
                }
            )
            if value is not None:
                judged.setdefault(row.id, []).append(value)
    return {name: sum(values) / len(values) for name, values in judged.items()}


def _row(
    subject: str, metric: Metric, judged: Values, asked: int, target: Values, donor: Values, seed: int
) -> dict[str, Any]:
    interval = mean_interval if metric.share else bootstrap_mean
    value, low, high, n = interval(list(judged.values()), seed)
    if metric.exponential:
        value, low, high = math.exp(value), math.exp(low), math.exp(high)
    row: dict[str, Any] = {
        "subject": subject, "metric": metric.name, "value": value, "low": low, "high": high, "n": n,
        "unscored": asked - n,
    }  # fmt: skip
    for name, other in (("target", target), ("donor", donor)):
        shared = [key for key in judged if key in other]
        if shared and subject != name:
            difference = bootstrap_mean([judged[key] - other[key] for key in shared], seed)
            row |= {
                f"vs_{name}": difference.value,
                f"vs_{name}_low": difference.low,
                f"vs_{name}_high": difference.high,
            }
    return row
