"""ActSVD: the output directions in which a matrix answers safety prompts.

Source: arXiv 2402.05162 (grade A of methods.md) removes such directions; copying the donor's component along them is
our use of the same directions for realignment.
"""

from functools import partial

import torch
from torch import Tensor

from cnt_pipeline.transplants.edit.blockwise import between, eigen, pieces, times
from cnt_pipeline.transplants.edit.entries import output_blocks
from cnt_pipeline.transplants.edit.moments import StoredRows
from cnt_pipeline.transplants.edit.rows.entries import ActSvdOptions
from cnt_pipeline.transplants.edit.source import Edits, Linear, Source
from cnt_pipeline.transplants.edit.weights import Rowwise, Weight


def act_svd(source: Source, options: ActSvdOptions, seed: int) -> Edits:
    """`W + P (W_donor - W)` (copy, the default) or `W - P W` (remove), P the projection on safety directions.

    P is `V V^T`, or `(I - U U^T) V V^T` where the utility directions U are projected out; V and U are of the donor.
    Copy is the default because a target without its safety directions is disaligned, which only an attack wants.

    Held are a matrix in float32 and products of its shorter side in float64 (`blockwise`), and the directions. Of a
    matrix with 4 times as many outputs as inputs, the default share of directions takes 0.4 matrices, and three times
    that while they are made orthonormal; of shares above 0.08 they take more than twice the matrix.
    """
    return {linear.tensor: partial(_act_svd, source, linear, options) for linear in source.linears}


def _act_svd(source: Source, linear: Linear, options: ActSvdOptions) -> Tensor:
    safe = source.moments("donor", "function", linear).second
    plain = source.moments("donor", "utility", linear).second if options.directions == "orthogonal" else None
    projections = []
    for rows in output_blocks(linear):
        donor = _family(source, linear, rows)
        safety = weight_directions(donor, safe, options.safety_rank)
        utility = None if plain is None else weight_directions(donor, plain, options.utility_rank)
        projections.append((rows, safety, utility))
    copies = options.action == "copy"
    made = (Weight(source, linear, "donor", "target") if copies else Weight(source, linear, "target")).whole()
    for rows, safety, utility in projections:
        part = made[rows]
        for columns in pieces(part.shape[1], part.shape[0]):
            change = part[:, columns].double()
            along = safety @ (safety.T @ change)
            if utility is not None:
                along -= utility @ (utility.T @ along)
            part[:, columns] = along if copies else change - along
        if not isinstance(rows, slice):
            made[rows] = part
    stored = source.stored(linear, made)
    return source.add(stored, "target", linear.tensor) if copies else stored


def _family(source: Source, linear: Linear, rows: Tensor | slice) -> Rowwise:
    """The donor's weight of one family in a matrix."""
    if isinstance(rows, slice):
        return Weight(source, linear, "donor", rows=rows)
    return source.weight("donor", linear)[rows]


def weight_directions(weight: Rowwise, second: Tensor | StoredRows, share: float) -> Tensor:
    """Orthonormal directions `[out, k]` in which outputs are largest, largest first, float64.

    They are the eigenvectors of `W C W^T`, W the weight `[out, in]` and C the second moment `second` `[in, in]` of its
    inputs. k is `share` of the outputs, one at least, and never more than there are directions with any output at all.
    A matrix with more outputs than inputs goes through a root of C instead, which takes less memory there.
    """
    height, width = weight.shape
    if height <= width:
        whole = weight.whole() if isinstance(weight, Weight) else weight
        return _leading(between(whole, second), share, height, width)[1]
    root = input_root(second[:])
    products = torch.zeros(width, width, dtype=torch.float64)
    for rows in pieces(height, width):
        outputs = weight[rows].double() @ root
        products.addmm_(outputs.T, outputs)
    values, top = _leading(products, share, height, height)
    del products
    turn = root @ (top / values.sqrt())
    del root, top
    # Weak directions lose their right angles in the product, not the space that they span.
    directions: Tensor = torch.linalg.qr(times(weight, turn)).Q
    return directions


def input_root(second: Tensor) -> Tensor:
    """A root R of inputs' second moment C = R R^T, `[in, in]` float64; rounding below zero counts as zero."""
    values, vectors = eigen(second.to(torch.float64, copy=True))
    return vectors.mul_(values.clamp(min=0).sqrt())


def _leading(products: Tensor, share: float, outputs: int, longer: int) -> tuple[Tensor, Tensor]:
    """The largest eigenvalues of `products`, falling, and their vectors as columns: `share` of `outputs` of them.

    One at least, and at most those above rounding in a matrix whose longer side is `longer`. Overwrites `products`.
    """
    values, vectors = eigen(products, max(1, round(share * outputs)))
    first = len(values) - int((values > values[-1] * longer * torch.finfo(values.dtype).eps).sum())
    return values[first:].flip(0), vectors[:, first:].flip(1)
