"""Every sample behind the figures of a leaderboard: of its rows, of patched targets, and of its safety dimensions."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any

import polars as pl

from cnt_pipeline.completions.schema import Completion
from cnt_pipeline.reports import words
from cnt_pipeline.reports.browse import Browser
from cnt_pipeline.reports.columns import Measured
from cnt_pipeline.reports.dimensions import dimension_view, subject_of, subjects
from cnt_pipeline.reports.every import kinds, looks_at, measures, scope_of, sources_of
from cnt_pipeline.reports.listing import Shelf, filled
from cnt_pipeline.reports.material import Answers, Dimensions
from cnt_pipeline.reports.standing import NAMES, REFERENCES, TASK, LeaderRow, limited, ranked
from cnt_pipeline.reports.views import Scope, Views, view_of
from cnt_pipeline.study.schema import Kind

_PATCHED = "_patched-"
"""Before a row's name: the target with the activations of its neurons patched. No row's name begins so."""


def board_browser(document: Mapping[str, Any], answers: Answers) -> Browser:
    """The samples of a leaderboard; the seeds of a method are its draws."""
    rows = {row["name"]: row for row in ranked(document["rows"])}
    metric, sign = document["metric"], 1 if document["direction"] == "add" else -1
    names = {name: NAMES.get(name, name) for name in rows}
    called = {name: words.CALLED.get(name, name) for name in rows}
    said: dict[str, Mapping[Kind, Sequence[Completion]]] = {name: answers.said[name] for name in rows}
    samples, patched, dimensions = answers.samples, answers.patched, answers.dimensions
    if patched is not None:
        samples = pl.concat([samples, patched.samples.with_columns(subject=_PATCHED + pl.col("subject"))])
        for name in (name for name in rows if name in patched.said):
            said[_PATCHED + name] = patched.said[name]
            names[_PATCHED + name] = f"Target, neurons of {name} patched"
            called[_PATCHED + name] = f"the neurons of {name}"
    if dimensions is not None:
        steps = {subject: name for subject, name, _ in subjects(dimensions.document) if subject not in REFERENCES}
        names, called = {**names, **steps}, {**called, **steps}
    metrics = measures(samples, metric, sign, count())
    sources = sources_of(answers.prompts)
    listed = kinds(answers.prompts, said, metrics, {}, answers.aside)
    apart = [] if dimensions is None else list(_dimension_lists(dimensions, sign))
    shelves = filled([*listed, *apart], names, sources)
    views = Views(called)
    tested = {shelf.key: shelf for shelf in shelves if shelf.tested}
    for label in rows:
        _row_views(views, label, rows, document, metrics, tested, sources)
    if dimensions is not None:
        _dimension_views(views, dimensions, shelves[len(listed) :])
    also = f", and {words.metric_name(metric)} on those of dimensions" if apart else ""
    return Browser(shelves, views.found, names, sources, looks_at(metric, also))


def _row_views(
    views: Views,
    label: str,
    rows: Mapping[str, LeaderRow],
    document: Mapping[str, Any],
    metrics: Mapping[str, Measured],
    tested: Mapping[str, Shelf],
    sources: Sequence[str],
) -> None:
    """A view for every figure of a row that has samples."""
    row, main = rows[label], metrics[document["metric"]]
    for name, found in row["metrics"].items():
        source = document["task"] if name == TASK else None
        metric = metrics["exact_match" if name == TASK else name]
        scope = scope_of(metric, tested, source, sources.index(source) if source is not None else 0)
        views.value(view_of(name, label), metric, label, scope, words.amount(metric.metric, found["value"]))
        other = limited(document).get(name)
        if other is not None and label not in REFERENCES and name in rows[other]["metrics"]:
            change = words.change(metric.metric, found["value"] - rows[other]["metrics"][name]["value"])
            views.difference(view_of(name, label, other), metric, label, other, scope, change)
    if row["recovery"] is not None and label not in REFERENCES:
        told = words.percent(row["recovery"])
        views.recovery(view_of("recovery", label), main, label, scope_of(main, tested), told)
    effect = row.get("causal")
    if effect is not None and effect["value"] is not None:
        told, scope = words.percent(effect["value"]), scope_of(main, tested)
        views.recovery(view_of("causal", label), main, _PATCHED + label, scope, told, "causal effect")


def _dimension_lists(dimensions: Dimensions, sign: int) -> Iterator[Shelf]:
    """A list for each dimension; the columns of each begin at 0."""
    keys = zip(dimensions.samples["entry"], dimensions.samples["step"], strict=True)
    samples = dimensions.samples.with_columns(subject=pl.Series([subject_of(*key) for key in keys], dtype=pl.String))
    for at, (name, prompts) in enumerate(dimensions.prompts.items()):
        columns = measures(samples.filter(dimension=name), dimensions.document["metric"], sign, count())
        said = {subject_of(*who): rows for who, rows in dimensions.said[name].items()}
        yield Shelf(f"d{at}", f"Dimension {name}", prompts, said, tuple(columns.values()), tested=False)


def _dimension_views(views: Views, dimensions: Dimensions, shelves: Sequence[Shelf]) -> None:
    for subject, _, figures in subjects(dimensions.document):
        for at, (name, shelf) in enumerate(zip(dimensions.prompts, shelves, strict=True)):
            column = shelf.columns[0]
            assert isinstance(column, Measured)
            if name in figures:
                told = words.amount(column.metric, figures[name]["value"])
                scope = Scope.of((shelf,), f" of the dimension {name}")
                views.value(dimension_view(at, subject), column, subject, scope, told)
