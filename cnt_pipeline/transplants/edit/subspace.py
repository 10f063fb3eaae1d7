"""Edits along the leading directions of the alignment difference: LoX, LSSF and Safe LoRA.

With s and l the shorter and the longer side of a matrix, an edit holds the matrix in float32 and a product of its
shorter side in float64 (`blockwise`), 2 s / l times as large, or two such products: at most twice the matrix where l is
2 s or more, as in an FFN. Safe LoRA by `rank` or by the orthogonal projector on all directions holds one product more,
and keeps to that where l is 4 s or more. A square matrix may take four times its size; of a model, it is not the
largest tensor.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from cnt_pipeline.transplants.edit.blockwise import eigen, inner_products, outer_products, pieces
from cnt_pipeline.transplants.edit.rows.merging import LoxOptions, LssfOptions, SafeLoraOptions
from cnt_pipeline.transplants.edit.source import Edits, Linear, Source
from cnt_pipeline.transplants.edit.weights import Rowwise, Weight, held


def lox(source: Source, options: LoxOptions, seed: int) -> Edits:
    """Adds `coefficient` times the rank-`rank` part of `W_donor - W_base` to the target's matrices.

    LoX (arXiv 2506.15606), grade A, which adds it to the aligned model instead.

    Raises:
        InputError: (from a thunk) a model lacks a matrix or has it in another shape, or with NaN or infinity.
    """

    def edit(linear: Linear) -> Tensor:
        part = leading_part(Weight(source, linear, "donor", "base"), options.rank).mul_(options.coefficient)
        return source.add(source.stored(linear, part), "target", linear.tensor)

    return {linear.tensor: partial(edit, linear) for linear in source.linears}


def lssf(source: Source, options: LssfOptions, seed: int) -> Edits:
    """Adds `alpha U U^T (W_donor - W_base)` to the target's matrices, U the directions that carry the entropy.

    LSSF (arXiv 2602.00038), grade B, with the base model as the unsafe one.

    Raises:
        InputError: (from a thunk) a model lacks a matrix or has it in another shape, or with NaN or infinity.
    """

    def rank(squares: Tensor) -> int:
        return entropy_rank(squares if options.spectrum == "squared" else squares.sqrt(), options.entropy)

    def edit(linear: Linear) -> Tensor:
        part = leading_part(Weight(source, linear, "donor", "base"), rank).mul_(options.alpha)
        return source.add(source.stored(linear, part), "target", linear.tensor)

    return {linear.tensor: partial(edit, linear) for linear in source.linears}


def safe_lora(source: Source, options: SafeLoraOptions, seed: int) -> Edits:
    """Replaces the update of the least aligned matrices by its projection on the alignment difference.

    With V = `W_donor - W_base`, C = `V V^T / ||V||_F` (or the orthogonal projector on V's columns) and the update
    U = `W_target - W_start`: where `cos(C U, U) <= tau`, the matrix becomes `W_start + C U`. Safe LoRA (arXiv
    2405.16833), grade A. A matrix whose V or U is zero stays.

    Raises:
        InputError: a model lacks a matrix or has it in another shape, or with NaN or infinity.
    """

    def projected(linear: Linear) -> tuple[Tensor, float | None]:
        update = Weight(source, linear, "target", options.start)
        limit = options.rank
        read = partial(held, update) if limit is None else partial(leading_part, update, limit)
        return project(read, Weight(source, linear, "donor", "base"), options)

    def edit(linear: Linear) -> Tensor:
        return source.add(source.stored(linear, projected(linear)[0]), options.start, linear.tensor)

    found = {linear: projected(linear)[1] for linear in source.linears}
    cosines = {linear: cosine for linear, cosine in found.items() if cosine is not None}
    if options.matrices is None:
        chosen = [linear for linear, cosine in cosines.items() if cosine <= options.tau]
    else:
        chosen = sorted(cosines, key=cosines.__getitem__)[: options.matrices]
    return {linear.tensor: partial(edit, linear) for linear in chosen}


def leading_part(matrix: Rowwise, rank: int | Callable[[Tensor], int]) -> Tensor:
    """The truncated singular value decomposition of `matrix` `[out, in]`, multiplied out again, float32.

    `rank` says how many directions stay, or answers it from the squared singular values in falling order. The
    decomposition goes over the products of the shorter side: exact to about 1e-8 of the largest singular value, and at
    a fraction of the time and memory of a full decomposition. The matrix is read twice, so that it is not held beside
    the eigenvectors and what LAPACK makes them of.
    """
    products = outer_products(_wide(held(matrix)))
    if callable(rank):
        values, vectors = eigen(products)
        kept = vectors[:, len(values) - rank(_above_rounding(values).flip(0)) :]
    else:
        kept = eigen(products, rank)[1]
    del products
    part = held(matrix)
    wide = _wide(part)
    for columns in pieces(wide.shape[1], wide.shape[0]):
        wide[:, columns] = kept @ (kept.T @ wide[:, columns].double())
    return part


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


def project(update: Callable[[], Tensor], alignment: Rowwise, options: SafeLoraOptions) -> tuple[Tensor, float | None]:
    """The projection of an update on an alignment difference, both `[out, in]`, and the cosine between update and it.

    `update` gives a float32 matrix that is overwritten. The cosine is 0 where the projection leaves nothing, and None
    where update or alignment are zero: then there is nothing to project.
    """
    height, width = alignment.shape
    tally = _Cosine()
    if height <= width:
        products = outer_products(held(alignment))
        some = bool(products.trace())
        turn = _projector(products, options, width)
        del products
        made = update()
        for columns in pieces(width, height):
            before = made[:, columns].double()
            made[:, columns] = tally.of(before, turn(before))
        return made, tally.cosine if some else None
    # C U = (V K) (V K)^T U with K [in, k]: the projector [out, out] is never formed.
    basis = _coordinates(inner_products(alignment), options, height) if options.projector == "orthogonal" else None

    def along(rows: slice) -> Tensor:
        block = alignment[rows].double()
        return block if basis is None else block @ basis

    made = update()
    products = torch.zeros(width if basis is None else basis.shape[1], width, dtype=torch.float64)
    squares = 0.0
    for rows in pieces(height, width):
        block = along(rows)
        squares += float(block.square().sum())
        products.addmm_(block.T, made[rows].double())
    if basis is None and squares:
        products /= squares**0.5
    for rows in pieces(height, width):
        made[rows] = tally.of(made[rows].double(), along(rows) @ products)
    return made, tally.cosine if squares else None


class _Cosine:
    """The cosine between two matrices as vectors, which come block by block."""

    def __init__(self) -> None:
        self._inner = self._before = self._after = 0.0

    def of(self, before: Tensor, after: Tensor) -> Tensor:
        """Count a block of both in; returns `after`."""
        self._inner += float((before * after).sum())
        self._before += float(before.square().sum())
        self._after += float(after.square().sum())
        return after

    @property
    def cosine(self) -> float | None:
        """0 where the second is zero, None where the first is; rounding takes it beyond 1 nowhere."""
        if not self._before:
            return None
        return min(self._inner / (self._before * self._after) ** 0.5, 1.0) if self._after else 0.0


def _projector(products: Tensor, options: SafeLoraOptions, longer: int) -> Callable[[Tensor], Tensor]:
    """What projects blocks `[out, n]` float64, from `V V^T` `[out, out]`, which it overwrites."""
    if options.projector == "paper":
        norm = products.trace().sqrt()
        scaled = products.div_(norm) if norm else products
        return lambda block: scaled @ block
    kept = _solid(products, options.projector_rank, longer)[1]
    return lambda block: kept @ (kept.T @ block)


def _coordinates(products: Tensor, options: SafeLoraOptions, longer: int) -> Tensor:
    """K `[in, k]` float64 such that `V K` is an orthonormal basis of V's columns, from `V^T V`, which it overwrites."""
    values, kept = _solid(products, options.projector_rank, longer)
    return kept.div_(values.sqrt())


def _solid(products: Tensor, rank: int | None, longer: int) -> tuple[Tensor, Tensor]:
    """Squared singular values, rising, and directions: those above what rounding to float32 leaves, `rank` at most."""
    values, vectors = eigen(products, rank)
    dust = (longer * torch.finfo(torch.float32).eps) ** 2
    first = len(values) - int((values > values[-1] * dust).sum())
    return values[first:], vectors[:, first:]


def _above_rounding(values: Tensor) -> Tensor:
    """Squared singular values, rising, with zero for those that float64 cannot tell from it."""
    noise = values[-1] * len(values) * torch.finfo(torch.float64).eps
    return values.masked_fill(values <= noise, 0)


def _wide(matrix: Tensor) -> Tensor:
    """A matrix with its shorter side first."""
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
