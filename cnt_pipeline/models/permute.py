"""Another order of a model's hidden units that leaves its function as it is.

FFN channels may trade places when the rows of gate and up (with their biases) move together with the columns of down;
so may attention heads when q, k and v rows move with the columns of o: whole key/value groups, and the query heads
inside a group. Which families share a unit's index is in the architecture's table. The residual stream keeps its axes:
embeddings, norms and the head are tied to them in every layer. No torch: bytes change places, values do not change.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cnt_pipeline.errors import StoreError
from cnt_pipeline.models.architecture import Architecture, Matrix, coarse_units
from cnt_pipeline.models.load import model_files
from cnt_pipeline.models.tensors import CheckpointIndex, open_weights, read_into

CHANNEL, HEAD, GROUP = "ffn_channel", "query_head", "attention_group"

Order = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Permutation:
    """A new order by layer: place `i` takes what was unit `order[i]`.

    `channels`: `[FFN channels]`; `heads`: `[query heads]`, where the heads of a group stay together.
    """

    channels: Mapping[int, Order]
    heads: Mapping[int, Order]

    def inverse(self) -> Permutation:
        """What undoes it."""
        channels = {layer: _inverse(order) for layer, order in self.channels.items()}
        return Permutation(channels, {layer: _inverse(order) for layer, order in self.heads.items()})

    @property
    def moved(self) -> float:
        """Share of channels and heads that change their place."""
        orders = [*self.channels.values(), *self.heads.values()]
        stay = sum(int((order == np.arange(len(order))).sum()) for order in orders)
        return 1 - stay / sum(len(order) for order in orders)


def permutable(architecture: Architecture) -> dict[str, tuple[int, tuple[str, ...]]]:
    """How many channels, heads and groups a layer has, and the families of each: `{unit: (count, families)}`."""
    return {unit.name: (unit.count, unit.families) for unit in coarse_units(architecture)}


def neuron_orders(architecture: Architecture, permutation: Permutation) -> dict[tuple[int, str], Order]:
    """The permutation neuron by neuron: `[neurons]` by (layer, family), families that keep their order left out.

    Raises:
        ValueError: an order is no permutation, or tears the heads of a group apart.
    """
    units = permutable(architecture)
    heads, groups = units[HEAD][0], units[GROUP][0]
    orders: dict[tuple[int, str], Order] = {}
    for matrix in architecture.matrices:
        layer, family = matrix.layer, matrix.family
        if family in units[CHANNEL][1] and layer in permutation.channels:
            order = permutation.channels[layer]
        elif family in units[HEAD][1] and layer in permutation.heads:
            order = permutation.heads[layer]
            _groups_of(order, heads // groups)
        elif family in units[GROUP][1] and layer in permutation.heads:
            order = _groups_of(permutation.heads[layer], heads // groups)
        else:
            continue
        if not np.array_equal(np.sort(order), np.arange(len(order))) or matrix.neurons % len(order):
            raise ValueError(f"layer {layer}, family {family}: the order is no permutation of its units")
        orders[layer, family] = _spread(order, matrix.neurons // len(order))
    return orders


def write_permuted(
    index: CheckpointIndex, architecture: Architecture, permutation: Permutation, out: Path
) -> tuple[Path, ...]:
    """Write the model of `index` in another order to `out`: same files, names, dtypes; returns the files written.

    Raises:
        InputError: the model cannot be read.
        StoreError: `out` cannot be written.
    """
    orders = neuron_orders(architecture, permutation)
    written = []
    try:
        for path in model_files(index.folder):
            place = out / path.relative_to(index.folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
            written.append(place)
        for name, axis, positions, sources in _moves(architecture.matrices, orders):
            _move(index, name, axis, positions, sources, out)
    except OSError as error:
        raise StoreError(f"{out} cannot be written ({error.strerror or error}): free space, then run again") from None
    return tuple(written)


def _moves(
    matrices: tuple[Matrix, ...], orders: Mapping[tuple[int, str], Order]
) -> list[tuple[str, int, Order, Order]]:
    """Tensor, axis, and which positions take what lay at which: one entry a tensor, fused families together."""
    weights: dict[str, tuple[int, list[Order], list[Order]]] = {}
    for matrix in matrices:
        order = orders.get((matrix.layer, matrix.family))
        if order is None or np.array_equal(order, np.arange(len(order))):
            continue
        for name, axis in ((matrix.tensor, matrix.axis), *(((matrix.bias, 0),) if matrix.bias else ())):
            _, places, sources = weights.setdefault(name, (axis, [], []))
            places.append(matrix.positions)
            sources.append(matrix.positions[order])
    return [(name, axis, np.concatenate(p), np.concatenate(s)) for name, (axis, p, s) in weights.items()]


def _move(index: CheckpointIndex, name: str, axis: int, positions: Order, sources: Order, out: Path) -> None:
    """Give the copied tensor its new order in place; one tensor in memory."""
    info = index[name]
    data = bytearray(info.size)
    with open_weights(index.path(info.file)) as stream:
        read_into(stream, info.begin, data)
    values = np.frombuffer(data, f"V{info.itemsize}").reshape(info.shape)
    if axis == 0:
        values[positions] = values[sources]
    else:
        values[:, positions] = values[:, sources]
    with (out / info.file).open("r+b") as stream:
        stream.seek(info.begin)
        stream.write(data)


def _groups_of(heads: Order, share: int) -> Order:
    """The order of the groups that an order of `share` heads a group means."""
    groups = heads.reshape(-1, share) // share
    if (groups != groups[:, :1]).any():
        raise ValueError("query heads may change places inside their group, and whole groups with each other")
    found: Order = groups[:, 0]
    return found


def _spread(order: Order, share: int) -> Order:
    """The order of units as an order of their `share` neurons each."""
    spread: Order = (order[:, None] * share + np.arange(share)).ravel()
    return spread


def _inverse(order: Order) -> Order:
    inverse = np.empty_like(order)
    inverse[order] = np.arange(len(order))
    return inverse
