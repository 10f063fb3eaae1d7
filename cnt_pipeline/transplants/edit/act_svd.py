"""ActSVD: the output directions in which a matrix answers safety prompts.

Source: arXiv 2402.05162 (grade A of methods.md) removes such directions; copying the donor's component along them is
our use of the same directions for realignment.
"""

from functools import partial

import torch
from torch import Tensor

from cnt_pipeline.transplants.edit.entries import output_blocks
from cnt_pipeline.transplants.edit.moments import StoredRows, between
from cnt_pipeline.transplants.edit.rows.entries import ActSvdOptions
from cnt_pipeline.transplants.edit.source import Edits, Linear, Source

COLUMNS = 1024
"""Columns of a matrix that are edited, in float64, at a time."""


def act_svd(source: Source, options: ActSvdOptions, seed: int) -> Edits:
    """`W + P (W_donor - W)` (copy, the default) or `W - P W` (remove), P the projection on safety directions.

    P is `V V^T`, or `(I - U U^T) V V^T` where the utility directions U are projected out; V and U are of the donor.
    Copy is the default because a target without its safety directions is disaligned, which only an attack wants.
    """
    return {linear.tensor: partial(_act_svd, source, linear, options) for linear in source.linears}


def _act_svd(source: Source, linear: Linear, options: ActSvdOptions) -> Tensor:
    weight, donor = source.weight("target", linear), source.weight("donor", linear)
    safe = source.moments("donor", "function", linear).second
    plain = source.moments("donor", "utility", linear).second if options.directions == "orthogonal" else None
    for rows in output_blocks(linear):
        given, part = donor[rows], weight[rows]
        safety = weight_directions(given.double(), safe, options.safety_rank)
        utility = None if plain is None else weight_directions(given.double(), plain, options.utility_rank)
        for start in range(0, part.shape[1], COLUMNS):
            columns = slice(start, start + COLUMNS)
            change = -part[:, columns].double()
            if options.action == "copy":
                change += given[:, columns]
            change = safety @ (safety.T @ change)
            if utility is not None:
                change -= utility @ (utility.T @ change)
            part[:, columns] += change.float()
        weight[rows] = part
    return source.stored(linear, weight)


def weight_directions(weight: Tensor, second: Tensor | StoredRows, share: float) -> Tensor:
    """`output_directions` of a matrix `[out, in]` float64 whose inputs have the second moment `second` `[in, in]`.

    A matrix with more inputs than outputs goes through W C W^T itself: a root of C would take many times its memory.
    """
    height, width = weight.shape
    if height <= width:
        return _leading(between(weight, second), share, height, width)[1]
    return output_directions(weight @ input_root(second[:]), share)


def input_root(second: Tensor) -> Tensor:
    """A root R of inputs' second moment C = R R^T, `[in, in]` float64; rounding below zero counts as zero."""
    values, vectors = torch.linalg.eigh(second.double())
    root: Tensor = vectors * values.clamp(min=0).sqrt()
    return root


def output_directions(outputs: Tensor, share: float) -> Tensor:
    """Orthonormal directions `[out, k]` in which `outputs` `[out, in]` are largest, largest first.

    `outputs` is W R: its left singular vectors are the eigenvectors of W C W^T. k is `share` of the outputs, one at
    least, and never more than there are directions with any output at all.
    """
    height, width = outputs.shape
    if height <= width:
        return _leading(outputs @ outputs.T, share, height, width)[1]
    values, top = _leading(outputs.T @ outputs, share, height, height)
    # Weak directions lose their right angles in the product, not the space that they span.
    directions: Tensor = torch.linalg.qr(outputs @ top / values.sqrt()).Q
    return directions


def _leading(products: Tensor, share: float, outputs: int, longer: int) -> tuple[Tensor, Tensor]:
    """The largest eigenvalues of `products`, falling, and their vectors as columns: `share` of `outputs` of them.

    One at least, and at most those above rounding in a matrix whose longer side is `longer`.
    """
    values, vectors = torch.linalg.eigh(products)
    alive = values > values[-1] * longer * torch.finfo(values.dtype).eps
    first = len(values) - min(max(1, round(share * outputs)), int(alive.sum()))
    return values[first:].flip(0), vectors[:, first:].flip(1)
