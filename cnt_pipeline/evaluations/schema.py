"""Layout of the evaluation artifacts."""

import pyarrow as pa

SAMPLES = "samples.parquet"
METRICS = "metrics.parquet"
CURVE = "curve.parquet"
VERDICT = "verdict.json"

SAMPLES_SCHEMA = pa.schema(
    [
        ("subject", pa.string()),
        ("metric", pa.string()),
        ("kind", pa.string()),
        ("id", pa.string()),
        ("variant", pa.int32()),
        ("value", pa.float64()),
    ]
)
"""A row per judged sample; `value` is null where the scorer could not judge."""

METRICS_SCHEMA = pa.schema(
    [
        ("subject", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("n", pa.int64()),
        ("unscored", pa.int64()),
        ("vs_target", pa.float64()),
        ("vs_target_low", pa.float64()),
        ("vs_target_high", pa.float64()),
        ("vs_donor", pa.float64()),
        ("vs_donor_low", pa.float64()),
        ("vs_donor_high", pa.float64()),
    ]
)
"""A row per subject and metric with 95 % intervals; `vs_*` are paired differences, of the mean NLL for a perplexity."""

CURVE_SCHEMA = pa.schema(
    [
        ("series", pa.string()),
        ("variant", pa.int32()),
        ("neurons", pa.int64()),
        ("parameters", pa.int64()),
        ("share", pa.float64()),
        ("function", pa.float64()),
        ("recovery", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("misfire", pa.float64()),
        ("utility", pa.float64()),
    ]
)
"""Recovery on selection prompts against parameters moved; `low` and `high` bound the recovery at 95 %."""
