"""How certain differences are: every subject against target and donor, prompt by prompt, with a verdict in words."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from cnt_pipeline.evaluations.schema import SAMPLES, STATISTICS, STATISTICS_SCHEMA, STATISTICS_TABLE
from cnt_pipeline.measures.metrics import METRICS, MISFIRES
from cnt_pipeline.measures.statistics import ALPHA, POWER, compare_paired, holm
from cnt_pipeline.store.parquet import write_parquet
from cnt_pipeline.study.schema import Accept, Function

REFERENCES = ("target", "donor")
RULE = (
    "A difference is shown (better, worse) where its corrected p-value is below 0.05. Otherwise the two are equivalent "
    "within the study's limit where `accept` sets one against that model and the whole 95 % interval lies within it "
    "either way. Otherwise no difference is shown, and the smallest one that would have been seen is told."
)
METHOD = (
    "Where every sample is 0 or 1: McNemar's exact test with Tango's score interval, which is not empty where no "
    "prompt changed. Otherwise: paired bootstrap interval, and p by flipping the signs of the differences. P-values "
    "are corrected by Holm's method over the metrics of the study, of all prompts together and of single sources each "
    "by themselves. The smallest difference seen is the one that the test shows with a chance of 80 % at alpha 5 %, "
    "uncorrected, on as many prompts: from the exact power of McNemar's test, given as many chance flips as were seen "
    "in the rarer direction (Duffy 1984), or from the power of the paired t-test with the standard deviation seen "
    "(Cohen 1988)."
)
"""Both are written beside the figures and shown in the report."""


@dataclass(frozen=True)
class Limits:
    """By how much the study lets metrics differ: `accept`'s limits by metric and the model they are against."""

    of: Mapping[tuple[str, str], float]

    @classmethod
    def from_study(cls, function: Function, accept: Accept) -> "Limits":
        """Misfires are held against the donor, utility and coherence against the target."""
        return cls(
            {
                (MISFIRES[function.measured_by], "donor"): accept.over_refusal,
                ("utility", "target"): accept.utility_loss,
                ("coherence", "target"): accept.coherence_loss,
            }
        )


def write_statistics(
    scores: Path, function: Function, accept: Accept, seed: int, folder: Path, aside: Collection[str] = ()
) -> dict[str, Any]:
    """Write `statistics.parquet` and `statistics.json` from the samples in `scores`; returns the document.

    Prompts of the sources `aside` count in rows of their own source alone.
    """
    samples = pl.read_parquet(scores / SAMPLES, glob=False).filter(pl.col("value").is_not_null())
    rows = [row for metric in samples["metric"].unique(maintain_order=True)
            for row in _rows(samples.filter(metric=metric), str(metric), seed, aside)]  # fmt: skip
    _correct(rows)
    write_parquet(pa.Table.from_pylist(rows, schema=STATISTICS_SCHEMA), folder / STATISTICS_TABLE)
    limits = Limits.from_study(function, accept)
    judged = (row for row in rows if row["subject"] == "transplant" and not row["source"])
    document = {
        "alpha": round(ALPHA, 9),
        "power": POWER,
        "correction": "holm",
        "rule": RULE,
        "method": METHOD,
        "verdicts": [_verdict(row, function, limits) for row in judged],
    }
    (folder / STATISTICS).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return document


def _rows(samples: pl.DataFrame, metric: str, seed: int, aside: Collection[str]) -> Iterator[dict[str, Any]]:
    """Comparisons of one metric; of several draws a prompt counts with their mean."""
    means = samples.group_by("subject", "id", "source").agg(pl.col("value").mean())
    values = means.pivot("subject", index=["id", "source"], values="value").sort("id")
    subjects = samples["subject"].unique(maintain_order=True).to_list()
    for source, asked in _by_source(values, metric, aside):
        for against in REFERENCES:
            if (metric, against) == ("target_kl", "target"):
                continue  # its distance from itself is nothing by definition
            # Target and donor make one pair, asked once.
            for subject in subjects:
                if subject == against or (subject, against) == ("target", "donor") or against not in subjects:
                    continue
                both = asked.select(subject, against).drop_nulls()
                if both.is_empty():
                    continue
                ours, theirs = both[subject].to_list(), both[against].to_list()
                found = compare_paired(ours, theirs, METRICS[metric].share, seed)
                yield {
                    "subject": subject, "metric": metric, "source": source, "against": against, **found._asdict(),
                    "p_holm": found.p,
                }  # fmt: skip


def _by_source(values: pl.DataFrame, metric: str, aside: Collection[str]) -> Iterator[tuple[str, pl.DataFrame]]:
    """The prompts that the gates read under the empty name, then each source's, as in `metrics.parquet`."""
    yield "", values.filter(~pl.col("source").is_in(list(aside)))
    sources = sorted(values["source"].unique())
    if len(METRICS[metric].kinds) == 1 and len(sources) > 1:
        for source in sources:
            yield source, values.filter(source=source)


def _correct(rows: Sequence[dict[str, Any]]) -> None:
    """Fill in `p_holm`, over the metrics that one subject was compared in with one other."""
    families: dict[tuple[str, str, bool], list[dict[str, Any]]] = {}
    for row in rows:
        families.setdefault((row["subject"], row["against"], bool(row["source"])), []).append(row)
    for family in families.values():
        for row, p in zip(family, holm([row["p"] for row in family]), strict=True):
            row["p_holm"] = p


def _verdict(row: Mapping[str, Any], function: Function, limits: Limits) -> dict[str, Any]:
    """The rule in `RULE`, applied to one row."""
    metric, against = row["metric"], row["against"]
    limit = limits.of.get((metric, against))
    within = limit is not None and row["low"] is not None and -limit <= row["low"] and row["high"] <= limit
    if row["p_holm"] < ALPHA:
        word = _direction(metric, row["difference"], function)
        remark = f", by less than the study's limit of {_amount(metric, limit)}" if within and limit is not None else ""
    elif within and limit is not None:
        word, remark = "equivalent", f" within the study's limit of {_amount(metric, limit)}"
    else:
        word = "no difference shown"
        remark = (
            " (how large a difference would have gone unseen cannot be told)"
            if row["mde"] is None
            else f" (a difference below {_amount(metric, row['mde'])} would have gone unseen)"
        )
    return {
        "metric": metric, "against": against, "word": word, "sentence": f"{word}{remark}", "limit": limit,
        "difference": row["difference"], "p_holm": row["p_holm"], "mde": row["mde"],
    }  # fmt: skip


def _direction(metric: str, difference: float, function: Function) -> str:
    """`better` or `worse`; `higher` or `lower` for a metric that this study wants neither way."""
    better = METRICS[metric].better
    wanted = function.sign if metric == function.measured_by else {"higher": 1, "lower": -1, "depends": 0}[better]
    if metric == "attack_success" and function.direction == "delete":
        wanted = 0  # taking refusal away is what the study is for
    if not wanted:
        return "higher" if difference > 0 else "lower"
    return "better" if wanted * difference > 0 else "worse"


def _amount(metric: str, value: float) -> str:
    """A difference in its unit."""
    if METRICS[metric].share:
        return f"{100 * value:.1f} points"
    return f"{value:.4f} nats" if METRICS[metric].exponential or metric == "target_kl" else f"{value:.3f}"
