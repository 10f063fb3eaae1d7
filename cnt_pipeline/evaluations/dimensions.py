"""Safety dimensions one after the other: every dimension so far measured again after each. No model is loaded."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cnt_pipeline.completions.schema import Completion
from cnt_pipeline.evaluations.schema import (
    DIMENSION_SAMPLES_SCHEMA,
    DIMENSIONS,
    DIMENSIONS_SCHEMA,
    DIMENSIONS_TABLE,
    SAMPLES,
)
from cnt_pipeline.evaluations.score import Said, scored
from cnt_pipeline.prompt_sets.schema import Prompt
from cnt_pipeline.store.parquet import write_parquet
from cnt_pipeline.study.schema import Function

Masks = Mapping[str, npt.NDArray[np.bool_]]
"""Edited rows of each stored matrix, `[out]` by tensor name."""
Answers = Mapping[str, Sequence[Completion]]
"""Completions by the dimension whose test prompts were asked."""
_FIGURE = ("value", "low", "high", "n", "vs_target", "vs_target_low", "vs_target_high")


@dataclass(frozen=True)
class Worked:
    """How an entry of the leaderboard worked through the dimensions: its masks and answers after each, in order."""

    entry: str
    method: str
    masks: Mapping[str, Masks]
    said: Mapping[str, Answers]


def write_dimensions(
    function: Function,
    prompts: Mapping[str, Sequence[Prompt]],
    target: Answers,
    donor: Answers,
    worked: Sequence[Worked],
    seed: int,
    folder: Path,
) -> dict[str, Any]:
    """Write `dimensions.json`, `dimensions.parquet` and `samples.parquet`; returns the document. `prompts` are the test
    prompts by dimension, in order; a dimension of which nothing could be judged has no figure."""
    metric = function.measured_by
    scores = {name: _scored(name, asked, metric, target, donor, worked, seed) for name, asked in prompts.items()}
    found = {name: figures for name, (_, figures) in scores.items()}

    def figures(subject: str) -> dict[str, Any]:
        return {name: by_subject[subject] for name, by_subject in found.items() if subject in by_subject}

    document = {
        "metric": metric,
        "direction": function.direction,
        "dimensions": list(prompts),
        "target": figures("target"),
        "donor": figures("donor"),
        "entries": [
            {
                "entry": each.entry,
                "method": each.method,
                "steps": [
                    {"after": name, "asked": list(each.said[name]), **_rows(each, name),
                     "figures": figures(_subject(each, name))}
                    for name in each.masks
                ],
            }
            for each in worked
        ],
    }  # fmt: skip
    (folder / DIMENSIONS).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    write_parquet(pa.Table.from_pylist(_table(document), schema=DIMENSIONS_SCHEMA), folder / DIMENSIONS_TABLE)
    steps = {
        _subject(each, name): {"entry": each.entry, "step": number, "after": name}
        for each in worked
        for number, name in enumerate(each.masks, 1)
    }
    samples = [
        {**row, "dimension": name, **steps.get(row["subject"], {"entry": row["subject"], "step": 0})}
        for name, (rows, _) in scores.items()
        for row in rows
    ]
    write_parquet(pa.Table.from_pylist(samples, schema=DIMENSION_SAMPLES_SCHEMA), folder / SAMPLES)
    return document


def _subject(worked: Worked, after: str) -> str:
    return f"{worked.entry} after {after}"


def _scored(
    name: str,
    prompts: Sequence[Prompt],
    metric: str,
    target: Answers,
    donor: Answers,
    worked: Sequence[Worked],
    seed: int,
) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """Judged samples, and the metric, of every subject that was asked one dimension's prompts."""
    answers = {"target": target[name], "donor": donor[name]} | {
        _subject(each, after): said[name] for each in worked for after, said in each.said.items() if name in said
    }
    asked: dict[str, Said] = {who: {"function": said} for who, said in answers.items()}
    samples, rows = scored({"function": prompts}, asked, (metric,), seed)
    return samples, {row["subject"]: {key: row.get(key) for key in _FIGURE} for row in rows if row["source"] == ""}


def _rows(worked: Worked, name: str) -> dict[str, int]:
    """How many rows a dimension edited, and how many of them an earlier one had edited."""
    order = list(worked.masks)
    mine = worked.masks[name]
    earlier = [worked.masks[other] for other in order[: order.index(name)]]
    held = {tensor: [masks[tensor] for masks in earlier if tensor in masks] for tensor in mine}
    shared = sum(int((mask & np.any(held[tensor], axis=0)).sum()) for tensor, mask in mine.items() if held[tensor])
    return {"rows": sum(int(mask.sum()) for mask in mine.values()), "shared": shared}


def _table(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    measured = [(which, 0, {"figures": document[which]}) for which in ("target", "donor")]
    measured += [
        (each["entry"], number, step) for each in document["entries"] for number, step in enumerate(each["steps"], 1)
    ]
    return [
        {
            "entry": entry,
            "step": number,
            "dimension": name,
            "metric": document["metric"],
            **figure,
            **{key: step.get(key) for key in ("after", "rows", "shared")},
        }
        for entry, number, step in measured
        for name, figure in step["figures"].items()
    ]
