"""Lists of samples: prompts with what every model said and how that was judged, as many as fit into a page.

Style rules pick samples by their classes: on an answer `by-target` is the subject and `g0` what the first column says
of it (the letters are those of `columns`); on a prompt `from-0` is the first source, and `x0` says that the first
column does not ask it.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from cnt_pipeline.completions.schema import Completion
from cnt_pipeline.prompt_sets.schema import Prompt
from cnt_pipeline.reports import words
from cnt_pipeline.reports.choices import told_choices
from cnt_pipeline.reports.columns import OPEN, Column, Compared, Key, Measured

BUDGET = 3_000_000
"""Characters of prompts and answers that a page lists, which keeps it at a few MB: all samples of most studies."""
SELECTION_BUDGET = 1_000_000
"""Characters that answers to selection prompts may take beside that."""
OURS = "transplant"
"""Whose samples that are not as wanted are listed first where not all are."""
_LONGEST_ANSWER, _LONGEST_PROMPT = 600, 1000
_SHORT_CHOICE = 16
_MARKUP, _CLASSES = 260, 100
"""About what the page needs for an answer beside its text, and how long its classes may be within that."""
_OUTCOMES = {"g": "good", "b": "bad", OPEN: "open"}


@dataclass(frozen=True)
class Said:
    """One subject's answer, in one draw or in several that say the same: what is said of it, and its classes."""

    name: str
    text: str
    left_out: int
    choices: tuple[tuple[str, str], ...]
    judged: tuple[str, ...]
    classes: str
    draws: int = 1

    @property
    def size(self) -> int:
        """About how many characters it takes."""
        return _MARKUP + len(self.text) + max(len(self.classes) - _CLASSES, 0)


@dataclass(frozen=True)
class Entry:
    """One prompt with the answers of all subjects; `choices` are listed here where they are too long to repeat.

    Of a long prompt `left_out` characters are cut off at its end, or `skipped` at its beginning.
    """

    id: str
    prompt: str
    skipped: int
    left_out: int
    earlier_messages: int
    prefix: str
    choices: tuple[tuple[str, str], ...]
    source: str
    classes: str
    answers: tuple[Said, ...]

    @property
    def size(self) -> int:
        """About how many characters it takes."""
        answers = sum(each.size for each in self.answers)
        return len(self.prompt) + sum(len(text) for text, _ in self.choices) + answers

    @property
    def missed(self) -> bool:
        """Whether an answer of `OURS` is not as wanted, or not judged."""
        ours = (set(each.classes.split()) for each in self.answers)
        return any(f"by-{OURS}" in each and bool(each & {"bad", "open"}) for each in ours)


@dataclass(frozen=True)
class Shelf:
    """Prompts that are listed together, of a kind or of a suite's part, with all that was said and judged.

    The first of `columns` says what is as wanted. `tested` are the study's own test prompts, which every model answers;
    prompts of the sources `aside` are in no pooled figure. `asks_last` says that a prompt's question stands at its end,
    behind examples. `alike` are subjects whose equal answers are listed once, with how many candidates and points each
    of them stands for.
    """

    key: str
    title: str
    prompts: Sequence[Prompt]
    said: Mapping[str, Sequence[Completion]]
    columns: tuple[Column, ...]
    tested: bool = True
    aside: Collection[str] = ()
    asks_last: bool = False
    alike: Mapping[str, int] = field(default_factory=dict)
    entries: tuple[Entry, ...] = ()
    """What of it is listed."""

    @property
    def ids(self) -> frozenset[str]:
        """Prompts that pooled figures read."""
        return frozenset(prompt.id for prompt in self.prompts if prompt.source not in self.aside)


def filled(
    shelves: Sequence[Shelf], subjects: Mapping[str, str], sources: Sequence[str], budget: int | None = None
) -> tuple[Shelf, ...]:
    """The shelves with their entries: of long ones as many as `budget` allows, those with a miss first.

    Without a budget that is `BUDGET`.
    """
    made = [_Listing(shelf, subjects, sources).entries() for shelf in shelves]
    sizes = [sum(entry.size for entry in entries) for entries in made]
    allowed = _allowed(sizes, BUDGET if budget is None else budget)
    return tuple(
        replace(shelf, entries=_within(entries, size))
        for shelf, entries, size in zip(shelves, made, allowed, strict=True)
    )


def _allowed(sizes: Sequence[int], budget: int) -> list[int]:
    """What each list may take of the budget: small ones all they need, long ones equal parts of what is left."""
    left, found = budget, [0] * len(sizes)
    for done, place in enumerate(sorted(range(len(sizes)), key=sizes.__getitem__)):
        found[place] = min(sizes[place], left // (len(sizes) - done))
        left -= found[place]
    return found


def _within(entries: Sequence[Entry], size: int) -> tuple[Entry, ...]:
    kept: set[str] = set()
    for entry in sorted(entries, key=lambda entry: not entry.missed):
        size -= entry.size
        if size < 0:
            break
        kept.add(entry.id)
    return tuple(entry for entry in entries if entry.id in kept)


class _Listing:
    """The prompts and answers of one shelf."""

    def __init__(self, shelf: Shelf, subjects: Mapping[str, str], sources: Sequence[str]) -> None:
        self._shelf, self._subjects, self._sources = shelf, subjects, sources
        self._said: dict[tuple[str, str], list[Completion]] = {}
        for subject, rows in shelf.said.items():
            for row in rows:
                self._said.setdefault((subject, row.id), []).append(row)
        self._draws = {subject: len({row.variant for row in rows}) for subject, rows in shelf.said.items()}

    def entries(self) -> list[Entry]:
        """All of them, in file order."""
        return [self._entry(prompt) for prompt in self._shelf.prompts]

    def _entry(self, prompt: Prompt) -> Entry:
        # What is scored whole, such as a text for its perplexity, is its own prompt.
        text = prompt.text + prompt.choices[0] if len(prompt.choices) == 1 else prompt.text
        long = len(prompt.choices) > 1 and any(len(choice) > _SHORT_CHOICE for choice in prompt.choices)
        roles: Sequence[str] = getattr(prompt, "roles", ()) or [""] * len(prompt.choices)
        unasked = [f"x{column.number}" for column in self._shelf.columns if prompt.id not in column.prompts]
        tested = [f"from-{self._sources.index(prompt.source)}"] if self._shelf.tested else []
        aside = ["aside"] if prompt.source in self._shelf.aside else []
        last, cut = self._shelf.asks_last, max(len(text) - _LONGEST_PROMPT, 0)
        return Entry(
            id=prompt.id,
            prompt=text[cut:] if last else text[:_LONGEST_PROMPT],
            skipped=cut if last else 0,
            left_out=0 if last else cut,
            earlier_messages=len(prompt.messages) - 1,
            prefix=prompt.prefix,
            choices=tuple(zip(prompt.choices, roles, strict=True)) if long else (),
            source=prompt.source,
            classes=" ".join([*tested, *aside, *unasked]),
            answers=(
                *(
                    each
                    for subject in self._subjects
                    if subject not in self._shelf.alike
                    for each in self._answers(prompt, subject, long)
                ),
                *self._alike(prompt, long),
            ),
        )

    def _alike(self, prompt: Prompt, long: bool) -> list[Said]:
        """What the subjects `alike` answered, each answer once: that of most candidates and points first."""
        counts, same = self._shelf.alike, dict[Said, dict[str, str]]()
        for subject in counts:
            own = f"by-{subject}"
            for row in self._said.get((subject, prompt.id), ()):
                said = self._answer(prompt, subject, row, long)
                bare = replace(said, name="", classes=said.classes.removeprefix(own))
                same.setdefault(bare, {})[subject] = own
        every, found = words.number(sum(counts.values())), []
        for said, subjects in sorted(same.items(), key=lambda item: -sum(counts[subject] for subject in item[1])):
            name = f"{words.number(sum(counts[subject] for subject in subjects))} of {every} candidates and points"
            found.append(replace(said, name=name, classes=" ".join(subjects.values()) + said.classes))
        return found

    def _answers(self, prompt: Prompt, subject: str, long: bool) -> Iterator[Said]:
        """A subject's answers; draws with the same answer and judgement are one."""
        same: dict[Said, list[int]] = {}
        for row in self._said.get((subject, prompt.id), ()):
            same.setdefault(self._answer(prompt, subject, row, long), []).append(row.variant + 1)
        for said, draws in same.items():
            name = said.name if self._draws[subject] == 1 else f"{said.name}, {_draws(draws, self._draws[subject])}"
            yield replace(said, name=name, draws=len(draws))

    def _answer(self, prompt: Prompt, subject: str, row: Completion, long: bool) -> Said:
        text, key = row.text.strip(), (subject, row.id, row.variant)
        targets = self._said.get(("target", prompt.id))
        asked = [c.metric for c in self._shelf.columns if isinstance(c, Measured) and prompt.id in c.prompts]
        chances = told_choices(prompt, row, asked) if len(prompt.choices) > 1 else ()
        if long:
            chances = tuple((str(place), chance) for place, (_, chance) in enumerate(chances, 1))
        told = [column.told(key) for column in self._shelf.columns]
        classes = [f"by-{subject}", *self._classes(key)]
        if targets and targets[0].text.strip() != text:
            classes.append("new")
        return Said(
            name=self._subjects.get(subject, ""),
            text=text[:_LONGEST_ANSWER],
            left_out=max(len(text) - _LONGEST_ANSWER, 0),
            choices=chances,
            judged=tuple(each for each in told if each),
            classes=" ".join(classes),
        )

    def _classes(self, key: Key) -> Iterator[str]:
        """What every column says of a sample; `good`, `bad` and `open` are what the first one says."""
        disagree = False
        for place, column in enumerate(self._shelf.columns):
            letters = column.letters(key)
            yield from (f"{letter}{column.number}" for letter in letters)
            if place == 0 and letters[:1] in _OUTCOMES:
                yield _OUTCOMES[letters[:1]]
            disagree |= isinstance(column, Compared) and letters in ("y", "z")
        if disagree:
            yield "dis"


def _draws(drawn: Sequence[int], all_draws: int) -> str:
    if len(drawn) == all_draws:
        return "both draws" if all_draws == 2 else f"all {all_draws} draws"
    return f"draw{'s' if len(drawn) > 1 else ''} {words.listed([str(each) for each in drawn])}"
