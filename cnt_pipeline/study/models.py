"""The models of a study: where they come from, or the recipe or adapter by which one is made from another."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from cnt_pipeline.study.block import NAME, Block, Count, Kind, Name, Positive, Seed, Share, Text, is_commit

GGUF = ".gguf"
RESERVED = ("pair", "matched")
"""Names of steps beside those of the models."""


class ModelSource(Block):
    """Where a model comes from: a local folder or GGUF file, a hub id with a pinned revision, or a folder or GGUF
    file in an installed package."""

    kind: Literal["path", "hub", "package", "gguf"] | None = Field(
        None, alias="from", description="which source it is; follows from the other keys and may be left out"
    )
    path: Path | None = Field(
        None, description="local folder with config.json, safetensors and tokenizer, or a .gguf file"
    )
    hub: Text | None = Field(None, description="Hugging Face id, org/name")
    revision: Text | None = Field(None, description="full commit hash of the hub revision")
    package: Text | None = Field(None, description="name of an installed Python package")
    file: Text | None = Field(None, description="folder or .gguf file inside that package")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if sum(value is not None for value in (self.path, self.hub, self.package)) != 1:
            raise ValueError(
                "name exactly one source: path, hub (with revision) or package (with file); or write `from: lora_sft` "
                "and a recipe, or `adapter:` and its `base:`"
            )
        if self.hub and not is_commit(self.revision):
            raise ValueError("a hub model needs `revision:` with the full 40-digit commit hash, so that it cannot move")
        if self.package and not self.file:
            raise ValueError("a model in a package needs `file:`, the folder or .gguf file inside the package")
        if self.file and not self.package:
            raise ValueError("`file:` is a place inside a package; name the `package:`, or write `path:` instead")
        if self.revision and not self.hub:
            raise ValueError("`revision:` belongs to a hub model; remove it, or name the `hub:` id")
        if self.kind == "gguf" and not self.is_gguf:
            raise ValueError("`from: gguf` needs `path:` or `package:` with `file:`, naming a file that ends in .gguf")
        if self.kind not in (None, "gguf") and getattr(self, str(self.kind)) is None:
            raise ValueError(f"`from: {self.kind}` needs the key `{self.kind}:`; add it, or leave `from:` out")
        return self

    @property
    def is_gguf(self) -> bool:
        """Whether the source is one GGUF file, which is dequantised into a model folder."""
        return str(self.path or self.file or "").lower().endswith(GGUF)


def _listed(value: Any) -> Any:
    """One value where a list of values is accepted."""
    return value if isinstance(value, list | tuple) else (value,)


def _answers(value: Any) -> Any:
    listed = isinstance(value, list | tuple) and bool(value) and all(isinstance(text, str) and text for text in value)
    if not listed and value not in ("own", "reference"):
        raise ValueError("the answers of a lesson are `own`, `reference` or a list of at least one text")
    return value


class Lesson(Block):
    """Prompts and the answers that the model is taught to give."""

    prompts: Annotated[tuple[Kind, ...], BeforeValidator(_listed, json_schema_input_type=Kind | tuple[Kind, ...])] = (
        Field(description="kinds whose train split is taught, one or a list", min_length=1)
    )
    answers: Annotated[Literal["own", "reference"] | tuple[Text, ...], BeforeValidator(_answers)] = Field(
        description="own: the base model's greedy answers in the study's dtype; reference: the prompts' own; or texts"
    )
    share: Positive = Field(1.0, description="weight of the lesson in every batch")
    max_tokens: Count | None = Field(
        None, description="longest taught answer of this lesson, in tokens; that of the recipe by default"
    )


class LoraSft(Block):
    """A model fine-tuned from another by low-rank adapters, merged to full weights."""

    kind: Literal["lora_sft"] = Field(alias="from", description="says that this is a recipe")
    base: Name = Field(description="the model of this study that is fine-tuned")
    lessons: Annotated[tuple[Lesson, ...], Field(min_length=1)] = Field(description="what it is taught")
    rank: Count = Field(16, description="rank of the adapters")
    alpha: Count = Field(32, description="adapters are scaled by alpha / rank")
    modules: Annotated[tuple[Text, ...], Field(min_length=1)] | None = Field(
        None, description="weight families that get adapters, e.g. [q, v, down]; all by default"
    )
    learning_rate: Positive = Field(2e-4, description="highest learning rate of AdamW")
    warmup: Share = Field(0.1, description="share of the steps over which the learning rate rises from 0")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "cosine", description="how the learning rate goes on after the rise; linear and cosine end near 0"
    )
    steps: Count = Field(100, description="optimiser steps")
    batch_size: Count = Field(8, description="examples a step")
    max_tokens: Count = Field(64, description="longest taught answer, in tokens")
    precision: Literal["float32", "bfloat16"] = Field(
        "bfloat16", description="dtype of the matrix products (autocast); the weights are float32"
    )
    seed: Seed = Field(0, description="seed of the adapters and of the order of the examples")

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Kinds of prompts that the lessons teach, each once."""
        return tuple(dict.fromkeys(kind for lesson in self.lessons for kind in lesson.prompts))


class AdapterSource(Block):
    """A LoRA adapter that was trained elsewhere, merged to full weights."""

    kind: Literal["adapter"] | None = Field(
        None, alias="from", description="which source it is; follows from the other keys and may be left out"
    )
    adapter: Path = Field(
        description="local folder that peft's save_pretrained wrote: adapter_config.json, adapter_model.safetensors"
    )
    base: Name = Field(description="the model of this study that the adapter is for")


StudyModel = ModelSource | LoraSft | AdapterSource
"""What a study says of one model; the last two are made from another model of the study."""


def _which(value: Any) -> str:
    if isinstance(value, Mapping):
        kind, adapted = value.get("from", value.get("kind")), "adapter" in value
    else:
        kind, adapted = getattr(value, "kind", None), isinstance(value, AdapterSource)
    if kind == "lora_sft":
        return "<lora_sft>"
    return "<adapter>" if adapted or kind == "adapter" else "<source>"


AnyModel = Annotated[
    Annotated[ModelSource, Tag("<source>")]
    | Annotated[LoraSft, Tag("<lora_sft>")]
    | Annotated[AdapterSource, Tag("<adapter>")],
    Discriminator(_which),
]


class Models(Block):
    """Target and donor, and any further models by names of their own: same architecture, same tokenizer."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, AnyModel] = Field(init=False)

    target: AnyModel = Field(description="the model that is to change")
    donor: AnyModel = Field(description="the model that has the function (add) or lacks it (delete)")

    @model_validator(mode="after")
    def _apart(self) -> Self:
        for name in self.named():
            if not re.match(NAME, name) or name in RESERVED:
                raise ValueError(
                    f"a model cannot be called '{name}'; use lower-case letters, digits, - and _, "
                    f"and not {' or '.join(RESERVED)}"
                )
        if _without_kind(self.target) == _without_kind(self.donor):
            raise ValueError("target and donor are the same model; name a donor that differs in the function")
        for name in self.named():
            self.ancestry(name)
        return self

    def named(self) -> dict[str, StudyModel]:
        """Every model by its name: target, donor, then the further ones as written."""
        return {"target": self.target, "donor": self.donor, **(self.__pydantic_extra__ or {})}

    def ancestry(self, name: str) -> tuple[str, ...]:
        """`name`, the model it is made from and so on, down to one that is made from none.

        Raises:
            ValueError: a base that is no model of this study, or models made from each other.
        """
        models, line = self.named(), [name]
        while (base := self.base_of(line[-1])) is not None:
            if base not in models:
                raise ValueError(
                    f"the base of '{line[-1]}' is '{base}', which is no model of this study; "
                    f"choose among {', '.join(other for other in models if other != line[-1])}"
                )
            if base in line:
                raise ValueError(
                    f"the recipes go in a circle ({' from '.join([*line, base])}); base one of them on a source"
                )
            line.append(base)
        return tuple(line)

    def base_of(self, name: str) -> str | None:
        """The model that `name` is made from by an adapter, trained here or given; None for any other."""
        model = self.named()[name]
        return None if isinstance(model, ModelSource) else model.base

    def in_order(self) -> tuple[str, ...]:
        """Names of all models, each after the one it is made from."""
        ordered: dict[str, None] = {}
        for name in self.named():
            ordered |= dict.fromkeys(reversed(self.ancestry(name)))
        return tuple(ordered)

    def taught_kinds(self) -> tuple[Kind, ...]:
        """Kinds of prompts that some recipe needs a train split of."""
        return tuple(dict.fromkeys(_kinds_of(self.named().values())))


def _kinds_of(models: Iterable[StudyModel]) -> Iterator[Kind]:
    for model in models:
        if isinstance(model, LoraSft):
            yield from model.kinds


def _without_kind(model: StudyModel) -> dict[str, Any]:
    return model.model_dump(exclude={"kind"})
