"""ActSVD: the output directions in which a matrix answers safety prompts.

Source: arXiv 2402.05162 (grade A of methods.md) removes such directions; copying the donor's component along them is
our use of the same directions for realignment.
"""

from functools import partial

import torch
from torch import Tensor

from cnt_pipeline.study.schema import Kind
from cnt_pipeline.transplants.edit.entries import output_blocks
from cnt_pipeline.transplants.edit.rows.entries import ActSvdOptions
from cnt_pipeline.transplants.edit.source import Edits, Linear, Source


def act_svd(source: Source, options: ActSvdOptions, seed: int) -> Edits:
    """`W + P (W_donor - W)` (copy, the default) or `W - P W` (remove), P the projection on safety directions.

    P is `V V^T`, or `(I - U U^T) V V^T` where the utility directions U are projected out; V and U are of the donor.
    Copy is the default because a target without its safety directions is disaligned, which only an attack wants.
    """
    return {linear.tensor: partial(_act_svd, source, linear, options) for linear in source.linears}


def _act_svd(source: Source, linear: Linear, options: ActSvdOptions) -> Tensor:
    weight, donor = source.weight("target", linear), source.weight("donor", linear)
    kinds: list[Kind] = ["function", "utility"] if options.directions == "orthogonal" else ["function"]
    roots = [input_root(source.moments("donor", kind, linear).second) for kind in kinds]
    for rows in output_blocks(linear):
        outputs = donor[rows].double()
        safety = output_directions(outputs @ roots[0], options.safety_rank)
        change = -weight[rows].double()
        if options.action == "copy":
            change += outputs
        change = safety @ (safety.T @ change)
        if options.directions == "orthogonal":
            utility = output_directions(outputs @ roots[1], options.utility_rank)
            change -= utility @ (utility.T @ change)
        weight[rows] += change.float()
    return source.stored(linear, weight)


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
        values, vectors = torch.linalg.eigh(outputs @ outputs.T)
    else:
        values, vectors = torch.linalg.eigh(outputs.T @ outputs)
    alive = values > values[-1] * max(height, width) * torch.finfo(values.dtype).eps
    count = min(max(1, round(share * height)), int(alive.sum()))
    top: Tensor = vectors[:, len(values) - count :].flip(1)
    if height <= width:
        return top
    # Weak directions lose their right angles in the product, not the space that they span.
    directions: Tensor = torch.linalg.qr(outputs @ top / values[len(values) - count :].flip(0).sqrt()).Q
    return directions
