"""The leaderboard: every method of a study on the same test prompts, with what it changed and what it took."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import polars as pl

from cnt_pipeline.errors import InputError
from cnt_pipeline.evaluations.causal import causal_effects
from cnt_pipeline.evaluations.ntrr import recovered
from cnt_pipeline.evaluations.schema import METRICS, SAMPLES
from cnt_pipeline.evaluations.score import Said, paired, score
from cnt_pipeline.measures.cost import Cost
from cnt_pipeline.measures.metrics import MISFIRES, ROUNDING
from cnt_pipeline.prompt_sets.schema import Prompt
from cnt_pipeline.study.schema import Function, Kind
from cnt_pipeline.transplants.edit.row import EditRow

FILE = "leaderboard.json"
TASK = "exact_match"
"""Metric of the user's task: its prompts have one right answer."""


@dataclass(frozen=True)
class Entry:
    """One line of the leaderboard before it is measured; target and donor have no method.

    `parameters` and `modules` are what differs from the target, `share` of all its parameters: means over `seeds`
    draws.
    """

    label: str
    method: str | None = None
    grade: str | None = None
    source: str | None = None
    parameters: float | None = None
    share: float | None = None
    modules: float | None = None
    cost: Cost | None = None
    seeds: int = 1

    @classmethod
    def of_edits(
        cls, label: str, row: EditRow, documents: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]
    ) -> "Entry":
        """The line of a method from its `edit.json` and what the build took, a pair for every seed."""
        edits, costs = zip(*documents, strict=True)
        peaks = [cost["peak_memory"] for cost in costs if cost["peak_memory"] is not None]
        return cls(
            label=label,
            method=row.name,
            grade=row.grade,
            source=row.source,
            parameters=fmean(edit["parameters"] for edit in edits),
            share=fmean(edit["parameters"] / edit["total"] for edit in edits),
            modules=fmean(edit["modules"] for edit in edits),
            cost=Cost(fmean(cost["seconds"] for cost in costs), max(peaks, default=None)),
            seeds=len(documents),
        )


def write_leaderboard(
    function: Function,
    prompts: Mapping[Kind, Sequence[Prompt]],
    said: Mapping[str, Said],
    entries: Sequence[Entry],
    metrics: Sequence[str],
    task: str | None,
    seed: int,
    folder: Path,
    aside: Collection[str] = (),
    patched: Mapping[str, Said] | None = None,
) -> dict[str, Any]:
    """Write `leaderboard.json` with `samples.parquet` and `metrics.parquet`; returns the document.

    Args:
        said: completions by label (`target`, `donor`, then the entries); a variant for every seed.
        aside: sources that count in rows of their own alone.
        task: the source of the utility prompts that hold the user's task; None where the study has none.
        patched: what the target says with the activations of an entry's neurons patched, by label, for those entries
            whose causal effect is measured; their samples are written as `causal.parquet`.

    Raises:
        InputError: no utility prompt comes from `task`.
    """
    source = _task_source(prompts["utility"], task)
    score(prompts, said, metrics, seed, folder, aside)
    measured = pl.read_parquet(folder / METRICS, glob=False)
    metric = metrics[0]
    judged_prompts = pl.read_parquet(folder / SAMPLES, glob=False).filter(
        pl.col("metric") == metric, ~pl.col("source").is_in(list(aside)), pl.col("value").is_not_null()
    )
    rows = []
    for entry in entries:
        found = {
            row["metric"]: _figure(row) for row in measured.filter(subject=entry.label, source="").iter_rows(named=True)
        }
        if source is not None:
            own = "" if {prompt.source for prompt in prompts["utility"]} == {source} else source
            judged = measured.filter(subject=entry.label, metric=TASK, source=own)
            for row in judged.iter_rows(named=True):
                found["task"] = _figure(row)
        rows.append(_row(entry, found, _by_seed(judged_prompts, entry)))
    _recoveries(rows, judged_prompts, function.sign, seed)
    if patched:
        effects = causal_effects(prompts, said, patched, metric, seed, folder, aside)
        for row in rows:
            if row["name"] in effects:
                row["causal"] = effects[row["name"]]
    _mark_front(rows, metric, function.sign)
    document = {
        "metric": metric,
        "misfire": MISFIRES[metric],
        "direction": function.direction,
        "task": source,
        "metrics": [*metrics, *(["task"] if source is not None else [])],
        "rows": rows,
    }
    (folder / FILE).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return document


def _task_source(prompts: Sequence[Prompt], task: str | None) -> str | None:
    if task is None:
        return None
    sources = sorted({prompt.source for prompt in prompts})
    found = [task] if task in sources else [source for source in sources if source.endswith(task)]
    if len(found) != 1:
        raise InputError(
            f"compare.task names '{task}', but the utility test prompts come from {', '.join(sources)}; name one of "
            "them"
        )
    return found[0]


def _figure(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("value", "low", "high", "n", "vs_target", "vs_target_low", "vs_target_high")}


def _by_seed(samples: pl.DataFrame, entry: Entry) -> list[float]:
    """The function metric of every draw, where there are several."""
    if entry.seeds == 1:
        return []
    own = samples.filter(subject=entry.label)
    means = own.group_by("variant").agg(pl.col("value").mean()).sort("variant")
    return [float(value) for value in means["value"]]


def _row(entry: Entry, metrics: Mapping[str, Any], by_seed: list[float]) -> dict[str, Any]:
    return {
        "name": entry.label,
        "method": entry.method,
        "grade": entry.grade,
        "source": entry.source,
        "metrics": dict(metrics),
        "parameters": entry.parameters,
        "share": entry.share,
        "modules": entry.modules,
        "seconds": None if entry.cost is None else entry.cost.seconds,
        "peak_memory": None if entry.cost is None else entry.cost.peak_memory,
        "seeds": entry.seeds,
        "by_seed": by_seed,
        "recovery": None,
        "recovery_low": None,
        "recovery_high": None,
        "pareto": False,
    }


def _recoveries(rows: Sequence[dict[str, Any]], samples: pl.DataFrame, sign: int, seed: int) -> None:
    """The share of the distance from target to donor that each row covers, resampled over prompts.

    A prompt that one of the three models left unjudged is left out; of several draws it counts with their mean.
    """
    for row in rows:
        target, donor, own = paired(samples, ("target", "donor", row["name"]))
        if sign * (sum(donor) - sum(target)) <= ROUNDING:
            continue
        found = recovered(sign, target, donor, own, seed)
        row |= {"recovery": found.value, "recovery_low": found.low, "recovery_high": found.high}


def _mark_front(rows: Sequence[dict[str, Any]], metric: str, sign: int) -> None:
    """Mark the methods that no other beats in everything: function, misfires, the task (or utility), parameters."""
    misfire = MISFIRES[metric]

    def worth(row: dict[str, Any]) -> tuple[float, ...]:
        kept = row["metrics"].get("task") or row["metrics"]["utility"]
        return (
            sign * row["metrics"][metric]["value"],
            -row["metrics"][misfire]["value"],
            kept["value"],
            -(row["share"] or 0.0),
        )

    judged = [row for row in rows if row["method"] and {metric, misfire, "utility"} <= row["metrics"].keys()]
    for row in judged:
        mine = worth(row)
        row["pareto"] = not any(_beats(worth(other), mine) for other in judged if other is not row)


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)
