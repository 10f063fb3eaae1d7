"""What was said on selection prompts in a search and for its frontier, with the figures that follow from it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from cnt_pipeline.completions.schema import Completion
from cnt_pipeline.evaluations.needed import write_needed
from cnt_pipeline.evaluations.schema import FRONTIER_SAMPLES, FRONTIER_SCHEMA
from cnt_pipeline.prompt_sets.schema import Prompt
from cnt_pipeline.reports.material import Material, Selected
from cnt_pipeline.study.schema import KINDS, Kind
from cnt_pipeline.transplants.select.samples import TRIAL_SAMPLES, Samples


def selected(
    plain: Material,
    prompts: Mapping[Kind, Sequence[Prompt]],
    said: Callable[..., Mapping[Kind, Sequence[Completion]]],
    folder: Path,
) -> dict[str, Any]:
    """Three candidates, of which the last asks again for the second, and a frontier that the search's transplant is on:
    the fields of the material that hold them.

    `said` gives what a subject says in so many draws. Little is asked of random neurons; one general answer of each
    cannot be judged, of the target another one.
    """
    unjudged = ("utility9", "utility7")
    asked = {kind: [replace(each, id=f"s-{each.id}") for each in rows] for kind, rows in prompts.items()}

    def told(subject: str, draw: int = 0, kinds: tuple[Kind, ...] = KINDS) -> dict[Kind, list[Completion]]:
        return {
            kind: [
                replace(row, id=f"s-{row.id}", variant=0,
                        target_agreement=None if row.id == unjudged[subject == "target"] else row.target_agreement)
                for row in said(subject, draw + 1)[kind] if row.variant == draw
            ]
            for kind in kinds
        }  # fmt: skip

    tables: list[pl.DataFrame] = []

    def figures(samples: Samples, name: str, *sets: dict[Kind, list[Completion]]) -> list[dict[str, Any]]:
        for rows in (told("target"), told("donor"), *sets):
            samples.add("refusal", asked, rows)
        samples.write(folder / name)
        tables.append(pl.read_parquet(folder / name))
        means = {
            (number, metric): value
            for number, metric, value in tables[-1].group_by("asked", "metric").agg(pl.mean("value")).iter_rows()
        }
        reached = {number: value for (number, metric), value in means.items() if metric == "refusal"}
        return [
            {
                "asked": number, "function": reached[number], "misfire": means.get((number, "over_refusal")),
                "utility": means.get((number, "utility")),
                "recovery": (reached[number] - reached[0]) / (reached[1] - reached[0]),
            }
            for number in sorted(reached)
        ]  # fmt: skip

    only: tuple[Kind, ...] = ("function",)
    tried = figures(Samples(), TRIAL_SAMPLES, told("control_largest_delta", kinds=only), told("transplant"))
    points = figures(
        Samples(), FRONTIER_SAMPLES, told("transplant"), *(told("control_random", draw, only) for draw in range(3)),
        told("control_largest_delta"),
    )  # fmt: skip
    trials = pl.DataFrame(
        [
            plain.trials.row(place, named=True) | figured | {"number": n}
            for n, (place, figured) in enumerate(((0, tried[2]), (1, tried[3]), (1, tried[3])))
        ]
    )
    drawn = points[3:6]
    mean = {name: sum(row[name] for row in drawn) / 3 for name in ("function", "recovery")}
    mean |= dict.fromkeys(("asked", "misfire", "utility"))
    rows = [
        ("transplant", "path", None, tried[3] | {"asked": None}),
        ("effect", "path", None, points[2]),
        *(("random", None, variant, row) for variant, row in enumerate(drawn)),
        ("random", None, None, mean),
        ("largest_delta", None, None, points[6]),
        ("whole_donor", None, None, points[1]),
    ]
    about = {"selection": None, "eta": 1.0, "lookalike_weight": None, "neurons": 4, "parameters": 64, "share": 0.01}
    frontier = pl.DataFrame(
        [
            about | {"series": series, "effect": effect, "variant": variant, "coherence": None, "low": 0.0, "high": 1.0}
            | figured
            for series, effect, variant, figured in rows
        ],
        schema=pl.DataFrame(FRONTIER_SCHEMA.empty_table()).schema,
    )  # fmt: skip
    return {
        "selected": Selected(asked, *tables),
        "frontier": frontier,
        "needed": write_needed(frontier.to_dicts(), folder),
        "trials": trials,
        "selection": {**plain.selection, "asked": tried[3]["asked"]},
    }
