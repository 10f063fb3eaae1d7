"""The leaderboard for people: a self-contained HTML page and the same table in Markdown."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from cnt_pipeline.reports import words
from cnt_pipeline.reports.board import NOT_JUDGED, board, limited_by
from cnt_pipeline.reports.board_samples import board_browser
from cnt_pipeline.reports.dimensions import progress, progress_note
from cnt_pipeline.reports.links import Links
from cnt_pipeline.reports.material import Answers
from cnt_pipeline.reports.plots import Point, Rule
from cnt_pipeline.reports.scatter import Named, front, scatter
from cnt_pipeline.reports.standing import NAMES, OWN, REFERENCES, TASK, LeaderRow, best_within, ranked
from cnt_pipeline.reports.templates import environment
from cnt_pipeline.reports.views import view_of
from cnt_pipeline.study.schema import Accept

PAGE = "leaderboard.html"
TABLE = "leaderboard.md"
CAUSAL_EFFECT = (
    "Causal effect: the share of the same distance that the target covers when, at every token of prompt and answer, "
    "the activations of the method's neurons are those of the donor on the same tokens. Recovery is that of the copied "
    "weights, which work on what the target feeds them."
)


def write_leaderboard_page(
    study: str,
    document: Mapping[str, Any],
    accept: Accept,
    folder: Path,
    answers: Answers | None = None,
) -> None:
    """Write `leaderboard.html` and `leaderboard.md` of a study from the leaderboard's document.

    Figures lead to `answers`, which hold the study's safety dimensions too, where it has some.

    Neither holds a date or a place on this machine; durations are those that the document holds.
    """
    view = _view(study, document, accept)
    worked = None if answers is None or answers.dimensions is None else answers.dimensions.document
    view |= {"progress": progress(worked), "progress_note": progress_note(worked)}
    listed = None if answers is None else board_browser(document, answers)
    view |= {"browser": listed, "to": Links({} if listed is None else listed.views)}
    templates = environment()
    page = templates.get_template("leaderboard.html.j2").render(view)
    table = templates.get_template("leaderboard.md.j2").render(view).replace(words.SPACE, " ")
    (folder / PAGE).write_text(page, encoding="utf-8")
    (folder / TABLE).write_text(table, encoding="utf-8")


def _view(study: str, document: Mapping[str, Any], accept: Accept) -> dict[str, Any]:
    made = board(document, accept)
    grades = sorted({heading.grade for heading in made.rows if heading.grade})
    return {
        "study": study,
        "board": made,
        "words": words,
        "title": f"{words.sentence(words.metric_name(document['metric']))}: methods compared",
        "compared": compared(document),
        "conclusion": conclude(document, accept),
        "causes": causal_sentences(document),
        "grades": [(grade, words.GRADES[grade]) for grade in grades],
        "sources": [
            (NAMES.get(row["name"], row["name"]), row["method"], row["source"])
            for row in ranked(document["rows"])
            if row["method"]
        ],
        "notes": _notes(document, accept),
        "figure": _figure(document),
        "undrawn": _undrawn(document),
    }


Sentence = tuple[tuple[str, str], ...]
"""Words in pieces, each with the id of the view that its figure leads to, or none."""


def _plain(sentence: Sentence) -> str:
    return "".join(text for text, _ in sentence)


def compared(document: Mapping[str, Any]) -> Sentence:
    """What was compared, and on which prompts, in two sentences."""
    methods = [row for row in document["rows"] if row["method"]]
    added = document["direction"] == "add"
    target = next(row for row in document["rows"] if row["name"] == "target")["metrics"]
    counts = [
        (f"{words.number(target[metric]['n'])} {kind} prompts", view_of(metric, "target"))
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
        f"on the same test prompts, which neither scoring nor search has read: {'' if counts else NOT_JUDGED}"
    )
    told = [(text, "")]
    for left, count in zip(range(len(counts), 0, -1), counts, strict=True):
        told += [count, ("" if left == 1 else " and " if left == 2 else ", ", "")]
    told.append((".", ""))
    if document["task"] is not None:
        n = f"{words.number(target[TASK]['n'])} " if TASK in target else ""
        task = f"{n}general prompts from {document['task']}"
        told += [(" The user's task is the ", ""), (task, view_of(TASK, "target")), (".", "")]
    return tuple(told)


def _count(number: int, noun: str) -> str:
    spelt = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    return f"{spelt[number] if number < len(spelt) else number} {noun}{'' if number == 1 else 's'}"


def conclusion(document: Mapping[str, Any], accept: Accept) -> str:
    """Which method recovers most within the study's limits, and which does so without them."""
    return _plain(conclude(document, accept))


def causes(document: Mapping[str, Any]) -> list[str]:
    """The causal effect of each method that it is measured of, in a sentence."""
    return [_plain(sentence) for sentence in causal_sentences(document)]


def conclude(document: Mapping[str, Any], accept: Accept) -> Sentence:
    """`conclusion` with its figures apart."""
    methods = [row for row in ranked(document["rows"]) if row["method"] and row["recovery"] is not None]
    if not methods:
        return (("The donor does not lead the target on the test prompts, so there is no distance to recover.", ""),)
    best, first = best_within(document, accept), methods[0]
    if best is None:
        held: Sentence = ((f"No method keeps within the study's limits on {limited_by(document)}.", ""),)
    else:
        held = (
            (f"Within the study's limits on {limited_by(document)}, {_called(best)} recovers most: ", ""),
            _recovery(best),
            (" of the way from target to donor.", ""),
        )
    if first is not best:
        held = (*held, (f" Whatever it costs, {_called(first)} does: ", ""), _recovery(first), (".", ""))
    return held


def _recovery(row: LeaderRow) -> tuple[str, str]:
    return words.percent(row["recovery"]), view_of("recovery", row["name"])


def causal_sentences(document: Mapping[str, Any]) -> list[Sentence]:
    """`causes` with their figures apart."""
    sentences: list[Sentence] = []
    for row in ranked(document["rows"]):
        effect = row.get("causal")
        if effect is None:
            continue
        if effect["value"] is None:
            told = f"Causal effect of the neurons of {row['name']}: undefined, since {effect['why']}."
            sentences.append(((told, ""),))
            continue
        value, low, high = (words.percent(effect[key]) for key in ("value", "low", "high"))
        sentences.append(
            (
                (f"Causal effect: the donor's activations in the neurons of {row['name']} bring the target ", ""),
                (f"{value} ({low} to {high})", view_of("causal", row["name"])),
                (" of the way to the donor.", ""),
            )
        )
    return sentences


def _called(row: LeaderRow) -> str:
    return f"the study's own method ({row['method']})" if row["name"] == OWN else str(row["name"])


def _notes(document: Mapping[str, Any], accept: Accept) -> list[str]:
    misfire = words.metric_name(document["misfire"])
    tasked = document["task"] is not None
    kept, task = ("task accuracy", " and task accuracy each") if tasked else ("utility", "")
    timed = any(row["name"] == OWN for row in document["rows"])
    return [
        "Small figures are 95 % intervals, from the prompts; where a method draws at random and several seeds are "
        "given, figures are means over them and the range over seeds stands below the name.",
        "Recovery is the share of the target's distance to the donor that a method covers: 100 % is the donor, more is "
        "beyond it.",
        *([CAUSAL_EFFECT] if any(row.get("causal") for row in document["rows"]) else []),
        f"A method that gains the function by misfiring is not better: compare methods at equal {misfire}. “Within "
        f"limits” says which keep their {misfire} at most {words.points(accept.over_refusal)} above the donor's and "
        f"their utility{task} at most {words.points(accept.utility_loss)} below the target's.",
        f"“Pareto front”: no other method is as good in all four of {words.metric_name(document['metric'])}, "
        f"{misfire}, {kept} and share of parameters changed, and better in one. These are the measured values; "
        "differences within the intervals may be chance.",
        "Parameters changed are those whose stored bits differ from the target's. Modules are weight matrices or other "
        "parts with weights of their own.",
        "Wall time and peak memory are those of computing and writing the edit. They exclude probes (activations and "
        "gradients) shared with other methods, and depend on the machine."
        + (" Those of the study's own method are of its search and its checkpoint." if timed else ""),
        f"“{NOT_JUDGED}”: no prompt could be judged. “{words.NONE}”: not measured, or it does not apply.",
    ]


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
