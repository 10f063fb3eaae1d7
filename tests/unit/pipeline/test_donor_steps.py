"""The graph with a matched donor, and the graph of one candidate among several donors."""

from collections.abc import Sequence
from typing import Any

import pytest
import yaml

from cnt_pipeline.errors import StudyError
from cnt_pipeline.pipeline.donor_steps import NTRR, as_donor, needed_for
from cnt_pipeline.pipeline.step import MATCHED, Step
from cnt_pipeline.pipeline.steps import steps_of, steps_of_donor
from cnt_pipeline.study.schema import LoraSft, ModelSource, Study

STUDY = """
study: several
function: {name: refusal}
models:
  target: {path: t}
  donor: {path: d}
  second: {path: s}
  taught: {from: lora_sft, base: donor, lessons: [{prompts: function, answers: [No.]}]}
donors: [donor, second, taught]
prompts:
  function: {file: f.jsonl}
  lookalike: {file: l.jsonl}
  utility: {file: u.jsonl}
  train: {function: {file: t.jsonl}}
"""


def study(**keys: Any) -> Study:
    return Study.model_validate({**yaml.safe_load(STUDY), **keys})


def assert_in_order(steps: Sequence[Step]) -> None:
    seen: set[str] = set()
    for step in steps:
        assert {source.step for source in step.inputs.values()} | set(step.after) <= seen, step.key
        seen.add(step.key)


@pytest.mark.parametrize("match", ["index", "activation"])
def test_every_step_comes_after_those_it_reads(match: str) -> None:
    assert_in_order(steps_of(study(match=match)))
    assert_in_order(steps_of_donor(study(match=match), 0.01))


def test_below_the_models_everything_reads_the_matched_donor() -> None:
    steps = steps_of(study(match="activation"))
    reading = {step.key for step in steps if any(s.step == "models/donor" for s in step.inputs.values())}
    assert reading == {"models/pair", "models/taught", MATCHED, "reports/page"}
    matched = {step.key for step in steps if any(s.step == MATCHED for s in step.inputs.values())}
    before = {step.key for step in steps_of(study()) if any(s.step == "models/donor" for s in step.inputs.values())}
    assert matched == before - {"models/pair", "models/taught"}


def test_pairing_by_index_adds_no_step() -> None:
    assert MATCHED not in {step.key for step in steps_of(study())}


def test_a_candidate_takes_the_donors_place_and_the_donor_its_name() -> None:
    second = as_donor(study(), "second")
    assert second.study == "several--second"
    donor, other = second.models.named()["donor"], second.models.named()["second"]
    assert isinstance(donor, ModelSource) and isinstance(other, ModelSource)
    assert (str(donor.path), str(other.path)) == ("s", "d")
    taught = second.models.named()["taught"]
    assert isinstance(taught, LoraSft) and taught.base == "second"
    assert as_donor(study(), "donor") == study()


def test_a_donor_made_from_the_donor_is_made_from_what_was_the_donor() -> None:
    taught = as_donor(study(), "taught").models.named()
    made = taught["donor"]
    assert isinstance(made, LoraSft) and made.base == "taught"
    assert_in_order(steps_of_donor(as_donor(study(), "taught"), 0.01))


def test_a_candidate_that_is_the_target_is_refused() -> None:
    with pytest.raises(StudyError, match=r"models\.second: as a donor: target and donor are the same model"):
        as_donor(study(models={**yaml.safe_load(STUDY)["models"], "second": {"path": "t"}}), "second")


def test_a_candidate_asks_for_its_own_steps_alone() -> None:
    keys = [step.key for step in steps_of_donor(as_donor(study(), "second"), 0.01)]
    assert keys[-1] == NTRR
    assert "models/taught" not in keys and "models/second" not in keys
    assert not any(key.startswith(("transplants/", "reports/")) or key.endswith("/test") for key in keys)


def test_what_is_needed_for_a_step_includes_the_steps_that_judge_its_inputs() -> None:
    keys = [step.key for step in needed_for(["completions/target/score"], steps_of(study()))]
    assert keys[-1] == "completions/target/score"
    assert "models/pair" in keys and "models/donor" in keys
    assert "completions/donor/score" not in keys
