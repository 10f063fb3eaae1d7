"""Ranked neurons as arrays: the top of a ranking as gates, its parameters, and the controls matched to it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from cnt_pipeline.errors import StudyError
from cnt_pipeline.models.architecture import Architecture, Matrix

Indices = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating[Any]]


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

    def gates(self, chosen: Indices, eta: float | Floats, device: torch.device) -> dict[tuple[int, str], torch.Tensor]:
        """Gates on the chosen neurons at `eta`, one for all or one each; families without one are left out."""
        gates = {}
        for matrix, inside, members in self.by_matrix(chosen):
            gate = torch.zeros(matrix.neurons, device=device)
            values = torch.tensor(eta if isinstance(eta, float | int) else eta[members], dtype=torch.float32)
            gate[torch.from_numpy(inside).to(device)] = values.to(device)
            gates[matrix.layer, matrix.family] = gate
        return gates

    def by_matrix(self, chosen: Indices) -> Iterator[tuple[Matrix, Indices, Indices]]:
        """The matrices that hold chosen neurons: each with its neurons, ascending, and their places in `chosen`."""
        places = np.argsort(chosen, kind="stable")
        ordered = chosen[places]
        for matrix in self.matrices:
            begin = self.offsets[matrix.layer, matrix.family]
            part = slice(np.searchsorted(ordered, begin), np.searchsorted(ordered, begin + matrix.neurons))
            if part.start < part.stop:
                yield matrix, ordered[part] - begin, places[part]

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

    def shuffled_amplitudes(self, chosen: Indices, amplitudes: Floats, drawn: Indices, seed: int) -> Floats:
        """The amplitudes of the chosen neurons of every layer and family, dealt in random order to those of `drawn`.

        `drawn` holds as many neurons of every layer and family as `chosen` (see `random_like`).
        """
        generator = np.random.default_rng(seed)
        dealt = np.zeros(len(drawn), dtype=np.float32)
        for (_, _, given), (_, _, taking) in zip(self.by_matrix(chosen), self.by_matrix(drawn), strict=True):
            dealt[taking] = generator.permutation(amplitudes[given])
        return dealt

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
    return {weight: space.numbers(part) for weight, part in read_ranking(ranking, space, families).items()}


def read_scores(ranking: Path, space: Space, lookalike_weight: float) -> Floats:
    """The ranking's score of every neuron, `[neurons]`, at one look-alike weight."""
    part = read_ranking(ranking, space, None)[lookalike_weight]
    scores = np.zeros(len(space.sizes))
    scores[space.numbers(part)] = part["score"].to_numpy()
    return scores


def read_ranking(ranking: Path, space: Space, families: tuple[str, ...] | None) -> dict[float, pl.DataFrame]:
    """Layer, family, neuron and score by rank, for each look-alike weight of the ranking; raises as `read_orders`."""
    columns = ["lookalike_weight", "layer", "family", "neuron", "score", "rank"]
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
        float(weight[0]): part.sort("rank") for weight, part in frame.group_by("lookalike_weight", maintain_order=True)
    }
