"""Asset checks that judge: the quality gates of the verdict, as checks of the asset `evaluations/verdict`."""

import dagster as dg
from cnt_pipeline.pipeline.documents import CheckRow
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
    """The gates as they were judged; a gate fails its check, not the run. One that was not judged does not pass."""
    if taken.step.key != VERDICT:
        return []
    judged = {check.name: check for check in checks_of(verdict_of({VERDICT: taken.built.artifact}))}
    return [_result(asset, name, judged.get(name)) for name in GATES]


def _result(asset: dg.AssetKey, name: str, check: CheckRow | None) -> dg.AssetCheckResult:
    figures = {"value": check.value, "limit": check.limit} if check else {}
    return dg.AssetCheckResult(
        asset_key=asset,
        check_name=name,
        passed=bool(check and check.passed),
        severity=dg.AssetCheckSeverity.ERROR if check else dg.AssetCheckSeverity.WARN,
        description=check.sentence if check else "The verdict does not judge this.",
        metadata={key: dg.MetadataValue.float(value) for key, value in figures.items() if value is not None},
    )
