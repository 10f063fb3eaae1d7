"""Merging of checkpoints: task arithmetic (RESTA), TIES and DARE.

All three work on stored tensors entry by entry, so layout, fused matrices and ties between tensors do not matter; a
tensor that a checkpoint shares between modules is stored, and edited, once. Task vectors are read block by block: what
is held is the edited tensor, and once before it what trimming ranks.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from cnt_pipeline.transplants.edit.rows.merging import (
    DareOptions,
    Rescale,
    TaskArithmeticOptions,
    Tensors,
    TiesOptions,
)
from cnt_pipeline.transplants.edit.source import BLOCK, Edits, Source, generator
from cnt_pipeline.transplants.edit.weights import same_shape

MERGED = ("target", "donor")
"""The models whose task vectors are merged, in the order in which they are summed."""


def task_arithmetic(source: Source, options: TaskArithmeticOptions, seed: int) -> Edits:
    """Adds the safety vector: `W_target + gamma (W_donor - W_base)`, the vector thinned by `density` where asked.

    RESTA (arXiv 2402.11746), grade A, with the base model as the unaligned one.

    Raises:
        InputError: (from a thunk) a model lacks a tensor or has it in another shape.
    """

    def edit(name: str) -> Tensor:
        vector = TaskVector.of(source, "donor", name)
        lot = generator(seed, f"donor/{name}")
        made = source.tensor("target", name)
        kept = dropped(vector, options.density, options.rescale, lot)
        for part, block in zip(vector.parts, kept, strict=True):
            made.view(-1)[part].add_(block, alpha=options.gamma)
        return made

    return _edits(source, options.tensors, edit)


def ties(source: Source, options: TiesOptions, seed: int) -> Edits:
    """Trims both task vectors, elects a sign for every entry, adds the mean of what agrees to the base model.

    TIES (arXiv 2306.01708), grade A, with trimming tensor by tensor.

    Raises:
        InputError: (from a thunk) a model lacks a tensor or has it in another shape.
    """
    densities = (options.target_density, options.donor_density)

    def edit(name: str) -> Tensor:
        vectors = _task_vectors(source, name)
        kept = [trimmed(vector, len(vector), density) for vector, density in zip(vectors, densities, strict=True)]
        return _onto_base(source, options, vectors[0], kept)

    return _edits(source, options.tensors, edit)


def dare(source: Source, options: DareOptions, seed: int) -> Edits:
    """Drops random entries of both task vectors, rescales the rest, adds the weighted vectors to the base model.

    DARE (arXiv 2311.03099), grade A. A model's draw depends on the seed, the model and the tensor's name alone.

    Raises:
        InputError: (from a thunk) a model lacks a tensor or has it in another shape.
    """
    densities = (options.target_density, options.donor_density)

    def edit(name: str) -> Tensor:
        vectors = _task_vectors(source, name)
        kept = [
            dropped(vector, density, options.rescale, generator(seed, f"{vector.model}/{name}"))
            for vector, density in zip(vectors, densities, strict=True)
        ]
        return _onto_base(source, options, vectors[0], kept)

    return _edits(source, options.tensors, edit)


@dataclass(frozen=True)
class TaskVector:
    """What a model has beyond the base model in one stored tensor, as blocks of entries, each float32.

    Every iteration reads the models anew and gives blocks that the caller may overwrite.
    """

    source: Source
    model: str
    name: str

    @classmethod
    def of(cls, source: Source, model: str, name: str) -> "TaskVector":
        """The task vector of a model that has the base model's shape.

        Raises:
            InputError: a model lacks the tensor, or model, base and target differ in its shape.
        """
        for one, other in ((model, "base"), ("target", "base")):
            same_shape(source, one, other, name)
        return cls(source, model, name)

    def __len__(self) -> int:
        return self.source.models["base"][self.name].count

    def __iter__(self) -> Iterator[Tensor]:
        for part in self.parts:
            block = self.source.entries(self.model, self.name, part)
            yield block.sub_(self.source.entries("base", self.name, part))

    @property
    def parts(self) -> tuple[slice, ...]:
        """Which entries of the tensor each block is of."""
        return tuple(slice(begin, min(begin + BLOCK, len(self))) for begin in range(0, len(self), BLOCK))


def trim(vector: Tensor, density: float) -> Tensor:
    """`vector` with all but its `int(density * size)` largest entries by magnitude, at least one, set to zero.

    Of entries equal in magnitude at the limit the first in stored order stay. Overwrites `vector`.
    """
    (kept,) = trimmed([vector.view(-1)], vector.numel(), density)
    return kept.view_as(vector)


def trimmed(vector: Iterable[Tensor], size: int, density: float) -> Iterator[Tensor]:
    """`trim` of a vector of `size` entries that comes in blocks and can be gone through twice; overwrites them."""
    if density >= 1 or not size:
        return iter(vector)
    keep = max(1, int(density * size))
    magnitudes = torch.empty(size)
    end = 0
    for block in vector:
        begin, end = end, end + len(block)
        torch.abs(block, out=magnitudes[begin:end])
    # numpy selects in place, without the table of indices that torch builds
    magnitudes.numpy().partition(size - keep)
    top = magnitudes[size - keep :]
    limit = float(top[0])
    return _above(vector, limit, keep - int((top > limit).sum()))


def _above(vector: Iterable[Tensor], limit: float, free: int) -> Iterator[Tensor]:
    """Blocks with zeros in place of magnitudes below the limit, and of those at it but for the first `free`."""
    for block in vector:
        sizes = block.abs()
        kept = sizes > limit
        first = (sizes == limit).nonzero().flatten()[:free]
        kept[first] = True
        free -= len(first)
        yield block.mul_(kept)


def drop(vector: Tensor, density: float, rescale: Rescale, lot: torch.Generator) -> Tensor:
    """`vector` with each entry kept with probability `density`, else zero, and the rest rescaled.

    `density` divides by the density, `l1` restores the sum of absolute values (nothing where no entry is left).
    Overwrites `vector`.
    """
    (kept,) = dropped([vector.view(-1)], density, rescale, lot)
    return kept.view_as(vector)


def dropped(vector: Iterable[Tensor], density: float, rescale: Rescale, lot: torch.Generator) -> Iterator[Tensor]:
    """`drop` of a vector that comes in blocks and can be gone through twice; overwrites them.

    What is drawn for an entry does not depend on the size of the blocks.
    """
    if density >= 1:
        return iter(vector)
    if rescale == "none":
        return _drawn(vector, density, lot, lambda block: block)
    if rescale == "density":
        return _drawn(vector, density, lot, lambda block: block.div_(density))
    state = lot.get_state()
    before = after = 0.0
    for block in vector:
        sizes = block.abs()
        before += float(sizes.sum(dtype=torch.float64))
        after += float(sizes.mul_(_lots(block, density, lot)).sum(dtype=torch.float64))
    lot.set_state(state)
    factor = before / after if after > 0 else 1.0
    return _drawn(vector, density, lot, lambda block: block.mul_(factor))


def _drawn(
    vector: Iterable[Tensor], density: float, lot: torch.Generator, rescaled: Callable[[Tensor], Tensor]
) -> Iterator[Tensor]:
    for block in vector:
        yield rescaled(block.mul_(_lots(block, density, lot)))


def _lots(block: Tensor, density: float, lot: torch.Generator) -> Tensor:
    """Which entries stay, bool `[entries]`."""
    return torch.rand(block.shape, generator=lot) < density


def merge(
    vectors: Sequence[Tensor],
    weights: Sequence[float],
    election: Literal["none", "total", "count"],
    normalize: bool,
) -> Tensor:
    """The weighted sum of task vectors, of the entries with the elected sign alone where a sign is elected.

    The sign is that of the sum of weighted values (`total`) or of the sum of their signs (`count`); zero elects
    positive, and an entry of zero agrees with no sign. `normalize` divides by the sum of the weights that went in, 1
    where none did. Overwrites `vectors`.
    """
    weighted = [vector.mul_(weight) for vector, weight in zip(vectors, weights, strict=True)]
    if election == "none":
        merged = _sum(weighted)
        divisor = sum(weights)
        return merged.div_(divisor) if normalize and divisor > 0 else merged
    votes = weighted if election == "total" else [vector.sign() for vector in weighted]
    positive = _sum(votes) >= 0
    merged = torch.zeros_like(weighted[0])
    shares = torch.zeros_like(weighted[0])
    for vector, weight in zip(weighted, weights, strict=True):
        agrees = torch.where(positive, vector > 0, vector < 0)
        merged += vector * agrees
        shares += agrees * weight
    if normalize:
        merged /= shares.masked_fill_(shares == 0, 1)
    return merged


def _task_vectors(source: Source, name: str) -> list[TaskVector]:
    """The task vectors of `MERGED`."""
    return [TaskVector.of(source, model, name) for model in MERGED]


def _onto_base(
    source: Source, options: TiesOptions | DareOptions, like: TaskVector, vectors: Sequence[Iterable[Tensor]]
) -> Tensor:
    """The base model's tensor with the merged task vectors of `MERGED`, in the blocks of `like`, added."""
    weights = (options.target_weight, options.donor_weight)
    made = source.tensor("base", like.name)
    for part, *blocks in zip(like.parts, *vectors, strict=True):
        merged = merge(blocks, weights, options.majority_sign_method, options.normalize)
        made.view(-1)[part].add_(merged, alpha=options.scale)
    return made


def _sum(tensors: Sequence[Tensor]) -> Tensor:
    total = tensors[0].clone()
    for tensor in tensors[1:]:
        total += tensor
    return total


def _edits(source: Source, tensors: Tensors, edit: Callable[[str], Tensor]) -> Edits:
    names = source.floats if tensors == "all" else tuple(linear.tensor for linear in source.linears)
    return {name: partial(edit, name) for name in names}
