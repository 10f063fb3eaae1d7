"""What a method that edits weight matrices is, as data."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from cnt_pipeline.study.block import Block


class FactorOptions(Block):
    """Options of a method that is defined on the factors of adapters."""

    factors: Literal["auto", "adapter", "svd"] = Field(
        "auto",
        description=(
            "the low-rank factors of what donor and target added to the base model: their adapters' own (adapter), "
            "those of the difference's truncated singular value decomposition (svd), or the adapters' own where both "
            "models are made from `base` by adapters of equal ranks, and otherwise svd (auto)"
        ),
    )


@dataclass(frozen=True)
class EditRow:
    """One method of the table.

    `needs`: models beside target and donor (`base`, the model before alignment). `probes`: what it can read of
    activations or gradients, as `<probe>/<model>` (`moments/donor`); `narrowed` gives those of them that it reads with
    some options, where it is not all. `scores`, `selects`, `edits`: its rules in a few words.
    `function`: `module:name` of its edit under `cnt_pipeline.transplants.edit`. `options`: what a study may set, with
    its defaults. `words`: the formula in words; `deviations`: where and why it departs from the source. `grade` says
    how its source is known (methods.md): A read, B reimplemented, C second-hand, I ours. `continual` says that it works
    through a study's safety dimensions: its module has `decide(source, options, earlier)`, and its edit takes the masks
    that were decided. `causal` says that the leaderboard also measures the causal effect of its neurons: its edit
    copies whole neurons (`NeuronEdits`), and the target answers once more with their activations taken from the donor.
    `version` is raised when the edit computes something else: its own steps run again, and no other method's.
    """

    name: str
    scores: str
    selects: str
    edits: str
    function: str
    options: type[Block]
    grade: Literal["A", "B", "C", "I"]
    source: str
    words: str
    deviations: str = ""
    needs: tuple[str, ...] = ()
    probes: tuple[str, ...] = ()
    continual: bool = False
    causal: bool = False
    narrowed: Callable[[Any], tuple[str, ...]] | None = None
    version: int = 1

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9_]+", self.name):
            raise ValueError(f"a method cannot be called '{self.name}'")

    def reads(self, options: Block) -> tuple[str, ...]:
        """The probes that the method reads with these options of its own.

        Raises:
            ValueError: the row reads a probe that it does not declare.
        """
        if self.narrowed is None:
            return self.probes
        probes = self.narrowed(options)
        undeclared = [probe for probe in probes if probe not in self.probes]
        if undeclared:
            raise ValueError(f"{self.name} reads {undeclared[0]}, which its row does not declare")
        return probes
