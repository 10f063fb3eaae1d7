"""For every key of a recipe: which steps it reaches directly, with nothing but the made model where it is no prompt."""

from typing import Any

import pytest
import yaml

from cnt_pipeline.pipeline.step import Step
from cnt_pipeline.pipeline.steps import steps_of
from cnt_pipeline.study.schema import AdapterSource, Lesson, LoraSft, Study

LESSON = {"prompts": "function", "answers": ["No."]}
BASE: dict[str, Any] = yaml.safe_load(
    """
study: table
function: {name: refusal}
models:
  target: {path: t}
  donor: {from: lora_sft, base: target, lessons: [{prompts: function, answers: ["No."]}]}
  third: {path: t3}
prompts: {function: {file: f.jsonl}, lookalike: {file: l.jsonl}, utility: {file: u.jsonl}}
"""
)
MADE = {"models/donor"}
TABLE: dict[str, tuple[Any, set[str]]] = {
    "from": ("lora_sft", set()),
    "base": ("third", MADE),
    "lessons": ([{**LESSON, "prompts": ["function", "utility"]}], {*MADE, "prompt_sets/roles"}),
    "rank": (4, MADE),
    "alpha": (4, MADE),
    "modules": (["gate"], MADE),
    "learning_rate": (0.1, MADE),
    "warmup": (0.5, MADE),
    "schedule": ("constant", MADE),
    "steps": (3, MADE),
    "batch_size": (3, MADE),
    "max_tokens": (3, MADE),
    "precision": ("float32", MADE),
    "seed": (3, MADE),
}
ADAPTER: dict[str, tuple[Any, set[str]]] = {
    "from": ("adapter", set()),
    "adapter": ("other", MADE),
    "base": ("third", MADE),
}
LESSONS: dict[str, Any] = {"prompts": ["function", "function"], "answers": "own", "share": 2, "max_tokens": 3}


def steps(recipe: dict[str, Any], **keys: Any) -> dict[str, tuple[object, ...]]:
    document = yaml.safe_load(yaml.safe_dump(BASE))
    document["models"]["donor"] |= recipe
    document |= keys
    return {step.key: identity(step) for step in steps_of(Study.model_validate(document))}


def identity(step: Step) -> tuple[object, ...]:
    return step.slice, step.inputs, step.external, step.version


def changed(recipe: dict[str, Any], **keys: Any) -> set[str]:
    before, after = steps({}), steps(recipe, **keys)
    return {key for key in after if before.get(key) != after[key]} - {"reports/page"}


def test_the_tables_cover_every_key_of_a_recipe_and_a_lesson() -> None:
    assert set(TABLE) == {field.alias or name for name, field in LoraSft.model_fields.items()}
    assert set(LESSONS) == set(Lesson.model_fields)
    assert set(ADAPTER) == {field.alias or name for name, field in AdapterSource.model_fields.items()}


@pytest.mark.parametrize("key", ADAPTER)
def test_a_key_of_an_adapter_reaches_these_steps_and_no_other(key: str) -> None:
    value, expected = ADAPTER[key]
    document = yaml.safe_load(yaml.safe_dump(BASE))
    document["models"]["donor"] = {"adapter": "a", "base": "target"}
    before = {step.key: (step.slice, step.inputs, _files(step)) for step in steps_of(Study.model_validate(document))}
    document["models"]["donor"][key] = value
    after = {step.key: (step.slice, step.inputs, _files(step)) for step in steps_of(Study.model_validate(document))}
    assert {each for each in after if before.get(each) != after[each]} - {"reports/page"} == expected


def _files(step: Step) -> object:
    """What stands for the files that a step reads from outside; of an adapter, where they lie."""
    return step.external.adapter if isinstance(step.external, AdapterSource) else step.external


@pytest.mark.parametrize("key", TABLE)
def test_a_key_of_a_recipe_reaches_these_steps_and_no_other(key: str) -> None:
    value, expected = TABLE[key]
    assert changed({key: value}) == expected


@pytest.mark.parametrize("key", LESSONS)
def test_a_key_of_a_lesson_reaches_the_made_model_alone(key: str) -> None:
    assert changed({"lessons": [{**LESSON, key: LESSONS[key]}]}) == MADE


def test_the_system_message_reaches_what_is_taught() -> None:
    assert "models/donor" in changed({}, generation={"system": "Be kind."})


def test_the_dtype_reaches_a_made_model_where_the_base_answers() -> None:
    own = {"lessons": [{**LESSON, "answers": "own"}]}
    made = [steps(own, dtype=dtype)["models/donor"] for dtype in ("float32", "bfloat16")]
    assert made[0] != made[1]


def test_evaluation_and_machine_reach_no_made_model() -> None:
    others = {"evaluate": ["perplexity"], "accept": {"recovery": 0.5}, "seed": 0, "dtype": "bfloat16",
              "generation": {"max_new_tokens": 9}, "run": {"batch_size": 3}}  # fmt: skip
    assert not {key for key in changed({}, **others) if key.startswith(("models/", "prompt_sets/"))}


def test_names_are_no_part_of_what_a_recipe_makes() -> None:
    """The same recipe on the same base under other names asks the store for the same model."""
    first, second = Study.model_validate(BASE), yaml.safe_load(yaml.safe_dump(BASE))
    second["models"] |= {"target": {"path": "t2"}, "third": {"path": "t"}}
    second["models"]["donor"]["base"] = "third"
    made = [
        next(step for step in steps_of(study) if step.key == "models/donor")
        for study in (first, Study.model_validate(second))
    ]
    assert made[0].slice == made[1].slice
    assert made[0].inputs.keys() == made[1].inputs.keys()
