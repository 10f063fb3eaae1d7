"""Edits of single weights that a saliency picks: set differences, Antidote, SafePatching.

Sources: arXiv 2402.05162 (set differences, grade A of methods.md), 2408.09600 (Antidote, A), 2405.13820 (SafePatching,
B).
"""

from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cnt_pipeline.study.schema import Kind
from cnt_pipeline.transplants.edit.rows.entries import AntidoteOptions, Group, SafePatchingOptions, SetDifferenceOptions
from cnt_pipeline.transplants.edit.source import Edits, Linear, Source, generator


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
    mask = safety & ~utility
    weight = source.weight("target", linear)
    if options.action == "zero":
        return source.stored(linear, weight.masked_fill_(mask, 0))
    np.copyto(weight.numpy(), source.weight("donor", linear).numpy(), where=mask.numpy())
    return source.stored(linear, weight)


def _antidote(source: Source, linear: Linear, options: AntidoteOptions) -> Tensor:
    weight = source.weight("target", linear)
    scores = weight.abs().mul_(source.moments("target", "function", linear).norms)
    return source.stored(linear, weight.masked_fill_(top_entries(linear, scores, options.share, options.group), 0))


def _safe_patching(source: Source, linear: Linear, options: SafePatchingOptions, seed: int) -> Tensor:
    shares: dict[Kind, float] = {"function": options.safety_share, options.against: options.against_share}
    wanted, spared = (
        top_entries(linear, source.saliency("donor", kind, linear), share, options.group)
        for kind, share in shares.items()
    )
    mask = wanted & ~spared
    if options.retain < 1:
        mask &= torch.rand(mask.shape, generator=generator(seed, linear.tensor)) < options.retain
    patch = source.weight("donor", linear).sub_(source.weight("base", linear)).mul_(mask)
    return source.stored(linear, source.weight("target", linear).add_(patch, alpha=options.scale))


def _saliency(source: Source, linear: Linear, score: Literal["wanda", "snip"], kind: Kind) -> Tensor:
    """Importance of the donor's weights `[out, in]` on its answers to prompts of a kind."""
    if score == "snip":
        return source.saliency("donor", kind, linear)
    return source.weight("donor", linear).abs_().mul_(source.moments("donor", kind, linear).norms)


def top_entries(linear: Linear, scores: Tensor, share: float, group: Group) -> Tensor:
    """Mask `[out, in]` of the top `share` of each group of weights by `scores` `[out, in]`.

    Exactly `round(share * size)` weights of every group; among equal scores the first in order count as higher.
    """
    if group == "row":
        return _top(scores, share)
    mask = torch.zeros(scores.shape, dtype=torch.bool)
    for rows in output_blocks(linear):
        part = scores[rows]
        mask[rows] = _top(part.reshape(1, -1), share).reshape(part.shape)
    return mask


def output_blocks(linear: Linear) -> list[Tensor | slice]:
    """The output rows of each family in a matrix: all of them, unless families are fused in it."""
    if len(linear.matrices) == 1:
        return [slice(None)]
    return [torch.tensor(matrix.positions) for matrix in linear.matrices]


def _top(scores: Tensor, share: float) -> Tensor:
    """Mask of the top `share` of every row of `scores` `[groups, size]`."""
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
