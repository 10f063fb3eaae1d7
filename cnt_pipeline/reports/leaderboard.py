"""The leaderboard for people: a self-contained HTML page and the same table in Markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from cnt_pipeline.measures.metrics import METRICS
from cnt_pipeline.quantities import seconds_text, size_text
from cnt_pipeline.reports import words
from cnt_pipeline.reports.plots import Point, Rule
from cnt_pipeline.reports.scatter import Named, front, scatter
from cnt_pipeline.reports.standing import OWN, REFERENCES, LeaderRow, Standing, best_within, ranked, standing
from cnt_pipeline.reports.templates import environment
from cnt_pipeline.study.schema import Accept

PAGE = "leaderboard.html"
TABLE = "leaderboard.md"
TASK = "task"
"""Key of the user's task among a row's metrics; it is an exact match."""
NOT_JUDGED = "not judged"
_NAMES = {
    "target": "Target",
    "donor": "Donor",
    OWN: "The study's own method",
}
_SHOWN = ("attack_success", "utility", TASK, "coherence")
"""Metrics of the table beside the function's and its misfires."""


@dataclass(frozen=True)
class Cell:
    """A figure with its interval or a remark; `mark` says pass or fail, `none` that there is no figure."""

    text: str
    detail: str = ""
    mark: str = ""

    @property
    def none(self) -> bool:
        """Whether there is no figure."""
        return self.text in (words.NONE, NOT_JUDGED)


@dataclass(frozen=True)
class Column:
    """A column with what to know about it; `figures` says that its cells are numbers."""

    name: str
    remark: str
    cells: tuple[Cell, ...]
    figures: bool = True


@dataclass(frozen=True)
class Heading:
    """What a row is called: `name` in words, `about` what it is, `grade` a letter or empty."""

    name: str
    about: str
    grade: str
    pareto: bool
    seeds: str
    reference: bool


@dataclass(frozen=True)
class Board:
    """The table: a heading for every row, in order, and columns of as many cells."""

    rows: tuple[Heading, ...]
    columns: tuple[Column, ...]


def write_leaderboard_page(study: str, document: Mapping[str, Any], accept: Accept, folder: Path) -> None:
    """Write `leaderboard.html` and `leaderboard.md` of a study from the leaderboard's document.

    Neither holds a date or a place on this machine; durations are those that the document holds.
    """
    view = _view(study, document, accept)
    templates = environment()
    page = templates.get_template("leaderboard.html.j2").render(view)
    table = templates.get_template("leaderboard.md.j2").render(view).replace(words.SPACE, " ")
    (folder / PAGE).write_text(page, encoding="utf-8")
    (folder / TABLE).write_text(table, encoding="utf-8")


def board(document: Mapping[str, Any], accept: Accept) -> Board:
    """The table in words, the references first and the methods by recovery."""
    rows = ranked(document["rows"])
    return Board(tuple(_heading(row, document["metric"]) for row in rows), tuple(_columns(document, rows, accept)))


def _view(study: str, document: Mapping[str, Any], accept: Accept) -> dict[str, Any]:
    made = board(document, accept)
    grades = sorted({heading.grade for heading in made.rows if heading.grade})
    return {
        "study": study,
        "board": made,
        "words": words,
        "title": f"{words.sentence(words.metric_name(document['metric']))}: methods compared",
        "compared": compared(document),
        "conclusion": conclusion(document, accept),
        "grades": [(grade, words.GRADES[grade]) for grade in grades],
        "sources": [
            (_NAMES.get(row["name"], row["name"]), row["method"], row["source"])
            for row in ranked(document["rows"])
            if row["method"]
        ],
        "notes": _notes(document, accept),
        "figure": _figure(document),
        "undrawn": _undrawn(document),
    }


def compared(document: Mapping[str, Any]) -> str:
    """What was compared, and on which prompts, in two sentences."""
    methods = [row for row in document["rows"] if row["method"]]
    added = document["direction"] == "add"
    target = next(row for row in document["rows"] if row["name"] == "target")["metrics"]
    counts = [
        f"{words.number(target[metric]['n'])} {kind} prompts"
        for metric, kind in (
            (document["metric"], words.KINDS["function"]),
            (document["misfire"], words.KINDS["lookalike"]),
            ("utility", words.KINDS["utility"]),
        )
        if metric in target
    ]
    text = (
        f"{words.sentence(_count(len(methods), 'method'))} that {'raise' if added else 'lower'}"
        f"{'s' if len(methods) == 1 else ''} {words.metric_name(document['metric'])} in the same target, each measured "
        f"on the same test prompts, which neither scoring nor search has read: {words.listed(counts) or NOT_JUDGED}."
    )
    if document["task"] is not None:
        n = f"{words.number(target[TASK]['n'])} " if TASK in target else ""
        text += f" The user's task is the {n}general prompts from {document['task']}."
    return text


def _count(number: int, noun: str) -> str:
    spelt = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    return f"{spelt[number] if number < len(spelt) else number} {noun}{'' if number == 1 else 's'}"


def conclusion(document: Mapping[str, Any], accept: Accept) -> str:
    """Which method recovers most within the study's limits, and which does so without them."""
    methods = [row for row in ranked(document["rows"]) if row["method"] and row["recovery"] is not None]
    if not methods:
        return "The donor does not lead the target on the test prompts, so there is no distance to recover."
    best, first = best_within(document, accept), methods[0]
    if best is None:
        held = "No method keeps within both limits."
    else:
        held = (
            f"Within the study's limits on misfires and utility, {_called(best)} recovers most: "
            f"{words.percent(best['recovery'])} of the way from target to donor."
        )
    if first is not best:
        held += f" Whatever it costs, {_called(first)} does: {words.percent(first['recovery'])}."
    return held


def _called(row: LeaderRow) -> str:
    return f"the study's own method ({row['method']})" if row["name"] == OWN else str(row["name"])


def _heading(row: LeaderRow, metric: str) -> Heading:
    name: str = row["name"]
    reference = name in REFERENCES
    if reference:
        about = "before the edit" if name == "target" else "whole, for reference"
    else:
        about = row["method"] if row["method"].replace("_", "-") != name else ""
    return Heading(
        name=_NAMES.get(name, name),
        about=about,
        grade=row["grade"] or "",
        pareto=row["pareto"],
        seeds=_seeds(row, metric),
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
        Column(
            "recovery", "of the way from target to donor", tuple(Cell(words.percent(row["recovery"])) for row in rows)
        ),
        Column("within limits", "misfires and utility", tuple(_standing(document, row, accept) for row in rows), False),
        Column("parameters changed", "share of all", tuple(_changed(row) for row in rows)),
        Column("modules touched", "", tuple(Cell(_mean(row["modules"])) for row in rows)),
        Column("wall time", "without shared probes", tuple(_time(row["seconds"]) for row in rows)),
        Column("peak memory", "above the start", tuple(_memory(row["peak_memory"]) for row in rows)),
    ]


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
    return Cell(words.amount(shown, found["value"]), words.interval(shown, found["low"], found["high"]))


def _standing(document: Mapping[str, Any], row: LeaderRow, accept: Accept) -> Cell:
    if row["name"] in REFERENCES:
        return Cell(words.NONE)
    found = standing(document, row, accept)
    detail = "; ".join(_offences(document["misfire"], found))
    if found.holds is None:
        return Cell(NOT_JUDGED, detail)
    return Cell("yes", "", "pass") if found.holds else Cell("no", detail, "fail")


def _offences(misfire: str, found: Standing) -> list[str]:
    """What a row breaks, or what of it cannot be said."""
    parts = []
    for what, metric, keeps, harm, sign in (
        (words.metric_name(misfire), misfire, found.keeps_lookalikes, found.rise, 1),
        ("utility", "utility", found.keeps_utility, found.loss, -1),
    ):
        if keeps is None:
            parts.append(f"{what} {NOT_JUDGED}")
        elif not keeps and harm is not None:
            parts.append(f"{what} {words.change(metric, sign * harm)}")
    return parts


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


def _notes(document: Mapping[str, Any], accept: Accept) -> list[str]:
    misfire = words.metric_name(document["misfire"])
    kept = "task accuracy" if document["task"] is not None else "utility"
    notes = [
        "Small figures are 95 % intervals, from the prompts; where a method draws at random and several seeds are "
        "given, figures are means over them and the range over seeds stands below the name.",
        "Recovery is the share of the target's distance to the donor that a method covers: 100 % is the donor, more is "
        "beyond it.",
        f"A method that gains the function by misfiring is not better: compare methods at equal {misfire}. “Within "
        f"limits” says which keep their {misfire} at most {words.points(accept.over_refusal)} above the donor's and "
        f"their utility at most {words.points(accept.utility_loss)} below the target's.",
        f"“Pareto front”: no other method is as good in all four of {words.metric_name(document['metric'])}, "
        f"{misfire}, {kept} and share of parameters changed, and better in one. These are the measured values; "
        "differences within the intervals may be chance.",
        "Parameters changed are those whose stored bits differ from the target's. Modules are weight matrices or other "
        "parts with weights of their own.",
        "Wall time and peak memory are those of computing and writing the edit. They exclude probes (activations and "
        "gradients) shared with other methods, and depend on the machine. The study's own method is not timed: its "
        "search is not one edit.",
        f"“{NOT_JUDGED}”: no prompt could be judged. “{words.NONE}”: not measured, or it does not apply.",
    ]
    return notes if any(row["name"] == OWN for row in document["rows"]) else [_without_own(note) for note in notes]


def _without_own(note: str) -> str:
    return note.removesuffix(" The study's own method is not timed: its search is not one edit.")


def _points(document: Mapping[str, Any]) -> list[Named]:
    """Methods by the share that they change, in percent where the metric is a share; what changes nothing has none."""
    metric = document["metric"]
    factor = 100 if metric in words.SHARES else 1
    found = []
    for row in ranked(document["rows"]):
        figure = row["metrics"].get(metric)
        if row["method"] and row["share"] and figure is not None:
            low, high = (None if figure[key] is None else factor * figure[key] for key in ("low", "high"))
            own = row["name"] == OWN
            found.append(
                Named(
                    row["method"] if own else row["name"],
                    Point(100 * row["share"], factor * figure["value"], low, high),
                    "s-transplant" if own else "s-path",
                    "diamond" if own else "circle",
                )
            )
    return found


def _undrawn(document: Mapping[str, Any]) -> str:
    """Methods that the plot cannot show, and why, in a sentence."""
    metric = document["metric"]
    methods = [row for row in ranked(document["rows"]) if row["method"]]
    unjudged = [row["name"] for row in methods if metric not in row["metrics"]]
    still = [row["name"] for row in methods if not row["share"] and row["name"] not in unjudged]
    parts = [
        f"{words.listed(names)} ({why})"
        for names, why in ((still, "changed no parameter"), (unjudged, NOT_JUDGED))
        if names
    ]
    return f"Not drawn: {words.listed(parts)}." if parts else ""


def _figure(document: Mapping[str, Any]) -> Markup:
    metric = document["metric"]
    points, sign = _points(document), 1 if document["direction"] == "add" else -1
    name, share = words.metric_name(metric), metric in words.SHARES
    unit, factor = (" %", 100) if share else ("", 1)
    told = [f"{each.name} {each.point.y:.4g}{unit} at {each.point.x:.2g} %" for each in points]
    best = words.listed([each.name for each in front(points, sign)])
    rules = []
    for row in document["rows"]:
        if row["name"] in REFERENCES and metric in row["metrics"]:
            value = row["metrics"][metric]["value"]
            rules.append(Rule(factor * value, f"{row['name']}: {words.amount(metric, value)}"))
    return scatter(
        "front",
        f"{words.sentence(name)} by the share of parameters changed",
        f"{words.sentence(name)} and share of all parameters changed: {'; '.join(told) or 'no method'}. "
        + (f"On the front of these two: {best}." if best else ""),
        points,
        sign,
        "share of all parameters changed (log scale)",
        name,
        lambda x: f"{x:.12g} %",
        lambda y: f"{y:g}{unit}",
        rules,
        (0.0, 100.0) if share else None,
    )
