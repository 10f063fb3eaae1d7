"""Layout of a cache: raw rows by family and shard, statistics per neuron, and a summary of the capture.

`<family>-<shard>.parquet`   one row per (prompt, layer): id, role, layer int32, values fixed-size list of float32
`statistics.parquet`         one row per (role, layer, family, neuron): n, mean, m2, min, max, positive (share > 0)
`summary.json`               figures of the whole capture, such as the completeness of a path
"""

import pyarrow as pa

STATISTICS = "statistics.parquet"
SUMMARY = "summary.json"

STATISTICS_SCHEMA = pa.schema(
    [
        ("role", pa.string()),
        ("layer", pa.int32()),
        ("family", pa.string()),
        ("neuron", pa.int32()),
        ("n", pa.int64()),
        ("mean", pa.float64()),
        ("m2", pa.float64()),
        ("min", pa.float32()),
        ("max", pa.float32()),
        ("positive", pa.float64()),
    ]
)


def shard_name(family: str, shard: int) -> str:
    """File of one family's rows of one shard."""
    return f"{family}-{shard:05d}.parquet"


def row_schema(width: int) -> pa.Schema:
    """Schema of the raw rows of a family with `width` neurons."""
    return pa.schema(
        [
            ("id", pa.string()),
            ("role", pa.string()),
            ("layer", pa.int32()),
            ("values", pa.list_(pa.field("element", pa.float32(), nullable=False), width)),
        ]
    )
