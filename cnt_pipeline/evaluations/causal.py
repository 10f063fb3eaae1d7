"""The causal effect of neurons, by activation patching (Chen et al., arXiv 2406.14144 [A], methods section 4).

    C = E[F(patched) - F(M1)] / E[F(M2) - F(M1)]

M1 is the target, M2 the donor, and patched the target in which the activations of the neurons are the donor's, on the
same tokens at every position (`models.activation_patching`). F is the study's function metric, E the mean over its test
prompts: 0 is the target, 1 the donor, more is beyond it. Recovery is the same share for a model that was edited.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from cnt_pipeline.evaluations.ntrr import recovered
from cnt_pipeline.evaluations.schema import CAUSAL, SAMPLES_SCHEMA
from cnt_pipeline.evaluations.score import Said, paired, scored
from cnt_pipeline.measures.metrics import ROUNDING
from cnt_pipeline.prompt_sets.schema import Prompt
from cnt_pipeline.store.parquet import write_parquet
from cnt_pipeline.study.schema import Kind


def causal_effects(
    prompts: Mapping[Kind, Sequence[Prompt]],
    said: Mapping[str, Said],
    patched: Mapping[str, Said],
    metric: str,
    seed: int,
    folder: Path,
    aside: Collection[str] = (),
) -> dict[str, dict[str, Any]]:
    """The causal effect of each entry of `patched`, by its label; writes their samples as `causal.parquet`.

    Args:
        said: completions of `target` and `donor`.
        patched: what the target says with the activations of an entry's neurons patched; a variant for every seed.
        metric: the function metric.
        aside: sources that do not count.
    """
    baselines = {name: said[name] for name in ("target", "donor")}
    samples, rows = scored(prompts, {**baselines, **patched}, (metric,), seed, aside)
    table = pa.Table.from_pylist([row for row in samples if row["subject"] in patched], schema=SAMPLES_SCHEMA)
    write_parquet(table, folder / CAUSAL)
    figures = {row["subject"]: row for row in rows if row["source"] == ""}
    judged = pl.DataFrame(samples, infer_schema_length=None).filter(
        ~pl.col("source").is_in(list(aside)), pl.col("value").is_not_null()
    )
    found: dict[str, dict[str, Any]] = {}
    for label in patched:
        target, donor, own = paired(judged, ("target", "donor", label))
        figure = figures.get(label)
        found[label] = {
            "patched": None if figure is None else {name: figure[name] for name in ("value", "low", "high")},
            **causal_effect(target, donor, own, seed),
        }
    return found


def causal_effect(
    target: Sequence[float], donor: Sequence[float], patched: Sequence[float], seed: int
) -> dict[str, Any]:
    """C with its 95 % interval, from the function metric of the three models on the same prompts, in one order.

    The interval is a paired bootstrap: each resample draws prompts and takes all three values on them. `value`, `low`
    and `high` are None, and `why` says why in words, where there is no effect to speak of.
    """
    found: dict[str, Any] = {"value": None, "low": None, "high": None, "n": len(target), "why": None}
    if not target:
        return found | {"why": "no test prompt could be judged for target, donor and patched target alike"}
    distance = float(sum(donor) - sum(target))
    if abs(distance) <= ROUNDING:
        return found | {"why": "target and donor have the same function metric on the test prompts"}
    return found | recovered(1 if distance > 0 else -1, target, donor, patched, seed)._asdict()
