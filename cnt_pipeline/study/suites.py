"""Evaluation suites: what a suite file says, and how a study chooses and changes suites."""

from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator

from cnt_pipeline.study.block import KINDS, Block, Count, Name, Text, is_commit
from cnt_pipeline.study.prompts import PromptSource

PLACE = "{prompt}"
"""What a template holds in the prompt's place."""
CUSTOM = "custom"
"""The suite that a user's own file describes."""

Sourced = Annotated[
    Annotated[PromptSource, Tag("<source>")] | Annotated[Text, Tag("<row>")],
    Discriminator(lambda value: "<row>" if isinstance(value, str) else "<source>"),
]
"""A source of prompts, or the name of a row of the table of sources (with `@` and a commit for a hub dataset), or
`study.` and a kind of this study's own test prompts."""


class Part(Block):
    """One set of prompts of a suite, or one task of lm-evaluation-harness."""

    source: Sourced | None = Field(
        None, description="row of the table of sources, study.<kind> for the study's own test prompts, or a source"
    )
    alternatives: tuple[Text, ...] = Field((), description="other rows of the table that fit, for `cnt suites`")
    adapter: Text | None = Field(None, description="how rows become prompts; by default as the table says")
    template: Text | None = Field(None, description="text around every prompt, with {prompt} in its place")
    metrics: tuple[Text, ...] = Field((), description="what is measured (`cnt suites` lists the metrics)")
    max_new_tokens: Annotated[int, Field(strict=True, ge=1, le=1024)] | None = Field(
        None, description="longest answer, in tokens; by default generation.max_new_tokens"
    )
    take: Count | None = Field(None, description="how many prompts at most; all by default")
    task: Text | None = Field(None, description="task of lm-evaluation-harness: its name, or a task file (YAML)")
    revision: Text | None = Field(None, description="full commit hash of the dataset that a task's name stands for")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.source is None) == (self.task is None):
            raise ValueError("a part has either `source:` (with `metrics:`) or `task:`")
        if self.source is not None and not self.metrics:
            raise ValueError("a part with a source needs `metrics:`, at least one")
        foreign = [key for key in ("metrics", "template", "adapter", "max_new_tokens") if getattr(self, key)]
        if self.task is not None and foreign:
            raise ValueError(f"a task brings its own prompts and metrics; remove {' and '.join(foreign)}")
        if self.template is not None and PLACE not in self.template:
            raise ValueError("a template must hold {prompt}, which stands for the prompt")
        if self.task is not None and not self.is_task_file and not is_commit(self.revision):
            raise ValueError(
                "a task by its name reads a hub dataset, which can move: add `revision:` with the dataset's full "
                "40-digit commit hash"
            )
        return self

    @property
    def is_task_file(self) -> bool:
        """Whether `task` is a file."""
        return self.task is not None and self.task.endswith((".yaml", ".yml"))


class Suite(Block):
    """A suite file."""

    suite: Name = Field(description="the suite's name")
    version: Annotated[int, Field(strict=True, ge=1)] = Field(description="raised whenever a part changes")
    meaning: Text = Field(description="what it asks, in a sentence")
    parts: Annotated[dict[Name, Part], Field(min_length=1)] = Field(description="its parts by name")

    @model_validator(mode="after")
    def _plain_names(self) -> Self:
        taken = next((name for name in self.parts if name in KINDS), None)
        if taken is not None:
            raise ValueError(f"a part cannot be called '{taken}', which is a kind of prompts; rename it")
        return self


class SuiteChoice(Block):
    """A suite in a study, with what the study changes of it."""

    suite: Text = Field(description="a suite of `cnt suites`; `custom` with `file:` for one of your own")
    file: Text | None = Field(None, description="of `suite: custom`: the suite file")
    name: Name | None = Field(None, description="what its steps are called; by default the suite's name")
    parts: tuple[Name, ...] | None = Field(None, description="only these parts")
    source: Sourced | None = Field(None, description="another source, for a suite of one part")
    sources: dict[Name, Sourced] = Field({}, description="other sources, by part")
    take: Count | None = Field(None, description="how many prompts of every part at most")

    @model_validator(mode="after")
    def _own_file(self) -> Self:
        if (self.suite == CUSTOM) != (self.file is not None):
            raise ValueError("`suite: custom` goes with `file:`, the suite file; other suites have none")
        if self.source is not None and self.sources:
            raise ValueError("give `source:` (a suite of one part) or `sources:` (by part), not both")
        return self

    @property
    def label(self) -> str:
        """What its steps are called."""
        return self.name or self.suite


def _choice(value: Any) -> Any:
    """A suite's name alone stands for the suite as it is."""
    return {"suite": value} if isinstance(value, str) else value


def _apart(choices: tuple[SuiteChoice, ...]) -> tuple[SuiteChoice, ...]:
    labels = [choice.label for choice in choices]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise ValueError(f"two suites are called '{twice}'; give one of them a `name:` of its own")
    return choices


Suites = Annotated[
    tuple[Annotated[SuiteChoice, BeforeValidator(_choice, json_schema_input_type=str | SuiteChoice)], ...],
    AfterValidator(_apart),
]
