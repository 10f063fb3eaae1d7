"""Weight matrices, and differences of them, that are read when they are asked for: rows, or all at once.

A method that needs sums over a matrix alone takes its rows and holds none of it; one that rewrites a matrix holds it
once, in float32.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from cnt_pipeline.errors import InputError
from cnt_pipeline.transplants.edit.source import BLOCK, Linear, Source


@dataclass(frozen=True, eq=False)
class Weight:
    """A matrix of `model`, less that of the model `beyond` where one is named, `[out, in]`.

    `rows` narrows it to some of its outputs. Every reading reads the models anew and gives what the caller may
    overwrite.

    Raises:
        InputError: (when made) a model lacks the matrix or has it in another shape; (when read) an entry is NaN or
            infinite.
    """

    source: Source
    linear: Linear
    model: str
    beyond: str | None = None
    rows: slice = field(default_factory=lambda: slice(None))

    def __post_init__(self) -> None:
        for other in ("target", self.beyond):
            if other is not None:
                same_shape(self.source, self.model, other, self.linear.tensor)

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs."""
        height, width = self.source.shape(self.linear)
        return len(range(height)[self.rows]), width

    def __getitem__(self, part: slice) -> Tensor:
        """Some rows, `[rows, in]` in float32."""
        within = range(self.source.shape(self.linear)[0])[self.rows][part]
        place = slice(within.start, within.stop)
        found = self.source.rows(self.model, self.linear, place)
        if self.beyond is not None:
            found.sub_(self.source.rows(self.beyond, self.linear, place))
        return self._checked(found)

    def whole(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """All rows, their memory laid out as the matrix is stored: nothing is held beside but a block."""
        name = self.linear.tensor
        stored = torch.empty(self.source.models[self.model][name].shape, dtype=dtype)
        flat = stored.view(-1)
        for begin in range(0, len(flat), BLOCK):
            part = slice(begin, min(begin + BLOCK, len(flat)))
            flat[part] = self.source.entries(self.model, name, part)
            if self.beyond is not None:
                flat[part] -= self.source.entries(self.beyond, name, part)
            self._checked(flat[part])
        return (stored.T if self.linear.transposed else stored)[self.rows]

    def _checked(self, found: Tensor) -> Tensor:
        if not torch.isfinite(found).all():
            models = f"the {self.model}" + (f" or the {self.beyond} model" if self.beyond else " model")
            raise InputError(f"{self.linear.tensor} of {models} holds NaN or infinity: fetch or train that model again")
        return found


Rowwise = Weight | Tensor
"""A matrix whose `shape` is known and of which slices of rows can be taken."""


def held(matrix: Rowwise) -> Tensor:
    """All of a matrix, to be overwritten."""
    return matrix.whole() if isinstance(matrix, Weight) else matrix.clone()


def same_shape(source: Source, model: str, other: str, name: str) -> None:
    """Refuse a stored tensor that two models have in different shapes.

    Raises:
        InputError: they do, or one of them lacks it.
    """
    ours, theirs = (source.models[one][name].shape for one in (model, other))
    if ours != theirs:
        raise InputError(
            f"{name} is {list(ours)} in the {model} model and {list(theirs)} in the {other} model; "
            f"name models of one shape, or edit the weight matrices only (tensors: linear)"
        )
