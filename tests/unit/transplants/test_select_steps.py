"""What a selection rule reads is in its fingerprint, what it does not is not, and senseless settings are refused."""

from typing import Any

import pytest

from cnt_pipeline.errors import StudyError
from cnt_pipeline.pipeline.step import Step
from cnt_pipeline.pipeline.steps import steps_of
from cnt_pipeline.study.schema import Method, Study
from cnt_pipeline.transplants.methods import METHODS, resolve

SELECTION = "transplants/selection"


def study(**method: Any) -> Study:
    source = {"file": "a.jsonl"}
    return Study.model_validate(
        {
            "study": "s",
            "function": {"name": "refusal"},
            "models": {"target": {"path": "t"}, "donor": {"path": "d"}},
            "prompts": {"function": source, "lookalike": source, "utility": source},
            "method": method,
        }
    )


def steps(**method: Any) -> dict[str, Step]:
    return {step.key: step for step in steps_of(study(**method))}


def changed(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    one, other = steps(**before), steps(**after)
    assert set(one) == set(other)
    return {key for key in one if (one[key].slice, one[key].inputs) != (other[key].slice, other[key].inputs)}


@pytest.mark.parametrize(
    ("name", "reads"), [("cnt", False), ("cnt_refine", True), ("cnt_mask", True), ("cnt_prune", True)]
)
def test_only_rules_that_score_or_learn_anew_read_the_scoring_prompts(name: str, reads: bool) -> None:
    inputs = steps(name=name)[SELECTION].inputs
    assert ({"scoring_prompts", "target_scoring", "donor_scoring"} <= set(inputs)) is reads
    assert inputs["prompts"].files == ("selection.*.parquet",)


@pytest.mark.parametrize(
    ("name", "key", "value", "reached"),
    [
        ("cnt_mask", "steps", 5, True),
        ("cnt_mask", "price", 1.0, True),
        ("cnt_mask", "budget", 0.1, False),
        ("cnt_prune", "budget", 0.1, True),
        ("cnt_prune", "importance", "gradient", True),
        ("cnt_prune", "price", 1.0, False),
        ("cnt_refine", "steps", 5, False),
    ],
)
def test_a_learning_key_reaches_the_selection_of_the_rules_that_read_it(
    name: str, key: str, value: object, reached: bool
) -> None:
    assert changed({"name": name}, {"name": name, "learn": {key: value}}) == ({SELECTION} if reached else set())


def test_refine_reads_the_nodes_and_the_damage_and_mask_the_first_lookalike_weight() -> None:
    assert SELECTION in changed({"name": "cnt_refine"}, {"name": "cnt_refine", "nodes": 3})
    assert SELECTION in changed({"name": "cnt_refine"}, {"name": "cnt_refine", "mu": 0.0})
    assert SELECTION not in changed({}, {"nodes": 3})
    assert changed({"name": "cnt_mask", "lambda": [0.0, 1.0]}, {"name": "cnt_mask", "lambda": [1.0, 0.0]}) == {
        SELECTION
    }


def test_a_row_of_the_table_stands_for_its_rule_and_may_be_overridden() -> None:
    assert {name: row.selection for name, row in METHODS.items() if name.startswith("cnt")} == {
        "cnt": "bisect", "cnt_gradient": "bisect", "cnt_contrast": "bisect", "cnt_refine": "refine",
        "cnt_mask": "mask", "cnt_prune": "prune",
    }  # fmt: skip
    assert resolve(Method(name="cnt_prune", selection="bisect")).selection == "bisect"
    assert all(row.grade == "I" for row in METHODS.values())


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"name": "cnt_prune", "eta": [2.0]}, r"method\.eta: prune learns an amplitude for every neuron"),
        ({"selection": "prune", "eta": [1.0]}, r"method\.eta: prune learns an amplitude for every neuron"),
        ({"name": "cnt_contrast", "lambda": [0.5]}, r"method\.lambda: a contrast has no look-alike effect"),
        ({"effect": "contrast", "mu": 1.0}, r"method\.mu: the contrast has no damage to weigh"),
        ({"effect": "contrast", "selection": "refine"}, r"method\.selection: refine scores again by the effect"),
    ],
)
def test_settings_without_a_meaning_are_refused(method: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        steps_of(study(**method))
    assert steps(name="cnt_contrast", **{"lambda": [0.0], "mu": 0.0})
