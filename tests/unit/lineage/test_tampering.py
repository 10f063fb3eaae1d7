"""Whatever is changed in a bundle or an export is named, also when one who knows the format but has no key did it."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from cnt_pipeline.errors import InputError
from cnt_pipeline.lineage import envelope, layout
from cnt_pipeline.lineage.keys import key_id, read_private_key, read_public_key, write_keys
from cnt_pipeline.lineage.verify import Given, verify
from cnt_pipeline.models.tensors import TensorInfo, read_index
from cnt_pipeline.transplants.plan import read_plan
from tests.unit.lineage import forge
from tests.unit.lineage.conftest import DONOR, TARGET, Keys
from tests.unit.lineage.forge import broken

WEIGHTS = "transplants/checkpoint/model/model.safetensors"
REPORT = "reports/page/report.html"
PROMPTS = "prompt_sets/roles/test.function.parquet"
BOTH = Given(target=TARGET, donor=DONOR)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def flipped(folder: Path, given: Given) -> dict[str, list[str]]:
    """For every file, what a flipped byte at its beginning, middle or end leaves unsaid: nothing, where the proof
    breaks each time by the file's name."""
    answers: dict[str, list[str]] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name, data = path.relative_to(folder).as_posix().removeprefix("lineage/"), path.read_bytes()
        answers[name] = []
        for at in (0, len(data) // 2, len(data) - 1):
            flip(path, at)
            found = verify(folder, given).broken
            if found is None or name not in f"{found.file} {found}":
                answers[name].append(f"byte {at}: {found}")
            path.write_bytes(data)
    return answers


def test_an_untouched_bundle_is_proven_to_the_last_neuron(bundle: Path, keys: Keys) -> None:
    proof = verify(bundle, replace(keys.given, target=TARGET, donor=DONOR))
    assert proof.broken is None
    assert len(read_plan(bundle / "transplants/selection/plan.parquet")) > 0
    assert any("only the declared neurons changed" in sentence for sentence in proof.proven)
    assert any("is signed with the key" in sentence for sentence in proof.proven)
    assert all("not in the bundle" in sentence or "prompt sets" in sentence for sentence in proof.unchecked)


def test_one_flipped_byte_in_any_file_of_a_bundle_is_named(bundle: Path, keys: Keys) -> None:
    answers = flipped(bundle, keys.given)
    assert {
        layout.INDEX,
        layout.STATEMENT,
        layout.ENVELOPE,
        layout.OMS_SIGNATURE,
        WEIGHTS,
        REPORT,
        PROMPTS,
    } < answers.keys()
    assert {name: said for name, said in answers.items() if said} == {}


def test_one_flipped_byte_in_any_file_of_an_export_is_named(exported: Path, keys: Keys) -> None:
    assert verify(exported, replace(keys.given, oms_key=None, target=TARGET, donor=DONOR)).broken is None
    answers = flipped(exported, replace(keys.given, oms_key=None))
    assert {"model.safetensors", "README.md", "inverse_patch.parquet", layout.INDEX, layout.STUDY} < answers.keys()
    assert {name: said for name, said in answers.items() if said} == {}


def test_what_could_not_be_checked_is_said(bundle: Path) -> None:
    said = " ".join(verify(bundle, Given()).unchecked)
    for words in ("--public-key", "--oms-key", "--target and --donor", "prompt sets"):
        assert words in said
    forge.unsign(bundle)
    assert "is not signed" in " ".join(verify(bundle, Given()).unchecked)


def a_tensor(bundle: Path, declared: bool) -> tuple[TensorInfo, int]:
    """A matrix of the checkpoint that the plan edits by rows or leaves alone, and a row of it without a neuron."""
    plan = read_plan(bundle / "transplants/selection/plan.parquet").table.to_pylist()
    rows: dict[str, set[int]] = {}
    for neuron in plan:
        if neuron["axis"] == 0:
            rows.setdefault(neuron["tensor"], set()).add(neuron["position"])
    edited = {neuron["tensor"] for neuron in plan}
    for info in read_index((bundle / WEIGHTS).parent).tensors.values():
        if len(info.shape) == 2 and (info.name in rows if declared else info.name not in edited):
            free = set(range(info.shape[0])) - rows.get(info.name, set())
            if free:
                return info, min(free)
    raise AssertionError("no such tensor")


@pytest.mark.parametrize("declared", [False, True])
def test_a_neuron_changed_outside_the_list_is_named_though_everything_agrees(bundle: Path, declared: bool) -> None:
    info, row = a_tensor(bundle, declared)
    flip(bundle / WEIGHTS, info.begin + row * (info.size // info.shape[0]))
    forge.forge(bundle)
    if declared:  # inside a tensor that may change, the models alone can tell
        assert verify(bundle, Given()).broken is None
        assert "--target" in " ".join(verify(bundle, Given()).unchecked)
        words = (info.name, f"row {row}", "not planned")
    else:
        assert info.name in str(broken(bundle, Given()))
        words = (info.name, "declares no neuron")
    assert all(word in str(broken(bundle, BOTH)) for word in words), broken(bundle, BOTH)


def test_a_declared_neuron_that_is_not_the_donors_is_named(bundle: Path) -> None:
    neuron = read_plan(bundle / "transplants/selection/plan.parquet").table.slice(0, 1).to_pylist()[0]
    info = read_index((bundle / WEIGHTS).parent)[neuron["tensor"]]
    at = (
        info.begin + (neuron["position"] * info.shape[1] if neuron["axis"] == 0 else neuron["position"]) * info.itemsize
    )
    flip(bundle / WEIGHTS, at)
    forge.forge(bundle)
    assert verify(bundle, Given()).broken is None
    assert "does not hold the donor's neuron" in str(broken(bundle, BOTH))


def test_a_signature_by_another_key_is_named(bundle: Path, keys: Keys, tmp_path: Path) -> None:
    other, _ = write_keys(tmp_path / "other")
    text = envelope.sign((bundle / layout.STATEMENT).read_bytes(), read_private_key(other))
    (bundle / layout.ENVELOPE).write_text(text)
    found = broken(bundle, replace(keys.given, oms_key=None))
    assert found.file == layout.ENVELOPE and "someone else vouches" in str(found)
    assert found.found == key_id(read_public_key(tmp_path / "other.pub"))


def test_a_signature_with_the_right_name_and_other_bytes_is_named(bundle: Path, keys: Keys, tmp_path: Path) -> None:
    other, _ = write_keys(tmp_path / "other")
    text = envelope.sign((bundle / layout.STATEMENT).read_bytes(), read_private_key(other))
    named = key_id(read_public_key(tmp_path / "other.pub")), key_id(read_public_key(keys.folder / "statement.pub"))
    (bundle / layout.ENVELOPE).write_text(text.replace(*named))
    assert "does not fit its statement" in str(broken(bundle, replace(keys.given, oms_key=None)))


def test_a_signature_that_was_taken_out_is_named(bundle: Path, keys: Keys) -> None:
    forge.unsign(bundle)
    assert layout.ENVELOPE in str(broken(bundle, keys.given))
    (bundle / layout.STATEMENT).unlink()
    assert layout.STATEMENT in str(broken(bundle, Given()))


@pytest.mark.parametrize("with_manifest", [False, True])
def test_a_report_edited_after_signing_is_named(bundle: Path, keys: Keys, with_manifest: bool) -> None:
    page = bundle / REPORT
    page.write_text(page.read_text().replace("</h1>", " (approved)</h1>", 1))
    if with_manifest:
        forge.rewrite_manifests(bundle)
    forge.rehash_index(bundle)
    found = broken(bundle, replace(keys.given, oms_key=None))
    assert found.file == REPORT and layout.STATEMENT in str(found)
    forge.restate(bundle)
    assert "signs another statement" in str(broken(bundle, replace(keys.given, oms_key=None)))


def test_a_file_that_no_statement_names_is_bound_by_the_index(bundle: Path, keys: Keys) -> None:
    plan = bundle / "neuron_rankings/path/ranking.parquet"
    shutil.copyfile(bundle / "neuron_rankings/delta_norm/ranking.parquet", plan)
    forge.rewrite_manifests(bundle)
    forge.rehash_index(bundle)
    found = broken(bundle, replace(keys.given, oms_key=None))
    assert found.file == layout.INDEX and layout.STATEMENT in str(found)


def test_a_swapped_prompt_set_breaks_the_link_to_what_was_said(bundle: Path) -> None:
    shutil.copyfile(bundle / "prompt_sets/roles/test.utility.parquet", bundle / PROMPTS)
    forge.rehash_index(bundle)
    forge.unsign(bundle)
    found = broken(bundle, Given())
    assert found.file == PROMPTS  # the statement names it among its subjects or the manifest does
    forge.rewrite_manifests(bundle, ["prompt_sets/roles"])
    forge.rehash_index(bundle)
    forge.restate(bundle)
    found = broken(bundle, Given())
    assert "was not made from this prompt_sets/roles" in str(found)
    assert found.file.startswith("manifests/")


def test_another_study_file_than_the_one_that_was_run_is_named(bundle: Path) -> None:
    study = bundle / layout.STUDY
    study.write_text(study.read_text().replace("nodes: 2", "nodes: 3"))
    forge.forge(bundle)
    found = broken(bundle, Given())
    assert found.file == layout.STUDY and "other settings" in str(found)


def test_a_file_of_unknown_origin_is_named(bundle: Path, exported: Path) -> None:
    (bundle / "notes.txt").write_text("approved\n")
    assert broken(bundle, Given()).file == "notes.txt"
    (exported / "adapter_model.safetensors").write_bytes(b"\0")
    assert "adapter_model.safetensors" in str(broken(exported, Given()))


def test_an_absent_file_is_named(bundle: Path) -> None:
    (bundle / "evaluations/scores/samples.parquet").unlink()
    assert broken(bundle, Given()).file == "evaluations/scores/samples.parquet"


def test_a_file_left_out_of_the_index_too_is_named(bundle: Path) -> None:
    name = "evaluations/scores/samples.parquet"
    (bundle / name).unlink()
    index = forge.index_of(bundle)
    kept = {file: record for file, record in index.files.items() if file != name}
    (bundle / layout.INDEX).write_text(replace(index, files=kept).to_json())
    forge.restate(bundle)
    forge.unsign(bundle)
    assert broken(bundle, Given()).file == name


def test_a_name_that_leads_out_of_the_folder_is_refused(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("x")
    index = forge.index_of(bundle)
    files = {**index.files, "../outside": forge.record(tmp_path / "outside")}
    (bundle / layout.INDEX).write_text(replace(index, files=files).to_json())
    assert broken(bundle, Given()).file == layout.INDEX


def test_models_that_are_not_those_of_the_bundle_are_named(bundle: Path) -> None:
    found = broken(bundle, Given(target=DONOR, donor=TARGET))
    assert "is not the target of this bundle" in str(found)
    with pytest.raises(InputError, match="the study read no GGUF file as its target"):
        verify(bundle, Given(target=TARGET / "model.safetensors"))


def test_a_folder_that_is_no_bundle_is_wrong_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cnt bundle"):
        verify(tmp_path, Given())
