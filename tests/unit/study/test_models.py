"""The models of a study: sources in several spellings, recipes on other models, and faults in one sentence."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from cnt_pipeline.errors import StudyError
from cnt_pipeline.study.load import load_study
from cnt_pipeline.study.schema import AdapterSource, LoraSft, ModelSource, Study

LESSONS = [{"prompts": "function", "answers": ["No."]}, {"prompts": ["lookalike", "utility"], "answers": "own"}]
RECIPE = {"from": "lora_sft", "base": "target", "lessons": LESSONS}


def load(folder: Path, **models: Any) -> Study:
    document = {
        "study": "sample",
        "function": {"name": "refusal"},
        "models": {"target": {"path": "helpful"}, "donor": {"path": "aligned"}, **models},
        "prompts": {kind: {"file": f"{kind}.jsonl"} for kind in ("function", "lookalike", "utility")},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    return load_study(folder / "study.yaml")


@pytest.mark.parametrize(
    "written",
    [{"path": "x.gguf"}, {"from": "gguf", "path": "x.gguf"}, {"package": "p", "file": "in/x.GGUF"},
     {"from": "gguf", "package": "p", "file": "x.gguf"}, {"from": "package", "package": "p", "file": "x.gguf"}],
)  # fmt: skip
def test_a_gguf_file_is_named_by_its_place_with_or_without_saying_so(tmp_path: Path, written: dict[str, str]) -> None:
    target = load(tmp_path, target=written).models.target
    assert isinstance(target, ModelSource)
    assert target.is_gguf


def test_a_recipe_has_documented_defaults_and_names_its_kinds_once(tmp_path: Path) -> None:
    donor = load(tmp_path, donor=RECIPE).models.donor
    assert isinstance(donor, LoraSft)
    assert donor.kinds == ("function", "lookalike", "utility")
    assert [lesson.share for lesson in donor.lessons] == [1.0, 1.0]
    assert (donor.rank, donor.alpha, donor.modules, donor.learning_rate) == (16, 32, None, 2e-4)
    assert (donor.steps, donor.batch_size, donor.warmup, donor.schedule) == (100, 8, 0.1, "cosine")
    assert (donor.max_tokens, donor.precision, donor.seed) == (64, "bfloat16", 0)


def test_further_models_have_names_of_their_own_and_come_after_what_they_are_made_from(tmp_path: Path) -> None:
    models = load(tmp_path, donor={**RECIPE, "base": "drifted"}, drifted=RECIPE, other={"path": "elsewhere"}).models
    assert list(models.named()) == ["target", "donor", "drifted", "other"]
    assert models.in_order() == ("target", "drifted", "donor", "other")
    assert models.ancestry("donor") == ("donor", "drifted", "target")
    other = models.named()["other"]
    assert isinstance(other, ModelSource)
    assert other.path == tmp_path / "elsewhere"


@pytest.mark.parametrize("said", [{}, {"from": "adapter"}])
def test_an_adapter_lies_beside_the_study_and_comes_after_its_base(tmp_path: Path, said: dict[str, str]) -> None:
    models = load(tmp_path, donor={**said, "adapter": "lora", "base": "third"}, third={"path": "x"}).models
    assert isinstance(models.donor, AdapterSource)
    assert models.donor.adapter == tmp_path / "lora"
    assert models.in_order() == ("target", "third", "donor")
    assert (models.base_of("donor"), models.base_of("third")) == ("third", None)


def recipe(**keys: Any) -> dict[str, Any]:
    return {"donor": {**RECIPE, **keys}}


FAULTS: dict[str, tuple[dict[str, Any], str, str]] = {
    "gguf that is none": ({"target": {"from": "gguf", "path": "folder"}}, "models.target", "ends in .gguf"),
    "from that disagrees": ({"target": {"from": "hub", "path": "a"}}, "models.target", "needs the key `hub:`"),
    "unknown from": ({"target": {"from": "ollama", "path": "a"}}, "models.target.from", "'path', 'hub', 'package'"),
    "file without package": ({"target": {"path": "a", "file": "b"}}, "models.target", "name the `package:`"),
    "revision of a path": ({"target": {"path": "a", "revision": "b"}}, "models.target", "belongs to a hub model"),
    "unknown key of a source": ({"donor": {"pth": "a"}}, "models.donor.pth", "did you mean 'path'?"),
    "unknown key of a recipe": (recipe(step=3), "models.donor.step", "did you mean 'steps'?"),
    "unknown key of a further model": ({"more": {**RECIPE, "rnk": 3}}, "models.more.rnk", "did you mean 'rank'?"),
    "unknown key of a lesson": (
        recipe(lessons=[{"prompts": "function", "answers": "own", "shares": 2}]),
        "models.donor.lessons.0.shares", "did you mean 'share'?",
    ),
    "recipe without base": ({"donor": {"from": "lora_sft", "lessons": LESSONS}}, "models.donor.base", "required"),
    "recipe without lessons": (recipe(lessons=[]), "models.donor.lessons", "at least 1 item"),
    "unknown kind": (
        recipe(lessons=[{"prompts": "harmful", "answers": "own"}]), "models.donor.lessons.0.prompts", "'function'",
    ),
    "unknown answers": (
        recipe(lessons=[{"prompts": "function", "answers": "owned"}]),
        "models.donor.lessons.0.answers", "`own`, `reference` or a list",
    ),
    "no texts": (
        recipe(lessons=[{"prompts": "function", "answers": []}]), "models.donor.lessons.0.answers", "at least one text",
    ),
    "base that is no model": (recipe(base="nobody"), "models", "'nobody', which is no model of this study"),
    "adapter without base": ({"donor": {"adapter": "a"}}, "models.donor.base", "required"),
    "from: adapter without one": ({"donor": {"from": "adapter", "base": "target"}}, "models.donor.adapter", "required"),
    "unknown key of an adapter": (
        {"donor": {"adapter": "a", "bse": "target"}}, "models.donor.bse", "did you mean 'base'?",
    ),
    "adapter that is a recipe": (
        {"donor": {"from": "hub", "adapter": "a", "base": "target"}}, "models.donor.from", "'adapter'",
    ),
    "adapter of no model": (
        {"donor": {"adapter": "a", "base": "nobody"}}, "models", "'nobody', which is no model of this study",
    ),
    "recipes in a circle": (
        {"target": {**RECIPE, "base": "donor"}, "donor": {**RECIPE, "steps": 5}}, "models", "in a circle",
    ),
    "a name that is a path": ({"../x": {"path": "a"}}, "models", "cannot be called '../x'"),
    "a name of another step": ({"pair": {"path": "a"}}, "models", "cannot be called 'pair'"),
    "one file twice": (
        {"target": {"path": "x.gguf"}, "donor": {"from": "gguf", "path": "x.gguf"}}, "models", "the same model",
    ),
    "text for a model": ({"more": "helpful"}, "models.more", "must be a block of keys"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_model_is_refused_by_file_key_and_reason_in_one_sentence(tmp_path: Path, fault: str) -> None:
    models, key, reason = FAULTS[fault]
    with pytest.raises(StudyError) as caught:
        load(tmp_path, **models)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'study.yaml'}:{key}: ")
    assert reason in message
    assert "\n" not in message and "<" not in message
