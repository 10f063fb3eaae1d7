"""Claim: 92 million cached effects are ranked from their statistics within 0.2 s.

2000 prompts, 30 layers and 1536 neurons a layer are 92 160 000 values. The capture summed them up as it wrote
them, so the query reads a row per neuron, role and objective: such statistics are made here directly. Timed is the
whole step: open DuckDB, read three Parquet files, score with three look-alike weights and write the ranking. The
fastest round counts: neighbours on a shared machine only ever add time.
`python -m benchmarks.ranking_query [--json]`
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.claims import Claim, main
from cnt_pipeline.activation_caches.statistics import Moments, to_table
from cnt_pipeline.neuron_rankings.query import RANKING, rank
from cnt_pipeline.store.parquet import write_parquet

PROMPTS, LAYERS = 2000, 30
FAMILIES = {"q": 192, "k": 64, "v": 64, "o": 192, "gate": 320, "up": 320, "down": 384}
"""Neurons of a layer by family, 1536 together."""
ROLES = {"transfer": ("function",), "misfire": ("lookalike",), "keep": ("lookalike", "utility")}
PARAMETERS = {"weights": [0.0, 0.5, 1.0], "damage_weight": 1.0}
LIMIT = 0.2


def write_statistics(folder: Path) -> dict[str, Path]:
    """Statistics of `PROMPTS` values of every neuron, a table per objective."""
    generator = np.random.default_rng(0)
    paths = {}
    for objective, roles in ROLES.items():
        found = {
            (role, layer, family): Moments(
                n=PROMPTS,
                mean=generator.normal(0, 1e-4, width),
                m2=PROMPTS * generator.exponential(1e-8, width),
                low=-generator.exponential(1e-3, width),
                high=generator.exponential(1e-3, width),
                positive=generator.integers(0, PROMPTS, width).astype(np.float64),
            )
            for role in roles
            for layer in range(LAYERS)
            for family, width in FAMILIES.items()
        }
        paths[objective] = folder / f"{objective}.parquet"
        write_parquet(to_table(found), paths[objective])
    return paths


def run(rounds: int) -> Claim:
    """Measure the claim."""
    neurons = LAYERS * sum(FAMILIES.values())
    with tempfile.TemporaryDirectory(prefix="ranking-bench-") as name:
        folder = Path(name)
        tables = write_statistics(folder)
        seconds = []
        for _ in range(rounds + 1):
            started = time.perf_counter()
            rows = rank("effect", tables, PARAMETERS, folder)
            seconds.append(time.perf_counter() - started)
            assert rows == neurons * len(PARAMETERS["weights"])  # type: ignore[arg-type]
        raw = {
            "cached_values": PROMPTS * neurons, "neurons": neurons, "rows": rows, "seconds": seconds[1:],
            "first_seconds": seconds[0], "ranking_mb": (folder / RANKING).stat().st_size / 1e6,
            "statistics_mb": sum(path.stat().st_size for path in tables.values()) / 1e6,
        }  # fmt: skip
    ratio = min(seconds[1:]) / LIMIT
    claim = f"ranking {PROMPTS * neurons / 1e6:.0f} M cached values from their statistics, time over {LIMIT:g} s"
    return Claim(claim, ratio, 1.0, raw)


if __name__ == "__main__":
    sys.exit(main(run, rounds=15))
