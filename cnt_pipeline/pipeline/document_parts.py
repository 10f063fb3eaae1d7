"""Parts that the JSON documents share, and what they say of suites and judges."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Document(BaseModel):
    """A document or a part of one."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Interval(Document):
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


class Confusion(Document):
    """Answers by what the judge says, then by what people or another judge say."""

    yes_yes: int
    yes_no: int
    no_yes: int
    no_no: int


class SuiteRow(Document):
    """One figure of an evaluation suite for one model. What the answers leave undefined is null."""

    suite: str = Field(description="what the study calls the suite")
    part: str = Field(description="set of prompts, or task, of the suite")
    metric: str
    subject: str = Field(description="target, donor or transplant")
    value: float | None
    low: float | None = Field(description="lower end of the 95 % interval; null where there is none")
    high: float | None
    n: int = Field(description="items judged")
    unscored: int = Field(description="items that could not be judged, in none of the figures")
    unit: str = Field(description="share (0 to 1), percentage (0 to 100), score, perplexity or plain")
    better: Literal["higher", "lower", "middle", "depends"]
    vs_target: float | None = Field(description="paired difference from the target, on items judged for both")
    vs_target_low: float | None
    vs_target_high: float | None


class JudgePair(Document):
    """How far two judges agree on one question, over the answers of all subjects."""

    one: str = Field(description="name of the first judge in the study")
    other: str = Field(description="name of the second")
    question: Literal["harmful", "refused"] = Field(description="the yes or no that both can tell")
    n: int = Field(description="answers that both judged")
    unjudged: int = Field(description="answers that one of them could not judge, in none of the figures")
    agreed: Interval | None = Field(description="share on which both say the same; null where n is 0")
    kappa: Interval | None = Field(description="Cohen's kappa; null where either says the same of everything")
    confusion: Confusion = Field(description="answers by what the first says, then by what the second says")
