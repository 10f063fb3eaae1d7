"""Claims about the inverse patch: it restores the target bit for bit, or says why it cannot."""

import hashlib
import json
import resource
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from cnt_pipeline.errors import InputError, StoreError
from cnt_pipeline.models.tensors import read_index
from cnt_pipeline.transplants.apply import write_transplant
from cnt_pipeline.transplants.patch import INVERSE
from cnt_pipeline.transplants.patching import revert
from tests.unit.transplants.checkpoints import (
    MIXED,
    Row,
    file_bytes,
    make_plan,
    random_tensors,
    write_checkpoint,
)


def transplant(
    folder: Path,
    rows: list[Row] = MIXED,
    dtype: torch.dtype = torch.bfloat16,
    shards: int = 1,
    **options: Any,
) -> Path:
    write_checkpoint(folder / "target", random_tensors(1, dtype), shards)
    write_checkpoint(folder / "donor", random_tensors(2))
    target, donor = read_index(folder / "target"), read_index(folder / "donor")
    write_transplant(target, donor, make_plan(rows), folder / "out", **options)
    return folder


@pytest.fixture
def made(tmp_path: Path) -> Path:
    return transplant(tmp_path)


@pytest.fixture(params=[1 << 22, 100], ids=["one block", "few rows a block"])
def buffer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("blocks", "stream", "donor", "patch"):
        monkeypatch.setattr(f"cnt_pipeline.transplants.{module}.BUFFER", request.param)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("amplitude", [1.0, 2.5])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_target_comes_back_bit_for_bit(
    tmp_path: Path, dtype: torch.dtype, amplitude: float, shards: int, buffer: None
) -> None:
    transplant(tmp_path, [(t, a, p, amplitude, b) for t, a, p, _, b in MIXED], dtype, shards)
    shutil.move(tmp_path / "target", tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "donor")
    report = revert(tmp_path / "out", None, tmp_path / "back")
    restored = file_bytes(tmp_path / "back", leave=())
    assert restored == file_bytes(tmp_path / "elsewhere", leave=())
    assert dict(report.files) == {name: hashlib.sha256(raw).hexdigest() for name, raw in restored.items()}


def test_an_empty_plan_reverts_to_the_same(tmp_path: Path) -> None:
    transplant(tmp_path, [])
    revert(tmp_path / "out", None, tmp_path / "back")
    assert file_bytes(tmp_path / "back") == file_bytes(tmp_path / "target")


def test_digests_known_beforehand_serve_without_hashing(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "target", random_tensors(1))
    known = {name: hashlib.sha256(raw).hexdigest() for name, raw in file_bytes(tmp_path / "target").items()}
    shutil.rmtree(tmp_path / "target")
    transplant(tmp_path, digests=False, target_digests=known)
    revert(tmp_path / "out", None, tmp_path / "back")
    assert file_bytes(tmp_path / "back") == file_bytes(tmp_path / "target")


def test_the_patch_may_lie_elsewhere(tmp_path: Path) -> None:
    transplant(tmp_path, patch=tmp_path / "patches" / "one.parquet")
    assert not (tmp_path / "out" / INVERSE.file).exists()
    revert(tmp_path / "out", tmp_path / "patches" / "one.parquet", tmp_path / "back")
    assert file_bytes(tmp_path / "back") == file_bytes(tmp_path / "target")


def test_the_patch_is_small(tmp_path: Path) -> None:
    tensors = {"w": torch.zeros(1000, 500).bfloat16(), "v": torch.zeros(500, 1000).bfloat16()}
    for side in ("target", "donor"):
        write_checkpoint(tmp_path / side, tensors)
    rows: list[Row] = [("w", 0, p, 1.0, None) for p in range(0, 1000, 100)]
    rows += [("v", 1, p, 1.0, None) for p in range(0, 1000, 100)]
    indices = [read_index(tmp_path / side) for side in ("target", "donor")]
    report = write_transplant(indices[0], indices[1], make_plan(rows), tmp_path / "out")
    assert report.patch.stat().st_size < report.bytes_patched + 10_000


def test_a_changed_checkpoint_is_refused_and_leaves_nothing(made: Path) -> None:
    """Whether the change lies in a planned neuron, outside, in the header or in another file."""
    index = read_index(made / "out")
    up, embed = index["1.up.weight"], index["embed.weight"]
    for name, offset in (
        ("model.safetensors", up.begin + 7 * 32),
        ("model.safetensors", embed.begin),
        ("tokenizer.json", 5),
    ):
        path = made / "out" / name
        raw = path.read_bytes()
        path.write_bytes(raw[:offset] + bytes([raw[offset] ^ 4]) + raw[offset + 1 :])
        with pytest.raises(InputError, match=r"is not the checkpoint that .* was made for") as caught:
            revert(made / "out", None, made / "back")
        assert "\n" not in str(caught.value)
        assert not (made / "back").exists()
        path.write_bytes(raw)
    revert(made / "out", None, made / "back")


def test_the_patch_of_another_transplant_is_refused(made: Path, tmp_path: Path) -> None:
    other = transplant(tmp_path / "other", MIXED[:4])
    with pytest.raises(InputError, match="is not the checkpoint"):
        revert(made / "out", other / "out" / INVERSE.file, made / "back")
    with pytest.raises(InputError, match="is not the checkpoint"):
        revert(made / "target", made / "out" / INVERSE.file, made / "back")
    assert not (made / "back").exists()


def test_a_checkpoint_that_lacks_a_file_is_refused(made: Path) -> None:
    (made / "out" / "config.json").unlink()
    with pytest.raises(InputError, match=r"config\.json is absent"):
        revert(made / "out", None, made / "back")


def test_a_patch_without_digests_is_refused(tmp_path: Path) -> None:
    transplant(tmp_path, digests=False)
    with pytest.raises(InputError, match="lacks the target's sha256"):
        revert(tmp_path / "out", None, tmp_path / "back")


def test_a_patch_damaged_anywhere_never_gives_a_wrong_target(made: Path) -> None:
    path = made / "out" / INVERSE.file
    raw = path.read_bytes()
    wanted = file_bytes(made / "target")
    for offset in range(0, len(raw), 41):
        path.write_bytes(raw[:offset] + bytes([raw[offset] ^ 0x10]) + raw[offset + 1 :])
        try:
            revert(made / "out", None, made / "back")
        except InputError as error:
            assert "\n" not in str(error)
            assert not (made / "back").exists()
        else:
            assert file_bytes(made / "back") == wanted
            shutil.rmtree(made / "back")
    for size in range(0, len(raw), 97):
        path.write_bytes(raw[:size])
        with pytest.raises(InputError, match="no intact inverse patch"):
            revert(made / "out", None, made / "back")


@pytest.mark.parametrize("name", ["../escaped", "/etc/escaped", ""])
def test_a_patch_cannot_write_outside_its_folder(made: Path, name: str) -> None:
    path = made / "out" / INVERSE.file
    table = pq.read_table(path)
    document = json.loads(table.schema.metadata[INVERSE.key]) if INVERSE.key in (table.schema.metadata or {}) else {}
    document = document or json.loads(pq.ParquetFile(path).metadata.metadata[INVERSE.key])
    document["files"][name] = document["files"]["config.json"]
    pq.write_table(table.replace_schema_metadata({INVERSE.key: json.dumps(document)}), path)
    with pytest.raises(InputError, match="no intact inverse patch"):
        revert(made / "out", None, made / "back")


def test_an_absent_patch_is_one_sentence(made: Path) -> None:
    (made / "out" / INVERSE.file).unlink()
    with pytest.raises(InputError, match="no intact inverse patch"):
        revert(made / "out", None, made / "back")


def test_a_full_disk_leaves_nothing(made: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    try:
        with pytest.raises(StoreError, match="free space"):
            revert(made / "out", None, made / "back")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not (made / "back").exists()


def test_an_existing_file_is_never_overwritten(made: Path) -> None:
    with pytest.raises(StoreError, match="exists already"):
        revert(made / "out", None, made / "target")
    assert read_index(made / "target").tensors
