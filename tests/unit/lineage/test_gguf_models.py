"""A reviewer who holds the GGUF files that a study read proves its checkpoint with them, byte for byte."""

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cnt_pipeline.commands.lineage import verify_path
from cnt_pipeline.errors import InputError, StoreError
from cnt_pipeline.lineage import held
from cnt_pipeline.lineage.verify import Given, verify
from cnt_pipeline.models import gguf as reader
from cnt_pipeline.models.tensors import read_index
from cnt_pipeline.store.digests import hash_file
from cnt_pipeline.store.publish import environment
from tests.unit.lineage import forge
from tests.unit.lineage.forge import broken
from tests.unit.lineage.made import Made, write_two_ggufs
from tests.unit.lineage.test_made_models import put_in_bundle
from tests.unit.lineage.test_tampering import a_tensor, flip

pytest.importorskip("gguf")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    torch.set_num_threads(1)
    study = write_two_ggufs(tmp_path_factory.mktemp("two"))
    study.run()
    return study


@pytest.fixture(scope="module")
def evidence(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study's bundle. Look, do not touch."""
    return put_in_bundle(made, tmp_path_factory.mktemp("evidence") / "bundle")


@pytest.fixture
def both(made: Made) -> Given:
    return Given(target=made.root / "target.gguf", donor=made.root / "donor.gguf")


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The folder of temporary folders, which every test leaves empty."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert not list(folder.iterdir())


def test_with_both_files_every_byte_is_proven(evidence: Path, both: Given) -> None:
    proof = verify(evidence, both)
    assert proof.broken is None, proof.broken
    said = "\n".join(proof.proven)
    for role in ("target", "donor"):
        assert f"{role}.gguf is the {role}: it was dequantised to 6 files with the SHA-256 of models/{role}" in said
    assert "only the declared neurons changed" in said
    assert not any("--target" in sentence or "GGUF" in sentence for sentence in proof.unchecked)


def test_a_file_and_the_folder_made_of_the_other_prove_as_much(evidence: Path, made: Made, both: Given) -> None:
    proof = verify(evidence, replace(both, donor=made.model("donor")))
    assert proof.broken is None and "only the declared neurons changed" in proof.proven[-1]


def test_without_them_the_sentence_says_which_files_they_are(evidence: Path, made: Made) -> None:
    (said,) = [sentence for sentence in verify(evidence, Given()).unchecked if "--target and --donor" in sentence]
    for role in ("target", "donor"):
        assert f"the {role} is the GGUF file with the SHA-256 {hash_file(made.root / f'{role}.gguf')}" in said


def test_another_gguf_file_is_named_with_both_digests(evidence: Path, made: Made, both: Given) -> None:
    found = broken(evidence, replace(both, target=both.donor))
    assert "is not the GGUF file that models/target read" in str(found)
    assert (found.expected, found.found) == tuple(hash_file(made.root / f"{name}.gguf") for name in ("target", "donor"))


@pytest.mark.parametrize("at", [20, -1])
def test_one_flipped_byte_of_the_file_is_named(
    evidence: Path, both: Given, tmp_path: Path, capsys: pytest.CaptureFixture[str], at: int
) -> None:
    assert both.target is not None
    copy = Path(shutil.copy(both.target, tmp_path / "copy.gguf"))
    flip(copy, at)
    assert verify_path(evidence, replace(both, target=copy), as_json=True) == 1
    captured = capsys.readouterr()
    document = json.loads(captured.out)["broken"]
    assert document["file"] == str(copy) and document["found"] == hash_file(copy)
    assert document["expected"] == hash_file(both.target)
    assert "copy.gguf is dequantised once" in captured.err


def test_what_is_no_gguf_file_is_wrong_input(evidence: Path, made: Made, both: Given, tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("hello")
    for file in (tmp_path / "text.gguf", made.model("target") / "model.safetensors"):
        with pytest.raises(InputError, match=r"is no GGUF file \(it begins with"):
            verify(evidence, replace(both, target=file))
    with pytest.raises(InputError, match="is not a folder"):
        verify(evidence, replace(both, target=tmp_path / "absent.gguf"))


def test_a_neuron_changed_outside_the_list_is_named_by_the_files(evidence: Path, both: Given, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(evidence, tmp_path / "bundle"))
    info, row = a_tensor(bundle, declared=True)
    flip(bundle / "transplants/checkpoint/model/model.safetensors", info.begin + row * (info.size // info.shape[0]))
    forge.forge(bundle)
    assert verify(bundle, Given()).broken is None
    assert all(word in str(broken(bundle, both)) for word in (info.name, f"row {row}", "not planned"))


def write_otherwise(monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]) -> None:
    """Let the packages write a folder of the same file otherwise, as another version of them might."""
    dequantise = reader.dequantise

    def otherwise(file: Path, folder: Path) -> None:
        dequantise(file, folder)
        change(folder)

    monkeypatch.setattr(reader, "dequantise", otherwise)


def be_a_later_version(monkeypatch: pytest.MonkeyPatch) -> None:
    here = environment()
    later = {**here, "packages": {**here["packages"], "transformers": "99.1.0"}}
    monkeypatch.setattr(held, "environment", lambda: later)


def rewrite_config(folder: Path) -> None:
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"transformers_version": "', '"transformers_version": "99.1.0 not '))


def flip_a_weight(folder: Path) -> None:
    flip(folder / "model.safetensors", next(iter(read_index(folder).tensors.values())).begin)


def test_settings_that_another_version_writes_otherwise_are_unchecked_and_the_weights_proven(
    evidence: Path, both: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_otherwise(monkeypatch, rewrite_config)
    be_a_later_version(monkeypatch)
    proof = verify(evidence, both)
    assert proof.broken is None, proof.broken
    (said,) = [sentence for sentence in proof.unchecked if "target.gguf" in sentence]
    version = environment()["packages"]["transformers"]
    assert "has the SHA-256 of the file that models/target read, but config.json differs" in said
    assert f"the step had transformers {version} (here 99.1.0): install that" in said
    assert "dequantised to weights with the SHA-256 of models/target" in " ".join(proof.proven)
    assert "only the declared neurons changed" in proof.proven[-1]


@pytest.mark.parametrize(
    ("change", "later", "name", "words"),
    [
        (flip_a_weight, True, "model.safetensors", "(here 99.1.0): install that and verify again"),
        (flip_a_weight, False, "model.safetensors", "that step did not make the recorded model of this file"),
        (rewrite_config, False, "config.json", "that step did not make the recorded model of this file"),
    ],
)
def test_other_weights_of_the_same_file_or_other_files_by_the_same_packages_break_the_proof(
    evidence: Path, both: Given, monkeypatch: pytest.MonkeyPatch, change: Any, later: bool, name: str, words: str
) -> None:
    write_otherwise(monkeypatch, change)
    if later:
        be_a_later_version(monkeypatch)
    found = broken(evidence, both)
    assert found.file == f"models/target/{name}" and found.expected != found.found
    assert "has the SHA-256 of the file that models/target read" in str(found) and words in str(found)


def test_without_the_package_the_sentence_says_which_extra_to_install(
    evidence: Path, both: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"target.gguf is a GGUF file.* run pip install 'cnt_pipeline\[gguf\]'"):
        verify(evidence, both)


def test_without_room_for_the_model_the_sentence_says_how_to_give_it(
    evidence: Path, both: Given, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(held.shutil, "disk_usage", lambda place: usage._replace(free=1000))
    with pytest.raises(StoreError, match=r"needs 3.7 MB .* let TMPDIR name one"):
        verify(evidence, both)
