"""Pair a donor's FFN channels and attention heads with the target's by what they do on the same prompts.

For every layer the mean-centred activations of target channel i and donor channel j are correlated over all tokens;
the linear assignment that maximises the sum is the pairing. Channels are read at the input of down, heads at the input
of o; two heads are as alike as their output vectors, dimension by dimension. Groups of key/value heads are paired by
the best pairing of their query heads. Signs, and axes inside a head, are left alone: a transplant copies weights as
they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from cnt_pipeline.models import teacher
from cnt_pipeline.models.architecture import Architecture, Matrix
from cnt_pipeline.models.permute import CHANNEL, GROUP, HEAD, Order, Permutation, permutable
from cnt_pipeline.models.teacher import Example
from cnt_pipeline.progress import Report, silent

MEMORY = 1 << 30
"""Bytes of correlation sums held at once; layers beyond them take another pass over the prompts."""
BATCH = 32
"""Prompts a forward pass. Fixed, so that the pairing does not hang on how a machine is set up."""

Table = npt.NDArray[np.float64]
Key = tuple[int, str]


@dataclass(frozen=True)
class Matching:
    """The pairing, and how alike paired units act.

    `permutation`: the donor's new order; `before`, `after`: mean correlation of the units that share an index, by
    (layer, `ffn_channel` or `query_head`).
    """

    permutation: Permutation
    before: Mapping[Key, float]
    after: Mapping[Key, float]


def match(
    target: nn.Module,
    donor: nn.Module,
    architecture: Architecture,
    prompts: Sequence[tuple[int, ...]],
    batch_size: int = BATCH,
    report: Report = silent,
    memory: int = MEMORY,
) -> Matching:
    """Pair the donor's units with the target's on the tokens of `prompts` (token ids), both models on one device."""
    readers = _readers(architecture)
    channels: dict[int, Order] = {}
    heads: dict[int, Order] = {}
    before: dict[Key, float] = {}
    after: dict[Key, float] = {}
    groups = permutable(architecture)[GROUP][0]
    done = 0
    for some in _chunks(readers, memory):
        for (layer, unit), table in _correlations(target, donor, some, prompts, batch_size).items():
            order = _assign(table) if unit == CHANNEL else _assign_heads(table, groups)
            (channels if unit == CHANNEL else heads)[layer] = order
            before[layer, unit] = float(np.diag(table).mean())
            after[layer, unit] = float(table[np.arange(len(order)), order].mean())
        done += len(some)
        report("pairing the donor's units with the target's", done, len(readers))
    return Matching(Permutation(channels, heads), before, after)


@torch.inference_mode()
def same_function(model: nn.Module, other: nn.Module, prompts: Sequence[tuple[int, ...]]) -> bool:
    """Whether two orders of one model say the same on `prompts`: logits at the last token agree but for rounding.

    Sums run in another order, so logits differ by a mean of 4e-6 of their spread in float32 and of 0.03 in bfloat16
    (30 layers); another function's differ by about their spread.
    """
    examples = [Example((*tokens, 0), len(tokens)) for tokens in prompts]
    tolerance = 1e-3 if next(model.parameters()).dtype == torch.float32 else 1e-1
    for batch in teacher.batches(examples, len(examples), teacher.device_of(model), teacher.pad_of(model)):
        one, two = teacher.answer_logits(model, batch, share=False), teacher.answer_logits(other, batch, share=False)
        if not bool(((one - two).abs().mean() <= tolerance * one.std()).item()):
            return False
    return True


@dataclass(frozen=True)
class _Reader:
    """Where the units of one layer are read: at the input of `matrix`'s module, `width` values each."""

    layer: int
    unit: str
    matrix: Matrix
    count: int

    @property
    def width(self) -> int:
        return self.matrix.neurons // self.count


def _readers(architecture: Architecture) -> list[_Reader]:
    """The column family of every unit that may be permuted, layer by layer."""
    units = permutable(architecture)
    return [
        _Reader(matrix.layer, unit, matrix, units[unit][0])
        for matrix in architecture.matrices
        for unit in (CHANNEL, HEAD)
        if matrix.side == "column" and matrix.family in units[unit][1]
    ]


def _chunks(readers: Sequence[_Reader], memory: int) -> Iterator[list[_Reader]]:
    """Readers whose sums fit into `memory` together; at least one."""
    chunk: list[_Reader] = []
    held = 0
    for reader in readers:
        size = 8 * reader.count**2
        if chunk and held + size > memory:
            yield chunk
            chunk, held = [], 0
        chunk.append(reader)
        held += size
    if chunk:
        yield chunk


class _Sums:
    """Streaming sums of one reader over tokens: of both models' values, their squares and their products.

    Values are taken relative to the first batch's means, so that a large mean does not swallow a small deviation.
    """

    def __init__(self, reader: _Reader) -> None:
        self.reader = reader
        self.tokens = 0
        self.shift: tuple[Tensor, Tensor] | None = None
        self.product = torch.zeros(reader.count, reader.count, dtype=torch.float64)
        self.first = [torch.zeros(reader.matrix.neurons, dtype=torch.float64) for _ in range(2)]
        self.square = [torch.zeros(reader.matrix.neurons, dtype=torch.float64) for _ in range(2)]

    def add(self, ours: Tensor, theirs: Tensor) -> None:
        """Add `[tokens, neurons]` of target and donor."""
        if self.shift is None:
            self.shift = ours.mean(0), theirs.mean(0)
        pair = [values - mean for values, mean in zip((ours, theirs), self.shift, strict=True)]
        self.tokens += len(ours)
        for slot, values in enumerate(pair):
            self.first[slot] += values.sum(0).double().cpu()
            self.square[slot] += values.square().sum(0).double().cpu()
        # A head is one long vector: its dimensions are summed over like tokens.
        left, right = (values.reshape(len(values), self.reader.count, -1).transpose(1, 2) for values in pair)
        self.product += (left.flatten(0, 1).t() @ right.flatten(0, 1)).double().cpu()

    def correlation(self) -> Table:
        """`[units of the target, units of the donor]`, 0 where a unit never moves."""
        shape = (self.reader.count, self.reader.width)
        means = [(sums / self.tokens).reshape(shape) for sums in self.first]
        covariance = self.product / self.tokens - means[0] @ means[1].t()
        spread = [
            (square / self.tokens).reshape(shape).sum(1) - mean.square().sum(1)
            for square, mean in zip(self.square, means, strict=True)
        ]
        scale = (spread[0].clamp(min=0)[:, None] * spread[1].clamp(min=0)[None, :]).sqrt()
        table: Table = torch.where(scale > 0, covariance / scale, 0.0).numpy()
        return table


@torch.inference_mode()
def _correlations(
    target: nn.Module,
    donor: nn.Module,
    readers: Sequence[_Reader],
    prompts: Sequence[tuple[int, ...]],
    batch_size: int,
) -> dict[Key, Table]:
    sums = [_Sums(reader) for reader in readers]
    examples = [Example(tokens, len(tokens)) for tokens in prompts]
    with _reading(target, readers) as ours, _reading(donor, readers) as theirs:
        for batch in teacher.batches(examples, batch_size, teacher.device_of(target), teacher.pad_of(target)):
            for model in (target, donor):
                model.base_model(  # type: ignore[operator]
                    input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
                )
            real = batch.attention_mask.bool()
            for each in sums:
                reader = each.reader
                positions = torch.from_numpy(reader.matrix.positions.copy())
                one, other = (
                    found[reader.layer, reader.unit][real.to(found[reader.layer, reader.unit].device)]
                    .float()
                    .index_select(1, positions.to(found[reader.layer, reader.unit].device))
                    for found in (ours, theirs)
                )
                each.add(one, other.to(one.device))
    return {(each.reader.layer, each.reader.unit): each.correlation() for each in sums}


@contextmanager
def _reading(model: nn.Module, readers: Sequence[_Reader]) -> Iterator[dict[Key, Tensor]]:
    """The inputs of the readers' modules in the newest forward pass, `[batch, tokens, axis]`."""
    found: dict[Key, Tensor] = {}

    def keep(reader: _Reader) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            found[reader.layer, reader.unit] = inputs[0]

        return hook

    handles = [model.get_submodule(r.matrix.module).register_forward_pre_hook(keep(r)) for r in readers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _assign(table: Table) -> Order:
    """For each row its column, so that the sum is largest."""
    order: Order = linear_sum_assignment(table, maximize=True)[1].astype(np.int64)
    return order


def _assign_heads(table: Table, groups: int) -> Order:
    """The best pairing of query heads `[heads, heads]` that keeps the heads of a group together."""
    share = len(table) // groups
    blocks = table.reshape(groups, share, groups, share)
    inner = {(a, b): _assign(blocks[a, :, b]) for a in range(groups) for b in range(groups)}
    value = np.array(
        [
            [blocks[a, np.arange(share), b, inner[a, b]].sum() for b in range(groups)]
            for a in range(groups)
        ]
    )  # fmt: skip
    outer = _assign(value)
    order: Order = np.concatenate([outer[a] * share + inner[a, int(outer[a])] for a in range(groups)])
    return order
