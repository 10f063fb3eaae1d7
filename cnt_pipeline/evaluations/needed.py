"""How many parameters every series of the frontier needs for the same recovery."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from cnt_pipeline.evaluations.schema import NEEDED

CARRIED = 0.95
"""Recovery from which a series counts as carrying the function."""
LEVELS = (0.5, 0.8, 0.9, CARRIED)
"""Recoveries that are looked up; that of the transplant itself comes last."""
CONTROLS = ("random", "largest_delta")

How = Literal["between", "at_most", "not_reached"]


class Needed(NamedTuple):
    """Share of all parameters at which a series reaches a recovery.

    `between` two budgets the recovery is taken to grow linearly with the logarithm of the share; `at_most`: the
    smallest budget drawn already reaches it; `not_reached`: no budget does, `share` is the largest drawn.
    """

    how: How
    share: float


def needed(points: Sequence[tuple[float, float]], level: float) -> Needed:
    """Where `points` (share, recovery) first reach `level`, from the smallest share up."""
    ordered = sorted(points)
    for number, (share, recovery) in enumerate(ordered):
        if recovery < level:
            continue
        if number == 0:
            return Needed("at_most", share)
        below, less = ordered[number - 1]
        part = (level - less) / (recovery - less)
        return Needed("between", math.exp(math.log(below) + part * (math.log(share) - math.log(below))))
    return Needed("not_reached", ordered[-1][0])


def write_needed(rows: Sequence[Mapping[str, Any]], folder: Path) -> Mapping[str, Any]:
    """Write and return `frontier.json` for the rows of `frontier.parquet`.

    `series` lists what every ranking and control needs at each of `levels`, `transplant` what the study's own selection
    moved, and `fewer_than_controls` whether that is less than any control needs at the transplant's recovery (null
    where the transplant recovers nothing).
    """
    transplant = next(row for row in rows if row["series"] == "transplant")
    levels = [*LEVELS, transplant["recovery"]]
    drawn: dict[tuple[Any, ...], list[tuple[float, float]]] = {}
    for row in rows:
        if row["series"] in ("effect", *CONTROLS) and row["variant"] is None:
            name = (row["series"], row["effect"], row["eta"], row["lookalike_weight"])
            drawn.setdefault(name, []).append((row["share"], row["recovery"]))
    series = [
        {
            **dict(zip(("series", "effect", "eta", "lookalike_weight"), name, strict=True)),
            "needed": [needed(points, level)._asdict() for level in levels],
        }
        for name, points in drawn.items()
    ]
    document = {
        "levels": levels,
        "transplant": {key: transplant[key] for key in ("parameters", "share", "recovery", "low", "high")},
        "series": series,
        "fewer_than_controls": _fewer(transplant, series) if transplant["recovery"] > 0 else None,
    }
    (folder / NEEDED).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return document


def _fewer(transplant: Mapping[str, Any], series: Sequence[Mapping[str, Any]]) -> bool:
    """Whether every control was seen to need more parameters for the recovery that the transplant has."""
    wanted = [entry["needed"][-1] for entry in series if entry["series"] in CONTROLS]
    return all(each["how"] != "at_most" and each["share"] > transplant["share"] for each in wanted)
