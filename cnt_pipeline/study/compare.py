"""The methods that a study compares with its own on one leaderboard."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from cnt_pipeline.study.block import Block, Name, Seed, Text
from cnt_pipeline.study.prompts import Sources

RESERVED = ("target", "donor", "transplant")
"""Lines that every leaderboard has."""


class Compared(Block):
    """One entry of the leaderboard: a row of the method table with options of its own."""

    method: Text = Field(description="row of the method table that edits weight matrices (`cnt methods`)")
    name: Name | None = Field(None, description="what the entry is called; by default the method's name")
    options: dict[str, Any] = Field({}, description="options of the method (`cnt methods NAME` lists them)")
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = Field(
        (0,), description="seeds of a method that draws at random; the leaderboard averages over them"
    )

    @property
    def label(self) -> str:
        """The entry's name."""
        return self.name or self.method.replace("_", "-")


class Dimension(Block):
    """One safety dimension: harmful prompts of a sort, with neurons that no other dimension edits."""

    name: Name = Field(description="what the dimension is called; letters, digits and -")
    prompts: Sources = Field(
        description="harmful prompts, divided by prompts.split (score, test); those that a recipe teaches are left out"
    )

    @model_validator(mode="after")
    def _plain(self) -> "Dimension":
        # Names of steps join two dimensions by `_`.
        if "_" in self.name:
            raise ValueError(f"the dimension '{self.name}' has an _ in its name; write a - instead")
        if not all(source.gated for source in self.prompts):
            raise ValueError("`gated: false` is for test sources; remove it from the dimension's prompts")
        return self


def _entry(value: Any) -> Any:
    """A method's name alone stands for the method with its defaults."""
    return {"method": value} if isinstance(value, str) else value


_Entry = Annotated[Compared, BeforeValidator(_entry, json_schema_input_type=str | Compared)]


class Compare(Block):
    """Methods beside the study's own; each edits the target and is measured on the same test prompts."""

    methods: tuple[_Entry, ...] = Field((), description="methods by name, or with options")
    dimensions: tuple[Dimension, ...] = Field(
        (), description="safety dimensions that fgsn and fgsn_zero work through in this order, each on new neurons"
    )
    task: Text | None = Field(
        None, description="the source among the utility test prompts that holds what the target was fine-tuned for"
    )

    @model_validator(mode="after")
    def _apart(self) -> "Compare":
        labels = [entry.label for entry in self.methods]
        taken = next((label for label in labels if label in RESERVED), None)
        if taken is not None:
            raise ValueError(f"an entry cannot be called '{taken}', as a line of every leaderboard is; rename it")
        twice = next((label for label in labels if labels.count(label) > 1), None)
        if twice is not None:
            raise ValueError(f"two entries are called '{twice}'; give one of them a `name:` of its own")
        for entry in self.methods:
            if len(set(entry.seeds)) != len(entry.seeds):
                raise ValueError(f"'{entry.label}' lists a seed twice; list each once")
        names = [dimension.name for dimension in self.dimensions]
        if len(set(names)) != len(names):
            raise ValueError("two dimensions have one name; rename one")
        return self
