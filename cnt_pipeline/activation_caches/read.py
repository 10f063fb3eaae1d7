"""Read a cache's raw rows back: means over weighted prompts, without holding all prompts of all neurons."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

Array = npt.NDArray[np.float64]


def prompts_of_rows(shards: Sequence[Path]) -> dict[str, list[str]]:
    """Sorted prompt ids by role."""
    found: dict[str, set[str]] = {}
    for path in shards:
        table = pq.read_table(path, columns=["id", "role"])
        for name, role in zip(table["id"].to_pylist(), table["role"].to_pylist(), strict=True):
            found.setdefault(role, set()).add(name)
    return {role: sorted(names) for role, names in sorted(found.items())}


def weighted_means(
    shards: Sequence[Path], weights: Mapping[tuple[str, str], Array]
) -> dict[tuple[int, str], npt.NDArray[np.float64]]:
    """Means `[sets, neurons]` by (layer, family) under several sets of prompt weights.

    `weights` holds `[sets]` by (role, prompt id), one number a set; shards are files `<family>-<number>.parquet`.
    """
    sums: dict[tuple[int, str], Array] = {}
    totals: dict[tuple[int, str], Array] = {}
    for path in shards:
        family = path.stem.rpartition("-")[0]
        table = pq.read_table(path)
        values = table["values"].combine_chunks()
        rows = values.flatten().to_numpy().reshape(len(values), -1)
        names = list(zip(table["role"].to_pylist(), table["id"].to_pylist(), strict=True))
        layers = table["layer"].to_numpy()
        for layer in np.unique(layers):
            at = np.flatnonzero(layers == layer)
            counted = np.stack([weights[names[row]] for row in at], axis=1)
            key = (int(layer), family)
            part = counted @ rows[at].astype(np.float64)
            sums[key] = sums[key] + part if key in sums else part
            totals[key] = totals.get(key, np.zeros(len(counted))) + counted.sum(1)
    return {key: sums[key] / totals[key][:, None] for key in sums}
