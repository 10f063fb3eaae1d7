"""The leaderboard's part of the graph: what an entry adds, and what it leaves alone."""

import json
from dataclasses import replace
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from cnt_pipeline.errors import StudyError
from cnt_pipeline.pipeline.compare_steps import CHOSEN, LEADERBOARD, LEADERBOARD_PAGE
from cnt_pipeline.pipeline.dimension_steps import DIMENSIONS
from cnt_pipeline.pipeline.step import Input, Step
from cnt_pipeline.pipeline.steps import steps_of
from cnt_pipeline.study.schema import Study
from cnt_pipeline.transplants.edit.row import EditRow
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


def test_a_further_method_adds_its_own_steps_and_changes_the_leaderboard_and_its_page_alone() -> None:
    few, more = by_key("nlsr"), by_key("nlsr", "safe_lora")
    added = {"transplants/compared_safe-lora", "completions/compared_safe-lora/test"}
    assert set(more) - set(few) == added
    assert {key for key in few if few[key] != more[key]} == {LEADERBOARD, LEADERBOARD_PAGE}


def test_a_method_with_a_causal_effect_adds_what_its_patched_target_says(monkeypatch: pytest.MonkeyPatch) -> None:
    few, more = by_key("nlsr"), by_key("nlsr", "safety_neurons")
    assert set(more) - set(few) == {
        "activation_caches/activation/target", "activation_caches/activation/donor",
        "transplants/compared_safety-neurons", "completions/compared_safety-neurons/test",
        "completions/causal_safety-neurons/test",
    }  # fmt: skip
    assert {key for key in few if few[key] != more[key]} == {LEADERBOARD, LEADERBOARD_PAGE}
    monkeypatch.setitem(EDITS, "safety_neurons", replace(EDITS["safety_neurons"], causal=False))
    plain = by_key("nlsr", "safety_neurons")
    assert set(more) - set(plain) == {"completions/causal_safety-neurons/test"}
    assert {key for key in plain if plain[key] != more[key]} == {
        "transplants/compared_safety-neurons", LEADERBOARD, LEADERBOARD_PAGE,
    }  # fmt: skip


def test_another_version_of_a_method_changes_its_own_edit_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    before = by_key("nlsr", "ties")
    assert "version" not in before["transplants/compared_ties"].slice
    monkeypatch.setitem(EDITS, "ties", replace(EDITS["ties"], version=2))
    after = by_key("nlsr", "ties")
    assert {key for key in before if before[key] != after[key]} == {"transplants/compared_ties"}


def test_the_patched_target_reads_both_models_the_neurons_and_the_function_prompts() -> None:
    steps = by_key("nlsr", {"method": "safety_neurons", "seeds": [3, 4]})
    for seed in (3, 4):
        step = steps[f"completions/causal_safety-neurons-s{seed}/test"]
        assert {source.step: source.files for source in step.inputs.values()} == {
            "models/target": ("model.json",), "models/donor": ("model.json",),
            f"transplants/compared_safety-neurons-s{seed}": (CHOSEN,), "prompt_sets/roles": ("test.function.parquet",),
        }  # fmt: skip
        for key in (LEADERBOARD, LEADERBOARD_PAGE):
            assert steps[key].inputs[f"causal_safety-neurons-s{seed}"].files == ("function.parquet",)
    assert steps[LEADERBOARD].slice["causal"] == ["safety-neurons-s3", "safety-neurons-s4"]


def test_without_a_causal_effect_no_slice_speaks_of_one() -> None:
    assert [row.name for row in EDITS.values() if row.causal] == ["safety_neurons"]
    others = by_key(*(name for name, row in EDITS.items() if not row.causal))
    assert not any({"causal", "lists"} & step.slice.keys() for step in others.values())


def test_a_probe_that_several_methods_read_is_taken_once() -> None:
    steps = [step.key for step in steps_of(study("nlsr", "fgsn", "set_difference"))]
    assert steps.count("activation_caches/moments/donor") == 1


@pytest.mark.parametrize(
    ("entry", "taken"),
    [
        ("set_difference", {"moments"}),
        ({"method": "set_difference", "options": {"score": "snip"}}, {"saliency"}),
        ("fgsn", {"moments", "hidden_state"}),
        ({"method": "fgsn_zero", "options": {"layers": [0]}}, {"moments"}),
    ],
)
def test_an_entry_takes_only_the_probes_that_its_options_read(entry: Any, taken: set[str]) -> None:
    plain, steps = by_key(), by_key(entry)
    probes = {f"activation_caches/{probe}/donor" for probe in taken}
    assert {key for key in set(steps) - set(plain) if key.startswith("activation_caches/")} == probes
    (edit,) = (step for step in steps.values() if step.builder == "transplants.edit")
    assert {source.step for source in edit.inputs.values() if source.step.startswith("activation_caches/")} == probes


@pytest.mark.parametrize("row", EDITS.values(), ids=list(EDITS))
def test_every_probe_of_a_row_is_known_and_those_read_by_default_are_among_them(row: EditRow) -> None:
    assert {probe.split("/")[0] for probe in row.probes} <= {"moments", "saliency", "activation", "hidden_state"}
    assert set(row.reads(row.options())) <= set(row.probes)


def test_a_row_that_reads_a_probe_it_does_not_declare_is_refused() -> None:
    row = replace(EDITS["set_difference"], probes=("moments/donor",))
    assert row.reads(row.options()) == ("moments/donor",)
    with pytest.raises(ValueError, match="reads saliency/donor, which its row does not declare"):
        row.reads(row.options.model_validate({"score": "snip"}))


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
    read = [source.step for source in by_key("ties")[LEADERBOARD_PAGE].inputs.values()]
    assert read[0] == LEADERBOARD and "completions/compared_ties/test" in read


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


def in_dimensions(*names: str, methods: tuple[Any, ...] = ("fgsn", "nlsr"), **keys: Any) -> dict[str, Step]:
    dimensions = [{"name": name, "prompts": {"file": f"{name}.jsonl"}} for name in names]
    compare = {"methods": list(methods), "dimensions": dimensions}
    return {
        step.key: step for step in steps_of(Study.model_validate({**yaml.safe_load(STUDY), "compare": compare, **keys}))
    }


def test_a_dimension_added_at_the_end_adds_its_own_steps_and_changes_the_table_and_the_page_alone() -> None:
    few, more = in_dimensions("traps", "banks"), in_dimensions("traps", "banks", "tricks")
    assert {key for key in few if few[key] != more[key]} == {DIMENSIONS, LEADERBOARD_PAGE}
    added = set(more) - set(few)
    assert added == {
        "prompt_sets/dimension_tricks", "completions/donor_on_tricks/score", "completions/donor_on_tricks/test",
        "completions/target_on_tricks/test", "activation_caches/moments_on_tricks/donor",
        "activation_caches/hidden_state_on_tricks/donor", "transplants/compared_fgsn/tricks",
        *(f"completions/compared_fgsn_after_tricks_on_{name}/test" for name in ("traps", "banks", "tricks")),
    }  # fmt: skip


def test_dimensions_leave_every_other_step_but_the_page_alone() -> None:
    plain, more = by_key("fgsn", "nlsr"), in_dimensions("traps")
    assert {key for key in plain if plain[key] != more[key]} == {LEADERBOARD_PAGE}
    assert more[LEADERBOARD_PAGE].inputs["dimensions"].step == DIMENSIONS


def test_the_page_reads_all_that_was_said_to_the_test_prompts_of_dimensions() -> None:
    steps = in_dimensions("prompts", "target")  # names that inputs of the page have too
    table, page = steps[DIMENSIONS], steps[LEADERBOARD_PAGE]
    answers = {name: source for name, source in table.inputs.items() if source.step.startswith("completions/")}
    assert len(answers) == 2 * 2 + 3 and answers.items() <= page.inputs.items()
    for name in ("prompts", "target"):
        assert page.inputs[f"prompts_on_{name}"] == table.inputs[name]
    assert page.inputs["prompts"].step == "prompt_sets/roles"
    assert page.inputs["target"].step == "completions/target/test"


def test_every_dimension_edits_the_checkpoint_of_the_one_before_and_knows_all_earlier_masks() -> None:
    steps = in_dimensions("traps", "banks", "tricks", methods=("fgsn", "fgsn_zero"))
    for entry in ("fgsn", "fgsn-zero"):
        made = [steps[f"transplants/compared_{entry}/{name}"] for name in ("traps", "banks", "tricks")]
        read = [{source.step for source in step.inputs.values()} for step in made]
        assert [step.inputs.get("checkpoint") for step in made] == [
            None, *(Input(step.key, ("model/*",)) for step in made[:2])
        ]  # fmt: skip
        assert [{name for name in step.inputs if name.startswith("masks/")} for step in made] == [
            set(), {"masks/traps"}, {"masks/traps", "masks/banks"}
        ]  # fmt: skip
        assert all(f"transplants/compared_{entry}" not in keys for keys in read)


def test_neurons_are_found_on_one_part_of_the_prompts_and_measured_on_the_other() -> None:
    for step in in_dimensions("traps", "banks").values():
        files = {name for source in step.inputs.values() if source.step == "prompt_sets/dimension_traps"
                 for name in source.files}  # fmt: skip
        if step.stage == "activation_caches":
            assert files <= {"score.function.parquet"}
        elif step.stage != "prompt_sets" and not step.key.endswith("/score"):
            assert files <= {"test.function.parquet"}


def test_every_step_of_dimensions_comes_after_those_it_reads() -> None:
    seen: set[str] = set()
    for key, step in in_dimensions("traps", "banks", methods=("fgsn", "fgsn_zero"), probes=["hidden_state"]).items():
        assert {source.step for source in step.inputs.values()} | set(step.after) <= seen, key
        seen.add(key)


def test_dimensions_that_no_method_works_through_are_refused() -> None:
    with pytest.raises(StudyError, match=r"compare\.dimensions: no method listed works.*add fgsn or fgsn_zero"):
        in_dimensions("traps", methods=("nlsr",))
    with pytest.raises(ValidationError, match="two dimensions have one name"):
        in_dimensions("traps", "traps")
    with pytest.raises(ValidationError, match="write a - instead"):
        in_dimensions("bear_traps")
