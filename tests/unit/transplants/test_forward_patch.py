"""Claims about the forward patch: from it and the target alone comes the checkpoint, bit for bit, or a reason."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from cnt_pipeline.errors import InputError, StoreError
from cnt_pipeline.models.architecture import read_architecture
from cnt_pipeline.models.tensors import read_index
from cnt_pipeline.transplants.apply import WriteReport, write_transplant
from cnt_pipeline.transplants.patch import FORWARD, INVERSE
from cnt_pipeline.transplants.patching import apply, revert
from tests.unit.models.conftest import build
from tests.unit.transplants.checkpoints import MIXED, Row, file_bytes, make_plan, random_tensors, write_checkpoint

WEIGHTS = "model.safetensors"


def transplant(folder: Path, rows: list[Row] = MIXED, **options: Any) -> WriteReport:
    indices = [read_index(folder / side) for side in ("target", "donor")]
    return write_transplant(*indices, make_plan(rows), folder / "out", forward=folder / FORWARD.file, **options)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "target", random_tensors(1))
    write_checkpoint(tmp_path / "donor", random_tensors(2))
    transplant(tmp_path)
    return tmp_path


@pytest.fixture(params=[1 << 22, 100], ids=["one block", "few rows a block"])
def buffer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("blocks", "stream", "donor", "patch"):
        monkeypatch.setattr(f"cnt_pipeline.transplants.{module}.BUFFER", request.param)


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as stream:
        stream.seek(offset)
        byte = stream.read(1)[0]
        stream.seek(offset)
        stream.write(bytes([byte ^ 4]))


def assert_there_and_back(folder: Path) -> None:
    """The patch gives the checkpoint from a copy of the target, which comes back from what was made."""
    copied = Path(shutil.copytree(folder / "target", folder / "elsewhere"))
    report = apply(folder / FORWARD.file, copied, folder / "again")
    assert file_bytes(folder / "again") == file_bytes(folder / "out")
    assert set(report.files) == set(file_bytes(folder / "out"))
    revert(folder / "again", None, folder / "back")
    assert file_bytes(folder / "back", leave=()) == file_bytes(folder / "target", leave=())


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("amplitude", [1.0, 2.5])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_checkpoint_comes_from_the_target_bit_for_bit(
    tmp_path: Path, dtype: torch.dtype, amplitude: float, shards: int, buffer: None
) -> None:
    write_checkpoint(tmp_path / "target", random_tensors(1, dtype), shards)
    write_checkpoint(tmp_path / "donor", random_tensors(2))
    transplant(tmp_path, [(t, a, p, amplitude, b) for t, a, p, _, b in MIXED])
    assert_there_and_back(tmp_path)


@pytest.mark.parametrize("name", ["llama", "qwen2", "phi3", "gpt2", "gpt_neox"])
def test_biases_grouped_heads_tied_and_fused_weights_come_back_from_shards(tmp_path: Path, name: str) -> None:
    """llama and qwen2 have grouped heads and biases, qwen2 tied embeddings, the others fused or transposed tensors."""
    torch.set_num_threads(1)
    for seed, side in enumerate(("target", "donor")):
        model = build(name, tmp_path / f"float32-{side}", seed).to(torch.bfloat16)
        model.save_pretrained(tmp_path / side, max_shard_size="12KB")
    assert len(read_index(tmp_path / "target").files) > 1
    rows: list[Row] = []
    for matrix in read_architecture(tmp_path / "target").matrices:
        places = matrix.positions[[0, 1, matrix.neurons // 2, matrix.neurons - 1]].tolist()
        rows += [(matrix.tensor, matrix.axis, place, 1.0 + number % 2, matrix.bias) for number, place in
                 enumerate(places)]  # fmt: skip
    transplant(tmp_path, rows)
    assert_there_and_back(tmp_path)


def test_the_way_back_that_is_written_is_the_one_of_the_checkpoint(made: Path) -> None:
    apply(made / FORWARD.file, made / "target", made / "again")
    first, second = (pq.ParquetFile(made / folder / INVERSE.file) for folder in ("out", "again"))
    assert first.read().equals(second.read())
    assert first.metadata.metadata[INVERSE.key] == second.metadata.metadata[INVERSE.key]


def test_an_empty_plan_makes_the_target(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "target", random_tensors(1))
    write_checkpoint(tmp_path / "donor", random_tensors(2))
    transplant(tmp_path, [])
    apply(tmp_path / FORWARD.file, tmp_path / "target", tmp_path / "again")
    assert file_bytes(tmp_path / "again") == file_bytes(tmp_path / "target")


def test_both_patches_are_hardly_larger_than_the_weights_that_moved(tmp_path: Path) -> None:
    tensors = {"w": torch.zeros(4000, 2000).bfloat16(), "v": torch.zeros(2000, 4000).bfloat16()}
    for side in ("target", "donor"):
        write_checkpoint(tmp_path / side, tensors)
    rows: list[Row] = [("w", 0, p, 1.0, None) for p in range(0, 4000, 100)]
    rows += [("v", 1, p, 1.0, None) for p in range(0, 4000, 100)]
    report = transplant(tmp_path, rows)
    for patch in (tmp_path / FORWARD.file, report.patch):
        assert report.bytes_patched < patch.stat().st_size < 1.05 * report.bytes_patched
    share = (tmp_path / FORWARD.file).stat().st_size / (tmp_path / "out" / WEIGHTS).stat().st_size
    assert share < 1.05 * 0.01


def test_another_target_is_refused_by_file_and_tensor_and_leaves_nothing(made: Path) -> None:
    index = read_index(made / "target")
    for name, offset, reason in (
        (WEIGHTS, index["1.up.weight"].begin + 7 * 32, r"model\.safetensors: 1\.up\.weight differs"),
        (WEIGHTS, index["0.qkv.bias"].begin + 2 * 47, r"model\.safetensors: 0\.qkv\.bias differs"),
        (WEIGHTS, index["embed.weight"].begin, r"model\.safetensors differs outside the neurons of the patch"),
        ("tokenizer.json", 5, r"\(tokenizer\.json differs\)"),
    ):
        flip(made / "target" / name, offset)
        with pytest.raises(
            InputError, match=rf"target is not the target that .*{reason}.*: give that target"
        ) as caught:
            apply(made / FORWARD.file, made / "target", made / "again")
        assert "\n" not in str(caught.value)
        assert sorted(path.name for path in made.iterdir()) == ["donor", "out", FORWARD.file, "target"]
        flip(made / "target" / name, offset)
    assert_there_and_back(made)


def test_a_target_of_other_files_shapes_or_tensors_is_refused(made: Path) -> None:
    def assert_refused(reason: str) -> None:
        with pytest.raises(InputError, match=f"is not the target that .*{reason}"):
            apply(made / FORWARD.file, made / "target", made / "again")
        assert not (made / "again").exists()

    def instead(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
        shutil.rmtree(made / "target")
        write_checkpoint(made / "target", change(random_tensors(1)))

    (made / "target" / "config.json").rename(made / "config.json")
    assert_refused(r"config\.json is absent or of another size")
    instead(lambda tensors: tensors | {"more": torch.zeros(3)})
    assert_refused(r"model\.safetensors is absent or of another size")
    instead(lambda tensors: {name.replace("1.up", "1.on"): tensor for name, tensor in tensors.items()})
    assert_refused(r"lacks the tensor 1\.up\.weight")
    instead(lambda tensors: tensors | {"1.up.weight": tensors["1.up.weight"].view(16, 50)})
    assert_refused(r"1\.up\.weight is of another shape or dtype")


def test_the_checkpoint_is_not_its_own_target(made: Path) -> None:
    with pytest.raises(InputError, match="is not the target"):
        apply(made / FORWARD.file, made / "out", made / "again")


def test_a_patch_damaged_anywhere_never_gives_a_wrong_checkpoint(made: Path) -> None:
    path, wanted = made / FORWARD.file, file_bytes(made / "out")
    size = path.stat().st_size
    for offset in range(0, size, 61):
        flip(path, offset)
        try:
            apply(path, made / "target", made / "again")
        except InputError as error:
            assert "\n" not in str(error)
            assert not (made / "again").exists()
        else:
            assert file_bytes(made / "again") == wanted
            shutil.rmtree(made / "again")
        flip(path, offset)
    raw = path.read_bytes()
    for length in range(0, size, 997):
        path.write_bytes(raw[:length])
        with pytest.raises(InputError, match="no intact forward patch"):
            apply(path, made / "target", made / "again")


def test_a_patch_is_refused_by_the_command_for_the_other_way(made: Path) -> None:
    with pytest.raises(InputError, match=r"is the inverse patch of a transplant.*: give it to `cnt revert`"):
        apply(made / "out" / INVERSE.file, made / "out", made / "again")
    with pytest.raises(InputError, match=r"is the forward patch of a transplant.*: give it to `cnt apply`"):
        revert(made / "out", made / FORWARD.file, made / "again")


def test_a_patch_without_digests_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "target", random_tensors(1))
    write_checkpoint(tmp_path / "donor", random_tensors(2))
    transplant(tmp_path, digests=False)
    with pytest.raises(InputError, match="lacks the checkpoint's sha256"):
        apply(tmp_path / FORWARD.file, tmp_path / "target", tmp_path / "again")


def test_a_folder_that_holds_something_is_left_alone_and_an_empty_one_is_filled(made: Path) -> None:
    (made / "again").mkdir()
    apply(made / FORWARD.file, made / "target", made / "again")
    before = file_bytes(made / "again", leave=())
    for again in (
        lambda: apply(made / FORWARD.file, made / "target", made / "again"),
        lambda: revert(made / "out", None, made / "again"),
    ):
        with pytest.raises(StoreError, match="exists already and is not an empty folder"):
            again()
    assert file_bytes(made / "again", leave=()) == before


def test_what_is_written_has_another_name_until_it_is_whole(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a kill at any moment leaves nothing under the folder's name."""
    seen: list[bool] = []

    def watch(*arguments: Any, **options: Any) -> Any:
        seen.append((made / "again").exists())
        return stream(*arguments, **options)

    from cnt_pipeline.transplants import patching

    stream = patching.stream_file
    monkeypatch.setattr(patching, "stream_file", watch)
    apply(made / FORWARD.file, made / "target", made / "again")
    assert seen
    assert not any(seen)
    assert np.all([not path.name.startswith(".") for path in made.iterdir()])
