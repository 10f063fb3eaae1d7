"""Edits of single weights that a saliency picks: set differences, Antidote, SafePatching.

Sources: arXiv 2402.05162 (set differences, grade A of methods.md), 2408.09600 (Antidote, A), 2405.13820 (SafePatching,
B).

Scores of one matrix are all that is held of it; the entries above a limit are found by counting, not by sorting a copy.
"""

from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cnt_pipeline.study.schema import Kind
from cnt_pipeline.transplants.edit.blockwise import pieces
from cnt_pipeline.transplants.edit.rows.entries import AntidoteOptions, Group, SafePatchingOptions, SetDifferenceOptions
from cnt_pipeline.transplants.edit.source import Edits, Linear, Source, generator
from cnt_pipeline.transplants.edit.weights import Weight

HALF = 16
"""Bits of a float32 that are counted at a time."""


def set_difference(source: Source, options: SetDifferenceOptions, seed: int) -> Edits:
    """Safety-critical weights of the donor, copied into the target (or set to zero there).

    A weight is critical if it is among the top `safety_share` on function prompts and not among the top
    `utility_share` on utility prompts, by Wanda or SNIP on the donor.
    """
    return {linear.tensor: partial(_set_difference, source, linear, options) for linear in source.linears}


def antidote(source: Source, options: AntidoteOptions, seed: int) -> Edits:
    """The target's most important weights on its own answers to function prompts, by Wanda, set to zero."""
    return {linear.tensor: partial(_antidote, source, linear, options) for linear in source.linears}


def safe_patching(source: Source, options: SafePatchingOptions, seed: int) -> Edits:
    """`W + scale M o (W_donor - W_base)`, M the SNIP set difference of function and look-alike (utility) prompts."""
    return {linear.tensor: partial(_safe_patching, source, linear, options, seed) for linear in source.linears}


def _set_difference(source: Source, linear: Linear, options: SetDifferenceOptions) -> Tensor:
    shares: dict[Kind, float] = {"function": options.safety_share, "utility": options.utility_share}
    safety, utility = (
        top_entries(linear, _saliency(source, linear, options.score, kind), share, options.group)
        for kind, share in shares.items()
    )
    mask = safety.logical_and_(utility.logical_not_())
    weight = source.weight("target", linear)
    if options.action == "zero":
        return source.stored(linear, weight.masked_fill_(mask, 0))
    for rows in pieces(*weight.shape):
        weight[rows] = torch.where(mask[rows], source.rows("donor", linear, rows), weight[rows])
    return source.stored(linear, weight)


def _antidote(source: Source, linear: Linear, options: AntidoteOptions) -> Tensor:
    scores = source.weight("target", linear).abs_().mul_(source.moments("target", "function", linear).norms)
    mask = top_entries(linear, scores, options.share, options.group)
    del scores
    return source.stored(linear, source.weight("target", linear).masked_fill_(mask, 0))


def _safe_patching(source: Source, linear: Linear, options: SafePatchingOptions, seed: int) -> Tensor:
    shares: dict[Kind, float] = {"function": options.safety_share, options.against: options.against_share}
    wanted, spared = (
        top_entries(linear, source.saliency("donor", kind, linear), share, options.group)
        for kind, share in shares.items()
    )
    mask = wanted.logical_and_(spared.logical_not_())
    lot = generator(seed, linear.tensor)
    patch, made = Weight(source, linear, "donor", "base"), source.weight("target", linear)
    for rows in pieces(*made.shape):
        chosen = mask[rows]
        if options.retain < 1:
            chosen &= torch.rand(chosen.shape, generator=lot) < options.retain
        made[rows].add_(patch[rows].mul_(chosen), alpha=options.scale)
    return source.stored(linear, made)


def _saliency(source: Source, linear: Linear, score: Literal["wanda", "snip"], kind: Kind) -> Tensor:
    """Importance of the donor's weights `[out, in]` on its answers to prompts of a kind."""
    if score == "snip":
        return source.saliency("donor", kind, linear)
    return source.weight("donor", linear).abs_().mul_(source.moments("donor", kind, linear).norms)


def top_entries(linear: Linear, scores: Tensor, share: float, group: Group) -> Tensor:
    """Mask `[out, in]` of the top `share` of each group of weights by `scores` `[out, in]` float32, none negative.

    Exactly `round(share * size)` weights of every group; among equal scores the first in order count as higher.
    """
    if group == "row":
        return torch.cat([_top_of_rows(scores[rows], share) for rows in pieces(*scores.shape)])
    mask = torch.zeros(scores.shape, dtype=torch.bool)
    for rows in output_blocks(linear):
        mask[rows] = _top(scores[rows], share)
    return mask


def output_blocks(linear: Linear) -> list[Tensor | slice]:
    """The output rows of each family in a matrix: all of them, unless families are fused in it."""
    if len(linear.matrices) == 1:
        return [slice(None)]
    return [_rows(matrix.positions) for matrix in linear.matrices]


def _rows(positions: npt.NDArray[np.int64]) -> Tensor | slice:
    """Row numbers, as a slice where they follow each other: that takes no copy."""
    if (np.diff(positions) == 1).all():
        return slice(int(positions[0]), int(positions[-1]) + 1)
    return torch.tensor(positions)


def _top(scores: Tensor, share: float) -> Tensor:
    """Mask of the top `share` of all scores `[out, in]`."""
    mask = torch.zeros(scores.shape, dtype=torch.bool)
    count = round(share * scores.numel())
    if not count:
        return mask
    limit, free = _limit(scores, count)
    for rows in pieces(*scores.shape):
        block = scores[rows].contiguous()
        kept = block > limit
        if free:
            equal = (block == limit).view(-1).nonzero().flatten()[:free]
            kept.view(-1)[equal] = True
            free -= len(equal)
        mask[rows] = kept
    return mask


def _limit(scores: Tensor, count: int) -> tuple[float, int]:
    """The `count`th largest score, and how many of those that equal it are among the `count` largest.

    Bits of floats that are not negative rise as the floats do: counted are the upper halves first, then the lower
    halves among scores with the upper half of the one that is sought.
    """
    upper, count = _place(scores, count, None)
    lower, count = _place(scores, count, upper)
    bits = torch.tensor(upper << HALF | lower, dtype=torch.int32)
    return float(bits.view(torch.float32)), count


def _place(scores: Tensor, count: int, upper: int | None) -> tuple[int, int]:
    """The upper half of the `count`th largest, or the lower one of those with that upper half, and its number there."""
    counts = torch.zeros(1 << HALF, dtype=torch.int64)
    for rows in pieces(*scores.shape):
        bits = scores[rows].contiguous().view(torch.int32).flatten()
        half = bits >> HALF if upper is None else bits[bits >> HALF == upper] & (1 << HALF) - 1
        counts += torch.bincount(half, minlength=1 << HALF)
    reached = counts.flip(0).cumsum(0)
    above = int((reached < count).sum())
    return (1 << HALF) - 1 - above, count - (int(reached[above - 1]) if above else 0)


def _top_of_rows(scores: Tensor, share: float) -> Tensor:
    """Mask of the top `share` of every row of `scores` `[rows, in]`."""
    groups, size = scores.shape
    count = round(share * size)
    if count == 0:
        return torch.zeros(groups, size, dtype=torch.bool)
    cut = np.partition(scores.numpy(), size - count, axis=1)[:, size - count, None]
    limit = torch.from_numpy(cut)
    mask = scores > limit
    ties = scores == limit
    free = count - mask.sum(1, keepdim=True)
    if bool((ties.sum(1, keepdim=True) > free).any()):
        ties &= ties.cumsum(1, dtype=torch.int32) <= free
    return mask.logical_or_(ties)
