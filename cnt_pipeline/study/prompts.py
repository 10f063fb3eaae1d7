"""The prompt sets of a study: where they come from, how they are read and how they are divided."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from cnt_pipeline.study.block import KINDS, TRAIN, Block, Count, Kind, Share, Split, Text, is_commit


class Columns(Block):
    """Which column of the source holds what; a dotted name reaches into nested objects."""

    text: str = Field("text", description="the user's message")
    messages: str | None = Field(None, description="a whole conversation, list of {role, content}; replaces text")
    prefix: str = Field("prefix", description="start of the assistant's answer that every model is given")
    answers: str = Field("answers", description="reference answers, one string or a list")
    reference: str = Field(
        "reference", description="a good answer in free text: its likelihood is measured, and it is never matched"
    )
    choices: str = Field("choices", description="continuations to compare by likelihood")
    choices_separator: Text | None = Field(
        None, description='what divides the choices where the column holds them in one string, e.g. "\\n"'
    )


class PromptSource(Block):
    """One set of prompts: exactly one source, and how to read it."""

    packaged: Text | None = Field(None, description="a set shipped with cnt_pipeline, e.g. harmful.score")
    file: Text | None = Field(None, description="local JSONL, CSV, Parquet or YAML; with `package`, a file inside it")
    package: Text | None = Field(None, description="name of an installed Python package that holds `file`")
    hub: Text | None = Field(None, description="Hugging Face dataset id, org/name")
    revision: Text | None = Field(None, description="full commit hash of the dataset's revision")
    config: Text | None = Field(None, description="configuration of the hub dataset")
    subset: str = Field("train", description="split of the hub dataset to read")
    rows: Text | None = Field(None, description="key of the list of rows inside a YAML or JSON document, e.g. seeds")
    where: dict[str, str | int | float | bool] = Field({}, description="keep only rows with these column values")
    columns: Columns = Field(Columns(), description="column mapping")
    take: Count | None = Field(None, description="how many prompts at most; all by default")
    gated: bool = Field(
        True,
        description="of a test source: false reports it beside the others, and no gate reads it (prompts of a kind "
        "that the study does not claim to reach)",
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        named = [self.packaged, self.hub, self.file]
        if sum(value is not None for value in named) != 1:
            raise ValueError("name exactly one source: packaged, file (alone or with package) or hub (with revision)")
        if self.package and not self.file:
            raise ValueError("`package` needs `file:`, the path inside the package")
        if self.hub and not is_commit(self.revision):
            raise ValueError(
                "a hub dataset needs `revision:` with the full 40-digit commit hash, so that it cannot move"
            )
        return self


SHARED = "shared"


def _listed(value: Any) -> Any:
    """One source where a list of sources is accepted."""
    return value if isinstance(value, list | tuple) else (value,)


def _not_twice(value: tuple[Any, ...]) -> tuple[Any, ...]:
    if any(source in value[:place] for place, source in enumerate(value)):
        raise ValueError("the list names a source twice; remove one")
    return value


_Sharing = Annotated[
    Annotated[PromptSource, Tag("<source>")] | Annotated[Literal["shared"], Tag("<shared>")],
    Discriminator(lambda value: "<shared>" if isinstance(value, str) else "<source>"),
]
Sources = Annotated[
    tuple[PromptSource, ...],
    Field(min_length=1),
    BeforeValidator(_listed, json_schema_input_type=PromptSource | tuple[PromptSource, ...]),
]
_SharingSources = Annotated[
    tuple[_Sharing, ...],
    Field(min_length=1),
    BeforeValidator(_listed, json_schema_input_type=_Sharing | tuple[_Sharing, ...]),
]


class KindSources(Block):
    """A set for each kind of prompt: a source or a list of sources and the word `shared`, which stands for this
    split's part of the scoring source."""

    function: _SharingSources | None = Field(None, description="prompts on which the function fires")
    lookalike: _SharingSources | None = Field(None, description="benign prompts easily mistaken for them")
    utility: _SharingSources | None = Field(None, description="general prompts")


class Shares(Block):
    """How a source that serves several roles is divided, by the digest of each prompt."""

    score: Share = Field(0.4, description="finds the neurons")
    selection: Share = Field(0.3, description="chooses how many of them")
    test: Share = Field(0.3, description="is read for the report alone")
    train: Share = Field(0.0, description="teaches derived models; left to the others where no recipe needs the kind")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        total = self.score + self.selection + self.test + self.train
        if abs(total - 1) > 1e-9:
            raise ValueError(f"score, selection, test and train must add up to 1, not {total:g}")
        return self


class Prompts(Block):
    """The prompt sets. A kind without its own selection, test or train set shares its scoring source by `split`."""

    function: Sources = Field(description="prompts on which donor and target behave differently")
    lookalike: Sources = Field(description="benign prompts on which the function must not fire")
    utility: Sources = Field(description="general prompts whose answers must not change for the worse")
    selection: KindSources = Field(KindSources(), description="sets that the search is judged on")
    test: KindSources = Field(KindSources(), description="sets that only the report reads")
    train: KindSources = Field(KindSources(), description="sets that teach derived models")
    split: Shares = Field(Shares(), description="division of a source that serves several roles")

    @model_validator(mode="after")
    def _gated(self) -> Self:
        splits: tuple[Split, ...] = ("score", "selection", TRAIN)
        for split in splits:
            for kind in KINDS:
                if not all(source.gated for source in self.source(split, kind)):
                    raise ValueError(f"`gated: false` is for test sources; remove it from {split}.{kind}")
        for kind in KINDS:
            own = self.source("test", kind)
            if own and not self.shares("test", kind) and not any(source.gated for source in own):
                raise ValueError(f"test.{kind} needs a source that the gates read: one without `gated: false`")
        return self

    def ungated(self) -> tuple[PromptSource, ...]:
        """The test sources that no gate reads."""
        return tuple(source for kind in KINDS for source in self.source("test", kind) if not source.gated)

    def source(self, split: Split, kind: Kind) -> tuple[PromptSource, ...]:
        """The sources that were written for this role, without the part of the scoring source that it may share."""
        block = self if split == "score" else getattr(self, split)
        return tuple(source for source in getattr(block, kind) or () if source != SHARED)

    def shares(self, split: Split, kind: Kind) -> bool:
        """Whether this role has a part of the scoring source: by itself, by the word `shared`, or by naming it."""
        if split == "score":
            return True
        written = getattr(getattr(self, split), kind)
        return written is None or SHARED in written or written == getattr(self, kind)
