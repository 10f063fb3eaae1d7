"""Studies that keep themselves fresh: a condition on every asset, and the sensor that acts on it, shipped off."""

import dagster as dg

CONDITION = (
    (
        dg.AutomationCondition.code_version_changed()
        | dg.AutomationCondition.any_deps_match(dg.AutomationCondition.data_version_changed())
    ).since(dg.AutomationCondition.newly_requested() | dg.AutomationCondition.newly_updated())
    & ~dg.AutomationCondition.any_deps_missing()
    & ~dg.AutomationCondition.any_deps_in_progress()
    & ~dg.AutomationCondition.in_progress()
).with_label("the study or an input changed")
"""A step is requested when its slice of the study or an input's content changed since it was last taken."""


def sensor() -> dg.AutomationConditionSensorDefinition:
    """Switch it on in the UI (Automation) to have edited studies recomputed without being asked."""
    return dg.AutomationConditionSensorDefinition(
        "keep_studies_fresh",
        target=dg.AssetSelection.all(),
        default_status=dg.DefaultSensorStatus.STOPPED,
        description="Requests the steps of a study whose slice or inputs changed.",
    )
