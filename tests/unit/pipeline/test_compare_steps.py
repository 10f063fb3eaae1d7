"""The leaderboard's part of the graph: what an entry adds, and what it leaves alone."""

import json
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from cnt_pipeline.errors import StudyError
from cnt_pipeline.pipeline.compare_steps import LEADERBOARD, LEADERBOARD_PAGE
from cnt_pipeline.pipeline.step import Step
from cnt_pipeline.pipeline.steps import steps_of
from cnt_pipeline.study.schema import Study
from cnt_pipeline.transplants.edit.table import EDITS, resolve_edits

STUDY = """
study: board
function: {name: refusal}
models:
  target: {path: t}
  donor: {path: d}
  base: {path: b}
prompts:
  function: {file: f.jsonl}
  lookalike: {file: l.jsonl}
  utility: {file: u.jsonl}
"""


def study(*methods: Any, **keys: Any) -> Study:
    return Study.model_validate({**yaml.safe_load(STUDY), "compare": {"methods": list(methods)}, **keys})


def by_key(*methods: Any, **keys: Any) -> dict[str, Step]:
    return {step.key: step for step in steps_of(study(*methods, **keys))}


def test_a_study_that_compares_nothing_has_no_leaderboard() -> None:
    assert LEADERBOARD not in by_key()


def test_every_step_comes_after_those_it_reads() -> None:
    seen: set[str] = set()
    for step in steps_of(study(*EDITS)):
        assert {source.step for source in step.inputs.values()} | set(step.after) <= seen, step.key
        seen.add(step.key)
    assert {f"transplants/compared_{name.replace('_', '-')}" for name in EDITS} <= seen


def test_a_further_method_adds_its_own_steps_and_changes_the_leaderboard_alone() -> None:
    few, more = by_key("nlsr"), by_key("nlsr", "safe_lora")
    added = {"transplants/compared_safe-lora", "completions/compared_safe-lora/test"}
    assert set(more) - set(few) == added
    assert {key for key in few if few[key] != more[key]} == {LEADERBOARD}


def test_a_probe_that_several_methods_read_is_taken_once() -> None:
    steps = [step.key for step in steps_of(study("nlsr", "fgsn", "set_difference"))]
    assert steps.count("activation_caches/moments/donor") == 1


def test_a_probe_that_the_study_asks_for_itself_is_shared() -> None:
    steps = [step.key for step in steps_of(study("fgsn", probes=["hidden_state"]))]
    assert steps.count("activation_caches/hidden_state/donor") == 1


def test_steps_that_do_different_work_differ_in_slice_or_inputs() -> None:
    steps = steps_of(study(*EDITS, probes=["activation", "hidden_state"]))
    made = [json.dumps([step.stage, step.slice, {n: [i.step, i.files] for n, i in step.inputs.items()}], default=str)
            for step in steps if not step.external]  # fmt: skip
    assert len(set(made)) == len(made)


def test_the_report_does_not_depend_on_the_leaderboard() -> None:
    assert by_key("nlsr")["reports/page"] == by_key()["reports/page"]


def test_every_seed_is_a_checkpoint_of_its_own_in_one_entry() -> None:
    steps = by_key({"method": "nlsr", "seeds": [3, 4]})
    assert {f"transplants/compared_nlsr-s{seed}" for seed in (3, 4)} <= set(steps)
    assert steps[LEADERBOARD].slice["entries"] == [["nlsr", "nlsr", "nlsr-s3"], ["nlsr", "nlsr", "nlsr-s4"]]
    assert [steps[f"transplants/compared_nlsr-s{seed}"].slice["seed"] for seed in (3, 4)] == [3, 4]


def test_options_enter_the_slice_with_their_defaults() -> None:
    plain = by_key("nlsr")["transplants/compared_nlsr"].slice
    written = by_key({"method": "nlsr", "options": {"beta": 0.5}})["transplants/compared_nlsr"].slice
    assert {key for key in plain["options"] if plain["options"][key] != written["options"][key]} == {"beta"}


def test_studies_alike_but_for_their_names_share_the_leaderboard_and_not_its_page() -> None:
    one, other = by_key("nlsr"), by_key("nlsr", study="namesake")
    assert {key for key in one if one[key] != other[key]} == {"reports/page", LEADERBOARD_PAGE}


def test_the_page_reads_the_leaderboard() -> None:
    assert [source.step for source in by_key("ties")[LEADERBOARD_PAGE].inputs.values()] == [LEADERBOARD]


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ("nlrs", "compare.methods[0]: there is no method 'nlrs'"),
        ({"method": "nlsr", "options": {"beto": 1}}, "compare.methods[0].options.beto: "),
        ({"method": "nlsr", "options": {"beta": -1.0}}, "compare.methods[0].options.beta: "),
    ],
)
def test_a_wrong_entry_is_named(entry: Any, sentence: str) -> None:
    with pytest.raises(StudyError, match="compare") as raised:
        resolve_edits(study(entry))
    assert sentence in str(raised.value)


def test_a_missing_base_model_is_asked_for() -> None:
    models = {"target": {"path": "t"}, "donor": {"path": "d"}}
    with pytest.raises(StudyError, match="add it as `base:` under `models:`"):
        resolve_edits(study("nlsr", models=models))


def test_two_entries_need_two_names() -> None:
    with pytest.raises(ValidationError, match="two entries are called 'nlsr'"):
        study("nlsr", {"method": "nlsr", "options": {"beta": 0.5}})
    assert len(resolve_edits(study("nlsr", {"method": "nlsr", "name": "half", "options": {"beta": 0.5}}))) == 2


@pytest.mark.parametrize("name", ["target", "donor", "transplant"])
def test_no_entry_takes_the_name_of_another_line(name: str) -> None:
    with pytest.raises(ValidationError, match=f"cannot be called '{name}'"):
        study({"method": "nlsr", "name": name})
