"""Copying the donor's neurons: the best within a budget, and the edits that put them into the target."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from cnt_pipeline.errors import InputError
from cnt_pipeline.models.architecture import Matrix, Neurons, coarse_units
from cnt_pipeline.models.tensors import read_rows
from cnt_pipeline.store.parquet import write_parquet
from cnt_pipeline.transplants.edit.blockwise import pieces
from cnt_pipeline.transplants.edit.source import NeuronEdits, Source
from cnt_pipeline.transplants.select.candidates import Space

Key = tuple[int, str]
"""Layer and family."""
Indices = npt.NDArray[np.int64]
Scores = Mapping[Key, npt.NDArray[np.floating[Any]]]
"""`[neurons]` by (layer, family), higher is better; minus infinity never qualifies."""
Choice = Neurons
"""Neurons chosen in each (layer, family), ascending."""

_CHOICE = pa.schema([("layer", pa.int32()), ("family", pa.string()), ("neuron", pa.int32())])


def copied(source: Source, chosen: Choice) -> NeuronEdits:
    """The target with the chosen neurons, their row biases included, taken from the donor value by value.

    Raises:
        ValueError: `chosen` names a layer or family that the models do not have.
    """
    matrices = {(matrix.layer, matrix.family): matrix for matrix in source.architecture.matrices}
    unknown = [key for key in chosen if key not in matrices]
    if unknown:
        raise ValueError(f"the models have no layer and family {unknown[0]}")
    parts: dict[str, list[tuple[int, Indices]]] = {}
    for key, matrix in matrices.items():
        neurons = chosen.get(key)
        if neurons is None or not len(neurons):
            continue
        positions = matrix.positions[neurons]
        parts.setdefault(matrix.tensor, []).append((matrix.axis, positions))
        if matrix.bias is not None:
            parts.setdefault(matrix.bias, []).append((0, positions))
    return NeuronEdits({name: partial(_copied, source, name, places) for name, places in parts.items()}, chosen)


def _copied(source: Source, name: str, places: Sequence[tuple[int, Indices]]) -> Tensor:
    tensor = source.tensor("target", name)
    for axis, positions in places:
        where = torch.from_numpy(positions)
        width = tensor[0].numel()
        if axis == 0:
            for part in pieces(len(positions), width):
                given = read_rows(source.models["donor"], name, positions[part], 0).float()
                tensor.index_copy_(0, where[part], given)
        else:
            for rows in pieces(len(tensor), width):
                given = source.entries("donor", name, slice(rows.start * width, rows.stop * width)).reshape(-1, width)
                tensor[rows].index_copy_(1, where, given[:, where])
    return tensor


def within_budget(source: Source, scores: Scores, share: float | None) -> Choice:
    """The neurons with the highest scores, over all layers and families, that hold `share` of all parameters.

    All parameters are those of the target's checkpoint, embeddings and norms included. The longest start of the order
    that fits is taken, one neuron at least; None takes every neuron that qualifies. Equal scores follow the
    architecture's order.

    Raises:
        InputError: no neuron qualifies.
    """
    space = space_of(source)
    flat = np.full(len(space.sizes), -np.inf)
    for (layer, family), values in scores.items():
        begin = space.offsets[layer, family]
        flat[begin : begin + len(values)] = values
    order = np.argsort(-flat, kind="stable")
    order = order[: int((flat > -np.inf).sum())]
    if not len(order):
        raise InputError("no neuron qualifies for copying: lower the method's thresholds, or list other families")
    if share is not None:
        order = space.top_within(order, round(share * space.total_parameters))
    return {(matrix.layer, matrix.family): inside for matrix, inside, _ in space.by_matrix(order)}


def random_like(source: Source, chosen: Choice, seed: int) -> Choice:
    """As many neurons of every layer and family as `chosen` has, drawn from the others while there are enough."""
    space = space_of(source)
    numbers = [space.offsets[key] + neurons for key, neurons in chosen.items()]
    drawn = space.random_like(np.concatenate(numbers), seed)
    return {(matrix.layer, matrix.family): inside for matrix, inside, _ in space.by_matrix(drawn)}


def space_of(source: Source) -> Space:
    """All neurons of the target, with the size of its whole checkpoint."""
    total = sum(tensor.count for tensor in source.models["target"].tensors.values())
    return Space.of(source.architecture, total)


def matrices_of(source: Source, families: str | Sequence[str], side: str | None = None) -> tuple[Matrix, ...]:
    """The matrices of some families: listed ones, those of the FFN ("ffn"), or all ("all").

    `side` keeps only families whose neurons are output rows ("row") or input columns ("column").

    Raises:
        InputError: a listed family that the models do not have, or not on this side.
    """
    known = dict.fromkeys(m.family for m in source.architecture.matrices if side is None or m.side == side)
    if families == "all":
        wanted: Sequence[str] = tuple(known)
    elif families == "ffn":
        channels = next(unit for unit in coarse_units(source.architecture) if unit.name == "ffn_channel")
        wanted = tuple(family for family in channels.families if family in known)
    else:
        wanted = families
    unknown = [family for family in wanted if family not in known]
    if unknown:
        raise InputError(f"the method cannot copy the family '{unknown[0]}' here; choose among {', '.join(known)}")
    return tuple(matrix for matrix in source.architecture.matrices if matrix.family in wanted)


def write_choice(chosen: Choice, path: Path) -> None:
    """Write the chosen neurons as Parquet, a row each: layer, family and neuron."""
    rows = [
        {"layer": layer, "family": family, "neuron": neuron}
        for (layer, family), each in chosen.items()
        for neuron in each.tolist()
    ]
    write_parquet(pa.Table.from_pylist(rows, schema=_CHOICE), path)


def read_choice(path: Path) -> Choice:
    """The neurons that `write_choice` wrote."""
    found: dict[Key, list[int]] = {}
    for row in pq.ParquetFile(path).read().to_pylist():
        found.setdefault((row["layer"], row["family"]), []).append(row["neuron"])
    return {key: np.array(neurons, dtype=np.int64) for key, neurons in found.items()}
