"""Run a probe over prompts shard by shard: raw rows and statistics leave in the same pass, finished shards are kept.

A killed capture leaves its finished shards in the store's staging folder; the next one goes on behind them. A shard is
finished when its statistics file, written last, is there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from cnt_pipeline.activation_caches.schema import STATISTICS
from cnt_pipeline.activation_caches.statistics import Key, Moments, from_table, to_table
from cnt_pipeline.activation_caches.write import Values, write_shard
from cnt_pipeline.errors import InputError
from cnt_pipeline.progress import Report, silent
from cnt_pipeline.store.parquet import write_parquet

SHARD = 32
"""Prompts a shard. Fixed, so that a resumed capture cuts its batches as an undisturbed one does."""

Probe = Callable[[Sequence[int]], Values]
"""Measures the items with these positions: values `[items, neurons]` by (layer, family), in the order given."""


@dataclass(frozen=True)
class Item:
    """One prompt of a capture: its id, its role and the number of tokens by which shards are sorted."""

    id: str
    role: str
    length: int


def capture(
    probe: Probe, items: Sequence[Item], folder: Path, report: Report = silent, what: str = "capturing"
) -> None:
    """Write every item's values and the statistics of each role into `folder`, resuming what a killed run left.

    Raises:
        InputError: the models produced values that are not finite.
    """
    order = sorted(range(len(items)), key=lambda i: (-items[i].length, i))
    shards = [order[begin : begin + SHARD] for begin in range(0, len(order), SHARD)]
    statistics: dict[Key, Moments] = {}
    partial = folder / "partial"
    partial.mkdir(exist_ok=True)
    for torn in (*folder.glob("*.tmp"), *partial.glob("*.tmp")):
        torn.unlink()
    done = 0
    for number, members in enumerate(shards):
        finished = partial / f"{number:05d}.parquet"
        if not finished.exists():
            values = probe(members)
            _refuse_non_finite(values)
            roles = [items[i].role for i in members]
            write_shard(folder, number, [items[i].id for i in members], roles, values)
            write_parquet(to_table(_moments(values, roles)), finished)
        for key, moments in from_table(pq.read_table(finished)).items():
            statistics[key] = statistics[key].merge(moments) if key in statistics else moments
        done += len(members)
        report(what, done, len(items))
    write_parquet(to_table(statistics), folder / STATISTICS)
    for file in partial.iterdir():
        file.unlink()
    partial.rmdir()


def _moments(values: Values, roles: Sequence[str]) -> dict[Key, Moments]:
    names = np.array(roles)
    return {
        (role, layer, family): Moments.of(array[names == role])
        for role in dict.fromkeys(roles)
        for (layer, family), array in values.items()
    }


def _refuse_non_finite(values: Values) -> None:
    for (layer, family), array in values.items():
        if not np.isfinite(array).all():
            raise InputError(
                f"layer {layer}, family {family}: the models gave values that are not finite; check the checkpoints "
                "for damaged weights, or set `dtype: float32` in the study"
            )
