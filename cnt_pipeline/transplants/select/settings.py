"""How gates are learned: the study's `method.learn` with the defaults of the selection rule that reads it."""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from cnt_pipeline.study.schema import Learn

Importance = Literal["score", "gradient"]
Objective = Literal["likelihood", "preference"]


@dataclass(frozen=True)
class LearnSettings:
    """Settings of gate training; `reads` names those that the rule has a use for.

    `candidates` and `budget` are shares of all parameters; `prompts` and `others` are function prompts and
    look-alike plus utility prompts a step; `objective` says what is asked of the former (see `learn.Term`), `keep`
    weighs the target's answers to the latter, `misfire` that look-alikes are not given the donor's answers to function
    prompts; `tokens` is how many tokens of every answer count, all where it is None.
    """

    steps: int
    rate: float
    prompts: int
    others: int
    keep: float
    objective: Objective
    candidates: float
    start: float
    misfire: float = 0.0
    tokens: int | None = None
    price: float = 0.0
    limit: float = 0.0
    budget: float = 1.0
    cuts: int = 0
    importance: Importance = "score"
    reads: tuple[str, ...] = ()

    def slice(self) -> dict[str, Any]:
        """What the rule reads, for the step's fingerprint."""
        values = asdict(self)
        return {name: values[name] for name in self.reads}


_COMMON = ("steps", "rate", "prompts", "others", "keep", "objective", "candidates", "start", "misfire", "tokens")
DEFAULTS: dict[str, LearnSettings] = {
    "mask": LearnSettings(
        steps=240, rate=0.1, prompts=32, others=8, keep=1.0, objective="preference", candidates=0.3, start=0.0,
        price=40.0, reads=(*_COMMON, "price"),
    ),
    "prune": LearnSettings(
        steps=80, rate=0.1, prompts=6, others=8, keep=1.0, objective="likelihood", candidates=0.02, start=3.0,
        limit=12.0, budget=0.0024, cuts=4, reads=(*_COMMON, "limit", "budget", "cuts", "importance"),
    ),
}  # fmt: skip
"""By selection rule. Tuned on scoring and selection prompts alone."""


def learn_settings(selection: str, learn: Learn) -> LearnSettings:
    """The settings of a rule that learns gates, with what the study says instead."""
    written = {name: value for name in _STUDY_KEYS if (value := getattr(learn, name)) is not None}
    return replace(DEFAULTS[selection], **written)


_STUDY_KEYS = tuple(field.name for field in fields(LearnSettings) if field.name != "reads")
