"""The verdict: quality gates on the test prompts, each a question with its figure, its limit and a sentence."""

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from cnt_pipeline.evaluations.schema import METRICS, SAMPLES, VERDICT
from cnt_pipeline.measures.intervals import bootstrap_mean
from cnt_pipeline.measures.metrics import MISFIRES, ROUNDING
from cnt_pipeline.study.schema import Accept, Function

CONTROLS = ("control_random", "control_largest_delta")


@dataclass(frozen=True)
class Check:
    """One gate. `value` and `limit` are shares or points of the metric named in the sentence."""

    name: str
    passed: bool
    value: float | None
    limit: float | None
    sentence: str


def write_verdict(
    scores: Path,
    verification: Path,
    function: Function,
    accept: Accept,
    seed: int,
    folder: Path,
    aside: Collection[str] = (),
) -> dict[str, Any]:
    """Write and return `verdict.json` from the metrics and samples in `scores`, those of the sources `aside`
    left out."""
    measured = pl.read_parquet(scores / METRICS, glob=False)
    metrics = {(row["subject"], row["metric"]): row for row in measured.filter(source="").iter_rows(named=True)}
    main, misfire = function.measured_by, MISFIRES[function.measured_by]

    def value(subject: str, metric: str) -> float:
        return float(metrics[subject, metric]["value"])

    def misfires(subject: str) -> float:
        return value(subject, misfire)

    def loss(metric: str) -> float:
        return value("target", metric) - value("transplant", metric)

    samples = pl.read_parquet(scores / SAMPLES, glob=False).filter(~pl.col("source").is_in(list(aside)))
    distance = function.sign * (value("donor", main) - value("target", main))
    recovered = function.sign * (value("transplant", main) - value("target", main))
    recovery = recovered / distance if distance > 0 else 0.0
    checks = [
        Check(
            "admissible",
            distance >= accept.donor_margin - ROUNDING,
            distance,
            accept.donor_margin,
            f"The donor leads the target by {_points(distance)} in {_words(main)} "
            f"(at least {_points(accept.donor_margin)}).",
        ),
        Check(
            "effect_reached",
            recovery >= accept.recovery - ROUNDING,
            recovery,
            accept.recovery,
            f"The transplant covers {_share(recovery)} of the distance from target to donor in {_words(main)} "
            f"(at least {_share(accept.recovery)}).",
        ),
        _kept("lookalikes_kept", misfire, misfires("transplant") - misfires("donor"), "donor", accept.over_refusal),
        _kept("utility_kept", "utility", loss("utility"), "target", accept.utility_loss),
        _kept("coherence_kept", "coherence", loss("coherence"), "target", accept.coherence_loss),
        *(_beaten(samples, control, main, function, seed) for control in CONTROLS),
        _nothing_else(verification),
    ]  # fmt: skip
    failed = [check for check in checks if not check.passed]
    document = {
        "verdict": "fail" if failed else "pass",
        "sentence": " ".join(c.sentence for c in failed) if failed else "Every quality gate holds on the test prompts.",
        "recovery": recovery,
        "checks": [asdict(check) for check in checks],
        "beside": _beside(measured, aside, (main, misfire)),
    }
    (folder / VERDICT).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return document


def _beside(measured: pl.DataFrame, aside: Collection[str], metrics: Sequence[str]) -> list[str]:
    """What was measured on the sources that no gate reads, a sentence each."""
    sentences = []
    for source in sorted(aside):
        for metric in metrics:
            found = measured.filter(source=source, metric=metric)
            value = {row["subject"]: row["value"] for row in found.iter_rows(named=True)}
            if {"target", "transplant", "donor"} <= value.keys():
                sentences.append(
                    f"Beside the gates, on {source}, {_words(metric)} goes from {value['target']:.3f} to "
                    f"{value['transplant']:.3f} (donor {value['donor']:.3f})."
                )
    return sentences


def _kept(name: str, metric: str, harm: float, reference: str, limit: float) -> Check:
    """A metric that may get worse than the reference model's by at most `limit`; `harm` is by how much it did."""
    verb = "rises" if metric in MISFIRES.values() else "falls"
    direction = (
        f"{verb} by {_points(harm)}" if harm > 0 else "is no worse" if harm == 0 else f"improves by {_points(-harm)}"
    )
    joint = " than" if harm == 0 else " against"
    return Check(
        name,
        harm <= limit + ROUNDING,
        harm,
        limit,
        f"{_words(metric).capitalize()} {direction}{joint} the {reference}'s (at most {_points(limit)}).",
    )


def _words(metric: str) -> str:
    return metric.replace("_", "-") if metric == "over_refusal" else metric.replace("_", " ")


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def _points(value: float) -> str:
    return f"{100 * value:.1f} points"


def _beaten(samples: pl.DataFrame, control: str, metric: str, function: Function, seed: int) -> Check:
    """The transplant beats a control when the paired difference's whole interval lies on its side."""
    frame = samples.filter((pl.col("metric") == metric) & pl.col("value").is_not_null())
    means = frame.group_by("subject", "id", maintain_order=True).agg(pl.col("value").mean())
    pair = (
        means.filter(pl.col("subject") == "transplant")
        .join(means.filter(pl.col("subject") == control), on="id")
        .sort("id")
    )
    differences = (function.sign * (pair["value"] - pair["value_right"])).to_list()
    lead = bootstrap_mean(differences, seed)
    name = control.removeprefix("control_").replace("_", "-")
    return Check(
        f"{control}_beaten",
        lead.low > 0,
        lead.value,
        0.0,
        f"It leads {name} neurons of the same budget by {_points(lead.value)} in {_words(metric)} "
        f"(95 % interval {100 * lead.low:.1f} to {100 * lead.high:.1f}, which must lie above 0).",
    )


def _nothing_else(verification: Path) -> Check:
    proof = json.loads(verification.read_text(encoding="utf-8"))
    sentence = (
        f"Byte by byte, nothing differs from the target but the {proof['neurons']:,} planned neurons."
        if proof["holds"]
        else f"The checkpoint deviates from its plan: {proof['offence']}."
    )
    return Check("nothing_else_changed", bool(proof["holds"]), None, None, sentence)
