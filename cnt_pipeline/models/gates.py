"""The gated swap: one model in which any neuron can be the target's, the donor's or anything between.

With one gate `g` per neuron (design section 5) a linear layer of the target computes

    rows     y = (1 - g) * (W_T x + b_T) + g * (W_D x + b_D)      q, k, v, gate, up: a neuron is an output unit
    columns  y = W_T ((1 - g) x) + W_D (g x) + b_T                o, down: a neuron is an input unit

which is exact at both ends: `g = 0` is the target bit for bit, `g = 1` uses nothing but the donor's weights. Three ways
to hold the gates serve three needs: `gated` differentiates through them, `folded` rewrites the weights in
memory for fast
generation with a fixed plan, and `uniform` sets all gates to one value and yields every prompt's `dL/dg` in
the backward
pass without ever holding a weight gradient.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from cnt_pipeline.models.architecture import Architecture, Matrix
from cnt_pipeline.models.tensors import TORCH_NAMES, CheckpointIndex, read_array

Key = tuple[int, str]
Gates = Mapping[Key, Tensor]
"""Gate values by (layer, family): `[neurons]`, or `[batch, neurons]` for a value per example."""


@dataclass(frozen=True)
class _Linear:
    """One linear module of the target with the donor's weight, both as stored (`transposed`: Conv1D, `[in, out]`)."""

    name: str
    module: nn.Module
    matrices: tuple[Matrix, ...]
    donor_weight: Tensor
    donor_bias: Tensor | None
    stored: torch.dtype

    @property
    def row(self) -> bool:
        return self.matrices[0].side == "row"

    @property
    def transposed(self) -> bool:
        return (self.matrices[0].axis == 1) == self.row

    @property
    def weight(self) -> Tensor:
        weight = self.module.weight
        assert isinstance(weight, Tensor)
        return weight

    @property
    def bias(self) -> Tensor | None:
        bias = getattr(self.module, "bias", None)
        assert bias is None or isinstance(bias, Tensor)
        return bias

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return nn.functional.linear(x, weight.t() if self.transposed else weight, bias)

    def gate(self, gates: Gates) -> Tensor | None:
        """The gates of the whole axis, `[..., axis]`; None where every family of this module is absent."""
        present = [(m, gates[m.layer, m.family]) for m in self.matrices if (m.layer, m.family) in gates]
        if not present:
            return None
        sample = present[0][1]
        whole = sample.new_zeros(*sample.shape[:-1], self.weight.shape[self.matrices[0].axis])
        for matrix, values in present:
            positions = torch.tensor(matrix.positions, device=sample.device)
            whole = whole.index_copy(-1, positions, values)
        return whole


@dataclass
class Effects:
    """What one backward pass leaves: `dL/dg` of every example, `[batch, neurons]` float32 by (layer, family)."""

    by_key: dict[Key, Tensor] = field(default_factory=dict)


class GatedSwap:
    """A target model whose neurons can be swapped for the donor's.

    Args:
        model: the target, in eval mode.
        architecture: its neuron spaces.
        donor: the donor's checkpoint; its tensors are read one by one into the target's compute dtype.
        stored: the target's checkpoint, whose dtypes decide how a partial copy is rounded when it is written.
    """

    def __init__(
        self, model: nn.Module, architecture: Architecture, donor: CheckpointIndex, stored: CheckpointIndex
    ) -> None:
        self.model = model
        self.architecture = architecture
        by_module: dict[str, list[Matrix]] = {}
        for matrix in architecture.matrices:
            by_module.setdefault(matrix.module, []).append(matrix)
        self._linears: list[_Linear] = []
        for name, matrices in by_module.items():
            module = model.get_submodule(name)
            like = module.weight
            assert isinstance(like, Tensor)
            bias = matrices[0].bias
            self._linears.append(
                _Linear(
                    name=name,
                    module=module,
                    matrices=tuple(matrices),
                    donor_weight=read_array(donor, matrices[0].tensor).to(like.device, like.dtype),
                    donor_bias=read_array(donor, bias).to(like.device, like.dtype) if bias else None,
                    stored=getattr(torch, TORCH_NAMES[stored.tensors[matrices[0].tensor].dtype]),
                )
            )

    def filled(self, value: float, batch: int | None = None) -> dict[Key, Tensor]:
        """All gates at `value`, on the model's device."""
        device = next(self.model.parameters()).device
        lead = () if batch is None else (batch,)
        return {
            (m.layer, m.family): torch.full((*lead, m.neurons), value, device=device)
            for m in self.architecture.matrices
        }

    @contextmanager
    def gated(self, gates: Gates) -> Iterator[None]:
        """Run the model with these gates, differentiably; families that are absent stay the target's."""
        try:
            for linear in self._linears:
                gate = linear.gate(gates)
                if gate is not None:
                    linear.module.forward = partial(_gated_forward, linear, gate)
            yield
        finally:
            for linear in self._linears:
                linear.module.__dict__.pop("forward", None)

    @contextmanager
    def folded(self, gates: Gates) -> Iterator[None]:
        """Run the model with the gates folded into its weights: as fast as the target, equal to the written checkpoint.

        A partial copy is rounded to the dtype in which the target is stored, as the writer does.
        """
        saved: list[tuple[_Linear, Tensor, Tensor | None]] = []
        try:
            with torch.no_grad():
                for linear in self._linears:
                    gate = linear.gate(gates)
                    if gate is None or not bool(gate.any()):
                        continue
                    saved.append((linear, linear.weight.data, linear.bias.data if linear.bias is not None else None))
                    _fold(linear, gate)
            yield
        finally:
            for linear, weight, bias in saved:
                linear.weight.data = weight
                if linear.bias is not None and bias is not None:
                    linear.bias.data = bias

    @contextmanager
    def uniform(self, alpha: float) -> Iterator[Effects]:
        """Run the model with every gate at `alpha`; a backward pass inside adds `dL/dg` per example to the result.

        Costs one matrix product more per layer than a pass that computes input gradients only. The embeddings' output
        must require a gradient: `teacher.differentiable_inputs` sees to it.
        """
        effects = Effects()
        try:
            for linear in self._linears:
                linear.module.forward = partial(_uniform_forward, linear, alpha, effects)
            yield effects
        finally:
            for linear in self._linears:
                linear.module.__dict__.pop("forward", None)


def _gated_forward(linear: _Linear, gate: Tensor, x: Tensor) -> Tensor:
    gate = gate.to(x.dtype)
    if gate.dim() == 2:
        gate = gate.unsqueeze(1)
    if linear.row:
        ours = linear.apply(x, linear.weight, linear.bias)
        theirs = linear.apply(x, linear.donor_weight, linear.donor_bias)
        return torch.lerp(ours, theirs, gate.expand_as(ours))
    return linear.apply(x * (1 - gate), linear.weight, linear.bias) + linear.apply(x * gate, linear.donor_weight, None)


def _fold(linear: _Linear, gate: Tensor) -> None:
    axis = linear.matrices[0].axis
    positions = gate.nonzero().squeeze(-1)
    amplitude = gate[positions]
    linear.weight.data = _moved(linear.weight.data, linear.donor_weight, positions, amplitude, axis, linear.stored)
    if linear.row and linear.bias is not None and linear.donor_bias is not None:
        linear.bias.data = _moved(linear.bias.data, linear.donor_bias, positions, amplitude, 0, linear.stored)


def _moved(
    ours: Tensor, theirs: Tensor, positions: Tensor, amplitude: Tensor, axis: int, stored: torch.dtype
) -> Tensor:
    old = ours.index_select(axis, positions).float()
    new = theirs.index_select(axis, positions).float()
    shape = [-1 if dimension == axis else 1 for dimension in range(ours.dim())]
    scale = amplitude.float().view(shape)
    mixed = torch.where(scale == 1, new, (old + scale * (new - old)).to(stored).float())
    return ours.clone().index_copy_(axis, positions, mixed.to(ours.dtype))


def _uniform_forward(linear: _Linear, alpha: float, effects: Effects, x: Tensor) -> Tensor:
    result = _UniformGate.apply(x, linear, alpha, effects)  # type: ignore[no-untyped-call]
    assert isinstance(result, Tensor)
    return result


class _UniformGate(torch.autograd.Function):
    """A linear layer at gates `alpha` whose backward pass also yields the gates' gradients per example.

    rows     dL/dg_n = sum_t delta_tn ((W_D - W_T) x_t + b_D - b_T)_n
    columns  dL/dg_n = sum_t x_tn ((W_D - W_T)^T delta_t)_n
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, linear: _Linear, alpha: float, effects: Effects) -> Tensor:
        ctx.save_for_backward(x)
        ctx.linear, ctx.alpha, ctx.effects = linear, alpha, effects
        bias = linear.bias
        if linear.row and bias is not None and linear.donor_bias is not None:
            bias = torch.lerp(bias, linear.donor_bias, alpha)
        return linear.apply(x, torch.lerp(linear.weight, linear.donor_weight, alpha), bias)

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> tuple[Tensor, None, None, None]:
        (x,) = ctx.saved_tensors
        linear: _Linear = ctx.linear
        difference = linear.donor_weight - linear.weight
        matrix = difference.t() if linear.transposed else difference
        if linear.row:
            bias = None
            if linear.bias is not None and linear.donor_bias is not None:
                bias = linear.donor_bias - linear.bias
            effect = (delta.float() * nn.functional.linear(x, matrix, bias).float()).sum(1)
        else:
            effect = (x.float() * (delta @ matrix).float()).sum(1)
        for member in linear.matrices:
            positions = torch.tensor(member.positions, device=effect.device)
            ctx.effects.by_key[member.layer, member.family] = effect.index_select(1, positions)
        mixed = torch.lerp(linear.weight, linear.donor_weight, ctx.alpha)
        return delta @ (mixed.t() if linear.transposed else mixed), None, None, None
