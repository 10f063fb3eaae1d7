"""Claims about the proof that a transplant is the target, the planned neurons, and nothing else."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cnt_pipeline.errors import InputError
from cnt_pipeline.models.tensors import CheckpointIndex, read_index
from cnt_pipeline.transplants.apply import write_transplant
from cnt_pipeline.transplants.verify import Verification, verify_transplant
from tests.unit.transplants.checkpoints import (
    MIXED,
    Row,
    file_bytes,
    make_plan,
    random_tensors,
    write_checkpoint,
)


def verify(folder: Path, rows: list[Row] = MIXED, made: CheckpointIndex | None = None) -> Verification:
    target, donor = read_index(folder / "target"), read_index(folder / "donor")
    return verify_transplant(target, donor, make_plan(rows), made or read_index(folder / "out"))


def transplant(folder: Path, rows: list[Row] = MIXED, dtype: torch.dtype = torch.bfloat16, shards: int = 1) -> Path:
    write_checkpoint(folder / "target", random_tensors(1, dtype), shards)
    write_checkpoint(folder / "donor", random_tensors(2, dtype))
    target, donor = read_index(folder / "target"), read_index(folder / "donor")
    write_transplant(target, donor, make_plan(rows), folder / "out")
    return folder


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return transplant(tmp_path_factory.mktemp("verified"))


@pytest.fixture
def made(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "made"))


@pytest.fixture(params=[1 << 22, 100], ids=["one block", "few rows a block"])
def buffer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("blocks", "stream", "donor", "verify"):
        monkeypatch.setattr(f"cnt_pipeline.transplants.{module}.BUFFER", request.param)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("amplitude", [1.0, 2.5])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_true_transplant_holds(
    tmp_path: Path, dtype: torch.dtype, amplitude: float, shards: int, buffer: None
) -> None:
    rows = [(t, a, p, amplitude, b) for t, a, p, _, b in MIXED]
    result = verify(transplant(tmp_path, rows, dtype, shards), rows)
    assert result.holds
    assert result.offence is None
    assert result.bytes_compared == sum(len(raw) for raw in file_bytes(tmp_path / "out").values())
    assert result.neurons == len(MIXED)
    assert 0.9 * result.parameters < result.parameters_changed <= result.parameters


def test_one_flipped_bit_in_any_byte_of_any_file_is_caught(made: Path) -> None:
    """At places all over the headers, the planned tensors and the rest."""
    target = read_index(made / "target")
    checkpoint = read_index(made / "out")
    planned = {name for tensor, *_, bias in MIXED for name in (tensor, bias) if name}
    start = min(info.begin for info in target.tensors.values())
    offsets = {*range(start)}
    for name, info in target.tensors.items():
        offsets |= {*range(info.begin, info.end, 1 if name in planned else 6)}
    names = {"model.safetensors": sorted(offsets)[::5], "config.json": [0, 5], "tokenizer.json": [9999]}
    names["additional_chat_templates/tool_use.jinja"] = [3]
    for name, places in names.items():
        path = made / "out" / name
        with path.open("r+b", buffering=0) as stream:
            for offset in places:
                stream.seek(offset)
                byte = stream.read(1)[0]
                stream.seek(offset)
                stream.write(bytes([byte ^ 1]))
                result = verify(made, made=checkpoint)
                assert not result.holds, (name, offset)
                assert result.offence is not None
                assert result.offence.startswith(name.rpartition("/")[2] if name == "model.safetensors" else name)
                stream.seek(offset)
                stream.write(bytes([byte]))
    assert verify(made).holds


@pytest.mark.parametrize(
    ("tensor", "row", "column", "message"),
    [
        ("embed.weight", 36, 3, "embed.weight: row 36 differs from the target's but is not planned"),
        ("0.qkv.weight", 4, 0, "0.qkv.weight: row 4 is planned but does not hold the donor's neuron"),
        ("0.qkv.weight", 6, 15, "0.qkv.weight: row 6 differs from the target's but is not planned"),
        ("0.qkv.bias", 47, 0, "0.qkv.bias: row 47 is planned but does not hold the donor's neuron"),
        (
            "0.down.weight",
            9,
            31,
            "0.down.weight: row 9, column 31 is planned but does not hold the donor's neuron",
        ),
        (
            "0.down.weight",
            9,
            30,
            "0.down.weight: row 9, column 30 differs from the target's but is not planned",
        ),
    ],
)
def test_the_first_deviation_is_named_by_tensor_and_place(
    made: Path, tensor: str, row: int, column: int, message: str, buffer: None
) -> None:
    info = read_index(made / "out")[tensor]
    with (made / "out" / "model.safetensors").open("r+b") as stream:
        stream.seek(info.begin + (row * (info.shape[1] if len(info.shape) == 2 else 1) + column) * info.itemsize)
        stream.write(b"\x12\x34")
    assert verify(made).offence == f"model.safetensors: {message}"


def test_a_transplant_by_another_plan_is_caught(made: Path) -> None:
    assert not verify(made, MIXED[1:]).holds
    assert not verify(made, [*MIXED, ("1.up.weight", 0, 8, 1.0, None)]).holds
    assert not verify(made, [(t, a, p, 1.5, b) for t, a, p, _, b in MIXED]).holds


def test_the_untouched_target_is_no_transplant(made: Path) -> None:
    assert "planned but does not hold" in str(verify(made, made=read_index(made / "target")).offence)


def test_a_checkpoint_saved_anew_is_caught_by_its_header(made: Path) -> None:
    path = made / "out" / "model.safetensors"
    save_file(load_file(path), path, metadata={"format": "tp"})
    assert "model.safetensors: header: byte" in str(verify(made).offence)


def test_absent_cut_and_added_files_are_caught(made: Path) -> None:
    (made / "out" / "tokenizer.json").rename(made / "tokenizer.json")
    assert verify(made).offence == "tokenizer.json: absent from the checkpoint"
    (made / "out" / "tokenizer.json").write_bytes(b"short")
    assert verify(made).offence == "tokenizer.json: 5 bytes, the target's has 10240"
    (made / "tokenizer.json").rename(made / "out" / "tokenizer.json")
    (made / "out" / "modeling_custom.py").write_text("print('hello')")
    assert verify(made).offence == "modeling_custom.py: not a file of the target"
    (made / "out" / "modeling_custom.py").unlink()
    (made / "out" / "README.md").write_text("the model card of the transplant")
    assert verify(made).holds


def test_a_plan_that_does_not_fit_the_models_is_the_users_to_mend(made: Path) -> None:
    with pytest.raises(InputError, match=r"no tensor 7\.up\.weight"):
        verify(made, [("7.up.weight", 0, 0, 1.0, None)])
