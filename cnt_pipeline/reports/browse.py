"""Every test sample behind the report's figures: one list, and a view of it for each figure.

The page runs no script. A view is an element that a figure links to; while it is the target of the address, style
rules leave only its samples. The rules know classes alone: `m0` is the first metric, `by-target` a subject, `from-0`
the first source; of an answer `g0`, `b0` and `u0` say that the first metric judges it as wanted, not as wanted, or not
at all, `t0` and `d0` that it is judged otherwise than the target's or the donor's.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from cnt_pipeline.completions.schema import Completion
from cnt_pipeline.measures.metrics import METRICS
from cnt_pipeline.prompt_sets.schema import Prompt
from cnt_pipeline.reports import by_source, words
from cnt_pipeline.reports.material import SUBJECTS, Material
from cnt_pipeline.reports.samples import chances_of, metric_of
from cnt_pipeline.study.schema import KINDS, Kind

PER_KIND = 200
"""Prompts of a kind that the page lists: enough for the figures of most studies, in a page of a few MB."""
_LONGEST_ANSWER, _LONGEST_PROMPT = 600, 1000

Values = Mapping[tuple[str, str, str], float | None]
"""Judgements of the first draw by metric, subject and prompt id."""


@dataclass(frozen=True)
class Said:
    """One subject's answer: how each metric judged it in words, and the classes that filters read."""

    name: str
    text: str
    left_out: int
    choices: tuple[tuple[str, str], ...]
    judged: tuple[str, ...]
    classes: str


@dataclass(frozen=True)
class Entry:
    """One test prompt with the answers of all subjects."""

    kind: Kind
    prompt: str
    left_out: int
    earlier_messages: int
    prefix: str
    source: str
    classes: str
    answers: tuple[Said, ...]


@dataclass(frozen=True)
class View:
    """What a figure links to; `sentence` repeats the figure and says what is listed."""

    id: str
    classes: str
    sentence: str


@dataclass(frozen=True)
class Browser:
    """The list, its views, and what it can be filtered by; `metrics` in the order of their numbers in classes."""

    entries: tuple[Entry, ...]
    views: tuple[View, ...]
    metrics: tuple[str, ...]
    subjects: tuple[tuple[str, str], ...]
    kinds: tuple[Kind, ...]
    sources: tuple[str, ...]
    mixed: bool
    """Whether the prompts of a kind come from several sources."""
    held_back: tuple[tuple[str, int, int], ...]
    """Kind in words, prompts listed and prompts there are, where they are not all listed."""

    def __contains__(self, name: str) -> bool:
        return any(view.id == name for view in self.views)

    def source_view(self, metric: str, subject: str, source: str) -> str:
        """Id of the view of a figure on one source; empty for a source without samples."""
        return view_of(metric, subject, source=self.sources.index(source)) if source in self.sources else ""


def view_of(metric: str, subject: str, against: str = "", source: int | None = None) -> str:
    """Id of the view of a figure: of a subject, of its difference from another one, or on one source of prompts."""
    beside = f"-vs-{against}" if against else "" if source is None else f"-from-{source}"
    return f"v-{metric}-{subject}{beside}"


def browser(material: Material) -> Browser:
    """The samples of a report; of a control with several draws, the first."""
    drawn = material.samples.filter(variant=0)
    values = {(row["metric"], row["subject"], row["id"]): row["value"] for row in drawn.iter_rows(named=True)}
    metrics = tuple(dict.fromkeys(drawn["metric"]))
    sources = tuple(dict.fromkeys(drawn["source"]))
    listing = _Listing(material, values, metrics, sources)
    chosen = {kind: _chosen(material, values, kind) for kind in KINDS}
    entries = tuple(listing.entry(kind, prompt) for kind, prompts in chosen.items() for prompt in prompts)
    counts = [(words.KINDS[kind], len(chosen[kind]), len(material.prompts[kind])) for kind in KINDS]
    shown = frozenset(prompt.id for prompts in chosen.values() for prompt in prompts)
    return Browser(
        entries=entries,
        views=tuple(_views(material, drawn.filter(pl.col("id").is_in(list(shown))), metrics, sources)),
        metrics=metrics,
        subjects=tuple((subject, words.SUBJECT_NAMES[subject]) for subject in SUBJECTS),
        kinds=tuple(kind for kind in KINDS if chosen[kind]),
        sources=sources,
        mixed=any(frame["source"].n_unique() > 1 for frame in drawn.partition_by("metric", "kind")),
        held_back=tuple(count for count in counts if count[1] < count[2]),
    )


def _chosen(material: Material, values: Values, kind: Kind) -> list[Prompt]:
    """In file order: those that the transplant is not judged on as wanted, then others, up to `PER_KIND`."""
    metric = metric_of(material, kind)
    prompts = list(material.prompts[kind])
    wanted = {
        p.id: _outcome(material, metric, values.get((metric, "transplant", p.id))) not in ("b", "u") for p in prompts
    }
    taken = {p.id for p in sorted(prompts, key=lambda p: wanted[p.id])[:PER_KIND]}
    return [p for p in prompts if p.id in taken]


def _outcome(material: Material, metric: str, value: float | None) -> str:
    """`g` as wanted, `b` not, `u` not judged; empty for a metric whose samples are not right or wrong."""
    if value is None:
        return "u"
    if metric not in words.SHARES:
        return ""
    return "g" if (value >= 0.5) == words.wanted(metric, material.function).startswith("higher") else "b"


def _apart(one: float | None, other: float | None) -> bool:
    """Whether both are judged, and differently."""
    return one is not None and other is not None and one != other


class _Listing:
    """Prompts and answers as the list shows them."""

    def __init__(self, material: Material, values: Values, metrics: tuple[str, ...], sources: tuple[str, ...]) -> None:
        self._material, self._values, self._metrics = material, values, metrics
        self._asked = {(metric, name) for metric, _, name in values}
        rows = material.samples.select("id", "source").unique().iter_rows()
        self._from = {name: sources.index(source) for name, source in rows if source in sources}
        self._sources = sources
        self._said: dict[tuple[str, Kind, str], Completion] = {
            (subject, kind, row.id): row
            for subject in SUBJECTS
            for kind in KINDS
            for row in material.said[subject][kind]
            if row.variant == 0
        }

    def entry(self, kind: Kind, prompt: Prompt) -> Entry:
        asked = [f"m{n}" for n, metric in enumerate(self._metrics) if (metric, prompt.id) in self._asked]
        source = self._from.get(prompt.id)
        return Entry(
            kind=kind,
            prompt=prompt.text[:_LONGEST_PROMPT],
            left_out=max(len(prompt.text) - _LONGEST_PROMPT, 0),
            earlier_messages=len(prompt.messages) - 1,
            prefix=prompt.prefix,
            source="" if source is None else self._sources[source],
            classes=" ".join([f"kind-{kind}", *asked, *([] if source is None else [f"from-{source}"])]),
            answers=tuple(
                self._answer(kind, prompt, subject, self._said[subject, kind, prompt.id])
                for subject in SUBJECTS
                if (subject, kind, prompt.id) in self._said
            ),
        )

    def _answer(self, kind: Kind, prompt: Prompt, subject: str, row: Completion) -> Said:
        text = row.text.strip()
        judged, classes = [], [f"by-{subject}"]
        for n, metric in enumerate(self._metrics):
            if (metric, subject, prompt.id) not in self._values:
                continue
            value = self._values[metric, subject, prompt.id]
            judged.append(_judged(metric, value))
            outcome = _outcome(self._material, metric, value)
            classes += [f"{outcome}{n}"] if outcome else []
            if metric == metric_of(self._material, kind) and outcome:
                classes.append({"g": "good", "b": "bad", "u": "open"}[outcome])
            for mark, other in (("t", "target"), ("d", "donor")):
                if _apart(value, self._values.get((metric, other, prompt.id))):
                    classes.append(f"{mark}{n}")
        target = self._said.get(("target", kind, prompt.id))
        if target is not None and target.text.strip() != text:
            classes.append("new")
        return Said(
            name=words.SUBJECT_NAMES[subject],
            text=text[:_LONGEST_ANSWER],
            left_out=max(len(text) - _LONGEST_ANSWER, 0),
            choices=chances_of(prompt, row),
            judged=tuple(judged),
            classes=" ".join(classes),
        )


def _judged(metric: str, value: float | None) -> str:
    name = words.metric_name(metric)
    if value is None:
        return f"{name}: not judged"
    if metric in words.SHARES:
        return f"{name}: {'yes' if value == 1 else 'no' if value == 0 else words.percent(value)}"
    nll = metric in METRICS and METRICS[metric].exponential
    return f"{'NLL per token' if nll else name}: {words.number(value, 4)}"


def _views(material: Material, listed: pl.DataFrame, metrics: tuple[str, ...], sources: tuple[str, ...]) -> list[View]:
    """A view for every figure of the main table and of the table by source."""
    found: list[View] = []
    by_metric = {metric: listed.filter(metric=metric) for metric in metrics}
    judged = {
        metric: {(row["subject"], row["id"]): row["value"] for row in frame.iter_rows(named=True)}
        for metric, frame in by_metric.items()
    }
    for row in material.metrics.iter_rows(named=True):
        metric, subject = row["metric"], row["subject"]
        if metric not in metrics or subject not in SUBJECTS:
            continue
        n = metrics.index(metric)
        values = {name: value for (who, name), value in judged[metric].items() if who == subject}
        figure = words.amount(metric, row["value"])
        told = f"{_about(metric, subject)}: {figure}{_of_draws(material, subject)}. {_listed(material, metric, values)}"
        found.append(View(view_of(metric, subject), f"m{n} by-{subject}{_plain(metric)}", told))
        for against, mark in (("target", "t"), ("donor", "d")):
            if row[f"vs_{against}"] is None:
                continue
            pairs = [(value, judged[metric].get((against, name))) for name, value in values.items()]
            apart = sum(_apart(*pair) for pair in pairs)
            change = words.change(metric, row[f"vs_{against}"])
            told = f"{_about(metric, subject)} against the {against}: {change}{_of_draws(material, subject)}. "
            told += _paired(apart, len(pairs))
            classes = f"m{n} by-{subject} with-{against}{f' apart-{mark}' if apart else ''}{_plain(metric)}"
            found.append(View(view_of(metric, subject, against), classes, told))
    for row in material.by_source.iter_rows(named=True):
        metric, subject, source = row["metric"], row["subject"], row["source"]
        if metric not in metrics or source not in sources or subject not in by_source.SHOWN:
            continue
        frame = by_metric[metric].filter(subject=subject, source=source)
        place = sources.index(source)
        told = f"{_about(metric, subject)}, prompts from {source}: {words.amount(metric, row['value'])}. "
        told += _listed(material, metric, dict(zip(frame["id"], frame["value"], strict=True)))
        classes = f"m{metrics.index(metric)} by-{subject} from-{place}{_plain(metric)}"
        found.append(View(view_of(metric, subject, source=place), classes, told))
    return found


def _plain(metric: str) -> str:
    """Class of views whose samples are figures, neither right nor wrong."""
    return "" if metric in words.SHARES else " figures"


def _about(metric: str, subject: str) -> str:
    return f"{words.sentence(words.metric_name(metric))}, {words.SUBJECT_NAMES[subject]}"


def _of_draws(material: Material, subject: str) -> str:
    draws = material.samples.filter(subject=subject)["variant"].n_unique()
    return f", the mean over {draws} draws, of which the first is listed" if draws > 1 else ""


def _listed(material: Material, metric: str, values: Mapping[str, float | None]) -> str:
    """How many samples are listed and how they are judged."""
    outcomes = Counter(_outcome(material, metric, value) for value in values.values())
    told = {"g": "as wanted", "b": "not as wanted", "u": "not judged"}
    parts = [f"{words.number(outcomes[mark])} {text}" for mark, text in told.items() if outcomes[mark]]
    text = f"{words.number(len(values))} sample{'s' if len(values) != 1 else ''}"
    return f"{text}{f', {words.listed(parts)}' if parts else ''}."


def _paired(apart: int, pairs: int) -> str:
    if not apart:
        return f"None of the {words.number(pairs)} pairs of samples is judged differently; all are shown."
    of = f"{words.number(apart)} of {words.number(pairs)} pairs of samples"
    return (
        f"{of} {'is' if apart == 1 else 'are'} judged differently; only {'it is' if apart == 1 else 'they are'} shown."
    )
