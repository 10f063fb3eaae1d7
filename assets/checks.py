"""Asset checks that judge: the quality gates of the verdict, as checks of the asset `evaluations/verdict`."""

from typing import Any

import dagster as dg
from cnt_pipeline.pipeline.outcome import VERDICT, checks_of, verdict_of
from cnt_pipeline.pipeline.run import Taken
from cnt_pipeline.pipeline.step import Step

GATES = {
    "admissible": "The donor leads the target by the study's margin.",
    "effect_reached": "The transplant covers enough of the distance from target to donor.",
    "lookalikes_kept": "The function does not fire on benign look-alikes more than the donor's does.",
    "utility_kept": "General prompts are answered as well as by the target, within the study's limit.",
    "coherence_kept": "The answers stay coherent: words, and no going round in circles.",
    "control_random_beaten": "Random neurons of the same layers, families and budget do clearly worse.",
    "control_largest_delta_beaten": "The neurons of the largest weight difference do clearly worse.",
    "nothing_else_changed": "Byte by byte, nothing differs from the target but the planned neurons.",
}


def specs(asset: dg.AssetKey, step: Step) -> list[dg.AssetCheckSpec]:
    """The checks of a step's asset: the verdict's gates, none elsewhere."""
    if step.key != VERDICT:
        return []
    return [dg.AssetCheckSpec(name, asset=asset, description=words) for name, words in GATES.items()]


def results(asset: dg.AssetKey, taken: Taken) -> list[dg.AssetCheckResult]:
    """The gates as they were judged; a gate fails its check, not the run."""
    if taken.step.key != VERDICT:
        return []
    return [
        dg.AssetCheckResult(
            asset_key=asset,
            check_name=check.name,
            passed=check.passed,
            severity=dg.AssetCheckSeverity.ERROR,
            description=check.sentence,
            metadata=_figures({"value": check.value, "limit": check.limit}),
        )
        for check in checks_of(verdict_of({VERDICT: taken.built.artifact}))
        if check.name in GATES
    ]


def _figures(named: dict[str, float | None]) -> dict[str, Any]:
    return {name: dg.MetadataValue.float(value) for name, value in named.items() if value is not None}
