"""Products of large matrices, summed in float64 over blocks of their rows or columns, and their eigenvectors.

With s the shorter side of a matrix and l the longer, a product of the shorter side `[s, s]` in float64 is 2 s / l times
the matrix in float32: half of it in the usual FFN. So singular directions go through such a product. Its eigenvalues
are the squared singular values, exact to about 1e-16 of the largest: directions a millionth as large as the first are
still told from rounding.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from cnt_pipeline.models.architecture_table import Side
from cnt_pipeline.transplants.edit.moments import StoredRows
from cnt_pipeline.transplants.edit.weights import Rowwise

HELD = 1 << 19
"""Entries of a block in float64: 4 MB. Of larger ones, which come and go, malloc would keep several in reserve."""
ROWS = 256
"""Rows of a second moment that are held at a time."""


def pieces(length: int, across: int) -> Iterator[slice]:
    """Slices of rows (or columns) of `across` entries each, `HELD` entries at a time and one row at least."""
    at_once = max(1, HELD // max(across, 1))
    for begin in range(0, length, at_once):
        yield slice(begin, min(begin + at_once, length))


def outer_products(matrix: Tensor) -> Tensor:
    """`matrix matrix^T` `[out, out]` in float64."""
    height, width = matrix.shape
    total = torch.zeros(height, height, dtype=torch.float64)
    for columns in pieces(width, height):
        block = matrix[:, columns].double()
        total.addmm_(block, block.T)
    return total


def inner_products(matrix: Rowwise) -> Tensor:
    """`matrix^T matrix` `[in, in]` in float64; rows are read once, and none is held."""
    height, width = matrix.shape
    total = torch.zeros(width, width, dtype=torch.float64)
    for rows in pieces(height, width):
        block = matrix[rows].double()
        total.addmm_(block.T, block)
    return total


def times(matrix: Rowwise, right: Tensor) -> Tensor:
    """`matrix right` `[out, n]` of `right` `[in, n]`, in float64."""
    height, width = matrix.shape
    product = torch.empty(height, right.shape[1], dtype=torch.float64)
    for rows in pieces(height, width):
        torch.mm(matrix[rows].double(), right, out=product[rows])
    return product


def transposed_times(matrix: Rowwise, right: Tensor) -> Tensor:
    """`matrix^T right` `[in, n]` of `right` `[out, n]`, in float64."""
    height, width = matrix.shape
    product = torch.zeros(width, right.shape[1], dtype=torch.float64)
    for rows in pieces(height, width):
        product.addmm_(matrix[rows].double().T, right[rows])
    return product


def squares(matrix: Rowwise, side: Side) -> Tensor:
    """Sum of the squares of every row `[out]` or column `[in]`, in float64."""
    height, width = matrix.shape
    blocks = (matrix[rows].double().square_() for rows in pieces(height, width))
    if side == "row":
        return torch.cat([block.sum(1) for block in blocks])
    total = torch.zeros(width, dtype=torch.float64)
    for block in blocks:
        total += block.sum(0)
    return total


def between(weight: Tensor, second: Tensor | StoredRows) -> Tensor:
    """`weight second weight^T` `[out, out]` in float64: the second moment of `weight`'s outputs.

    `weight` is `[out, in]`, `second` `[in, in]` symmetric, of which `ROWS` are read at a time.
    """
    height, width = weight.shape
    total = torch.zeros(height, height, dtype=torch.float64)
    for start in range(0, width, ROWS):
        rows = slice(start, min(start + ROWS, width))
        part = second[rows].double()
        products = torch.zeros(len(part), height, dtype=torch.float64)
        for columns in pieces(width, height):
            products.addmm_(part[:, columns], weight[:, columns].double().T)
        total.addmm_(weight[:, rows].double(), products)
    return total


def eigen(products: Tensor, count: int | None = None) -> tuple[Tensor, Tensor]:
    """Eigenvalues, rising, of a symmetric matrix `[n, n]` float64, and their vectors as columns: all, or the `count`
    largest.

    Overwrites `products`. LAPACK's `syevr` needs no room beside it but for the vectors it returns, where `syevd`,
    which torch calls, takes that of three more matrices.
    """
    from scipy.linalg import eigh

    side = len(products)
    some = None if count is None or count >= side else (side - count, side - 1)
    # Rows and columns are the same, so that LAPACK's order is that of the transpose.
    values, vectors = eigh(products.numpy().T, overwrite_a=True, check_finite=False, subset_by_index=some, driver="evr")
    return torch.from_numpy(values), torch.from_numpy(vectors)
