"""Where every tensor of a safetensors checkpoint lies, read from headers alone; reading a tensor or its rows.

Format: 8 bytes little-endian header length, a JSON header `{name: {dtype, shape, data_offsets}}`, then the
data. A checkpoint is one `model.safetensors` or the shards that `model.safetensors.index.json` names. Torch
is imported only by the functions that return tensors.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import numpy.typing as npt

from cnt_pipeline.errors import InputError
from cnt_pipeline.models.header import TensorInfo, parse_header

if TYPE_CHECKING:
    import torch

__all__ = [
    "CheckpointIndex",
    "TensorInfo",
    "open_weights",
    "read_array",
    "read_diagonal",
    "read_entries",
    "read_file_index",
    "read_index",
    "read_into",
    "read_rows",
]

SINGLE_FILE = "model.safetensors"
SHARD_INDEX = "model.safetensors.index.json"
TORCH_NAMES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "I16": "int16", "U16": "uint16", "F16": "float16", "BF16": "bfloat16", "I32": "int32", "U32": "uint32",
    "F32": "float32", "I64": "int64", "U64": "uint64", "F64": "float64", "C64": "complex64",
}  # fmt: skip

_BLOCK_BYTES = 32 << 20


@dataclass(frozen=True)
class CheckpointIndex:
    """All tensors of a checkpoint folder by name, and its safetensors files in reading order."""

    folder: Path
    tensors: Mapping[str, TensorInfo]
    files: tuple[str, ...]

    def __getitem__(self, name: str) -> TensorInfo:
        try:
            return self.tensors[name]
        except KeyError:
            raise InputError(
                f"{self.folder} holds no tensor {name}: check that the model has the expected architecture"
            ) from None

    def path(self, file: str) -> Path:
        """Where one of `files` lies."""
        return self.folder / file


def read_index(folder: Path) -> CheckpointIndex:
    """Read the headers of every safetensors file of a checkpoint folder; no weight is read.

    Raises `InputError`, in one sentence, for a missing folder, a checkpoint without safetensors, a truncated
    or corrupt file, offsets that overlap or leave holes, sizes that contradict shapes, and a shard index that
    names absent shards or tensors.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: give the folder that holds {SINGLE_FILE}")
    if (folder / SINGLE_FILE).is_file():
        return CheckpointIndex(folder, _read_header(folder, SINGLE_FILE), (SINGLE_FILE,))
    if (folder / SHARD_INDEX).is_file():
        return _read_shards(folder)
    names = sorted(path.name for path in folder.iterdir())
    pickles = [name for name in names if name.endswith((".bin", ".pt", ".pth", ".ckpt"))]
    if pickles:
        raise InputError(
            f"{folder} holds only pickle weights ({pickles[0]}), which can run code when loaded: convert "
            "them with save_pretrained(..., safe_serialization=True) and name the converted folder"
        )
    others = [name for name in names if name.endswith(".safetensors")]
    if others:
        raise InputError(
            f"{folder} holds {others[0]} but neither {SINGLE_FILE} nor {SHARD_INDEX}: rename a single file, "
            "restore the index of shards, or merge an adapter into its base model first"
        )
    raise InputError(f"{folder} holds no {SINGLE_FILE}: give a folder written by save_pretrained")


def read_file_index(path: Path) -> CheckpointIndex:
    """The index of a single safetensors file, whatever its name; raises `InputError` as `read_index` does."""
    return CheckpointIndex(path.parent, _read_header(path.parent, path.name), (path.name,))


def _read_shards(folder: Path) -> CheckpointIndex:
    """The shards in the order of their names; index and shard headers must name the same tensors."""
    path = folder / SHARD_INDEX
    try:
        weight_map = json.loads(path.read_bytes())["weight_map"]
        if not isinstance(weight_map, dict) or not weight_map:
            raise ValueError("weight_map is empty or no mapping")
        for file in weight_map.values():
            if not isinstance(file, str) or file in ("", ".", "..") or Path(file).name != file:
                raise ValueError(f"{file!r} is not the name of a file in the same folder")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path} is no readable shard index ({error}): fetch the checkpoint again") from None
    files = tuple(sorted(set(weight_map.values())))
    absent = [file for file in files if not (folder / file).is_file()]
    if absent:
        raise InputError(f"{path} names {len(absent)} absent shard(s), first {absent[0]}: finish the download")
    tensors: dict[str, TensorInfo] = {}
    for file in files:
        for name, info in _read_header(folder, file).items():
            if weight_map.get(name) != file:
                said = f"places it in {weight_map[name]}" if name in weight_map else "does not name it"
                raise InputError(
                    f"{folder / file} holds the tensor {name} but {SHARD_INDEX} {said}: index and shards "
                    "are of different checkpoints, fetch them again together"
                )
            tensors[name] = info
    missing = [name for name in weight_map if name not in tensors]
    if missing:
        raise InputError(
            f"{path} names {len(missing)} tensor(s) that their shards do not hold, first {missing[0]}: "
            "index and shards are of different checkpoints, fetch them again together"
        )
    return CheckpointIndex(folder, tensors, files)


def _read_header(folder: Path, file: str) -> dict[str, TensorInfo]:
    """The tensors of one file in the order of their bytes."""
    path = folder / file
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            return parse_header(stream, size, file)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): check its permissions") from None
    except ValueError as error:
        raise InputError(f"{path} is no intact safetensors file ({error}): fetch or save it again") from None


def read_array(index: CheckpointIndex, name: str) -> torch.Tensor:
    """One tensor in its stored dtype and shape, reading only its own bytes; the result owns its memory.

    Raises `InputError` for an absent tensor, a dtype that torch lacks, or a file cut since its header was
    read.
    """
    info = index[name]
    data = bytearray(info.size)
    with open_weights(index.path(info.file)) as stream:
        read_into(stream, info.begin, data)
    return _as_tensor(data, info, info.shape)


def read_entries(index: CheckpointIndex, name: str, begin: int, end: int) -> torch.Tensor:
    """The entries `begin` to `end` of one stored tensor, counted row after row, `[end - begin]` in its stored dtype.

    Reads only their own bytes. Raises `InputError` as `read_array` does, and for entries outside the tensor.
    """
    info = index[name]
    if not 0 <= begin <= end <= info.count:
        raise InputError(f"{name} has {info.count} entries: {begin} to {end} are not among them")
    data = bytearray((end - begin) * info.itemsize)
    with open_weights(index.path(info.file)) as stream:
        read_into(stream, info.begin + begin * info.itemsize, data)
    return _as_tensor(data, info, (end - begin,))


def read_diagonal(index: CheckpointIndex, name: str) -> torch.Tensor:
    """The diagonal of a stored square matrix, `[rows]` in its stored dtype, reading nothing beside it.

    Raises `InputError` as `read_array` does, and for a tensor that is no square matrix.
    """
    info = index[name]
    if len(info.shape) != 2 or info.shape[0] != info.shape[1]:
        raise InputError(f"{name} has the shape {list(info.shape)}: only a square matrix has a diagonal")
    side, size = info.shape[0], info.itemsize
    data = bytearray(side * size)
    with open_weights(index.path(info.file)) as stream:
        for row in range(side):
            part = memoryview(data)[row * size : (row + 1) * size]
            read_into(stream, info.begin + row * (side + 1) * size, part)
    return _as_tensor(data, info, (side,))


def read_rows(
    index: CheckpointIndex, name: str, positions: Sequence[int] | npt.NDArray[np.int64], axis: int
) -> torch.Tensor:
    """Rows (`axis` 0) or columns (`axis` 1) of one stored tensor, in the order of `positions`.

    Shape: that of the tensor with `len(positions)` along `axis`. Rows read only their own bytes; columns pass
    over the tensor in blocks of rows, so that memory holds the result and one block. Raises `InputError` as
    `read_array` does, and for positions outside the tensor.
    """
    info = index[name]
    where = np.asarray(positions, dtype=np.int64).reshape(-1)
    if not 0 <= axis < min(2, len(info.shape)):
        raise InputError(f"{name} has the shape {list(info.shape)}: choose another axis than {axis}")
    if where.size and (where.min() < 0 or where.max() >= info.shape[axis]):
        raise InputError(
            f"{name} has {info.shape[axis]} positions on axis {axis}, {where.min()} to {where.max()} were "
            "asked for: take the positions from this model's architecture"
        )
    shape = (*info.shape[:axis], len(where), *info.shape[axis + 1 :])
    data = bytearray(math.prod(shape) * info.itemsize)
    with open_weights(index.path(info.file)) as stream:
        if axis == 0:
            width = len(data) // max(1, len(where))
            for slot, row in enumerate(where.tolist()):
                part = memoryview(data)[slot * width : (slot + 1) * width]
                read_into(stream, info.begin + row * width, part)
        elif data:
            width = info.size // info.shape[0]
            result = np.frombuffer(data, np.uint8).reshape(shape[0], shape[1], -1)
            rows = min(info.shape[0], max(1, _BLOCK_BYTES // width))
            block = np.empty((rows, info.shape[1], width // info.shape[1]), np.uint8)
            for first in range(0, info.shape[0], rows):
                part_rows = block[: info.shape[0] - first]
                read_into(stream, info.begin + first * width, part_rows.data)
                result[first : first + len(part_rows)] = part_rows[:, where]
    return _as_tensor(data, info, shape)


def open_weights(path: Path) -> BinaryIO:
    """An unbuffered handle for `read_into`; raises `InputError` when the file cannot be opened."""
    try:
        return path.open("rb", buffering=0)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): check its permissions") from None


def read_into(stream: BinaryIO, offset: int, buffer: bytearray | memoryview) -> None:
    """Fill `buffer` with the bytes from `offset` on; raises `InputError` when the file ends before."""
    view = memoryview(buffer).cast("B") if memoryview(buffer).nbytes else memoryview(b"")
    while view:
        try:
            count = os.preadv(stream.fileno(), [view], offset)
        except OSError as error:
            raise InputError(f"{stream.name} cannot be read ({error.strerror}): check its disk") from None
        if not count:
            raise InputError(f"{stream.name} was cut while it was read: let its writer finish, then run again")
        view, offset = view[count:], offset + count


def _as_tensor(data: bytearray, info: TensorInfo, shape: tuple[int, ...]) -> torch.Tensor:
    import torch

    dtype = getattr(torch, TORCH_NAMES.get(info.dtype, ""), None)
    if dtype is None:
        raise InputError(f"{info.name} is stored as {info.dtype}, unknown to torch: save the model as bfloat16")
    return torch.frombuffer(data, dtype=dtype).reshape(shape) if data else torch.empty(shape, dtype=dtype)
