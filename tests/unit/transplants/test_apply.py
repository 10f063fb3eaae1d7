"""Claims about the streaming write of a transplant; the reference is torch on whole tensors in memory."""

import errno
import hashlib
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file

from cnt_pipeline.errors import CntError, InputError, MismatchError, StoreError
from cnt_pipeline.models.tensors import CheckpointIndex, read_index
from cnt_pipeline.transplants import stream
from cnt_pipeline.transplants.apply import WriteReport, write_transplant
from cnt_pipeline.transplants.arithmetic import from_float32, to_float32
from cnt_pipeline.transplants.plan import TransplantPlan, read_plan
from tests.unit.transplants.checkpoints import (
    MIXED,
    Row,
    file_bytes,
    load,
    make_plan,
    metadata,
    random_tensors,
    reference,
    same_bits,
    write_checkpoint,
)

DTYPES = [torch.bfloat16, torch.float16, torch.float32]
MODES = [True, False]


def write(folder: Path, rows: list[Row], digests: bool = True) -> WriteReport:
    return write_transplant(
        read_index(folder / "target"),
        read_index(folder / "donor"),
        make_plan(rows),
        folder / "out",
        digests=digests,
    )


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "target", random_tensors(1))
    write_checkpoint(tmp_path / "donor", random_tensors(2))
    return tmp_path


@pytest.fixture(params=[1 << 22, 100], ids=["one block", "few rows a block"])
def buffer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    size: int = request.param
    for module in ("blocks", "stream", "donor", "verify"):
        monkeypatch.setattr(f"cnt_pipeline.transplants.{module}.BUFFER", size)
    return size


@pytest.mark.parametrize("digests", MODES)
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_result_is_what_torch_makes_in_memory(
    tmp_path: Path, dtype: torch.dtype, shards: int, digests: bool, buffer: int
) -> None:
    target, donor = random_tensors(1, dtype), random_tensors(2, dtype)
    write_checkpoint(tmp_path / "target", target, shards)
    write_checkpoint(tmp_path / "donor", donor)
    report = write(tmp_path, MIXED, digests)
    assert same_bits(load(tmp_path / "out"), reference(target, donor, MIXED))
    assert report.neurons == len(MIXED)


@pytest.mark.parametrize("digests", MODES)
def test_every_byte_outside_the_plan_is_the_targets(pair: Path, digests: bool, buffer: int) -> None:
    write(pair, MIXED, digests)
    before, after = file_bytes(pair / "target"), file_bytes(pair / "out")
    assert before.keys() == after.keys()
    planned = np.zeros(len(before["model.safetensors"]), bool)
    index = read_index(pair / "target")
    for name, axis, position, _, bias in MIXED:
        for tensor, along in [(name, axis)] + ([(bias, 0)] if bias else []):
            info = index[tensor]
            mask = planned[info.begin : info.end].reshape(*info.shape, info.itemsize)
            mask[(slice(None),) * along + (position,)] = True
    for file in before:
        old, new = (np.frombuffer(side[file], np.uint8) for side in (before, after))
        outside = ~planned if file == "model.safetensors" else np.ones(len(old), bool)
        assert (old[outside] == new[outside]).all(), file
    assert metadata(pair / "out" / "model.safetensors") == {"format": "pt"}


@pytest.mark.parametrize("digests", MODES)
def test_an_empty_plan_writes_the_target(pair: Path, digests: bool) -> None:
    write(pair, [], digests)
    assert file_bytes(pair / "out") == file_bytes(pair / "target")


def test_the_whole_donor_can_be_moved(pair: Path, buffer: int) -> None:
    names = read_index(pair / "target").tensors
    rows = [(name, 0, p, 1.0, None) for name, info in names.items() for p in range(info.shape[0])]
    write(pair, rows)
    assert same_bits(load(pair / "out"), load(pair / "donor"))


def test_digests_are_those_of_the_files_written(pair: Path) -> None:
    report = write(pair, MIXED)
    assert {n: f.sha256 for n, f in report.files.items()} == {
        name: hashlib.sha256(raw).hexdigest() for name, raw in file_bytes(pair / "out").items()
    }
    assert {n: f.size for n, f in report.files.items()} == {n: len(raw) for n, raw in file_bytes(pair / "out").items()}


def test_the_report_counts_what_moved(pair: Path) -> None:
    report = write(pair, MIXED)
    weights = 6 * 16 + 2 * 16 + 3 * 16 + 16 * 16 + 3 * 16
    assert report.parameters == weights + 6 + 3
    assert report.bytes_patched == 2 * report.parameters
    assert report.patch == pair / "out" / "inverse_patch.parquet"


@pytest.mark.parametrize("amplitude", [0.5, 2.0, 4.0, -1.0, 1.7])
@pytest.mark.parametrize("dtype", DTYPES)
def test_an_amplitude_scales_the_difference_in_float32(tmp_path: Path, dtype: torch.dtype, amplitude: float) -> None:
    amplitude = float(np.float32(amplitude))
    target, donor = random_tensors(1, dtype), random_tensors(2, dtype)
    rows = [(t, a, p, amplitude if i % 3 else 1.0, b) for i, (t, a, p, _, b) in enumerate(MIXED)]
    write_checkpoint(tmp_path / "target", target)
    write_checkpoint(tmp_path / "donor", donor)
    write(tmp_path, rows)
    assert same_bits(load(tmp_path / "out"), reference(target, donor, rows))


@pytest.mark.parametrize("amplitude", [1.0, 3.0])
@pytest.mark.parametrize("theirs", DTYPES)
@pytest.mark.parametrize("mine", DTYPES)
def test_a_donor_of_another_float_dtype_is_converted(
    tmp_path: Path, mine: torch.dtype, theirs: torch.dtype, amplitude: float
) -> None:
    target, donor = random_tensors(1, mine), random_tensors(2, theirs)
    rows = [(t, a, p, amplitude, b) for t, a, p, _, b in MIXED]
    write_checkpoint(tmp_path / "target", target)
    write_checkpoint(tmp_path / "donor", donor)
    write(tmp_path, rows)
    assert same_bits(load(tmp_path / "out"), reference(target, donor, rows))


def test_a_plain_copy_keeps_the_very_bits_of_nans_and_zeros(tmp_path: Path) -> None:
    strange = torch.tensor([0x7FC1, 0xFFFF, 0x7F81, 0x8000, 0x0001, 0x7F80], dtype=torch.uint16).view(torch.bfloat16)
    write_checkpoint(tmp_path / "target", {"w": torch.zeros(2, 6, dtype=torch.bfloat16)})
    write_checkpoint(tmp_path / "donor", {"w": strange.repeat(2, 1)})
    write(tmp_path, [("w", 0, 1, 1.0, None), ("w", 0, 0, 2.0, None)])
    made = load(tmp_path / "out")["w"]
    assert torch.equal(made[1].view(torch.int16), strange.view(torch.int16))
    assert torch.equal(made[0].isnan(), strange.isnan())


def test_rounding_to_storage_agrees_with_torch_on_every_16_bit_boundary() -> None:
    high = np.arange(1 << 16, dtype=np.uint32) << 16
    wide = np.concatenate([high | low for low in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)]).astype(np.uint32)
    values = wide.view(np.float32)
    for dtype, name in ((torch.bfloat16, "BF16"), (torch.float16, "F16")):
        expected = torch.from_numpy(values.copy()).to(dtype)
        made = torch.from_numpy(from_float32(values, name)).view(dtype)
        number = ~expected.isnan()
        assert torch.equal(made.isnan(), expected.isnan())
        assert torch.equal(made[number].view(torch.int16), expected[number].view(torch.int16))


@pytest.mark.parametrize(("dtype", "name"), [(torch.bfloat16, "BF16"), (torch.float16, "F16")])
def test_stored_bits_are_widened_exactly(dtype: torch.dtype, name: str) -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    expected = torch.from_numpy(bits.copy()).view(dtype).float()
    made = torch.from_numpy(to_float32(bits, name).copy())
    number = ~expected.isnan()
    assert torch.equal(made.isnan(), ~number)
    assert torch.equal(made[number].view(torch.int32), expected[number].view(torch.int32))


def test_a_tied_target_takes_neurons_from_an_untied_donor(tmp_path: Path) -> None:
    target, donor = random_tensors(1), random_tensors(2)
    write_checkpoint(tmp_path / "target", target)
    write_checkpoint(tmp_path / "donor", donor | {"lm_head.weight": torch.randn(37, 16).bfloat16()}, shards=2)
    write(tmp_path, MIXED)
    assert same_bits(load(tmp_path / "out"), reference(target, donor, MIXED))


def test_weights_in_other_formats_and_the_model_card_are_left_out(pair: Path) -> None:
    for name in (
        "pytorch_model.bin",
        "model.gguf",
        "README.md",
        ".gitattributes",
        "adapter_model.safetensors",
    ):
        (pair / "target" / name).write_text("the target's")
    report = write(pair, MIXED)
    assert set(report.left_out) >= {
        "pytorch_model.bin",
        "model.gguf",
        "README.md",
        "adapter_model.safetensors",
    }
    assert set(file_bytes(pair / "out")) == set(report.files)
    assert "pytorch_model.bin" not in report.files


def test_links_into_a_download_cache_become_plain_files(pair: Path) -> None:
    (pair / "target").rename(pair / "blobs")
    (pair / "target").mkdir()
    for path in (pair / "blobs").iterdir():
        (pair / "target" / path.name).symlink_to(path)
    (pair / "target" / "additional_chat_templates").unlink()
    write(pair, MIXED)
    assert not any(path.is_symlink() for path in (pair / "out").rglob("*"))
    assert (pair / "out" / "tokenizer.json").read_bytes() == (pair / "blobs" / "tokenizer.json").read_bytes()


def test_a_filesystem_without_kernel_copies_gives_the_same(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    write(pair, MIXED, digests=False)
    assert same_bits(load(pair / "out"), reference(load(pair / "target"), load(pair / "donor"), MIXED))


def test_copies_that_stop_short_go_on(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.copy_file_range
    monkeypatch.setattr(stream, "PAGE", 64)
    monkeypatch.setattr(os, "copy_file_range", lambda i, o, count, *at: real(i, o, min(count, 192), *at))
    write(pair, MIXED, digests=False)
    assert same_bits(load(pair / "out"), reference(load(pair / "target"), load(pair / "donor"), MIXED))


def test_large_odd_tensors_survive_page_borders(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = {"a": (301, 4999), "b": (3,), "c": (4001, 307), "d": (1, 1), "e": (77, 4096)}
    target, donor = (
        {name: torch.randn(*shape, generator=generator).bfloat16() for name, shape in shapes.items()} for _ in range(2)
    )
    rows: list[Row] = [("a", 0, p, 1.0, None) for p in range(0, 301, 50)]
    rows += [("c", 1, p, 1.0, None) for p in range(0, 307, 60)]
    rows += [("b", 0, 1, 1.0, None), ("d", 0, 0, 1.0, None), ("e", 0, 76, 1.0, None)]
    write_checkpoint(tmp_path / "target", target)
    write_checkpoint(tmp_path / "donor", donor)
    for digests in MODES:
        write_transplant(
            *(read_index(tmp_path / side) for side in ("target", "donor")),
            make_plan(rows),
            tmp_path / f"out-{digests}",
            digests=digests,
        )
        assert same_bits(load(tmp_path / f"out-{digests}"), reference(target, donor, rows))


def test_a_plan_survives_its_file_and_its_frame(tmp_path: Path) -> None:
    plan = make_plan(MIXED)
    plan.write(tmp_path / "plan.parquet")
    assert read_plan(tmp_path / "plan.parquet").table.equals(plan.table)
    assert TransplantPlan.from_frame(plan.to_frame()).table.equals(plan.table)
    assert TransplantPlan.from_frame(pl.read_parquet(tmp_path / "plan.parquet")).table.equals(plan.table)


def test_the_writer_needs_no_torch() -> None:
    heavy = "{'torch', 'transformers', 'polars'}"
    code = f"import sys, cnt_pipeline.transplants.verify; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


MEMORY_CHILD = """
import sys
from pathlib import Path
from cnt_pipeline.models.tensors import read_index
from cnt_pipeline.transplants.apply import write_transplant
from cnt_pipeline.transplants.patching import apply, revert
from cnt_pipeline.transplants.plan import read_plan
from cnt_pipeline.transplants.verify import verify_transplant

def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))

folder = Path(sys.argv[1])
target, donor = read_index(folder / "target"), read_index(folder / "donor")
plan = read_plan(folder / "plan.parquet")
before = status("VmRSS")
for digests in (False, True):
    beside = {"forward": folder / f"patch-{digests}", "neurons": folder / f"neurons-{digests}"}
    write_transplant(target, donor, plan, folder / f"out-{digests}", digests=digests, **beside)
assert verify_transplant(target, donor, plan, read_index(folder / "out-True")).holds
revert(folder / "out-True", None, folder / "back")
apply(folder / "patch-True", folder / "target", folder / "again")
print(status("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_memory_stays_below_half_of_the_largest_tensor(tmp_path: Path) -> None:
    shapes = {"rows": (5_000, 4_000), "columns": (30_000, 4_000)}
    largest = 2 * 30_000 * 4_000 / 2**20
    for side, seed in (("target", 1), ("donor", 2)):
        torch.manual_seed(seed)
        some = torch.randn(1_000_000).bfloat16()
        (tmp_path / side).mkdir()
        tensors = {
            name: some.repeat(rows * width // len(some)).view(rows, width) for name, (rows, width) in shapes.items()
        }
        save_file(tensors, tmp_path / side / "model.safetensors")
    plan: list[Row] = [("rows", 0, p, 1.5, None) for p in range(0, 5_000, 4)]
    plan += [("columns", 1, p, 1.5, None) for p in range(0, 4_000, 4)]
    make_plan(plan).write(tmp_path / "plan.parquet")
    child = [sys.executable, "-c", MEMORY_CHILD, str(tmp_path)]
    grown = float(subprocess.run(child, check=True, capture_output=True, text=True).stdout)
    assert grown < largest / 2, f"{grown:.0f} MB for a tensor of {largest:.0f} MB"


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([("2.up.weight", 0, 0, 1.0, None)], "no tensor 2.up.weight"),
        ([("0.up.weight", 0, 50, 1.0, None)], "position 50 of 0.up.weight"),
        ([("0.up.weight", 0, -1, 1.0, None)], "position -1 of 0.up.weight"),
        ([("0.up.weight", 1, 16, 1.0, None)], "position 16 of 0.up.weight"),
        ([("0.qkv.bias", 1, 0, 1.0, None)], "its axis 1"),
        ([("0.up.weight", 2, 0, 1.0, None)], "axis other than 0 and 1"),
        (
            [("0.up.weight", 0, 3, 1.0, None), ("0.up.weight", 0, 3, 1.0, None)],
            "position 3 of 0.up.weight twice",
        ),
        ([("0.up.weight", 0, 3, 1.0, None), ("0.up.weight", 1, 3, 1.0, None)], "two axes"),
        ([("0.up.weight", 0, 3, float("nan"), None)], "not finite"),
        ([("0.up.weight", 0, 10, 1.0, "0.odd.bias")], "position 10 of 0.odd.bias"),
        (
            [("0.up.weight", 0, 3, 1.0, "0.qkv.bias"), ("0.qkv.bias", 0, 3, 1.0, None)],
            "as a tensor and as a bias",
        ),
    ],
)
def test_a_plan_that_does_not_fit_is_refused_and_leaves_nothing(pair: Path, rows: list[Row], reason: str) -> None:
    with pytest.raises(InputError, match=reason) as caught:
        write(pair, rows)
    assert "\n" not in str(caught.value)
    assert not (pair / "out").exists()


def test_a_donor_of_another_shape_is_refused_with_both_shapes(pair: Path) -> None:
    tensors = load_file(pair / "donor" / "model.safetensors")
    save_file(tensors | {"1.up.weight": torch.zeros(51, 16).bfloat16()}, pair / "donor" / "model.safetensors")
    with pytest.raises(MismatchError, match=r"\[50, 16\].*\[51, 16\]"):
        write(pair, MIXED)
    assert not (pair / "out").exists()


def test_a_tensor_of_integers_is_refused(pair: Path) -> None:
    tensors = load_file(pair / "target" / "model.safetensors")
    save_file(tensors | {"1.up.weight": torch.zeros(50, 16).to(torch.int8)}, pair / "target" / "model.safetensors")
    with pytest.raises(InputError, match="stored as I8"):
        write(pair, MIXED)


def test_an_amplitude_that_overflows_the_dtype_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "target", {"w": torch.zeros(2, 2, dtype=torch.float16)})
    write_checkpoint(tmp_path / "donor", {"w": torch.full((2, 2), 60000.0, dtype=torch.float16)})
    with pytest.raises(InputError, match="weight of w beyond the largest F16"):
        write(tmp_path, [("w", 0, 0, 2.0, None)])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("digests", MODES)
@pytest.mark.parametrize("cut", ["target", "donor"])
def test_a_model_cut_while_it_is_read_is_refused_and_leaves_nothing(pair: Path, cut: str, digests: bool) -> None:
    indices: list[CheckpointIndex] = [read_index(pair / side) for side in ("target", "donor")]
    path = pair / cut / "model.safetensors"
    os.truncate(path, indices[0]["0.qkv.weight"].begin + 20)
    with pytest.raises(InputError, match="was cut"):
        write_transplant(*indices, make_plan(MIXED), pair / "out", digests=digests)
    assert not (pair / "out").exists()


@pytest.mark.parametrize("digests", MODES)
def test_a_full_disk_is_one_sentence_and_leaves_nothing(pair: Path, digests: bool) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    soft = (pair / "target" / "tokenizer.json").stat().st_size + 100
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    try:
        with pytest.raises(StoreError, match=r"cannot be written .*: free space, then run again"):
            write(pair, MIXED, digests)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not (pair / "out").exists()


def test_a_disk_too_small_is_refused_before_anything_is_written(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("usage", (), {"free": 100})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(StoreError, match="left: free space"):
        write(pair, MIXED)
    assert not (pair / "out").exists()


def test_a_file_that_is_there_already_is_never_overwritten(pair: Path) -> None:
    (pair / "out").mkdir()
    (pair / "out" / "tokenizer.json").write_text("mine")
    with pytest.raises(StoreError, match=r"tokenizer\.json exists already"):
        write(pair, MIXED)
    assert file_bytes(pair / "out", leave=()) == {"tokenizer.json": b"mine"}


def test_an_interrupt_leaves_nothing(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cnt_pipeline.transplants.donor.DonorNeurons.transplanted", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(pair, MIXED)
    assert not (pair / "out").exists()


@pytest.mark.parametrize("raw", [b"", b"PAR1 but not really PAR1", bytes(100)])
def test_a_corrupt_plan_file_is_one_sentence(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "plan.parquet").write_bytes(raw)
    with pytest.raises(InputError, match="no readable transplant plan"):
        read_plan(tmp_path / "plan.parquet")
    with pytest.raises(InputError, match="no readable transplant plan"):
        read_plan(tmp_path / "absent.parquet")


def test_a_plan_that_lacks_a_column_or_a_value_is_refused() -> None:
    table = make_plan(MIXED).table
    with pytest.raises(InputError, match="lacks the column amplitude"):
        TransplantPlan(table.drop_columns(["amplitude"]))
    holed = pl.from_arrow(table)
    assert isinstance(holed, pl.DataFrame)
    with pytest.raises(CntError, match="malformed"):
        TransplantPlan.from_frame(holed.with_columns(position=pl.lit(None, pl.Int64)))
