"""A written model is the target's checkpoint, byte for byte, with what the recipes cook, rounded once."""

import gc
import math
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cnt_pipeline.errors import InputError, MismatchError, StoreError
from cnt_pipeline.models.load import load_model
from cnt_pipeline.models.tensors import read_index
from cnt_pipeline.transplants.edit.source import Edits, Source
from cnt_pipeline.transplants.edit.write import Edited, verify_unchanged, write_edited
from tests.unit.transplants.checkpoints import file_bytes, load, metadata, random_tensors, same_bits, write_checkpoint

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def recipes(folder: Path, *names: str, by: float = 0.03) -> dict[str, Callable[[], Tensor]]:
    """Random numbers added to some tensors of a checkpoint."""
    stored = load(folder)

    def cook(name: str) -> Callable[[], Tensor]:
        drawn = torch.Generator().manual_seed(len(name))
        return lambda: stored[name].float() + by * torch.randn(stored[name].shape, generator=drawn)

    return {name: cook(name) for name in names}


def write(folder: Path, edits: Edits, out: str = "out") -> Edited:
    return write_edited(read_index(folder / "target"), edits, folder / out)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_edited_tensors_are_rounded_once_and_all_else_is_the_targets_bytes(
    tmp_path: Path, dtype: torch.dtype, shards: int
) -> None:
    stored = random_tensors(1, dtype) | {"scale": torch.tensor(1.5).to(dtype), "empty": torch.zeros(0, 4).to(dtype)}
    write_checkpoint(tmp_path / "target", stored, shards)
    names = ["1.conv.weight", "embed.weight", "0.odd.bias", "scale", "norm.weight", "empty"]
    new = {name: recipe() for name, recipe in recipes(tmp_path / "target", *names).items()}
    written = write(tmp_path, {name: lambda value=value: value for name, value in new.items()})
    assert same_bits(load(tmp_path / "out"), stored | {name: value.to(dtype) for name, value in new.items()})
    mine, made = (file_bytes(tmp_path / side, leave=()) for side in ("target", "out"))
    assert mine.keys() == made.keys()
    index = read_index(tmp_path / "target")
    for file, data in mine.items():
        kept = np.ones(len(data), bool)
        for name in names:
            if index[name].file == file:
                kept[index[name].begin : index[name].end] = False
        ours, theirs = (np.frombuffer(content, np.uint8) for content in (data, made[file]))
        assert np.array_equal(ours[kept], theirs[kept])
    assert all(metadata(path) == {"format": "pt"} for path in (tmp_path / "out").glob("*.safetensors"))
    assert set(written.tensors) == set(names)


def test_a_tensor_larger_than_a_block_is_written_whole(tmp_path: Path) -> None:
    shapes = {"a": (3001, 777), "b": (1_500_000,), "c": (2, 1_100_000), "d": (5, 3)}
    stored = {name: torch.randn(shape).bfloat16() for name, shape in shapes.items()}
    write_checkpoint(tmp_path / "target", stored)
    edits = recipes(tmp_path / "target", *shapes)
    expected = {name: recipe().bfloat16() for name, recipe in recipes(tmp_path / "target", *shapes).items()}
    written = write(tmp_path, edits)
    assert same_bits(load(tmp_path / "out"), expected)
    for name, change in written.tensors.items():
        assert change.changed == int((expected[name] != stored[name]).sum())
        assert change.total == stored[name].numel()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_report_counts_changed_bits_and_measures_what_is_stored(tmp_path: Path, dtype: torch.dtype) -> None:
    stored = random_tensors(1, dtype)
    write_checkpoint(tmp_path / "target", stored)
    part = stored["0.up.weight"].float().clone()
    part[7:9, :5] += 0.5
    edits = {
        "0.up.weight": lambda: part,
        # Less than half a step of either 16-bit format.
        "0.o.weight": lambda: stored["0.o.weight"].float() * (1 + 2**-12),
        "1.qkv.weight": lambda: stored["1.qkv.weight"].float(),
        "1.qkv.bias": lambda: 2 * stored["1.qkv.bias"].float(),
    }
    written = write(tmp_path, edits)
    assert written.folder == tmp_path / "out"
    total_changed = 0
    for name in edits:
        old, new = (tensors[name].double().flatten().tolist() for tensors in (stored, load(tmp_path / "out")))
        change = written.tensors[name]
        changed = sum(a != b for a, b in zip(old, new, strict=True))
        size = math.sqrt(sum((b - a) ** 2 for a, b in zip(old, new, strict=True)) / sum(a * a for a in old))
        assert (change.changed, change.total) == (changed, len(old))
        assert change.relative == pytest.approx(size, rel=1e-12)
        total_changed += changed
    assert written.parameters == total_changed
    assert written.tensors["0.up.weight"].changed == 10
    assert written.tensors["1.qkv.bias"].relative == pytest.approx(1.0)
    touched = {"0.up", "1.qkv"} | ({"0.o"} if dtype == torch.float32 else set())
    assert len(written.modules) == len(touched) and set(written.modules) == touched


def test_a_changed_tensor_of_zeros_is_infinitely_larger(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "target", {"a.bias": torch.zeros(4), "b.bias": torch.zeros(4)})
    written = write(tmp_path, {"a.bias": lambda: torch.ones(4), "b.bias": lambda: torch.zeros(4)})
    assert written.tensors["a.bias"].relative == math.inf
    assert written.tensors["a.bias"].difference == 2
    assert written.tensors["b.bias"].relative == 0


def test_halves_round_to_even(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "target", {"w": torch.zeros(2, 3, dtype=torch.bfloat16)})
    step = 2.0**-7
    values = torch.tensor([[1 + step / 2, 1 + 3 * step / 2, 1 + step / 2 + 2**-23], [-1 - step / 2, 0.0, -0.0]])
    write(tmp_path, {"w": lambda: values})
    expected = torch.tensor([[1, 1 + 2 * step, 1 + step], [-1, 0.0, -0.0]]).bfloat16()
    assert same_bits(load(tmp_path / "out"), {"w": expected})


def test_an_edit_of_every_matrix_loads_as_the_edited_model(source: Source, tmp_path: Path) -> None:
    def cook(linear: object) -> Callable[[], Tensor]:
        return lambda: source.stored(linear, source.weight("donor", linear))  # type: ignore[arg-type]

    edits = {linear.tensor: cook(linear) for linear in source.linears}
    told: list[tuple[int, int]] = []
    target = source.models["target"]
    written = write_edited(target, edits, tmp_path / "out", lambda _, done, total: told.append((done, total)))
    assert told == [(done, len(edits)) for done in range(len(edits) + 1)]
    model, donor = (load_model(folder) for folder in (tmp_path / "out", source.models["donor"].folder))
    own = load_model(target.folder).state_dict()
    edited = {f"{linear.module}.weight" for linear in source.linears}
    for name, values in model.state_dict().items():
        assert torch.equal(values, donor.state_dict()[name] if name in edited else own[name]), name
    assert written.modules == tuple(name.rpartition(".")[0] for name in written.tensors)
    assert verify_unchanged(target, read_index(tmp_path / "out"), edits).holds


def test_a_recipe_need_not_lie_in_rows(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "target", random_tensors(1))
    new = torch.randn(16, 50, requires_grad=True)
    write(tmp_path, {"0.up.weight": lambda: new.T})
    assert torch.equal(load(tmp_path / "out")["0.up.weight"], new.detach().T.bfloat16())


@pytest.mark.parametrize("shards", [1, 2])
def test_recipes_are_called_once_in_file_order_and_never_two_are_held(tmp_path: Path, shards: int) -> None:
    stored = {f"{name}.weight": torch.randn(900, 1000) for name in "cabd"} | {"small": torch.randn(3)}
    write_checkpoint(tmp_path / "target", stored, shards)
    called: list[str] = []
    alive: dict[str, weakref.ref[object]] = {}

    def cook(name: str) -> Callable[[], Tensor]:
        def recipe() -> Tensor:
            gc.collect()
            assert [other for other, ref in alive.items() if ref() is not None] == []
            called.append(name)
            # The array is the tensor's memory: it lives as long as any view of the tensor.
            memory = stored[name].numpy() + 1
            alive[name] = weakref.ref(memory)
            return torch.from_numpy(memory)

        return recipe

    write(tmp_path, {name: cook(name) for name in sorted(stored)})
    index = read_index(tmp_path / "target")
    assert called == sorted(stored, key=lambda name: (index[name].file, index[name].begin))


MEMORY_CHILD = """
import sys
from pathlib import Path
from cnt_pipeline.models.tensors import read_array, read_index
from cnt_pipeline.transplants.edit.write import verify_unchanged, write_edited

def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))

folder = Path(sys.argv[1])
target = read_index(folder / "target")
cook = lambda name: lambda: read_array(target, name).float().mul_(1.01)
edits = {name: cook(name) for name in ("a", "b")}
before = status("VmRSS")
write_edited(target, edits, folder / "out")
assert verify_unchanged(target, read_index(folder / "out"), edits).holds
print(status("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_is_what_one_recipe_takes_and_little_more(tmp_path: Path, dtype: torch.dtype) -> None:
    rows, width = 10_000, 4_000
    some = torch.randn(rows // 10, width).to(dtype).repeat(10, 1)
    (tmp_path / "target").mkdir()
    save_file({"a": some, "b": some + 1, "c": some[:10].clone()}, tmp_path / "target" / "model.safetensors")
    del some
    child = [sys.executable, "-c", MEMORY_CHILD, str(tmp_path)]
    grown = float(subprocess.run(child, check=True, capture_output=True, text=True).stdout)
    largest = 4 * rows * width / 2**20
    recipe = largest * (1 if dtype == torch.float32 else 1.5)
    assert grown < recipe + 100 < 2 * largest + 200, f"{grown:.0f} MB where the recipe takes {recipe:.0f} MB"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A folder whose subfolder `target` holds a bfloat16 checkpoint."""
    write_checkpoint(tmp_path / "target", random_tensors(1))
    return tmp_path


@pytest.mark.parametrize(
    ("edits", "error", "reason"),
    [
        ({"2.up.weight": lambda: torch.zeros(50, 16)}, InputError, r"holds no tensor 2\.up\.weight: check"),
        ({"0.up.weight": lambda: torch.zeros(16, 50)}, MismatchError, r"0\.up\.weight the shape \[16, 50\].*\[50, 16"),
        ({"0.up.weight": lambda: torch.zeros(800)}, MismatchError, r"the shape \[800\]"),
        ({"0.up.weight": lambda: torch.zeros(50, 1)}, MismatchError, r"the shape \[50, 1\]"),
        ({"0.up.weight": lambda: torch.full((50, 16), math.nan)}, InputError, r"gives 0\.up\.weight a value that is n"),
        ({"0.up.weight": lambda: torch.full((50, 16), -math.inf)}, InputError, "not finite.*lower the method's stren"),
        ({"0.up.weight": lambda: torch.full((50, 16), 3.4e38)}, InputError, r"0\.up\.weight beyond the largest BF16"),
        ({"0.up.weight": lambda: torch.zeros(50, 16).bfloat16()}, TypeError, r"torch\.bfloat16: cook in float32"),
    ],
)
def test_an_edit_that_cannot_be_stored_is_refused_and_leaves_nothing(
    target: Path, edits: Edits, error: type[Exception], reason: str
) -> None:
    good = recipes(target / "target", "0.qkv.weight", "1.up.weight")
    with pytest.raises(error, match=reason) as caught:
        write(target, {**good, **edits})
    assert "\n" not in str(caught.value)
    assert not (target / "out").exists()


def test_float16_overflows_and_float32_does_not(tmp_path: Path) -> None:
    for dtype in (torch.float16, torch.float32):
        write_checkpoint(tmp_path / str(dtype) / "target", {"w": torch.zeros(2, 2, dtype=dtype)})
    write(tmp_path / "torch.float32", {"w": lambda: torch.full((2, 2), 65520.0)})
    with pytest.raises(InputError, match=r"w beyond the largest F16 number: .* save the target as bfloat16"):
        write(tmp_path / "torch.float16", {"w": lambda: torch.full((2, 2), 65520.0)})
    write(tmp_path / "torch.float16", {"w": lambda: torch.full((2, 2), 65519.0)})
    assert float(load(tmp_path / "torch.float16" / "out")["w"].max()) == 65504


@pytest.mark.parametrize("dtype", [torch.int8, torch.float64])
def test_a_tensor_of_another_dtype_is_refused_before_anything_is_cooked(tmp_path: Path, dtype: torch.dtype) -> None:
    write_checkpoint(tmp_path / "target", {"a": torch.zeros(2), "w": torch.zeros(2, 2, dtype=dtype)})
    called = []
    with pytest.raises(InputError, match=r"w is stored as [IF](8|64), which no edit writes: save the target as one of"):
        write(tmp_path, {"a": lambda: called.append("a"), "w": lambda: torch.zeros(2, 2)})  # type: ignore[func-returns-value, return-value]
    assert not called and not (tmp_path / "out").exists()


def test_a_recipe_that_fails_is_not_called_again_and_leaves_nothing(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "target", {"w": torch.zeros(5000, 1000), "x": torch.zeros(3)})
    called = []

    def fail() -> Tensor:
        called.append(1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write(tmp_path, {"w": fail, "x": fail})
    assert len(called) == 1
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_there_already_is_never_overwritten(target: Path) -> None:
    with pytest.raises(StoreError, match="exists already"):
        write(target, recipes(target / "target", "0.up.weight"), "target")
    assert same_bits(load(target / "target"), random_tensors(1))


def test_no_edit_gives_the_target(target: Path) -> None:
    written = write(target, {})
    assert file_bytes(target / "out") == file_bytes(target / "target")
    assert (written.parameters, written.modules, dict(written.tensors)) == (0, (), {})


def test_weights_in_other_formats_and_the_model_card_are_left_out(target: Path) -> None:
    for name in ("pytorch_model.bin", "README.md"):
        (target / "target" / name).write_text("the target's")
    written = write(target, recipes(target / "target", "0.up.weight"))
    assert written.left_out == ("README.md", "pytorch_model.bin")
    assert not (target / "out" / "README.md").exists()


@pytest.mark.parametrize("shards", [1, 3])
def test_only_edited_tensors_may_differ(tmp_path: Path, shards: int) -> None:
    write_checkpoint(tmp_path / "target", random_tensors(1), shards)
    names = ["0.up.weight", "1.qkv.bias"]
    write(tmp_path, recipes(tmp_path / "target", *names))
    mine, made = read_index(tmp_path / "target"), read_index(tmp_path / "out")
    proof = verify_unchanged(mine, made, names)
    assert proof.holds and proof.offence is None
    skipped = sum(mine[name].size for name in names)
    assert proof.bytes_compared == sum(len(data) for data in file_bytes(tmp_path / "target").values()) - skipped
    for name in names:
        rest = [other for other in names if other != name]
        found = verify_unchanged(mine, made, rest)
        assert not found.holds and f"{name}: row" in str(found.offence)
    with pytest.raises(InputError, match="holds no tensor nowhere"):
        verify_unchanged(mine, made, ["nowhere"])


def test_every_single_byte_outside_the_edited_tensors_is_compared(target: Path) -> None:
    write(target, recipes(target / "target", "0.up.weight"))
    mine, made = read_index(target / "target"), read_index(target / "out")
    path = target / "out" / "model.safetensors"
    whole = path.read_bytes()
    edited = mine["0.up.weight"]
    places = [0, 20, *(info.begin for info in mine.tensors.values()), *(info.end - 1 for info in mine.tensors.values())]
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert verify_unchanged(mine, made, ["0.up.weight"]).holds == (edited.begin <= place < edited.end), place
    path.write_bytes(whole + b"\0")
    assert "bytes, the target's has" in str(verify_unchanged(mine, made, ["0.up.weight"]).offence)


def test_other_files_are_part_of_the_proof(target: Path) -> None:
    write(target, {})
    mine, made = read_index(target / "target"), read_index(target / "out")
    (target / "out" / "README.md").write_text("a card of its own")
    assert verify_unchanged(mine, made, ()).holds
    (target / "out" / "extra.json").write_text("{}")
    assert verify_unchanged(mine, made, ()).offence == "extra.json: not a file of the target"
    (target / "out" / "extra.json").unlink()
    (target / "out" / "config.json").write_text('{"model_type": "llamb"}')
    assert "config.json" in str(verify_unchanged(mine, made, ()).offence)
    (target / "out" / "config.json").unlink()
    assert verify_unchanged(mine, made, ()).offence == "config.json: absent from the checkpoint"


def test_a_target_that_holds_damaged_numbers_elsewhere_is_passed_on(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "target", {"a": torch.full((3,), math.nan), "b": torch.zeros(3)})
    write(tmp_path, {"b": lambda: torch.ones(3)})
    assert load_file(tmp_path / "out" / "model.safetensors")["a"].isnan().all()
