"""Mergeable statistics per neuron: count, mean, sum of squared deviations, extremes and share above zero."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cnt_pipeline.activation_caches.schema import STATISTICS_SCHEMA

Array = npt.NDArray[np.float64]
Key = tuple[str, int, str]
"""Role, layer, family."""


@dataclass(frozen=True)
class Moments:
    """Statistics of `n` values of each neuron, arrays `[neurons]`; `positive` counts values above zero."""

    n: int
    mean: Array
    m2: Array
    low: Array
    high: Array
    positive: Array

    @classmethod
    def of(cls, values: npt.NDArray[np.float32]) -> Self:
        """Statistics of `values`, `[samples, neurons]`."""
        wide = values.astype(np.float64)
        mean = wide.mean(0)
        return cls(
            len(wide), mean, ((wide - mean) ** 2).sum(0), wide.min(0), wide.max(0), (wide > 0).sum(0, dtype=np.float64)
        )

    def merge(self, other: "Moments") -> "Moments":
        """Statistics of both samples together (Chan, Golub and LeVeque, 1983)."""
        n = self.n + other.n
        delta = other.mean - self.mean
        return Moments(
            n,
            self.mean + delta * (other.n / n),
            self.m2 + other.m2 + delta**2 * (self.n * other.n / n),
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
            self.positive + other.positive,
        )


def to_table(statistics: dict[Key, Moments]) -> pa.Table:
    """A row per (role, layer, family, neuron), in the order of the keys."""
    tables = []
    for (role, layer, family), moments in statistics.items():
        width = len(moments.mean)
        tables.append(
            pa.table(
                {
                    "role": pa.repeat(role, width),
                    "layer": np.full(width, layer, dtype=np.int32),
                    "family": pa.repeat(family, width),
                    "neuron": np.arange(width, dtype=np.int32),
                    "n": np.full(width, moments.n, dtype=np.int64),
                    "mean": moments.mean,
                    "m2": moments.m2,
                    "min": moments.low.astype(np.float32),
                    "max": moments.high.astype(np.float32),
                    "positive": moments.positive / moments.n,
                },
                schema=STATISTICS_SCHEMA,
            )
        )
    return pa.concat_tables(tables).combine_chunks()


def from_table(table: pa.Table) -> dict[Key, Moments]:
    """The inverse of `to_table`: rows of one key are together, its neurons in order."""
    neurons = table["neuron"].to_numpy()
    begins = np.flatnonzero(neurons == 0)
    keys = table.select(["role", "layer", "family", "n"]).take(begins).to_pylist()
    arrays = {name: table[name].to_numpy().astype(np.float64) for name in ("mean", "m2", "min", "max", "positive")}
    statistics: dict[Key, Moments] = {}
    for key, begin, end in zip(keys, begins, [*begins[1:], len(neurons)], strict=True):
        mean, m2, low, high, positive = (array[begin:end] for array in arrays.values())
        statistics[key["role"], key["layer"], key["family"]] = Moments(
            key["n"], mean, m2, low, high, np.rint(positive * key["n"])
        )
    return statistics
