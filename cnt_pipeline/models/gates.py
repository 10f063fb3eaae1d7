"""The gated swap: one model in which any neuron can be the target's, the donor's or anything between.

With one gate `g` per neuron (design section 5) a linear layer of the target computes

    rows     y = (1 - g) * (W_T x + b_T) + g * (W_D x + b_D)      q, k, v, gate, up: a neuron is an output unit
    columns  y = W_T ((1 - g) x) + W_D (g x) + b_T                o, down: a neuron is an input unit

which is exact at both ends: `g = 0` is the target bit for bit, `g = 1` uses nothing but the donor's weights. Four ways
to hold the gates serve four needs: `gated` differentiates through them; `folded` rewrites the weights in memory for
fast generation with a fixed plan; `uniform` sets all gates to one value and `along` to one value times a direction,
and both yield every prompt's `dL/dg` in the backward pass without ever holding a weight gradient.

Each layer works on the device of its own weight: gates, donor tensors and effects follow it.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cnt_pipeline.models.architecture import Architecture, Matrix
from cnt_pipeline.models.gate_linear import (
    DonorMemory,
    Effects,
    GateLinear,
    Gates,
    Key,
    MixedLinear,
    gated_forward,
)
from cnt_pipeline.models.tensors import TORCH_NAMES, CheckpointIndex

__all__ = ["DonorMemory", "Effects", "GatedSwap", "Gates", "Key"]


class GatedSwap:
    """A target model whose neurons can be swapped for the donor's.

    Args:
        model: the target, in eval mode.
        architecture: its neuron spaces.
        donor: the donor's checkpoint; its tensors are read one by one into the target's compute dtype.
        stored: the target's checkpoint, whose dtypes decide how a partial copy is rounded when it is written.
        memory: "keep" holds the donor's tensors, and within `uniform` and `along` the mixed weights; "lazy" reads
            them from the checkpoint layer by layer, drops them after use and computes the same numbers.
        checkpointing: keep one layer's activations at a time and compute the others again in the backward pass; the
            numbers are the same.
    """

    def __init__(
        self,
        model: nn.Module,
        architecture: Architecture,
        donor: CheckpointIndex,
        stored: CheckpointIndex,
        memory: DonorMemory = "keep",
        checkpointing: bool = False,
    ) -> None:
        self.model = model
        self.architecture = architecture
        self.checkpointing = checkpointing
        by_module: dict[str, list[Matrix]] = {}
        for matrix in architecture.matrices:
            by_module.setdefault(matrix.module, []).append(matrix)
        self.linears = [
            GateLinear(
                model.get_submodule(name),
                tuple(matrices),
                donor,
                getattr(torch, TORCH_NAMES[stored.tensors[matrices[0].tensor].dtype]),
                memory,
            )
            for name, matrices in by_module.items()
        ]
        self._blocks = [model.get_submodule(name) for name in _block_names(architecture)]

    def filled(self, value: float, batch: int | None = None) -> dict[Key, Tensor]:
        """All gates at `value`, each on its layer's device."""
        lead = () if batch is None else (batch,)
        return {
            (m.layer, m.family): torch.full((*lead, m.neurons), value, device=linear.weight.device)
            for linear in self.linears
            for m in linear.matrices
        }

    @contextmanager
    def gated(self, gates: Gates) -> Iterator[None]:
        """Run the model with these gates, differentiably; families that are absent stay the target's."""
        held = [(linear, linear.gate(gates)) for linear in self.linears]
        with self._forwards((linear, partial(gated_forward, linear, g)) for linear, g in held if g is not None):
            yield

    @contextmanager
    def folded(self, gates: Gates) -> Iterator[None]:
        """Run the model with the gates folded into its weights: as fast as the target, equal to the written checkpoint.

        A partial copy is rounded to the dtype in which the target is stored, as the writer does.
        """
        saved: list[tuple[GateLinear, Tensor, Tensor | None]] = []
        try:
            with torch.no_grad():
                for linear in self.linears:
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

    def uniform(self, alpha: float) -> AbstractContextManager[Effects]:
        """Run the model with every gate at `alpha`; a backward pass inside leaves `dL/dg` per example in the result.

        Costs one matrix product more per layer than a pass that computes input gradients only. The embeddings' output
        must require a gradient: `teacher.differentiable_inputs` sees to it.
        """
        return self.along(self.filled(1.0), alpha)

    @contextmanager
    def along(self, direction: Gates, alpha: float) -> Iterator[Effects]:
        """As `uniform`, with the gates at `alpha * direction`, `[neurons]` by (layer, family).

        Families that are absent stay the target's, cost nothing and leave no effect; in the others every neuron's
        effect is left, those with direction 0 included.
        """
        effects = Effects()
        mixed: list[tuple[GateLinear, MixedLinear]] = []
        for linear in self.linears:
            gate = linear.gate(direction)
            if gate is not None:
                keys = tuple((m.layer, m.family) for m in linear.matrices if (m.layer, m.family) in direction)
                mixed.append((linear, MixedLinear(linear, alpha * gate.detach().float(), keys, effects)))
        with self._forwards(mixed):
            yield effects

    @contextmanager
    def _forwards(self, replaced: Iterable[tuple[GateLinear, Callable[[Tensor], Tensor]]]) -> Iterator[None]:
        """Give layers another forward pass, and blocks a checkpointed one, for the time of the context."""
        before: list[tuple[nn.Module, Any]] = []
        try:
            for linear, forward in replaced:
                before.append((linear.module, linear.module.__dict__.get("forward")))
                linear.module.forward = forward
            for block in self._blocks if self.checkpointing else ():
                before.append((block, block.__dict__.get("forward")))
                block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
            yield
        finally:
            for module, own in before:
                # accelerate keeps a forward pass of its own here; torch has none.
                if own is None:
                    module.__dict__.pop("forward", None)
                else:
                    module.forward = own


def _block_names(architecture: Architecture) -> list[str]:
    """The module of every layer: the path of its first matrix up to the layer's number."""
    modules = {matrix.layer: matrix.module.split(".") for matrix in architecture.matrices}
    return [".".join(path[: path.index(str(layer)) + 1]) for layer, path in modules.items()]


def _fold(linear: GateLinear, gate: Tensor) -> None:
    positions = gate.nonzero().squeeze(-1)
    amplitude = gate[positions]
    linear.weight.data = _moved(
        linear.weight.data, linear.donor_weight, positions, amplitude, linear.axis, linear.stored
    )
    theirs = linear.donor_bias
    if linear.row and linear.bias is not None and theirs is not None:
        linear.bias.data = _moved(linear.bias.data, theirs, positions, amplitude, 0, linear.stored)


def _moved(
    ours: Tensor, theirs: Tensor, positions: Tensor, amplitude: Tensor, axis: int, stored: torch.dtype
) -> Tensor:
    old = ours.index_select(axis, positions).float()
    new = theirs.index_select(axis, positions).float()
    shape = [-1 if dimension == axis else 1 for dimension in range(ours.dim())]
    scale = amplitude.float().view(shape)
    mixed = torch.where(scale == 1, new, (old + scale * (new - old)).to(stored).float())
    return ours.clone().index_copy_(axis, positions, mixed.to(ours.dtype))
