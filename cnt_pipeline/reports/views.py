"""Views of the samples behind a figure: what is listed, how it counts, and what leads on from there."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from cnt_pipeline.reports import words
from cnt_pipeline.reports.browse import View
from cnt_pipeline.reports.columns import AGAINST, OPEN, VERDICT_LETTERS, Compared, Judged, Measured, differs
from cnt_pipeline.reports.listing import Shelf

REST = "-all"
"""End of the id of a view that shows the pairs that are judged alike too."""
UNSCORED = "-open"
"""End of the id of a view of what could not be judged."""


def view_of(metric: str, subject: str, against: str = "", source: int | None = None) -> str:
    """Id of the view of a figure: of a subject, of its difference from another one, or on one source of prompts."""
    beside = f"-vs-{against}" if against else "" if source is None else f"-from-{source}"
    return f"v-{metric}-{subject}{beside}"


def judge_view(judge: int, kind: str, subject: str, verdict: str = "") -> str:
    """Id of the view of a judge's verdicts on a subject's answers to a kind of prompts, or of one of the verdicts."""
    return f"v-judge{judge}-{kind}-{subject}{f'-{verdict}' if verdict else ''}"


def trial_view(number: int) -> str:
    """The subject of `view_of` for a candidate of the search, by its number."""
    return f"t{number}"


def point_view(place: int) -> str:
    """The subject of `view_of` for a point of the frontier, by its place in the table."""
    return f"f{place}"


def pair_view(pair: int, part: str = "") -> str:
    """Id of the view of two judges: all that both judged, or a yes of the `one` or the `other` alone, or `open`."""
    return f"v-judges{pair}{f'-{part}' if part else ''}"


@dataclass(frozen=True)
class Scope:
    """The prompts that a figure is about, on their lists: `words` stand after their number, `source` is one alone."""

    shelves: tuple[Shelf, ...]
    ids: frozenset[str]
    words: str = ""
    source: int | None = None

    @classmethod
    def of(cls, shelves: Iterable[Shelf], words: str = "") -> "Scope":
        """All prompts of lists that pooled figures read."""
        found = tuple(shelves)
        return cls(found, frozenset().union(*(shelf.ids for shelf in found)), words)

    @property
    def lists(self) -> tuple[str, ...]:
        """Keys of the lists."""
        return tuple(shelf.key for shelf in self.shelves)

    def counted(self, ids: Collection[str]) -> str:
        """How many of `ids` are listed, where not all are."""
        listed = {entry.id for shelf in self.shelves for entry in shelf.entries} & set(ids)
        return "" if len(listed) == len(ids) else f" {words.number(len(listed))} of them are in this page."


class Views:
    """Views by id; a figure without a view of its own leads to that of the figure that has its samples."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self.found: dict[str, View] = {}
        self._names = names

    def value(
        self,
        name: str,
        metric: Measured,
        subject: str,
        scope: Scope,
        figure: str,
        *,
        about: str = "",
        near: tuple[str, ...] = (),
        links: tuple[tuple[str, str], ...] = (),
        parent: str = "",
    ) -> None:
        """A metric of one subject: every prompt that could be judged, and a view of the others.

        `about` says what it is a figure of, where that is more than the subject. What the models `near` said is listed
        too and counts in nothing; `links` and `parent` are those of `View`.
        """
        judged, about = metric.judged(subject, scope.ids), about or f"{metric.name} of {self._names[subject]}"
        asked = metric.by_prompt.get(subject, {})
        unjudged = [each for each in asked if each in scope.ids and each not in judged]
        view = View(name, "", "", scope.lists, metric.number, subject, source=scope.source, right=metric.judges_right,
                    near=near, parent=parent)  # fmt: skip
        if unjudged:
            heading = f"{_prompts(len(unjudged))}{scope.words} on which {about} could not be judged"
            told = f"They count in no figure.{scope.counted(unjudged)}"
            self._add(replace(view, id=name + UNSCORED, heading=heading, text=told, only=OPEN, parent=parent or name))
            links = ((name + UNSCORED, f"Show {words.number(len(unjudged))} more that could not be judged"), *links)
        if judged:
            heading = f"{_prompts(len(judged))}{scope.words} behind {about}{_positive(metric, judged)}"
            told = f"{figure}. {_spread(metric, judged)}{scope.counted(judged)}"
            self._add(replace(view, heading=heading, text=told, links=links))

    def difference(self, name: str, metric: Measured, subject: str, other: str, scope: Scope, figure: str) -> None:
        """A paired difference: the prompts on which the two are judged differently, and a view of all pairs."""
        ours, theirs = metric.judged(subject, scope.ids), metric.judged(other, scope.ids)
        pairs = {each: (fmean(values), fmean(theirs[each])) for each, values in ours.items() if each in theirs}
        if not pairs:
            return
        letter, about = AGAINST.get(other, ""), f"{metric.name} of {self._names[subject]}"
        apart = [each for each in pairs if any(differs(v, w) for v in ours[each] for w in theirs[each])]
        higher, lower = (sum(sign * (a - b) > 0 for a, b in pairs.values()) for sign in (1, -1))
        told = f"{figure}: higher on {words.number(higher)}, lower on {words.number(lower)}, the same on "
        told += f"{words.number(len(pairs) - higher - lower)}."
        view = View(name, "", told, scope.lists, metric.number, subject, (other,), right=metric.judges_right)
        heading = f"{_prompts(len(pairs))}{scope.words} behind {about} against {self._names[other]}"
        everything = replace(view, id=name + REST, heading=heading, text=told + scope.counted(pairs), parent=name)
        if apart and letter:
            few, many = words.number(len(apart)), words.number(len(pairs))
            heading = f"{few} of {_prompts(len(pairs))}{scope.words} on which {metric.name} differs between "
            heading += f"{self._names[subject]} and {self._names[other]}"
            self._add(replace(view, heading=heading, text=told + scope.counted(apart), only=letter,
                              links=((name + REST, f"Show all {many}"),)))  # fmt: skip
            self._add(replace(everything, links=((name, f"Show only the {few} that differ"),)))
        else:
            self._add(everything, name)

    def recovery(
        self, name: str, metric: Measured, subject: str, scope: Scope, figure: str, called: str = "recovery"
    ) -> None:
        """How far a subject has come from the target to the donor: prompts that were judged for all three."""
        others = tuple(each for each in AGAINST if each != subject)
        judged = [metric.judged(each, scope.ids) for each in (subject, *others)]
        common = set(judged[0]).intersection(*judged[1:])
        if common:
            heading = f"{_prompts(len(common))} behind the {called} of {self._names[subject]}"
            told = f"{figure} of the way from target to donor in {metric.name}.{scope.counted(common)}"
            self._add(View(name, heading, told, scope.lists, metric.number, subject, others, right=metric.judges_right))

    def verdicts(self, at: int, judge: Judged, shelf: Shelf, subject: str, kind: str) -> None:
        """What a judge says of a subject's answers to one kind of prompts, and each verdict by itself."""
        scope = Scope.of((shelf,))
        found = [(key[1], verdict) for key, verdict in judge.verdicts.items()
                 if key[0] == subject and key[1] in scope.ids]  # fmt: skip
        prompts, counts = {each for each, _ in found}, Counter(verdict for _, verdict in found)
        if not prompts:
            return
        about = f"answers of {self._names[subject]} to {kind} prompts"
        draws = "" if len(prompts) == len(found) else f" ({_prompts(len(prompts))}, {len(found) // len(prompts)} draws)"
        every = words.number(len(found))
        shown = {verdict: judge_view(at, shelf.key, subject, verdict) for verdict in counts}
        base = View(
            judge_view(at, shelf.key, subject),
            f"{every} {about}{draws}, judged by {judge.name}",
            f"The verdicts: {words.listed([f'{words.number(count)} {verdict}' for verdict, count in counts.items()])}."
            + scope.counted(prompts),
            scope.lists, judge.number, subject,
            links=tuple((shown[verdict], f"Only {verdict}") for verdict in counts if len(counts) > 1),
        )  # fmt: skip
        self._add(base, *(judge_view(at, shelf.key, subject, each) for each in VERDICT_LETTERS if each not in counts))
        for verdict, count in counts.items():
            heading = f"{words.number(count)} of {every} {about}{draws} that {judge.name} calls {verdict}"
            links = ((base.id, f"Show all {every}"),)
            told = scope.counted({each for each, said in found if said == verdict}).strip()
            self._add(replace(base, id=shown[verdict], heading=heading, text=told, only=VERDICT_LETTERS[verdict],
                              links=links, parent=base.id))  # fmt: skip

    def pair(self, at: int, compared: Compared, shelves: Sequence[Shelf]) -> None:
        """Where two judges agree on a question, where one alone says yes, and what either could not judge."""
        scope = Scope.of(shelves)
        one, other, asked = compared.one.name, compared.other.name, compared.question
        keys = [key for key in compared.one.verdicts if key[1] in scope.ids]
        counts = Counter(compared.letters(key) for key in keys)
        n = counts["a"] + counts["y"] + counts["z"]
        parts = {
            "one": ("y", f"that {one} alone calls {asked}, and {other} does not"),
            "other": ("z", f"that {other} alone calls {asked}, and {one} does not"),
            "open": (OPEN, f"that {one} or {other} could not judge"),
        }
        base = View(
            pair_view(at),
            f"{words.number(n)} answers that {one} and {other} both judge: {words.number(counts['a'])} alike on "
            f"“{asked}?”",
            f"Of all models, to function and look-alike prompts.{scope.counted({key[1] for key in keys})}",
            scope.lists, compared.number,
            links=tuple((pair_view(at, part), f"Only {words.number(counts[letter])} {what}")
                        for part, (letter, what) in parts.items() if counts[letter]),
        )  # fmt: skip
        self._add(base, *(pair_view(at, part) for part, (letter, _) in parts.items() if not counts[letter]))
        for part, (letter, what) in parts.items():
            if counts[letter]:
                heading = f"{words.number(counts[letter])} answers {what}"
                links = ((base.id, f"Show all {words.number(n)} that both judge"),)
                self._add(replace(base, id=pair_view(at, part), heading=heading, only=letter, links=links,
                                  parent=base.id))  # fmt: skip

    def _add(self, view: View, *also: str) -> None:
        for name in (view.id, *also):
            self.found.setdefault(name, view)


def _prompts(count: int) -> str:
    return f"{words.number(count)} prompt{'' if count == 1 else 's'}"


def _positive(metric: Measured, judged: Mapping[str, Sequence[float]]) -> str:
    """How many samples are 1, where they are 0 or 1."""
    values = [value for each in judged.values() for value in each]
    if not metric.share or not {0.0, 1.0}.issuperset(values):
        return ""
    drawn = "" if len(values) == len(judged) else f" of {words.number(len(values))} answers"
    return f", {words.number(int(sum(values)))}{drawn} {metric.yes}"


def _spread(metric: Measured, judged: Mapping[str, Sequence[float]]) -> str:
    """How a subject's samples lie."""
    values = [value for each in judged.values() for value in each]
    if metric.whole:
        return "It is a figure of all prompts together, to which a single answer has no value of its own."
    if metric.share and not metric.sign:
        return ""
    if not metric.judges_right:
        return f"Single answers have {metric.label} from {metric.tell(min(values))} to {metric.tell(max(values))}."
    wanted = sum(metric.outcome(value) == "g" for value in values)
    return f"As wanted: {words.number(wanted)}, not as wanted: {words.number(len(values) - wanted)}."
