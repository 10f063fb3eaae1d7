"""Small checkpoints, plans over them, and the reference: a transplant made by torch in memory."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow as pa
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cnt_pipeline.transplants.apply import OWN_FILES
from cnt_pipeline.transplants.plan import PLAN_SCHEMA, TransplantPlan

Tensors = dict[str, torch.Tensor]
Row = tuple[str, int, int, float, str | None]
"""Tensor, axis, position, amplitude, bias."""


def write_checkpoint(folder: Path, tensors: Tensors, shards: int = 1) -> Path:
    """A folder with config, tokenizer, a template in a subfolder, and `tensors` in one file or more."""
    (folder / "additional_chat_templates").mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "tokenizer.json").write_bytes(bytes(range(256)) * 40)
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("{{ messages }}")
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    weight_map = {}
    for number in range(shards):
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = dict(list(tensors.items())[number::shards])
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(part, file))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def random_tensors(seed: int, dtype: torch.dtype = torch.bfloat16) -> Tensors:
    """Two layers of what the architectures have: Linear and Conv1D, fused, with biases and norms."""
    generator = torch.Generator().manual_seed(seed)

    def make(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    tensors = {"embed.weight": make(37, 16), "norm.weight": make(16)}
    for layer in range(2):
        tensors |= {
            f"{layer}.qkv.weight": make(3 * 16, 16),
            f"{layer}.qkv.bias": make(3 * 16),
            f"{layer}.o.weight": make(16, 16),
            f"{layer}.up.weight": make(50, 16),
            f"{layer}.down.weight": make(16, 50),
            f"{layer}.conv.weight": make(16, 48),
            f"{layer}.conv.bias": make(48),
            f"{layer}.odd.bias": make(7),
        }
    return tensors


MIXED: list[Row] = [
    *(("0.qkv.weight", 0, p, 1.0, "0.qkv.bias") for p in (40, 3, 4, 5, 47, 0)),
    *(("1.up.weight", 0, p, 1.0, None) for p in (49, 7)),
    *(("0.down.weight", 1, p, 1.0, None) for p in (31, 2, 49)),
    *(("1.o.weight", 1, p, 1.0, None) for p in range(16)),
    *(("1.conv.weight", 1, p, 1.0, "1.conv.bias") for p in (0, 47, 20)),
]
"""Rows, columns, biases, fused positions that scatter, Conv1D rows, a whole tensor; in no order."""


def make_plan(rows: Iterable[Row]) -> TransplantPlan:
    columns: dict[str, list[object]] = {name: [] for name in PLAN_SCHEMA.names}
    for rank, (tensor, axis, position, amplitude, bias) in enumerate(rows):
        error = rank / 8 if rank % 2 else None
        values = (tensor, axis, position, 0, "q", position, 1.0 - rank, rank, error, amplitude, bias)
        for name, value in zip(PLAN_SCHEMA.names, values, strict=True):
            columns[name].append(value)
    return TransplantPlan(pa.table(columns, PLAN_SCHEMA))


def reference(target: Tensors, donor: Tensors, rows: Iterable[Row]) -> Tensors:
    """The transplant as torch does it on whole tensors in memory."""
    result = {name: tensor.clone() for name, tensor in target.items()}
    for name, axis, position, amplitude, bias in rows:
        for tensor, along in [(name, axis)] + ([(bias, 0)] if bias else []):
            mine, theirs = target[tensor].select(along, position), donor[tensor].select(along, position)
            value = theirs.to(mine.dtype)
            if amplitude != 1:
                value = (mine.float() + amplitude * (theirs.float() - mine.float())).to(mine.dtype)
            result[tensor].select(along, position).copy_(value)
    return result


def load(folder: Path) -> Tensors:
    """Every tensor of a checkpoint folder, by the safetensors library."""
    tensors: Tensors = {}
    for file in sorted(folder.glob("model*.safetensors")):
        tensors |= load_file(file)
    return tensors


def same_bits(left: Mapping[str, torch.Tensor], right: Mapping[str, torch.Tensor]) -> bool:
    def bits(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.view(torch.int16 if tensor.element_size() == 2 else torch.int32)

    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype and torch.equal(bits(left[name]), bits(right[name])) for name in left
    )


def file_bytes(folder: Path, leave: Iterable[str] = OWN_FILES) -> dict[str, bytes]:
    """Every file of a folder but those to `leave`, by name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in leave
    }


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as opened:
        return dict(opened.metadata())
