"""The leaderboard's table in words: a heading for every model, a column for every figure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cnt_pipeline.measures.metrics import METRICS
from cnt_pipeline.quantities import seconds_text, size_text
from cnt_pipeline.reports import words
from cnt_pipeline.reports.standing import NAMES, REFERENCES, TASK, LeaderRow, Standing, limited, ranked, standing
from cnt_pipeline.reports.views import view_of
from cnt_pipeline.study.schema import Accept

NOT_JUDGED, UNDEFINED = "not judged", "undefined"
_SHOWN = ("attack_success", "utility", TASK, "coherence")
"""Metrics of the table beside the function's and its misfires."""


@dataclass(frozen=True)
class Cell:
    """A figure with its interval or a remark; `mark` says pass or fail, `none` that there is no figure.

    `view` is the id of the samples behind it, empty where there are none. Where the remark holds figures, `breaks` are
    its parts, each with a view of its own.
    """

    text: str
    detail: str = ""
    mark: str = ""
    view: str = ""
    breaks: tuple[tuple[str, str], ...] = ()

    @property
    def none(self) -> bool:
        """Whether there is no figure."""
        return self.text in (words.NONE, NOT_JUDGED, UNDEFINED)


@dataclass(frozen=True)
class Column:
    """A column with what to know about it; `figures` says that its cells are numbers."""

    name: str
    remark: str
    cells: tuple[Cell, ...]
    figures: bool = True


@dataclass(frozen=True)
class Heading:
    """What a row is called: `name` in words, `about` what it is, `grade` a letter or empty, `seeds` with what they
    range over, whose samples are `view`."""

    name: str
    about: str
    grade: str
    pareto: bool
    seeds: str
    view: str
    reference: bool


@dataclass(frozen=True)
class Board:
    """The table: a heading for every row, in order, and columns of as many cells."""

    rows: tuple[Heading, ...]
    columns: tuple[Column, ...]


def board(document: Mapping[str, Any], accept: Accept) -> Board:
    """The table in words, the references first and the methods by recovery."""
    rows = ranked(document["rows"])
    return Board(tuple(_heading(row, document["metric"]) for row in rows), tuple(_columns(document, rows, accept)))


def _heading(row: LeaderRow, metric: str) -> Heading:
    name: str = row["name"]
    reference = name in REFERENCES
    if reference:
        about = "before the edit" if name == "target" else "whole, for reference"
    else:
        about = row["method"] if row["method"].replace("_", "-") != name else ""
    return Heading(
        name=NAMES.get(name, name),
        about=about,
        grade=row["grade"] or "",
        pareto=row["pareto"],
        seeds=_seeds(row, metric),
        view=view_of(metric, name),
        reference=reference,
    )


def _seeds(row: LeaderRow, metric: str) -> str:
    """How many draws a row is the mean of, and how far apart they lie."""
    if row["seeds"] == 1:
        return ""
    drawn = row["by_seed"]
    if not drawn:
        return f"{row['seeds']} seeds"
    return f"{row['seeds']} seeds: {words.interval(metric, min(drawn), max(drawn))}"


def _columns(document: Mapping[str, Any], rows: Sequence[LeaderRow], accept: Accept) -> list[Column]:
    metric, misfire = document["metric"], document["misfire"]
    shown = [name for name in _SHOWN if name in document["metrics"]]
    order = [metric, *(name for name in shown if name == "attack_success"), misfire]
    order += [name for name in shown if name != "attack_success"]
    return [
        *(
            Column(_metric_name(name), _remark(name, document), tuple(_judged(row, name) for row in rows))
            for name in order
        ),
        Column("recovery", "of the way from target to donor", tuple(_recovered(row) for row in rows)),
        *_effects(rows),
        Column("within limits", limited_by(document), tuple(_standing(document, row, accept) for row in rows), False),
        Column("parameters changed", "share of all", tuple(_changed(row) for row in rows)),
        Column("modules touched", "", tuple(Cell(_mean(row["modules"])) for row in rows)),
        Column("wall time", "without shared probes", tuple(_time(row["seconds"]) for row in rows)),
        Column("peak memory", "above the start", tuple(_memory(row["peak_memory"]) for row in rows)),
    ]


def limited_by(document: Mapping[str, Any]) -> str:
    """What the study limits, in words."""
    return "misfires, utility and task" if document["task"] is not None else "misfires and utility"


def _metric_name(metric: str) -> str:
    return "task accuracy" if metric == TASK else words.metric_name(metric)


def _remark(metric: str, document: Mapping[str, Any]) -> str:
    if metric == document["metric"]:
        return "higher is better" if document["direction"] == "add" else "lower is better"
    if metric == "attack_success" and document["direction"] == "delete":
        return ""
    better = METRICS["exact_match" if metric == TASK else metric].better
    wanted = "" if better == "depends" else f"{better} is better"
    return f"misfires, {wanted}" if metric == document["misfire"] else wanted


def _judged(row: LeaderRow, metric: str) -> Cell:
    found = row["metrics"].get(metric)
    if found is None:
        return Cell(NOT_JUDGED)
    shown = "exact_match" if metric == TASK else metric
    interval = words.interval(shown, found["low"], found["high"])
    return Cell(words.amount(shown, found["value"]), interval, view=view_of(metric, row["name"]))


def _standing(document: Mapping[str, Any], row: LeaderRow, accept: Accept) -> Cell:
    if row["name"] in REFERENCES:
        return Cell(words.NONE)
    found = standing(document, row, accept)
    breaks = tuple(_offences(document, row["name"], found))
    detail = "; ".join(text for text, _ in breaks)
    if found.holds is None:
        return Cell(NOT_JUDGED, detail)
    return Cell("yes", "", "pass") if found.holds else Cell("no", detail, "fail", breaks=breaks)


def _offences(document: Mapping[str, Any], name: str, found: Standing) -> Iterator[tuple[str, str]]:
    """What a row breaks, or what of it cannot be said, each with its view."""
    for limit in found.limits:
        what, judged = _metric_name(limit.metric), "exact_match" if limit.metric == TASK else limit.metric
        if limit.harm is None:
            yield f"{what} {NOT_JUDGED}", ""
        elif not limit.keeps:
            change = limit.harm if limit.metric == document["misfire"] else -limit.harm
            view = view_of(limit.metric, name, limited(document)[limit.metric])
            yield f"{what} {words.change(judged, change)}", view


def _recovered(row: LeaderRow) -> Cell:
    """The share with its interval; target and donor are its ends and have none."""
    if row["recovery"] is None or row["name"] in REFERENCES:
        return Cell(words.percent(row["recovery"]))
    view = view_of("recovery", row["name"])
    return _covered(row["recovery"], row["recovery_low"], row["recovery_high"], view)


def _effects(rows: Sequence[LeaderRow]) -> list[Column]:
    """The causal effects, where some method is measured so."""
    if not any(row.get("causal") for row in rows):
        return []
    return [Column("causal effect", "of its neurons' activations", tuple(_caused(row) for row in rows))]


def _caused(row: LeaderRow) -> Cell:
    effect = row.get("causal")
    if effect is None:
        return Cell(words.NONE)
    if effect["value"] is None:
        return Cell(UNDEFINED)
    return _covered(effect["value"], effect["low"], effect["high"], view_of("causal", row["name"]))


def _covered(value: float, low: float, high: float, view: str) -> Cell:
    """A share of the way from target to donor."""
    return Cell(words.percent(value), f"{words.percent(low)} to {words.percent(high)}", view=view)


def _changed(row: LeaderRow) -> Cell:
    if row["parameters"] is None:
        return Cell(words.NONE)
    share = "" if row["share"] is None else words.share(row["share"])
    return Cell(words.number(round(row["parameters"])), share)


def _mean(value: float | None) -> str:
    """A count, with one decimal where it is a mean over seeds that is none."""
    if value is None:
        return words.NONE
    return words.number(int(value)) if float(value).is_integer() else words.number(value, 1)


def _time(seconds: float | None) -> Cell:
    return Cell(words.NONE if seconds is None else _unbroken(seconds_text(seconds)))


def _memory(size: float | None) -> Cell:
    return Cell(words.NONE if size is None else _unbroken(size_text(size)))


def _unbroken(text: str) -> str:
    return text.replace(" ", words.SPACE)
