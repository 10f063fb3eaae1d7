"""Every sample behind the figures of a report, and lists of them as a leaderboard has too."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import count
from typing import Any

import polars as pl

from cnt_pipeline.completions.schema import Completion
from cnt_pipeline.measures.metrics import METRICS, MISFIRES
from cnt_pipeline.prompt_sets.schema import Prompt
from cnt_pipeline.reports import by_source, words
from cnt_pipeline.reports.browse import Browser
from cnt_pipeline.reports.columns import Compared, Judged, Key, Measured
from cnt_pipeline.reports.judges import ASKED
from cnt_pipeline.reports.listing import SELECTION_BUDGET, Shelf, filled
from cnt_pipeline.reports.material import SUBJECTS, Material
from cnt_pipeline.reports.selected import Selection
from cnt_pipeline.reports.suites import SHOWN, change, figure, metric_title, numbered, suite_view
from cnt_pipeline.reports.views import Scope, Views, view_of
from cnt_pipeline.study.schema import KINDS, Kind

SIGNS = {"higher": 1, "lower": -1}


def browser(material: Material) -> Browser:
    """The samples of a report: of the test prompts with what the judges say, then of every part of its suites, then of
    the selection prompts."""
    numbers = count()
    metrics = measures(material.samples, material.metric, material.function.sign, numbers)
    judges = _judges(material, numbers)
    pairs = _pairs(material, judges, numbers)
    beside: dict[Kind, tuple[Judged | Compared, ...]] = {
        kind: (*judges, *pairs) if kind in ASKED else () for kind in KINDS
    }
    shelves = [*kinds(material.prompts, material.said, metrics, beside, material.aside), *_suites(material)]
    sources = sources_of(material.prompts)
    shelves = list(filled(shelves, words.SUBJECT_NAMES, sources))
    tested = {shelf.key: shelf for shelf in shelves if shelf.tested}
    views = Views(words.CALLED)
    metric_views(views, material.metrics, material.by_source, metrics, tested, sources, SUBJECTS)
    _gate_views(views, material, metrics, tested)
    for at, judge in enumerate(judges):
        for kind in (kind for kind in ASKED if kind in tested):
            for subject in SUBJECTS:
                views.verdicts(at, judge, tested[kind], subject, words.KINDS[kind])
    for at, pair in enumerate(pairs):
        views.pair(at, pair, [tested[kind] for kind in ASKED if kind in tested])
    _suite_views(views, material, {shelf.key: shelf for shelf in shelves if not shelf.tested})
    if material.selected is not None:
        selection = Selection(material, material.selected)
        asked = measures(selection.samples(), material.metric, material.function.sign, numbers)
        lists = filled(selection.shelves(asked), words.SUBJECT_NAMES, sources, SELECTION_BUDGET)
        selection.views(views, lists)
        shelves += lists
    also = ", and in suites the first figure of the part" if material.suites else ""
    return Browser(tuple(shelves), views.found, words.SUBJECT_NAMES, sources, looks_at(material.metric, also))


def looks_at(metric: str, also: str = "") -> str:
    """What the filter by outcome looks at, beside test prompts in what `also` tells."""
    told = f"{words.metric_name(metric)} on function prompts, {words.metric_name(MISFIRES[metric])} on look-alikes and "
    return f"{told}utility on general prompts{also}."


def _gate_views(views: Views, material: Material, metrics: Mapping[str, Measured], tested: Mapping[str, Shelf]) -> None:
    """Views of the gates that compare more than two models, or the transplant with a control."""
    if material.metric not in metrics:
        return
    main = metrics[material.metric]
    scope = scope_of(main, tested)
    views.recovery("v-recovery", main, "transplant", scope, words.percent(material.verdict["recovery"]))
    for check in material.verdict["checks"]:
        if check["name"].endswith("_beaten") and check["value"] is not None:
            other = check["name"].removesuffix("_beaten")
            told = words.change(material.metric, check["value"])
            views.difference(view_of(material.metric, "transplant", other), main, "transplant", other, scope, told)


def measures(samples: pl.DataFrame, main: str, sign: int, numbers: Iterator[int]) -> dict[str, Measured]:
    """The metrics of samples as the lists read them; `sign` says which way the study wants the metric `main`."""
    found = {}
    for (metric,), rows in samples.group_by("metric", maintain_order=True):
        name = str(metric)
        known = METRICS.get(name)
        wanted = sign if name == main else SIGNS.get(known.better if known else "", 0)
        label = "NLL per token" if known and known.exponential else words.metric_name(name)
        found[name] = _measured(next(numbers), name, words.metric_name(name), label, rows, name in words.SHARES, wanted)
    return found


def _measured(number: int, metric: str, name: str, label: str, rows: pl.DataFrame, share: bool, sign: int) -> Measured:
    variants = rows["variant"] if "variant" in rows.columns else [0] * len(rows)
    values: dict[Key, float | None] = {
        (subject, prompt, variant): value
        for subject, prompt, variant, value in zip(rows["subject"], rows["id"], variants, rows["value"], strict=True)
    }
    if values and all(value is None for value in values.values()) and not share:
        values = dict.fromkeys(values, math.nan)
    tell = (lambda value: {0.0: "no", 1.0: "yes"}.get(value) or words.percent(value)) if share else _number
    return Measured(number, metric, name, label, values, share, sign, words.YES.get(metric, "counted"), tell)


def _number(value: float) -> str:
    return words.number(float(value), 4)


def kinds(
    prompts: Mapping[Kind, Sequence[Prompt]],
    said: Mapping[str, Mapping[Kind, Sequence[Completion]]],
    metrics: Mapping[str, Measured],
    beside: Mapping[Kind, Sequence[Judged | Compared]],
    aside: Collection[str],
) -> list[Shelf]:
    """A list for each kind of test prompts."""
    found = []
    for kind in KINDS:
        ids = {prompt.id for prompt in prompts[kind]}
        asked = tuple(metric for metric in metrics.values() if metric.prompts & ids)
        rows = {subject: by_kind.get(kind, ()) for subject, by_kind in said.items()}
        columns = (*asked, *beside.get(kind, ()))
        found.append(Shelf(kind, words.sentence(words.KINDS[kind]), prompts[kind], rows, columns, aside=aside))
    return found


def sources_of(prompts: Mapping[Kind, Sequence[Prompt]]) -> tuple[str, ...]:
    """Where test prompts come from, in their order."""
    return tuple(dict.fromkeys(prompt.source for kind in KINDS for prompt in prompts[kind]))


def scope_of(metric: Measured, tested: Mapping[str, Shelf], source: str | None = None, place: int = 0) -> Scope:
    """The test prompts that a metric is about, or those of one source, which has a `place` among sources."""
    shelves = tuple(shelf for shelf in tested.values() if metric in shelf.columns)
    if source is None:
        return Scope.of(shelves)
    ids = frozenset(prompt.id for shelf in shelves for prompt in shelf.prompts if prompt.source == source)
    return Scope(shelves, ids, f" from {source}", place)


def metric_views(
    views: Views,
    pooled: pl.DataFrame,
    sourced: pl.DataFrame,
    metrics: Mapping[str, Measured],
    tested: Mapping[str, Shelf],
    sources: Sequence[str],
    subjects: Sequence[str],
) -> None:
    """A view for every figure of a table of metrics: values and differences, and values on single sources."""
    for row in pooled.iter_rows(named=True):
        name, subject = row["metric"], row["subject"]
        if name not in metrics or subject not in subjects:
            continue
        scope = scope_of(metrics[name], tested)
        views.value(view_of(name, subject), metrics[name], subject, scope, words.amount(name, row["value"]))
        for other in ("target", "donor"):
            if (told := row[f"vs_{other}"]) is not None:
                change_told = words.change(name, told)
                views.difference(view_of(name, subject, other), metrics[name], subject, other, scope, change_told)
    # A metric of which a model has no figure leaves samples that could not be judged.
    for name, metric in metrics.items():
        for subject in subjects:
            if subject in metric.by_prompt and view_of(name, subject) not in views.found:
                views.value(view_of(name, subject), metric, subject, scope_of(metric, tested), words.NONE)
    for row in sourced.iter_rows(named=True):
        name, subject, source = row["metric"], row["subject"], row["source"]
        if name in metrics and source in sources and subject in by_source.SHOWN:
            place = sources.index(source)
            scope = scope_of(metrics[name], tested, source, place)
            told = words.amount(name, row["value"])
            views.value(view_of(name, subject, source=place), metrics[name], subject, scope, told)


def _judges(material: Material, numbers: Iterator[int]) -> list[Judged]:
    if material.judging is None:
        return []
    rows = material.judging.verdicts
    found = []
    for judge in material.judging.document["judges"]:
        own = rows.filter(judge=judge["name"])
        keys = zip(own["subject"], own["id"], own["variant"], strict=True)
        found.append(Judged(next(numbers), judge["name"], dict(zip(keys, own["verdict"], strict=True))))
    return found


def _pairs(material: Material, judges: Sequence[Judged], numbers: Iterator[int]) -> list[Compared]:
    if material.judging is None:
        return []
    by_name = {judge.name: judge for judge in judges}
    return [
        Compared(next(numbers), by_name[pair["one"]], by_name[pair["other"]], pair["question"])
        for pair in material.judging.document["pairs"]
    ]


def _suites(material: Material) -> Iterator[Shelf]:
    """A list for each part of every suite; the columns of each begin at 0."""
    for at, suite in enumerate(material.suites):
        rows = {(row["part"], row["metric"]): row for row in suite.figures.iter_rows(named=True)}
        places = numbered(suite)
        for part, metrics in places.items():
            columns = []
            for metric, number in metrics.items():
                row: Mapping[str, Any] = rows[part, metric]
                samples = suite.samples.filter(part=part, metric=metric)
                name = metric_title(metric)
                own = metric == material.metric  # the study says which way it is wanted
                sign = material.function.sign if own else SIGNS.get(row["better"], 0)
                label = "NLL per token" if row["unit"] == "perplexity" else name
                columns.append(_measured(number, metric, name, label, samples, row["unit"] == "share", sign))
            title = f"{suite.called}, {part}".replace("_", " ")
            key = f"s{at}p{list(places).index(part)}"
            yield Shelf(
                key, words.sentence(title), suite.prompts[part], suite.said[part], tuple(columns), tested=False,
                asks_last=part in suite.tasks,
            )  # fmt: skip


def _suite_views(views: Views, material: Material, shelves: Mapping[str, Shelf]) -> None:
    for at, suite in enumerate(material.suites):
        places = numbered(suite)
        for row in suite.figures.iter_rows(named=True):
            if row["subject"] not in SHOWN or row["value"] is None:
                continue
            part = list(places).index(row["part"])
            shelf = shelves[f"s{at}p{part}"]
            metric = shelf.columns[places[row["part"]][row["metric"]]]
            assert isinstance(metric, Measured)
            name = suite_view(at, part, metric.number, row["subject"])
            scope = Scope.of((shelf,), f" of {shelf.title[:1].lower()}{shelf.title[1:]}")
            views.value(name, metric, row["subject"], scope, figure(row["unit"], row["value"]))
            if row["vs_target"] is not None:
                told = change(row["unit"], row["vs_target"])
                views.difference(f"{name}-vs-target", metric, row["subject"], "target", scope, told)
