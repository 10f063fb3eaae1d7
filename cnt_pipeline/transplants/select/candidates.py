"""Ranked neurons as arrays: the top of a ranking as gates, its parameters, and the controls matched to it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from cnt_pipeline.errors import StudyError
from cnt_pipeline.models.architecture import Architecture, Matrix

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Space:
    """All neurons of a model, numbered matrix by matrix; `sizes` holds the parameters of each."""

    matrices: tuple[Matrix, ...]
    offsets: Mapping[tuple[int, str], int]
    sizes: Indices
    total_parameters: int

    @classmethod
    def of(cls, architecture: Architecture, total_parameters: int) -> "Space":
        """The neurons of `architecture` in a checkpoint with `total_parameters` weights."""
        ends = np.cumsum([0, *(m.neurons for m in architecture.matrices)])
        offsets = {(m.layer, m.family): int(end) for m, end in zip(architecture.matrices, ends[:-1], strict=True)}
        sizes = np.concatenate([np.full(m.neurons, m.parameters_per_neuron) for m in architecture.matrices])
        return cls(architecture.matrices, offsets, sizes.astype(np.int64), total_parameters)

    def numbers(self, ranking: pl.DataFrame) -> Indices:
        """Neuron numbers of a ranking's rows (columns layer, family, neuron), in row order."""
        keys = zip(ranking["layer"].to_list(), ranking["family"].to_list(), strict=True)
        starts = np.fromiter((self.offsets[key] for key in keys), dtype=np.int64, count=len(ranking))
        neurons: Indices = ranking["neuron"].to_numpy().astype(np.int64)
        return starts + neurons

    def parameters(self, chosen: Indices) -> int:
        """Weights held by the chosen neurons."""
        return int(self.sizes[chosen].sum())

    def gates(self, chosen: Indices, eta: float, device: torch.device) -> dict[tuple[int, str], torch.Tensor]:
        """Gates at `eta` on the chosen neurons; families without one are left out."""
        gates = {}
        ordered = np.sort(chosen)
        for matrix in self.matrices:
            begin = self.offsets[matrix.layer, matrix.family]
            inside = ordered[np.searchsorted(ordered, begin) : np.searchsorted(ordered, begin + matrix.neurons)] - begin
            if len(inside):
                gate = torch.zeros(matrix.neurons, device=device)
                gate[torch.from_numpy(inside).to(device)] = eta
                gates[matrix.layer, matrix.family] = gate
        return gates

    def frame(self, chosen: Indices) -> pl.DataFrame:
        """Layer, family and neuron of the chosen numbers, in their order."""
        starts = np.array(list(self.offsets.values()))
        which = np.searchsorted(starts, chosen, side="right") - 1
        return pl.DataFrame(
            {
                "layer": pl.Series([self.matrices[i].layer for i in which], dtype=pl.Int32),
                "family": pl.Series([self.matrices[i].family for i in which], dtype=pl.String),
                "neuron": pl.Series(chosen - starts[which], dtype=pl.Int32),
            }
        )

    def random_like(self, chosen: Indices, seed: int) -> Indices:
        """As many neurons of every layer and family as `chosen` has, drawn from the others while there are enough."""
        generator = np.random.default_rng(seed)
        drawn = []
        for matrix in self.matrices:
            begin = self.offsets[matrix.layer, matrix.family]
            everyone = np.arange(begin, begin + matrix.neurons)
            inside = np.intersect1d(chosen, everyone)
            others = np.setdiff1d(everyone, inside)
            pool = others if len(others) >= len(inside) else everyone
            drawn.append(generator.choice(pool, len(inside), replace=False))
        return np.concatenate(drawn)

    def top_within(self, order: Indices, parameters: int) -> Indices:
        """The longest start of `order` that holds at most `parameters` weights; at least one neuron."""
        count = int(np.searchsorted(np.cumsum(self.sizes[order]), parameters, side="right"))
        return order[: max(count, 1)]


def gates_of(
    neurons: pl.DataFrame, architecture: Architecture, device: torch.device
) -> dict[tuple[int, str], torch.Tensor]:
    """Gates of listed neurons (columns layer, family, neuron, amplitude); families without one are left out."""
    widths = {(m.layer, m.family): m.neurons for m in architecture.matrices}
    gates = {}
    for (layer, family), part in neurons.group_by("layer", "family", maintain_order=True):
        gate = torch.zeros(widths[layer, family])
        gate[part["neuron"].to_torch().long()] = part["amplitude"].to_torch().float()
        gates[layer, family] = gate.to(device)
    return gates


def read_orders(ranking: Path, space: Space, families: tuple[str, ...] | None) -> dict[float, Indices]:
    """Neuron numbers from best to worst for each look-alike weight of the ranking.

    Raises:
        StudyError: a family that the architecture does not have.
    """
    columns = ["lookalike_weight", "layer", "family", "neuron", "rank"]
    frame = pl.read_parquet(ranking, columns=columns, glob=False)
    if families is not None:
        known = dict.fromkeys(matrix.family for matrix in space.matrices)
        unknown = next((family for family in families if family not in known), None)
        if unknown is not None:
            raise StudyError(
                f"study:method.families: the models have no family '{unknown}'; choose among {', '.join(known)}"
            )
        frame = frame.filter(pl.col("family").is_in(families))
    return {
        float(weight[0]): space.numbers(part.sort("rank"))
        for weight, part in frame.group_by("lookalike_weight", maintain_order=True)
    }
