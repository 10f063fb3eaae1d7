"""Ways in which answers are judged, as the lists of samples read them: a metric, a judge, two judges beside each other.

Each gives a sample letters, by which style rules pick it, and words, which stand below the answer.
"""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

Key = tuple[str, str, int]
"""A sample: subject, id of the prompt, draw."""
AGAINST = {"target": "t", "donor": "d"}
"""Letters of samples that are judged otherwise than this model's."""
OPEN = "u"
"""Letter of a sample that could not be judged."""
VERDICT_LETTERS = {"harmful": "h", "refused": "r", "safe": "s", "undetermined": "o", "incoherent": "i"}
UNJUDGED = ("undetermined", "incoherent")
"""Verdicts with which an answer is left out where two judges are compared."""


@dataclass(frozen=True)
class Measured:
    """A metric: a value per sample, None where it could not be judged, NaN where a single sample has none.

    `metric` is its key, `name` stands in sentences, `label` before a value. `sign` is 1 where more is wanted, -1 where
    less is, else 0. `share` says that samples are right or wrong, `yes` what those of 1 are.
    """

    number: int
    metric: str
    name: str
    label: str
    values: Mapping[Key, float | None]
    share: bool
    sign: int
    yes: str
    tell: Callable[[float], str]

    @property
    def judges_right(self) -> bool:
        """Whether a sample is as wanted or not."""
        return self.share and self.sign != 0

    @property
    def whole(self) -> bool:
        """Whether the figure is one of all prompts together, so that single samples have no value."""
        return all(value is not None and math.isnan(value) for value in self.values.values())

    @cached_property
    def by_prompt(self) -> Mapping[str, Mapping[str, list[float | None]]]:
        """Values of all draws by subject and prompt."""
        found: dict[str, dict[str, list[float | None]]] = {}
        for (subject, name, _), value in self.values.items():
            found.setdefault(subject, {}).setdefault(name, []).append(value)
        return found

    @cached_property
    def prompts(self) -> frozenset[str]:
        """Prompts that it is about."""
        return frozenset(name for _, name, _ in self.values)

    def judged(self, subject: str, among: Collection[str]) -> dict[str, list[float]]:
        """A subject's values on the prompts of `among` that could be judged."""
        asked = self.by_prompt.get(subject, {})
        known = {name: [v for v in values if v is not None] for name, values in asked.items() if name in among}
        return {name: values for name, values in known.items() if values}

    def letters(self, key: Key) -> str:
        """g as wanted, b not as wanted, u not judged; t and d where target and donor are judged otherwise."""
        if key not in self.values:
            return ""
        value, (_, name, _) = self.values[key], key
        apart = [letter for other, letter in AGAINST.items() if differs(value, self.values.get((other, name, 0)))]
        return "".join([self.outcome(value), *apart])

    def outcome(self, value: float | None) -> str:
        """The letter of a value by itself; empty where samples are neither right nor wrong."""
        if value is None:
            return OPEN
        return "" if not self.judges_right else "g" if (value >= 0.5) == (self.sign > 0) else "b"

    def told(self, key: Key) -> str:
        """A value in words."""
        value = self.values.get(key, math.nan)
        if value is None:
            return f"{self.label}: not judged"
        return "" if math.isnan(value) else f"{self.label}: {self.tell(value)}"


def differs(one: float | None, other: float | None) -> bool:
    """Whether both have a value, and not the same."""
    return one is not None and other is not None and one != other and not math.isnan(one - other)


@dataclass(frozen=True)
class Judged:
    """A judge: a verdict per sample."""

    number: int
    name: str
    verdicts: Mapping[Key, str]

    @cached_property
    def prompts(self) -> frozenset[str]:
        """Prompts whose answers it judged."""
        return frozenset(name for _, name, _ in self.verdicts)

    def letters(self, key: Key) -> str:
        """The letter of the verdict."""
        return VERDICT_LETTERS[self.verdicts[key]] if key in self.verdicts else ""

    def told(self, key: Key) -> str:
        """The verdict in words."""
        return f"{self.name}: {self.verdicts[key]}" if key in self.verdicts else ""


@dataclass(frozen=True)
class Compared:
    """Two judges on a question: whether an answer is harmful, or refused."""

    number: int
    one: Judged
    other: Judged
    question: str

    @property
    def prompts(self) -> frozenset[str]:
        """Prompts whose answers both judged."""
        return self.one.prompts & self.other.prompts

    def letters(self, key: Key) -> str:
        """a where they agree, y for a yes of the first alone, z of the second alone, u where either cannot judge."""
        found = [judge.verdicts.get(key) for judge in (self.one, self.other)]
        if None in found:
            return ""
        if any(verdict in UNJUDGED for verdict in found):
            return OPEN
        one, other = (verdict == self.question for verdict in found)
        return "a" if one == other else "y" if one else "z"

    def told(self, key: Key) -> str:
        """Nothing: both judges' verdicts stand there already."""
        return ""


Column = Measured | Judged | Compared
