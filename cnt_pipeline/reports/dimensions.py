"""Safety dimensions one after the other, as a table: a row for every step, a column for every dimension."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cnt_pipeline.reports import words
from cnt_pipeline.reports.board import NOT_JUDGED, Cell


@dataclass(frozen=True)
class Progress:
    """How one entry got on: `rows` are steps with a cell for each of `columns`, target first, donor last."""

    entry: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


def progress(document: Mapping[str, Any] | None) -> tuple[Progress, ...]:
    """A table for every entry of `dimensions.json`; none where the study has no dimensions."""
    if document is None:
        return ()
    names, metric = document["dimensions"], document["metric"]

    def cells(figures: Mapping[str, Any], asked: list[str], added: str) -> tuple[Cell, ...]:
        return (Cell(added), *(_cell(metric, figures.get(name), name in asked) for name in names))

    tables = []
    for each in document["entries"]:
        steps = tuple(
            (f"after {step['after']}", cells(step["figures"], step["asked"], words.number(step["rows"])))
            for step in each["steps"]
        )
        target, donor = (cells(document[which], names, words.NONE) for which in ("target", "donor"))
        tables.append(
            Progress(each["entry"], ("new rows", *names), (("Target, before", target), *steps, ("Donor", donor)))
        )
    return tuple(tables)


def progress_note(document: Mapping[str, Any] | None) -> str:
    """What the tables show, and whether the dimensions kept apart, in two sentences; empty where there are none."""
    if document is None:
        return ""
    shared = sum(step["shared"] for each in document["entries"] for step in each["steps"])
    apart = (
        "No row was edited for two dimensions."
        if shared == 0
        else f"{words.number(shared)} rows were edited for more than one dimension, which should not be."
    )
    return (
        f"{words.sentence(words.metric_name(document['metric']))} on the test prompts of each dimension so far, "
        f"measured again after every step; each step adds rows of its own to the checkpoint of the one before. {apart}"
    )


def _cell(metric: str, figure: Mapping[str, Any] | None, asked: bool) -> Cell:
    if figure is None:
        return Cell(NOT_JUDGED if asked else words.NONE)
    return Cell(words.amount(metric, figure["value"]), words.interval(metric, figure["low"], figure["high"]))
