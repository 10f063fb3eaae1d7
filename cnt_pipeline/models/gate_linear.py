"""One linear layer between target and donor: where its donor tensors come from, and the products at its gates.

Every function here works on one layer at a time, on the device of that layer's weight, so that a model spread over
several devices needs nothing else.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cnt_pipeline.models.architecture import Matrix
from cnt_pipeline.models.tensors import CheckpointIndex, read_array

Key = tuple[int, str]
Gates = Mapping[Key, Tensor]
"""Gate values by (layer, family): `[neurons]`, or `[batch, neurons]` for a value per example."""
DonorMemory = Literal["keep", "lazy"]


@dataclass
class Effects:
    """What the latest backward pass left: `dL/dg` of every example, `[batch, neurons]` float32 by (layer, family)."""

    by_key: dict[Key, Tensor] = field(default_factory=dict)


class GateLinear:
    """One linear module of the target with the donor's tensors, both as stored (`transposed`: Conv1D, `[in, out]`).

    Args:
        module: the target's layer; its weight is never written outside `GatedSwap.folded`.
        matrices: the families of neurons that lie in it, all on the same side.
        donor: the donor's checkpoint. With `memory` "keep" its tensors are read once and held; with "lazy" they are
            read whenever they are needed and dropped after use.
        stored: dtype of the target's file, to which a partial copy is rounded.
    """

    def __init__(
        self,
        module: nn.Module,
        matrices: tuple[Matrix, ...],
        donor: CheckpointIndex,
        stored: torch.dtype,
        memory: DonorMemory = "keep",
    ) -> None:
        self.module = module
        self.matrices = matrices
        self.stored = stored
        self.memory = memory
        self.row = matrices[0].side == "row"
        self.axis = matrices[0].axis
        self.transposed = matrices[0].transposed
        self.donor = donor
        self._kept: dict[str, Tensor] = {}
        self._mixed: Tensor | None = None
        self._difference: Tensor | None = None
        self._positions = {(m.layer, m.family): torch.tensor(m.positions) for m in matrices}
        if memory == "keep":
            for name in (matrices[0].tensor, matrices[0].bias):
                if name is not None:
                    self._kept[name] = self._read(name)

    @property
    def weight(self) -> Tensor:
        """The target's weight."""
        weight = self.module.weight
        assert isinstance(weight, Tensor)
        return weight

    @property
    def bias(self) -> Tensor | None:
        """The target's bias."""
        bias = getattr(self.module, "bias", None)
        assert bias is None or isinstance(bias, Tensor)
        return bias

    @property
    def donor_weight(self) -> Tensor:
        """The donor's weight in the target's dtype, on its device."""
        return self._tensor(self.matrices[0].tensor)

    @property
    def donor_bias(self) -> Tensor | None:
        """The donor's bias where neurons own one (rows)."""
        return None if self.matrices[0].bias is None else self._tensor(self.matrices[0].bias)

    def _tensor(self, name: str) -> Tensor:
        return self._kept[name] if name in self._kept else self._read(name)

    def _read(self, name: str) -> Tensor:
        return read_array(self.donor, name).to(self.weight.device, self.weight.dtype)

    def held(self) -> list[Tensor]:
        """The tensors that this layer holds beside the target's."""
        made = (self._mixed, self._difference)
        return [*self._kept.values(), *(tensor for tensor in made if tensor is not None)]

    def positions(self, key: Key) -> Tensor:
        """Where the neurons of one family lie on the axis, on the layer's device."""
        if self._positions[key].device != self.weight.device:
            self._positions[key] = self._positions[key].to(self.weight.device)
        return self._positions[key]

    def whole_axis(self, key: Key) -> bool:
        """Whether the family is the axis itself, in order."""
        return len(self._positions) == 1 and len(self._positions[key]) == self.weight.shape[self.axis]

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer with another weight of the same layout."""
        return nn.functional.linear(x, weight.t() if self.transposed else weight, bias)

    def gate(self, gates: Gates) -> Tensor | None:
        """The gates of the whole axis, `[..., axis]`, on this layer's device; None where no family is present."""
        present = [
            ((m.layer, m.family), gates[m.layer, m.family]) for m in self.matrices if (m.layer, m.family) in gates
        ]
        if not present:
            return None
        device = self.weight.device
        if self.whole_axis(present[0][0]):
            return present[0][1].to(device)
        sample = present[0][1]
        whole = torch.zeros(*sample.shape[:-1], self.weight.shape[self.axis], dtype=sample.dtype, device=device)
        for key, values in present:
            whole = whole.index_copy(-1, self.positions(key), values.to(device))
        return whole

    def mixed(self, scale: Tensor) -> Tensor:
        """`(1 - g) W_T + g W_D`, as stored, for gates of the whole axis `[axis]`.

        With memory "keep" every call writes over the result of the one before: fresh memory costs more than the sum.
        """
        gate = scale.unsqueeze(1 - self.axis)
        if self.memory == "lazy":
            return torch.lerp(self.weight.float(), self.donor_weight.float(), gate).to(self.weight.dtype)
        if self._mixed is None:
            self._mixed = torch.empty_like(self.weight)
        if self.weight.dtype == torch.float32:
            with torch.no_grad():
                return torch.lerp(self.weight, self.donor_weight, gate, out=self._mixed)
        return self._mixed.copy_(torch.lerp(self.weight.float(), self.donor_weight.float(), gate))

    def difference(self) -> Tensor:
        """`W_D - W_T`, as stored, taken in float32 and rounded to `product_dtype`."""
        if self._difference is not None:
            return self._difference
        difference = (self.donor_weight.float() - self.weight.float()).to(product_dtype(self.weight))
        if self.memory == "keep":
            self._difference = difference
        return difference


class _DonorProduct(torch.autograd.Function):
    """The donor's layer, differentiable in its input; the weight is fetched again for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, linear: GateLinear) -> Tensor:
        ctx.linear = linear
        return linear.apply(x, linear.donor_weight, linear.donor_bias)

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> tuple[Tensor, None]:
        weight = ctx.linear.donor_weight
        return delta @ (weight.t() if ctx.linear.transposed else weight), None


def gated_forward(linear: GateLinear, gate: Tensor, x: Tensor) -> Tensor:
    """The layer at `gate`, `[axis]` or `[batch, axis]`, differentiable in the gate and in `x`."""
    x = x.to(linear.weight.device)
    gate = gate.to(x.dtype)
    if gate.dim() == 2:
        gate = gate.unsqueeze(1)
    if linear.row:
        ours = linear.apply(x, linear.weight, linear.bias)
        return torch.lerp(ours, _donor(x, linear), gate.expand_as(ours))
    return linear.apply(x * (1 - gate), linear.weight, linear.bias) + _donor(x * gate, linear)


def _donor(x: Tensor, linear: GateLinear) -> Tensor:
    result = _DonorProduct.apply(x, linear)  # type: ignore[no-untyped-call]
    assert isinstance(result, Tensor)
    return result


class MixedLinear:
    """One layer at fixed gates, `scale` per position of its axis, whose backward pass also yields the gates' gradients.

    With donor memory "keep" the mixed weight and the difference are made at the first batch and serve all later ones,
    forward and backward; with "lazy" they are made when needed and dropped.

    Args:
        scale: gates of the whole axis, `[axis]` float32, on the layer's device.
        keys: the families whose gradients are recorded.
    """

    def __init__(self, linear: GateLinear, scale: Tensor, keys: tuple[Key, ...], effects: Effects) -> None:
        self.linear = linear
        self.scale = scale
        self.keys = keys
        self.effects = effects
        self._weight: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """The layer's output for `x`, `[batch, tokens, in]`."""
        result = _MixedProduct.apply(x.to(self.linear.weight.device), self)  # type: ignore[no-untyped-call]
        assert isinstance(result, Tensor)
        return result

    def weight(self) -> Tensor:
        """The weight at these gates, as stored."""
        if self._weight is not None:
            return self._weight
        weight = self.linear.mixed(self.scale)
        if self.linear.memory == "keep":
            self._weight = weight
        return weight

    def bias(self) -> Tensor | None:
        """The bias at these gates."""
        ours, theirs = self.linear.bias, self.linear.donor_bias
        if ours is None or theirs is None:
            return ours
        return torch.lerp(ours.float(), theirs.float(), self.scale).to(ours.dtype)

    def record(self, x: Tensor, delta: Tensor) -> None:
        """Add up `dL/dg` per example over the tokens, in float32.

        rows     dL/dg_n = sum_t delta_tn ((W_D - W_T) x_t + b_D - b_T)_n
        columns  dL/dg_n = sum_t x_tn ((W_D - W_T)^T delta_t)_n
        """
        linear = self.linear
        difference = linear.difference()
        given, other = (x, delta) if linear.row else (delta, x)
        matrix = difference.t() if linear.row != linear.transposed else difference
        product = (given.to(difference.dtype) @ matrix).float()
        effect = product.mul_(other).sum(1)
        ours, theirs = linear.bias, linear.donor_bias
        if ours is not None and theirs is not None:
            effect += delta.float().sum(1) * (theirs.float() - ours.float())
        for key in self.keys:
            whole = linear.whole_axis(key)
            self.effects.by_key[key] = effect if whole else effect.index_select(1, linear.positions(key))


BFLOAT16_PRODUCT = True
"""Whether large float32 layers round the factors of the product with `W_D - W_T` to bfloat16 where that is faster.

The product reaches nothing but the effects; the forward pass and the gradients that flow on stay in float32 either
way. On a language model of 135 million parameters with a fine-tuned donor it took the cost of a node from about 1.45
to about 1.27 forward and backward passes. It moved the mean effects of 20 prompts by 0.2 % of their standard error
(median), 1.3 % (99th percentile) and 11 % (worst neuron); 0.1 % of the best neurons changed places with others.
"""

LARGE = 1 << 16
"""Weights in a layer from which on the product is what takes the time."""


def product_dtype(weight: Tensor) -> torch.dtype:
    """In what the product with `W_D - W_T` runs."""
    if not BFLOAT16_PRODUCT or weight.dtype != torch.float32 or weight.numel() < LARGE:
        return weight.dtype
    fast = weight.device.type == "cuda" or (weight.device.type == "cpu" and torch.cpu._is_avx512_bf16_supported())
    return torch.bfloat16 if fast else torch.float32


class _MixedProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mixed: MixedLinear) -> Tensor:
        ctx.save_for_backward(x)
        ctx.mixed = mixed
        return mixed.linear.apply(x, mixed.weight(), mixed.bias())

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        mixed: MixedLinear = ctx.mixed
        mixed.record(x, delta)
        weight = mixed.weight()
        return delta @ (weight.t() if mixed.linear.transposed else weight), None
