"""What the activation and hidden-state probes measured of single prompts, and their statistics over prompts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cnt_pipeline.activation_caches.schema import STATISTICS
from cnt_pipeline.activation_caches.statistics import Key, Moments, from_table
from cnt_pipeline.errors import InputError
from cnt_pipeline.study.schema import Kind

BATCH = 1 << 14
"""Neurons whose statistics are read at a time."""


@dataclass(frozen=True)
class PromptRows:
    """Values of one family: `prompts` as (kind, id), sorted; `layers` holds `[prompts, neurons]` float32 each."""

    prompts: tuple[tuple[str, str], ...]
    layers: dict[int, npt.NDArray[np.float32]]


def read_prompt_rows(folder: Path, family: str, kinds: Sequence[Kind]) -> PromptRows:
    """The raw rows of one family of a cache, for prompts of some kinds; memory holds that family in all layers.

    Raises:
        InputError: the cache has no such family, or no prompt of one of the kinds.
    """
    found: dict[int, list[tuple[list[tuple[str, str]], npt.NDArray[np.float32]]]] = {}
    for path in sorted(folder.glob(f"{family}-[0-9]*.parquet")):
        table = pq.read_table(path)
        values = table["values"].combine_chunks()
        rows = values.flatten().to_numpy().reshape(len(values), -1)
        names = list(zip(table["role"].to_pylist(), table["id"].to_pylist(), strict=True))
        wanted = np.array([kind in kinds for kind, _ in names])
        layers = table["layer"].to_numpy()
        for layer in np.unique(layers):
            at = np.flatnonzero((layers == layer) & wanted)
            found.setdefault(int(layer), []).append(([names[i] for i in at], rows[at]))
    prompts: tuple[tuple[str, str], ...] = ()
    whole: dict[int, npt.NDArray[np.float32]] = {}
    for layer, parts in sorted(found.items()):
        names = [name for part, _ in parts for name in part]
        order = sorted(range(len(names)), key=names.__getitem__)
        prompts = tuple(names[i] for i in order)
        whole[layer] = np.concatenate([rows for _, rows in parts])[order]
    for kind in kinds:
        if not any(name == kind for name, _ in prompts):
            raise InputError(
                f"{folder} holds no values of {family} for prompts of the kind {kind}: run its probe again"
            )
    return PromptRows(prompts, whole)


def read_statistics(folder: Path, families: Sequence[str], kinds: Sequence[Kind]) -> dict[Key, Moments]:
    """Statistics over prompts by (kind, layer, family) of a cache.

    Raises:
        InputError: the cache lacks one of the families or kinds.
    """
    asked = {"family": pa.array(list(families)), "role": pa.array(list(kinds))}
    with pq.ParquetFile(folder / STATISTICS, read_dictionary=list(asked)) as file:
        # Batch by batch: a model has millions of neurons, of which a method reads some families only.
        parts = []
        for part in file.iter_batches(BATCH):
            found = [pc.is_in(part[column], value_set=values) for column, values in asked.items()]
            parts.append(part.filter(pc.and_(*found)))
        table = pa.Table.from_batches(parts, file.schema_arrow)
    statistics = from_table(table) if len(table) else {}
    present = {(kind, family) for kind, _, family in statistics}
    for kind in kinds:
        for family in families:
            if (kind, family) not in present:
                raise InputError(
                    f"{folder} holds no statistics of {family} for prompts of the kind {kind}: run its probe again"
                )
    return statistics
