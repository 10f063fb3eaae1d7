"""Models that the study made itself: each recipe in words, and its loss by step."""

import json
from dataclasses import dataclass
from typing import Any

import polars as pl

from cnt_pipeline.reports import words
from cnt_pipeline.reports.figures import Figure
from cnt_pipeline.reports.material import Material, Recipe
from cnt_pipeline.reports.plots import Point, Series, line_plot

_MARKS = (("s-path", "circle"), ("s-delta", "triangle"), ("s-contrast", "plus"), ("s-random", "square"))
_POINTS = 40
"""Points drawn of a training; a point is the mean over the steps since the one before."""
_TOLD = ("from", "base", "lessons")
"""Keys of a recipe that the sentences tell, so that its table leaves them out."""


@dataclass(frozen=True)
class Made:
    """One derived model as the page shows it."""

    name: str
    base: str
    lessons: tuple[str, ...]
    settings: tuple[tuple[str, str], ...]
    figure: Figure | None


def recipes(material: Material) -> list[Made]:
    """The models that were made from others, in the order made."""
    return [
        Made(
            name=recipe.name,
            base=str(recipe.keys["base"]),
            lessons=tuple(_lesson(lesson) for lesson in recipe.keys["lessons"]),
            settings=tuple((key.replace("_", " "), _value(v)) for key, v in recipe.keys.items() if key not in _TOLD),
            figure=_figure(recipe),
        )
        for recipe in material.recipes
    ]


def _lesson(lesson: Any) -> str:
    answers = lesson["answers"]
    taught = {
        "own": "the base model's own answers",
        "reference": "the reference answers of the prompts",
    }.get(answers if isinstance(answers, str) else "", "")
    if not taught:
        quoted = "; ".join(f"“{text}”" for text in answers)
        taught = f"{len(answers)} answer{'s' if len(answers) > 1 else ''} in turn ({quoted})"
    kinds = words.listed([words.KINDS[kind] for kind in lesson["prompts"]])
    return f"{words.sentence(kinds)} prompts with {taught}, weight {lesson['share']:g}."


def _value(value: Any) -> str:
    if value is None:
        return "all"
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value)


def _figure(recipe: Recipe) -> Figure | None:
    """Loss by step, one line for each column of losses."""
    table = recipe.training.sort("step")
    columns = [name for name, kind in table.schema.items() if "loss" in name and kind.is_float()]
    series = []
    for place, column in enumerate(columns):
        look, marker = _MARKS[place % len(_MARKS)]
        series.append(Series(column.replace("_", " "), _thinned(table, column), look, marker))
    if not any(one.points for one in series):
        return None
    first, last = (float(series[0].points[at].y) for at in (0, -1))
    return Figure(
        f"Training of {recipe.name}",
        line_plot(
            f"training-{recipe.name}",
            "Loss by step (log scale)",
            f"The loss goes from {first:.3g} to {last:.3g} nats a token in {len(table):,} steps.",
            series,
            "step (log scale)",
            "loss (nats a token)",
            lambda x: f"{x:.12g}",
            lambda y: f"{y:g}",
            y_range=(0.0, max(point.y for one in series for point in one.points)),
        ),
        f"From {first:.3g} to {last:.3g} nats a token; every mark is the mean over the steps since the one before.",
    )


def _thinned(table: pl.DataFrame, column: str) -> list[Point]:
    known = table.filter(pl.col(column).is_not_null() & pl.col(column).is_finite())
    size = max(1, -(-len(known) // _POINTS))
    first = 0 if 0 not in known["step"] else 1  # the axis is logarithmic, and steps may be counted from 0
    points = []
    for begin in range(0, len(known), size):
        part = known.slice(begin, size)
        points.append(Point(float(part["step"].to_list()[-1]) + first, float(part[column].to_numpy().mean())))
    return points
