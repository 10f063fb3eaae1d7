"""The samples behind figures on selection prompts: of the search's candidates and the frontier's points.

Whoever says the same to every prompt of a kind shares one class there, by which the style rules pick it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from cnt_pipeline.completions.schema import Completion
from cnt_pipeline.measures.metrics import metric_of
from cnt_pipeline.prompt_sets.schema import Prompt
from cnt_pipeline.reports import words
from cnt_pipeline.reports.choices import told_choices
from cnt_pipeline.reports.columns import Measured
from cnt_pipeline.reports.frontier import NAMES, drawn
from cnt_pipeline.reports.listing import Shelf
from cnt_pipeline.reports.material import Material, Selected
from cnt_pipeline.reports.views import Scope, Views, point_view, trial_view, view_of
from cnt_pipeline.study.schema import KINDS, Kind

FIGURES: dict[Kind, str] = {"function": "recovery", "lookalike": "misfire", "utility": "utility"}
"""The figure of both tables that each kind of selection prompts stands behind."""
TARGET, DONOR = ("t", 0), ("t", 1)

Place = tuple[str, int]
"""A set of neurons: t for the search's samples or f for the frontier's, and its number there."""


@dataclass(frozen=True)
class Heard:
    """One answer, alike where a reader sees no difference."""

    id: str
    value: float | None
    text: str
    chances: tuple[tuple[str, str], ...]
    choice_loglik: tuple[float, ...] = field(compare=False)


@dataclass(frozen=True)
class Row:
    """A row of either table, or one draw of it: the end of its views' ids, its name in a sentence, and its figures.

    `asked` are the sets behind it, one for each of its `draws`; `subject` is set where it is one of the report's own
    models.
    """

    view: str
    called: str
    figures: Mapping[str, Any]
    asked: tuple[Place, ...]
    draws: tuple["Row", ...] = ()
    subject: str = ""


class Selection:
    """What was said on the selection prompts, by the classes of the page."""

    def __init__(self, material: Material, selected: Selected) -> None:
        self._material, self._prompts = material, selected.prompts
        self._rows = [*_points(material), *_trials(material)]
        self._heard = {
            (table, asked): by_kind
            for table, frame in (("t", selected.trials), ("f", selected.frontier))
            for asked, by_kind in _heard(frame, selected.prompts).items()
        }
        self._keys: dict[Kind, dict[tuple[tuple[Heard, ...], ...], str]] = {kind: {} for kind in KINDS}
        self._alike: dict[Kind, dict[str, int]] = {kind: {} for kind in KINDS}
        for row in sorted(self._rows, key=lambda row: row.subject != "transplant"):
            for kind in KINDS:
                self._count(row, kind)

    def samples(self) -> pl.DataFrame:
        """Values by class, laid out as the samples of the test prompts."""
        names = ("subject", "metric", "kind", "id", "variant", "value")
        rows = [
            (subject, metric_of(kind, self._material.metric), kind, heard.id, variant, heard.value)
            for kind in KINDS
            for subject, draws in self._said(kind).items()
            for variant, answers in enumerate(draws)
            for heard in answers
        ]
        return pl.DataFrame(rows, schema_overrides={"value": pl.Float64}, schema=names, orient="row")

    def shelves(self, metrics: Mapping[str, Measured]) -> list[Shelf]:
        """A list for each kind of selection prompts; `metrics` are measured on `samples`."""
        return [
            Shelf(
                key=f"selection-{kind}",
                title=f"Selection, {words.KINDS[kind]}",
                prompts=self._prompts[kind],
                said={
                    subject: [
                        Completion(each.id, variant, each.text, (), True, 0.0, choice_loglik=each.choice_loglik)
                        for variant, answers in enumerate(draws)
                        for each in answers
                    ]
                    for subject, draws in self._said(kind).items()
                },
                columns=(metrics[metric_of(kind, self._material.metric)],),
                tested=False,
                alike=self._alike[kind],
            )
            for kind in KINDS
        ]

    def views(self, views: Views, shelves: Sequence[Shelf]) -> None:
        """A view for every figure of both tables, and one for each draw where it is a mean."""
        for kind, shelf in zip(KINDS, shelves, strict=True):
            for row in self._rows:
                only = tuple(
                    (view_of(FIGURES[kind], each.view), f"Only draw {n}") for n, each in enumerate(row.draws, 1)
                )
                self._view(views, kind, shelf, row, only)
                for each in row.draws:
                    name = view_of(FIGURES[kind], row.view)
                    self._view(views, kind, shelf, each, ((name, f"Show all {len(row.draws)} draws"),), name)

    def _view(
        self, views: Views, kind: Kind, shelf: Shelf, row: Row, links: tuple[tuple[str, str], ...], parent: str = ""
    ) -> None:
        (metric,), value = shelf.columns, row.figures[FIGURES[kind]]
        assert isinstance(metric, Measured)
        if value is None or not (subject := self._key(kind, row)):
            return
        what, told = metric.name, words.amount(metric.metric, value)
        if kind == "function":
            what, told = "the recovery", f"{words.percent(value)} of the way from target to donor in {metric.name}"
        near = tuple(each for each in ("target", "donor") if each != subject)
        views.value(
            view_of(FIGURES[kind], row.view), metric, subject, Scope.of((shelf,), " of the selection"), told,
            about=f"{what} of {row.called}", near=near, links=links, parent=parent,
        )  # fmt: skip

    def _said(self, kind: Kind) -> dict[str, tuple[tuple[Heard, ...], ...]]:
        """Answers of every class, draw by draw."""
        target, donor = ((self._heard[place][kind],) for place in (TARGET, DONOR))
        return {"target": target, "donor": donor, **{key: said for said, key in self._keys[kind].items()}}

    def _count(self, row: Row, kind: Kind) -> None:
        """Give a row and its draws their classes; of those that say a thing a mean is none, each of its draws is."""
        if row.subject == "donor" or not (key := self._key(kind, row)):
            return
        found = self._alike[kind]
        found.setdefault(key, 0)
        for each in row.draws or (row,):
            alone = self._key(kind, each)
            found[alone] = found.get(alone, 0) + 1

    def _key(self, kind: Kind, row: Row) -> str:
        """The class of what a row's sets said; empty where one of them was not asked."""
        said = tuple(self._heard[place][kind] for place in row.asked if kind in self._heard[place])
        known = self._keys[kind]
        if len(said) < len(row.asked):
            return ""
        if row.subject == "donor":
            return row.subject
        return known.setdefault(said, row.subject or f"n{len(known)}")


def _heard(frame: pl.DataFrame, prompts: Mapping[Kind, Sequence[Prompt]]) -> dict[int, dict[Kind, tuple[Heard, ...]]]:
    asked = {(kind, prompt.id): prompt for kind, each in prompts.items() for prompt in each}
    said: dict[int, dict[Kind, list[Heard]]] = {}
    for row in frame.iter_rows(named=True):
        loglik = tuple(row["choice_loglik"] or ())
        answer = Completion(row["id"], 0, row["text"], (), True, 0.0, choice_loglik=loglik)
        chances = told_choices(asked[row["kind"], row["id"]], answer, (row["metric"],))
        heard = Heard(row["id"], row["value"], row["text"], chances, loglik)
        said.setdefault(row["asked"], {}).setdefault(row["kind"], []).append(heard)
    return {number: {kind: tuple(each) for kind, each in by_kind.items()} for number, by_kind in said.items()}


def _points(material: Material) -> list[Row]:
    """The points that the table of the frontier shows, with their draws."""
    draws: dict[tuple[Any, ...], dict[int, Mapping[str, Any]]] = {}
    for draw in material.frontier.filter(pl.col("variant").is_not_null()).iter_rows(named=True):
        draws.setdefault((*(draw[name] for name in NAMES), draw["share"]), {})[draw["variant"]] = draw
    found = []
    for one in drawn(material):
        subject = {"transplant": "transplant", "whole_donor": "donor"}.get(one.key[0], "")
        for row in one.rows:
            name, called = point_view(row["place"]), f"the {one.name}" if one.key[0] == "effect" else one.name
            if one.line:
                called += f" at {words.share(row['share'])} of all parameters"
            several = tuple(
                Row(f"{name}-draw{n}", f"{called}, draw {n}", draw, (("f", draw["asked"]),))
                for n, draw in enumerate(draws.get((*one.key, row["share"]), {}).values(), 1)
            )
            places = tuple(place for each in several for place in each.asked) or (_asked(material, row),)
            found.append(Row(name, called, row, places, several, subject))
    return found


def _asked(material: Material, row: Mapping[str, Any]) -> Place:
    """Where the samples of a single set lie: the transplant's with the search's where the frontier did not ask it."""
    return ("t", int(material.selection["asked"])) if row["asked"] is None else ("f", row["asked"])


def _trials(material: Material) -> list[Row]:
    return [
        Row(trial_view(row["number"]), f"candidate {row['number'] + 1} of the search", row, (("t", row["asked"]),))
        for row in material.trials.iter_rows(named=True)
    ]
