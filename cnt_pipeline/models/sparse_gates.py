"""Gates on a few neurons at the cost of those neurons alone: the forward pass of gate training.

Where a module has few candidates, the gated swap's second product with the donor's whole weight is mostly wasted. With
`D = W_D - W_T` and only the candidates' part of it,

    rows     y = W_T x + b_T,   y_n += g_n (D_n x + d_n)
    columns  y = W_T x + b_T,   y   += sum_n g_n x_n D_n

which is `GatedSwap.gated` up to rounding. Modules without a candidate run as they are and pay nothing.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from cnt_pipeline.models.gates import GatedSwap, Key


@dataclass(frozen=True)
class _Part:
    """The candidates of one linear module: `positions` on its axis, `places` in the flat vector of gates.

    `difference` is `[candidates, width]`: what the donor's rows (or columns) have over the target's.
    """

    module: nn.Module
    row: bool
    positions: Tensor
    places: Tensor
    difference: Tensor
    bias: Tensor | None


class SparseGates:
    """A gated swap with gates on chosen neurons only.

    Args:
        swap: target and donor.
        candidates: (key, neurons) pairs; the flat vector of gates holds the neurons of each key, in this order.
    """

    def __init__(self, swap: GatedSwap, candidates: Sequence[tuple[Key, Tensor]]) -> None:
        chosen: Mapping[Key, Tensor] = dict(candidates)
        starts: dict[Key, int] = {}
        self.count = 0
        for key, neurons in candidates:
            starts[key] = self.count
            self.count += len(neurons)
        self._parts: list[_Part] = []
        for linear in swap.linears:
            keys = [(m.layer, m.family) for m in linear.matrices if (m.layer, m.family) in chosen]
            if not keys:
                continue
            theirs, bias = linear.donor_weight, linear.donor_bias
            for key in keys:
                positions = linear.positions(key)[chosen[key].to(linear.weight.device)]
                ours = linear.weight.detach().index_select(linear.axis, positions)
                difference = theirs.index_select(linear.axis, positions) - ours
                shift = None
                if linear.row and linear.bias is not None and bias is not None:
                    shift = bias[positions] - linear.bias.detach()[positions]
                self._parts.append(
                    _Part(
                        module=linear.module,
                        row=linear.row,
                        positions=positions,
                        places=torch.arange(starts[key], starts[key] + len(positions), device=positions.device),
                        difference=(difference if linear.axis == 0 else difference.t()).contiguous(),
                        bias=shift,
                    )
                )

    @contextmanager
    def gated(self, gates: Tensor) -> Iterator[None]:
        """Run the model with these gates (`[candidates]`, any real values), differentiably; all others stay at 0."""
        by_module: dict[nn.Module, list[_Part]] = {}
        for part in self._parts:
            by_module.setdefault(part.module, []).append(part)
        own = {module: module.__dict__.get("forward") for module in by_module}
        try:
            for module, parts in by_module.items():
                module.forward = partial(_forward, module.forward, tuple(parts), gates)
            yield
        finally:
            for module, forward in own.items():
                if forward is None:
                    module.__dict__.pop("forward", None)
                else:
                    module.forward = forward


@contextmanager
def sparse_gated(swap: GatedSwap, candidates: Sequence[tuple[Key, Tensor]], gates: Tensor) -> Iterator[None]:
    """`SparseGates(swap, candidates).gated(gates)` for a single use."""
    with SparseGates(swap, candidates).gated(gates):
        yield


def _forward(plain: Callable[[Tensor], Tensor], parts: tuple[_Part, ...], gates: Tensor, x: Tensor) -> Tensor:
    y = plain(x)
    for part in parts:
        inputs = x.to(part.difference.device)
        gate = gates.to(inputs.device)[part.places].to(x.dtype)
        if part.row:
            added = gate * nn.functional.linear(inputs, part.difference, part.bias)
            y = y.index_add(-1, part.positions, added)
        else:
            y = y + (inputs.index_select(-1, part.positions) * gate) @ part.difference
    return y
