"""Safety dimensions one after the other, as a table: a row for every step, a column for every dimension."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cnt_pipeline.reports import words
from cnt_pipeline.reports.board import NOT_JUDGED, Cell
from cnt_pipeline.reports.standing import REFERENCES


@dataclass(frozen=True)
class Progress:
    """How one entry got on: `rows` are steps with a cell for each of `columns`, target first, donor last."""

    entry: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


def subject_of(entry: str, step: int) -> str:
    """Key of an entry's checkpoint after a step among subjects of samples; target and donor have step 0."""
    return f"_step{step}-{entry}" if step else entry


def dimension_view(dimension: int, subject: str) -> str:
    """Id of the view of a subject's figure, by the dimension's place."""
    return f"v-d{dimension}-{subject}"


def subjects(document: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Key and name of every subject, with its figures by dimension."""
    for which in REFERENCES:
        yield which, which, document[which]
    for each in document["entries"]:
        for at, step in enumerate(each["steps"], 1):
            yield subject_of(each["entry"], at), f"{each['entry']} after {step['after']}", step["figures"]


def progress(document: Mapping[str, Any] | None) -> tuple[Progress, ...]:
    """A table for every entry of `dimensions.json`; none where the study has no dimensions."""
    if document is None:
        return ()
    names, metric = document["dimensions"], document["metric"]

    def cells(subject: str, figures: Mapping[str, Any], asked: list[str], added: str) -> tuple[Cell, ...]:
        views = [dimension_view(at, subject) for at in range(len(names))]
        shown = (_cell(metric, figures.get(each), each in asked, view) for each, view in zip(names, views, strict=True))
        return (Cell(added), *shown)

    tables = []
    for each in document["entries"]:
        steps = tuple(
            (
                f"after {step['after']}",
                cells(subject_of(each["entry"], at), step["figures"], step["asked"], words.number(step["rows"])),
            )
            for at, step in enumerate(each["steps"], 1)
        )
        target, donor = (cells(which, document[which], names, words.NONE) for which in REFERENCES)
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


def _cell(metric: str, figure: Mapping[str, Any] | None, asked: bool, view: str) -> Cell:
    if figure is None:
        return Cell(NOT_JUDGED if asked else words.NONE)
    interval = words.interval(metric, figure["low"], figure["high"])
    return Cell(words.amount(metric, figure["value"]), interval, view=view)
