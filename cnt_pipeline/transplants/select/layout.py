"""From a flat vector of gates, one per unit, to the model that runs with them."""

from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor

from cnt_pipeline.models.gates import GatedSwap, Key
from cnt_pipeline.models.sparse_gates import SparseGates
from cnt_pipeline.models.teacher import device_of
from cnt_pipeline.transplants.select.candidates import Indices, Space
from cnt_pipeline.transplants.select.units import Order

_SPARSE = 0.5
"""Up to this share of all neurons the candidates' parts of the donor are held apart; above, whole layers are run."""


class CandidateGates:
    """Opens a gated swap with one gate per unit of `order`; the gates of units outside `kept` are not even computed.

    Only modules that hold a candidate run otherwise than in the target.
    """

    def __init__(self, swap: GatedSwap, space: Space, order: Order, kept: Indices | None = None) -> None:
        self.swap = swap
        part = order if kept is None else order.pick(kept)
        units = part.owner if kept is None else kept[part.owner]
        self._members: list[tuple[Key, int, Tensor]] = []
        places: list[Indices] = []
        for matrix, inside, found in space.by_matrix(part.numbers):
            self._members.append(((matrix.layer, matrix.family), matrix.neurons, torch.from_numpy(inside)))
            places.append(units[found])
        self._places = torch.from_numpy(np.concatenate(places)).to(device_of(swap.model))
        few = len(part.numbers) <= _SPARSE * len(space.sizes)
        self._sparse = SparseGates(swap, [(key, inside) for key, _, inside in self._members]) if few else None

    def __call__(self, gates: Tensor) -> AbstractContextManager[None]:
        """Run the model with these gates, `[units of the order]`, differentiably."""
        values = gates[self._places]
        return self.swap.gated(self._by_key(values)) if self._sparse is None else self._sparse.gated(values)

    def _by_key(self, values: Tensor) -> dict[Key, Tensor]:
        parts = torch.split(values, [len(inside) for _, _, inside in self._members])
        return {
            key: values.new_zeros(neurons).index_copy(0, inside.to(values.device), part)
            for (key, neurons, inside), part in zip(self._members, parts, strict=True)
        }
