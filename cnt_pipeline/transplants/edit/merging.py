"""Merging of checkpoints: task arithmetic (RESTA), TIES and DARE.

All three work on stored tensors entry by entry, so layout, fused matrices and ties between tensors do not matter; a
tensor that a checkpoint shares between modules is stored, and edited, once.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cnt_pipeline.errors import InputError
from cnt_pipeline.transplants.edit.rows.merging import (
    DareOptions,
    Rescale,
    TaskArithmeticOptions,
    Tensors,
    TiesOptions,
)
from cnt_pipeline.transplants.edit.source import Edits, Source, generator

MERGED = ("target", "donor")
"""The models whose task vectors are merged, in the order in which they are summed."""


def task_arithmetic(source: Source, options: TaskArithmeticOptions, seed: int) -> Edits:
    """Adds the safety vector: `W_target + gamma (W_donor - W_base)`, the vector thinned by `density` where asked.

    RESTA (arXiv 2402.11746), grade A, with the base model as the unaligned one.

    Raises:
        InputError: (from a thunk) a model lacks a tensor or has it in another shape.
    """

    def edit(name: str) -> Tensor:
        vector = difference(source, "donor", "base", name)
        vector = drop(vector, options.density, options.rescale, generator(seed, f"donor/{name}"))
        return source.tensor("target", name).add_(vector, alpha=options.gamma)

    return _edits(source, options.tensors, edit)


def ties(source: Source, options: TiesOptions, seed: int) -> Edits:
    """Trims both task vectors, elects a sign for every entry, adds the mean of what agrees to the base model.

    TIES (arXiv 2306.01708), grade A, with trimming tensor by tensor.

    Raises:
        InputError: (from a thunk) a model lacks a tensor or has it in another shape.
    """
    densities = (options.target_density, options.donor_density)

    def edit(name: str) -> Tensor:
        vectors = [
            trim(difference(source, model, "base", name), density)
            for model, density in zip(MERGED, densities, strict=True)
        ]
        return _onto_base(source, options, name, vectors)

    return _edits(source, options.tensors, edit)


def dare(source: Source, options: DareOptions, seed: int) -> Edits:
    """Drops random entries of both task vectors, rescales the rest, adds the weighted vectors to the base model.

    DARE (arXiv 2311.03099), grade A. A model's draw depends on the seed, the model and the tensor's name alone.

    Raises:
        InputError: (from a thunk) a model lacks a tensor or has it in another shape.
    """
    densities = (options.target_density, options.donor_density)

    def edit(name: str) -> Tensor:
        vectors = [
            drop(
                difference(source, model, "base", name),
                density,
                options.rescale,
                generator(seed, f"{model}/{name}"),
            )
            for model, density in zip(MERGED, densities, strict=True)
        ]
        return _onto_base(source, options, name, vectors)

    return _edits(source, options.tensors, edit)


def difference(source: Source, model: str, origin: str, name: str) -> Tensor:
    """A stored tensor of `model` minus that of `origin`: a task vector, float32 in the stored shape.

    Raises:
        InputError: one of them lacks the tensor, or their shapes differ.
    """
    weight, start = source.tensor(model, name), source.tensor(origin, name)
    if weight.shape != start.shape:
        raise InputError(
            f"{name} is {list(weight.shape)} in the {model} model and {list(start.shape)} in the {origin} model; "
            f"name models of one shape, or edit the weight matrices only (tensors: linear)"
        )
    return weight.sub_(start)


def trim(vector: Tensor, density: float) -> Tensor:
    """`vector` with all but its `int(density * size)` largest entries by magnitude, at least one, set to zero.

    Of entries equal in magnitude at the limit the first in stored order stay.
    """
    if density >= 1:
        return vector
    size = vector.numel()
    keep = max(1, int(density * size))
    sizes = vector.abs().flatten()
    # numpy selects in place, without the table of indices that torch builds
    limit = float(np.partition(sizes.numpy(), size - keep)[size - keep])
    kept = sizes > limit
    kept[(sizes == limit).nonzero().flatten()[: keep - int(kept.sum())]] = True
    return vector.mul_(kept.view_as(vector))


def drop(vector: Tensor, density: float, rescale: Rescale, lot: torch.Generator) -> Tensor:
    """`vector` with each entry kept with probability `density`, else zero, and the rest rescaled.

    `density` divides by the density, `l1` restores the sum of absolute values (nothing where no entry is left).
    """
    if density >= 1:
        return vector
    before = vector.abs().sum(dtype=torch.float64)
    vector.mul_(torch.rand(vector.shape, generator=lot) < density)
    if rescale == "density":
        vector.div_(density)
    elif rescale == "l1":
        after = vector.abs().sum(dtype=torch.float64)
        if after > 0:
            vector.mul_(float(before / after))
    return vector


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


def _onto_base(source: Source, options: TiesOptions | DareOptions, name: str, vectors: Sequence[Tensor]) -> Tensor:
    """The base model's tensor with the merged task vectors of `MERGED` added."""
    weights = (options.target_weight, options.donor_weight)
    merged = merge(vectors, weights, options.majority_sign_method, options.normalize)
    return source.tensor("base", name).add_(merged, alpha=options.scale)


def _sum(tensors: Sequence[Tensor]) -> Tensor:
    total = tensors[0].clone()
    for tensor in tensors[1:]:
        total += tensor
    return total


def _edits(source: Source, tensors: Tensors, edit: Callable[[str], Tensor]) -> Edits:
    names = source.floats if tensors == "all" else tuple(linear.tensor for linear in source.linears)
    return {name: partial(edit, name) for name in names}
