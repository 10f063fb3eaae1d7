"""Write captured values: raw rows through pyarrow, a file per family and shard."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cnt_pipeline.activation_caches.schema import row_schema, shard_name
from cnt_pipeline.store.parquet import write_parquet

Values = dict[tuple[int, str], npt.NDArray[np.float32]]
"""Captured values `[prompts, neurons]` by (layer, family)."""


def write_shard(folder: Path, shard: int, ids: Sequence[str], roles: Sequence[str], values: Values) -> None:
    """Write one shard's rows, prompts in the order given within each layer.

    Byte-stream split with a light zstd keeps float32 lists small and lets DuckDB read them (see
    benchmarks/cache_write.py).

    Raises:
        ValueError: layers of one family differ in width.
    """
    families = dict.fromkeys(family for _, family in values)
    for family in families:
        layers = [layer for layer, name in values if name == family]
        arrays = [np.ascontiguousarray(values[layer, family], dtype=np.float32) for layer in layers]
        width = arrays[0].shape[1]
        if any(array.shape != (len(ids), width) for array in arrays):
            raise ValueError(f"every layer of family {family} must hold {len(ids)} rows of {width} values")
        schema = row_schema(width)
        flat = pa.array(np.concatenate([array.reshape(-1) for array in arrays]))
        table = pa.Table.from_arrays(
            [
                pa.array(list(ids) * len(layers), pa.string()),
                pa.array(list(roles) * len(layers), pa.string()),
                pa.array(np.repeat(np.array(layers, dtype=np.int32), len(ids))),
                pa.FixedSizeListArray.from_arrays(flat, type=schema.field("values").type),
            ],
            schema=schema,
        )
        write_parquet(table, folder / shard_name(family, shard), byte_stream_split=["values.list.element"])
