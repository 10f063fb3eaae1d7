"""Edits along the leading directions of the alignment difference: LoX, LSSF and Safe LoRA."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from cnt_pipeline.transplants.edit.merging import difference
from cnt_pipeline.transplants.edit.rows.merging import LoxOptions, LssfOptions, SafeLoraOptions
from cnt_pipeline.transplants.edit.source import Edits, Linear, Source


def lox(source: Source, options: LoxOptions, seed: int) -> Edits:
    """Adds `coefficient` times the rank-`rank` part of `W_donor - W_base` to the target's matrices.

    LoX (arXiv 2506.15606), grade A, which adds it to the aligned model instead.

    Raises:
        InputError: (from a thunk) a model lacks a matrix or has it in another shape.
    """

    def edit(linear: Linear) -> Tensor:
        safety = _difference(source, "donor", "base", linear)
        part = leading_part(safety, lambda _: options.rank).mul_(options.coefficient)
        return source.stored(linear, source.weight("target", linear).add_(part))

    return {linear.tensor: partial(edit, linear) for linear in source.linears}


def lssf(source: Source, options: LssfOptions, seed: int) -> Edits:
    """Adds `alpha U U^T (W_donor - W_base)` to the target's matrices, U the directions that carry the entropy.

    LSSF (arXiv 2602.00038), grade B, with the base model as the unsafe one.

    Raises:
        InputError: (from a thunk) a model lacks a matrix or has it in another shape.
    """

    def edit(linear: Linear) -> Tensor:
        safety = _difference(source, "donor", "base", linear)

        def rank(squares: Tensor) -> int:
            return entropy_rank(squares if options.spectrum == "squared" else squares.sqrt(), options.entropy)

        part = leading_part(safety, rank).mul_(options.alpha)
        return source.stored(linear, source.weight("target", linear).add_(part))

    return {linear.tensor: partial(edit, linear) for linear in source.linears}


def safe_lora(source: Source, options: SafeLoraOptions, seed: int) -> Edits:
    """Replaces the update of the least aligned matrices by its projection on the alignment difference.

    With V = `W_donor - W_base`, C = `V V^T / ||V||_F` (or the orthogonal projector on V's columns) and the update
    U = `W_target - W_start`: where `cos(C U, U) <= tau`, the matrix becomes `W_start + C U`. Safe LoRA (arXiv
    2405.16833), grade A. A matrix whose V or U is zero stays.

    Raises:
        InputError: a model lacks a matrix or has it in another shape.
    """

    def edit(linear: Linear) -> Tensor:
        projected = project(_update(source, options, linear), _difference(source, "donor", "base", linear), options)
        return source.stored(linear, source.weight(options.start, linear).add_(projected))

    cosines: dict[Linear, float] = {}
    for linear in source.linears:
        update, alignment = _update(source, options, linear), _difference(source, "donor", "base", linear)
        if update.any() and alignment.any():
            cosines[linear] = cosine_of(update, project(update, alignment, options))
    if options.matrices is None:
        chosen = [linear for linear, cosine in cosines.items() if cosine <= options.tau]
    else:
        chosen = sorted(cosines, key=cosines.__getitem__)[: options.matrices]
    return {linear.tensor: partial(edit, linear) for linear in chosen}


def leading_part(matrix: Tensor, rank: Callable[[Tensor], int]) -> Tensor:
    """The truncated singular value decomposition of `matrix` `[out, in]`, multiplied out again, float32.

    `rank` answers how many directions stay, from the squared singular values in falling order. The decomposition goes
    over the Gram matrix of the shorter side in float64: exact to about 1e-8 of the largest singular value, and at a
    fraction of the time and memory of a full decomposition.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    wide = (matrix.T if tall else matrix).double()
    squares, directions = _directions(wide)
    kept = directions[:, : rank(squares)]
    part = kept @ (kept.T @ wide)
    return (part.T if tall else part).float().contiguous()


def entropy_rank(spectrum: Tensor, share: float) -> int:
    """How many leading values of `spectrum` (falling, not negative) carry `share` of its entropy; 0 where all are zero.

    With `p_i` the values over their sum: the smallest k with `sum_{i<=k} -p_i log p_i >= share * H`, H the whole sum.
    A single direction has no entropy and stays whole.
    """
    total = float(spectrum.sum())
    if total == 0:
        return 0
    terms = torch.special.entr(spectrum / total)
    carried = terms.cumsum(0)
    # the whole is the last partial sum, so that a share of 1 is reached whatever the rounding
    return min(int((carried < share * carried[-1]).sum()) + 1, len(spectrum))


def project(update: Tensor, alignment: Tensor, options: SafeLoraOptions) -> Tensor:
    """The projection of an update on an alignment difference that is not zero, all `[out, in]`."""
    if options.projector == "orthogonal":
        basis = _column_basis(alignment, options.projector_rank)
        return basis @ (basis.T @ update)
    norm = torch.linalg.vector_norm(alignment)
    # unit norm before squaring, so that a tiny difference does not underflow
    unit: Tensor = alignment / norm
    if unit.shape[0] <= unit.shape[1]:
        return ((unit @ unit.T) @ update).mul_(norm)
    return (unit @ (unit.T @ update)).mul_(norm)


def cosine_of(update: Tensor, projected: Tensor) -> float:
    """Cosine of two matrices as vectors; 0 where the projection leaves nothing."""
    norms = [torch.linalg.vector_norm(matrix, dtype=torch.float64) for matrix in (update, projected)]
    product = float(norms[0] * norms[1])
    return float((update * projected).sum(dtype=torch.float64)) / product if product > 0 else 0.0


def _directions(wide: Tensor) -> tuple[Tensor, Tensor]:
    """Squared singular values, falling, and left singular vectors as columns of a float64 matrix `[short, long]`.

    Squares below what float64 can tell from zero are zero.
    """
    squares, directions = torch.linalg.eigh(wide @ wide.T)
    noise = squares[-1] * len(squares) * torch.finfo(torch.float64).eps
    return squares.masked_fill(squares <= noise, 0).flip(0), directions.flip(1)


def _update(source: Source, options: SafeLoraOptions, linear: Linear) -> Tensor:
    """What fine-tuning added to a matrix, of the asked rank, `[out, in]`."""
    update = _difference(source, "target", options.start, linear)
    limit = options.rank
    return update if limit is None else leading_part(update, lambda _: limit)


def _column_basis(matrix: Tensor, rank: int | None) -> Tensor:
    """Orthonormal basis `[out, rank]` of a matrix's columns, its numerical rank at most, leading directions first."""
    tall = matrix.shape[0] > matrix.shape[1]
    wide = (matrix.T if tall else matrix).double()
    squares, directions = _directions(wide)
    values = squares.sqrt()
    solid = int((values > values[0] * max(matrix.shape) * torch.finfo(torch.float32).eps).sum())
    kept = directions[:, : solid if rank is None else min(rank, solid)]
    if tall:
        kept = (wide.T @ kept) / values[: kept.shape[1]]
    return kept.float()


def _difference(source: Source, model: str, origin: str, linear: Linear) -> Tensor:
    """A matrix of `model` minus that of `origin`, `[out, in]` in float32."""
    stored = difference(source, model, origin, linear.tensor)
    return stored.T.contiguous() if linear.transposed else stored
