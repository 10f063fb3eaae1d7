"""Claims about reading safetensors headers, tensors and rows; the safetensors library is the reference."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cnt_pipeline.errors import InputError
from cnt_pipeline.models.tensors import (
    read_array,
    read_diagonal,
    read_entries,
    read_file_index,
    read_index,
    read_rows,
)

FLOATS = [torch.bfloat16, torch.float16, torch.float32]


def write_sharded(folder: Path, shards: list[dict[str, torch.Tensor]]) -> None:
    weight_map = {}
    for number, tensors in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(tensors, folder / name, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(tensors, name))
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    made = {f"layer.{i}": torch.randn(5 + i, 7).to(dtype) for i, dtype in enumerate(FLOATS)}
    return made | {
        "bias": torch.randn(9),
        "none": torch.zeros(0, 4),
        "one": torch.tensor(3.0),
        "ids": torch.arange(6),
    }


@pytest.fixture
def folder(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    return tmp_path


def test_every_tensor_read_equals_the_one_saved(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    index = read_index(folder)
    assert set(index.tensors) == set(tensors)
    for name, tensor in tensors.items():
        assert index[name].shape == tuple(tensor.shape)
        assert read_array(index, name).dtype == tensor.dtype
        assert torch.equal(read_array(index, name), tensor)


def test_offsets_are_absolute_in_the_file(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    raw = (folder / "model.safetensors").read_bytes()
    for name, info in read_index(folder).tensors.items():
        assert raw[info.begin : info.end] == tensors[name].reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("name", ["layer.0", "layer.1", "layer.2"])
def test_rows_and_columns_come_in_the_order_asked_for(
    folder: Path, tensors: dict[str, torch.Tensor], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cnt_pipeline.models.tensors._BLOCK_BYTES", 40)
    index = read_index(folder)
    assert torch.equal(read_rows(index, name, [4, 0, 4], 0), tensors[name][[4, 0, 4]])
    assert torch.equal(read_rows(index, name, [6, 0, 3], 1), tensors[name][:, [6, 0, 3]])
    assert read_rows(index, name, [], 1).shape == (len(tensors[name]), 0)


def test_rows_of_a_vector_are_its_elements(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    assert torch.equal(read_rows(read_index(folder), "bias", [8, 1], 0), tensors["bias"][[8, 1]])


def test_shards_read_as_one_checkpoint(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    parts = [dict(list(tensors.items())[:3]), dict(list(tensors.items())[3:])]
    write_sharded(tmp_path, parts)
    index = read_index(tmp_path)
    assert index.files == ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    for name, tensor in tensors.items():
        assert torch.equal(read_array(index, name), tensor)


@pytest.mark.parametrize(("positions", "axis"), [([7], 1), ([-1], 0), ([5], 0), ([0], 2), ([0], -1)])
def test_positions_outside_the_tensor_are_refused(folder: Path, positions: list[int], axis: int) -> None:
    with pytest.raises(InputError, match=r"layer\.0"):
        read_rows(read_index(folder), "layer.0", positions, axis)


def test_entries_are_counted_row_after_row(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    index = read_index(folder)
    for name, tensor in tensors.items():
        flat = tensor.reshape(-1)
        for begin, end in ((0, len(flat)), (len(flat) // 3, len(flat)), (0, 0)):
            assert torch.equal(read_entries(index, name, begin, end), flat[begin:end])


@pytest.mark.parametrize(("begin", "end"), [(-1, 3), (0, 36), (4, 3)])
def test_entries_outside_the_tensor_are_refused(folder: Path, begin: int, end: int) -> None:
    with pytest.raises(InputError, match=r"layer\.0 has 35 entries"):
        read_entries(read_index(folder), "layer.0", begin, end)


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_diagonal_of_a_file_of_any_name_is_read_alone(tmp_path: Path, dtype: torch.dtype) -> None:
    square = torch.randn(11, 11).to(dtype)
    save_file({"before": torch.randn(3), "square": square, "wide": torch.randn(2, 3)}, tmp_path / "some.safetensors")
    index = read_file_index(tmp_path / "some.safetensors")
    assert torch.equal(read_diagonal(index, "square"), square.diagonal())
    with pytest.raises(InputError, match=r"wide has the shape \[2, 3\]: only a square"):
        read_diagonal(index, "wide")


def test_an_absent_tensor_is_refused_by_name(folder: Path) -> None:
    with pytest.raises(InputError, match="no tensor lm_head"):
        read_array(read_index(folder), "lm_head")


def test_a_file_truncated_at_any_offset_is_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    for size in range(len(raw)):
        path.write_bytes(raw[:size])
        with pytest.raises(InputError, match="truncated"):
            read_index(folder)


def test_bytes_after_the_last_tensor_are_refused(folder: Path) -> None:
    with (folder / "model.safetensors").open("ab") as stream:
        stream.write(b"\0")
    with pytest.raises(InputError, match="too long"):
        read_index(folder)


def test_a_file_cut_after_its_header_was_read_is_refused(folder: Path) -> None:
    index = read_index(folder)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: max(info.begin for info in index.tensors.values()) + 1])
    with pytest.raises(InputError, match="was cut"):
        read_array(index, max(index.tensors, key=lambda name: index[name].begin))


def entry(begin: int, end: int, shape: object = None, dtype: object = "F32") -> dict[str, object]:
    return {
        "dtype": dtype,
        "shape": [(end - begin) // 4] if shape is None else shape,
        "data_offsets": [begin, end],
    }


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b"not json", "no JSON object"),
        (b"[1, 2]", "no JSON object"),
        (b'{"a": ', "Expecting value"),
        (b"{\xff}", "utf-8"),
        (b"{" + b'"a":{' * 200_000, "deep"),
        ({"a": entry(0, 8), "b": entry(4, 12)}, "overlap"),
        ({"a": entry(0, 8), "b": entry(12, 16)}, "hole"),
        ({"a": entry(4, 16)}, "hole"),
        ({"a": entry(0, 16, [5])}, "does not fit"),
        ({"a": entry(0, 16, [2, "2"])}, "shape"),
        ({"a": entry(0, 16, [-4])}, "shape"),
        ({"a": entry(0, 16, [4], "FLOAT")}, "unknown dtype"),
        ({"a": {"dtype": "F32", "shape": [4]}}, "offsets"),
        ({"a": 3}, "no JSON object"),
        (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{}}', "twice"),
    ],
)
def test_a_corrupt_header_is_refused_with_its_reason(tmp_path: Path, header: object, reason: str) -> None:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(16))
    with pytest.raises(InputError, match=reason) as caught:
        read_index(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 100_000_001, 10_000])
def test_a_garbage_header_length_is_refused(folder: Path, length: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + path.read_bytes()[8:])
    with pytest.raises(InputError, match="header"):
        read_index(folder)


def test_a_folder_without_safetensors_says_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        read_index(tmp_path / "absent")
    with pytest.raises(InputError, match=r"holds no model\.safetensors"):
        read_index(tmp_path)
    (tmp_path / "adapter_model.safetensors").touch()
    with pytest.raises(InputError, match="adapter"):
        read_index(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(InputError, match="pickle"):
        read_index(tmp_path)


def edit_index(folder: Path, **changes: str | None) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    for name, file in changes.items():
        index["weight_map"] = {k: v for k, v in index["weight_map"].items() if k != name}
        if file is not None:
            index["weight_map"][name] = file
    path.write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"a": "model-00003-of-00003.safetensors"}, "absent shard"),
        ({"c": "model-00001-of-00002.safetensors"}, "do not hold"),
        ({"a": "model-00002-of-00002.safetensors"}, "places it in"),
        ({"a": None}, "does not name it"),
        ({"a": "../elsewhere.safetensors"}, "not the name of a file"),
        ({"a": ""}, "not the name of a file"),
    ],
)
def test_an_index_that_contradicts_its_shards_is_refused(
    tmp_path: Path, changes: dict[str, str | None], reason: str
) -> None:
    write_sharded(tmp_path, [{"a": torch.ones(2), "b": torch.ones(3)}, {"d": torch.ones(2)}])
    edit_index(tmp_path, **changes)
    with pytest.raises(InputError, match=reason):
        read_index(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 3}}', "\0\xff"])
def test_an_unreadable_index_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(InputError, match="no readable shard index"):
        read_index(tmp_path)


def test_headers_are_read_without_torch() -> None:
    code = "import sys, cnt_pipeline.models.tensors; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
