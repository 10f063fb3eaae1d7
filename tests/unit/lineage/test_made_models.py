"""Bundles of studies that make their models: from a GGUF file, a given adapter and a recipe, with suites and judges."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cnt_pipeline.commands.lineage import bundle_study, verify_path
from cnt_pipeline.commands.replay import replay_bundle
from cnt_pipeline.errors import InputError
from cnt_pipeline.lineage import chain, layout
from cnt_pipeline.lineage.verify import Given, verify
from cnt_pipeline.store.digests import hash_file
from tests.unit.lineage import forge
from tests.unit.lineage.conftest import Keys
from tests.unit.lineage.forge import broken
from tests.unit.lineage.made import Made, write_everything_made
from tests.unit.lineage.test_tampering import flip

pytest.importorskip("gguf")
pytest.importorskip("lm_eval")

TRAIN = "prompt_sets/roles/train.function.parquet"
CURVE = "models/donor/training.parquet"
ADAPTER = "models/donor/adapter/adapter_model.safetensors"
SUITE = "suites/own.yaml"


def put_in_bundle(made: Made, out: Path, keys: Keys | None = None, **how: Any) -> Path:
    asked = {"weights": True, "lineage": False, "despite_failed_gates": True, **how}
    signing = {"key": keys and keys.statement, "oms_key": keys and keys.oms}
    bundle_study(made.file, out, made.store.url, **signing, **asked)
    return out


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """The study, run; its judge stays importable."""
    root = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(root))
        patch.setenv("HF_HUB_OFFLINE", "1")
        made = write_everything_made(root)
        made.run()
        yield made


@pytest.fixture(scope="module")
def evidence(everything: Made, keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its bundle, signed. Look, do not touch."""
    return put_in_bundle(everything, tmp_path_factory.mktemp("evidence") / "bundle", keys)


def test_every_link_holds_down_to_the_file_the_adapter_and_the_lessons(
    evidence: Path, everything: Made, keys: Keys
) -> None:
    proof = verify(evidence, replace(keys.given, target=everything.model("target"), donor=everything.model("donor")))
    assert proof.broken is None, proof.broken
    assert any("only the declared neurons changed" in sentence for sentence in proof.proven)
    made = {sentence.split(" was made from ")[0]: sentence for sentence in proof.proven if "was made from" in sentence}
    assert made.keys() == {"models/base", "models/target", "models/donor"}
    assert "from a GGUF file" in made["models/base"]
    assert "from models/base and an adapter from outside" in made["models/target"]
    lessons = "train.function.parquet, train.utility.parquet of prompt_sets/roles"
    assert f"from models/base and {lessons}" in made["models/donor"]
    outside = next(sentence for sentence in proof.unchecked if "read from outside" in sentence)
    assert "evaluations/judged_own" in outside and "evaluations/harness_own/donor" in outside
    assert "judged_phrases" not in outside


def test_a_reviewer_without_the_models_is_told_where_a_replay_puts_them(evidence: Path, everything: Made) -> None:
    def named(sentence: str, role: str) -> None:
        folder = everything.model(role)
        place = f"{evidence}.replay/models/{folder.parent.name}/model"
        assert f"the study made the {role}: `cnt replay {evidence}` makes it again, as {place}" in sentence

    (said,) = [sentence for sentence in verify(evidence, Given()).unchecked if "--target and --donor" in sentence]
    named(said, "target")
    named(said, "donor")
    named(str(broken(evidence, Given(donor=everything.model("base")))), "donor")
    for place, words in (("models/donor/adapter", "holds an adapter"), (ADAPTER, "the study read no GGUF file")):
        with pytest.raises(InputError, match=words) as caught:
            verify(evidence, Given(donor=evidence / place))
        named(str(caught.value), "donor")


def test_the_statement_names_file_adapter_lessons_and_suites_by_digest(evidence: Path, everything: Made) -> None:
    statement = json.loads((evidence / layout.STATEMENT).read_bytes())
    used = {each["name"]: each["digest"]["sha256"]
            for each in statement["predicate"]["buildDefinition"]["resolvedDependencies"]}  # fmt: skip
    assert used["models/base"] == hash_file(everything.root / "base.gguf")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert used[f"models/target/{name}"] == hash_file(everything.root / "adapter" / name)
    assert used[TRAIN] == hash_file(evidence / TRAIN)
    pairs = "prompt_sets/suite_own/pairs.parquet"
    assert used[pairs] == hash_file(evidence / pairs)


def test_one_flipped_byte_in_any_file_is_named_with_exit_code_1(
    copied: Path, keys: Keys, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {path.relative_to(copied).as_posix() for path in copied.rglob("*") if path.is_file()}
    assert {TRAIN, CURVE, ADAPTER, SUITE} < names
    assert {"evaluations/harness_own/target/harness.parquet", "evaluations/judged_own/verdicts.parquet"} < names
    unsaid = {}
    for name in sorted(names):
        path = copied / name
        held = path.read_bytes()
        flip(path, len(held) // 2)
        code = verify_path(copied, keys.given, as_json=True)
        found = json.loads(capsys.readouterr().out)["broken"]
        if code != 1 or name not in f"{found['file']} {found['sentence']}":
            unsaid[name] = found
        path.write_bytes(held)
    assert unsaid == {}


@pytest.mark.parametrize(("name", "source"), [(TRAIN, "prompt_sets/roles"), ("models/base/model.json", "models/base")])
def test_other_lessons_or_another_base_break_the_link_to_the_model_made_from_them(
    copied: Path, name: str, source: str
) -> None:
    document = (copied / name).read_bytes()
    other = (copied / TRAIN.replace("function", "utility")).read_bytes() if name == TRAIN else document + b"\n"
    (copied / name).write_bytes(other)
    forge.rewrite_manifests(copied, [source])
    forge.rehash_index(copied)
    forge.restate(copied)
    forge.unsign(copied)
    found = broken(copied)
    assert f"models/donor was not made from this {source}" in str(found)
    assert found.file == "manifests/models/donor.json"


def test_a_description_of_another_model_than_the_one_made_is_named_though_everything_agrees(copied: Path) -> None:
    path = copied / "models/donor/model.json"
    document = json.loads(path.read_text())
    document["files"]["model.safetensors"]["sha256"] = "0" * 64
    path.write_text(json.dumps(document))
    forge.forge(copied)
    found = broken(copied)
    assert found.file == "models/donor/model.json" and "describes another model.safetensors" in str(found)


def test_a_suite_file_that_says_something_else_or_is_not_the_studys_is_named(copied: Path) -> None:
    text = (copied / SUITE).read_text()
    (copied / SUITE).write_text(text.replace("Do the parts work?", "Does anything work?"))
    forge.forge(copied)
    assert "asks evaluations/suite_own for other settings" in str(broken(copied))
    (copied / SUITE).write_text(text)
    (copied / "suites/more.yaml").write_text(text)
    index = forge.index_of(copied)
    files = {**index.files, "suites/more.yaml": forge.record(copied / "suites/more.yaml")}
    (copied / layout.INDEX).write_text(replace(index, files=files).to_json())
    forge.forge(copied)
    assert broken(copied).file == "suites/more.yaml"


def test_without_the_harness_that_asked_the_tasks_the_study_is_unchecked_and_says_what_to_install(
    evidence: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain, "harness_version", lambda: None)
    proof = verify(evidence, Given())
    assert proof.broken is None
    assert any("run pip install lm-eval==" in sentence for sentence in proof.unchecked)


def test_the_adapter_leaves_with_the_weights_alone_and_only_the_donors(
    evidence: Path, everything: Made, tmp_path: Path
) -> None:
    assert [path.relative_to(evidence).as_posix() for path in evidence.rglob("adapter_model.safetensors")] == [ADAPTER]
    light = put_in_bundle(everything, tmp_path / "light", weights=False)
    assert not list(light.rglob("*.safetensors"))
    assert verify(light, Given()).broken is None


@pytest.fixture
def moved(everything: Made, evidence: Path, tmp_path: Path) -> Iterator[Path]:
    """The bundle, while prompts and suite of the study are gone."""
    gone = ("lessons.jsonl", "own.yaml", "texts.jsonl", "pairs.jsonl", "terms.jsonl", "questions.jsonl")
    (tmp_path / "kept").mkdir()
    for name in gone:
        shutil.move(everything.root / name, tmp_path / "kept" / name)
    yield evidence
    for name in gone:
        shutil.move(tmp_path / "kept" / name, everything.root / name)


def test_a_replay_makes_the_models_again_and_every_digest_is_the_bundles(
    moved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = replay_bundle(moved, str(tmp_path / "store"), as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert {step["key"]: step["differing"] for step in document["steps"] if not step["agrees"]} == {}
    assert code == 0
    states = {step["key"]: step["state"] for step in document["steps"]}
    kept = {key for key, state in states.items() if state == "from the bundle"}
    assert kept == {"prompt_sets/roles", "prompt_sets/suite_jailbreak", "prompt_sets/suite_own"}
    assert {states[f"models/{name}"] for name in ("base", "target", "donor")} == {"built"}
    proof = verify(moved, Given())  # and it put them where it said
    (said,) = [sentence for sentence in proof.unchecked if "--target and --donor" in sentence]
    places = re.findall(r"bundle\.replay/(models/[0-9a-f]+/model)", said)
    assert [(tmp_path / "store" / place / "model.safetensors").is_file() for place in places] == [True, True]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("adapter/adapter_config.json", "models/target is not the model of the bundle"),
        ("base.gguf", "models/base is not the model of the bundle"),
        ("made_judge.py", "evaluations/judged_own is not the judge of the bundle"),
        ("docs.jsonl", "evaluations/harness_own/target is not the task of the bundle"),
    ],
)
def test_a_replay_with_something_else_from_outside_computes_nothing(
    evidence: Path, everything: Made, tmp_path: Path, name: str, words: str
) -> None:
    path = everything.root / name
    held = path.read_bytes()
    try:
        path.write_bytes(held + b" ")
        with pytest.raises(InputError, match=words):
            replay_bundle(evidence, str(tmp_path / "store"), as_json=True)
    finally:
        path.write_bytes(held)
    assert not list((tmp_path / "store").glob("*/[0-9a-f]*"))
