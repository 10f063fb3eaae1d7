"""The header of one safetensors file: what it says, checked against the format and the size of the file."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeGuard

LARGEST_HEADER = 100_000_000
"""Bytes; the safetensors library refuses longer headers too."""

BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
"""Bits of one element, by the name that safetensors headers use."""


@dataclass(frozen=True)
class TensorInfo:
    """One stored tensor: `begin` and `end` are absolute byte offsets in `file`, a name inside the folder."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    begin: int
    end: int

    @property
    def size(self) -> int:
        """Bytes of the tensor's data."""
        return self.end - self.begin

    @property
    def itemsize(self) -> int:
        """Bytes of one element (0 for the packed 4 and 6 bit formats, which nothing here reads)."""
        return BITS[self.dtype] // 8

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def parse_header(stream: BinaryIO, size: int, file: str) -> dict[str, TensorInfo]:
    """The tensors of a file of `size` bytes, in the order of their bytes, from a stream at its beginning.

    Raises `ValueError` with the reason for anything that contradicts the format: a file that is truncated or
    too long, offsets that overlap or leave holes, a shape that does not fit its bytes, a name given twice.
    """
    if size < 8:
        raise ValueError(f"truncated: {size} bytes, too short for a header")
    length = int.from_bytes(stream.read(8), "little")
    if length > LARGEST_HEADER:
        raise ValueError(f"its header claims {length} bytes")
    if 8 + length > size:
        raise ValueError(f"truncated inside its header: {size} bytes, the header ends at {8 + length}")
    raw = stream.read(length)
    if not raw.startswith(b"{"):
        raise ValueError("its header is no JSON object")
    try:
        header: dict[str, Any] = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("its header is nested too deeply") from None
    header.pop("__metadata__", None)
    start = 8 + length
    tensors = [_entry(name, entry, file, start) for name, entry in header.items()]
    tensors.sort(key=lambda info: (info.begin, info.end))
    end, before = start, "the header"
    for info in tensors:
        if info.begin != end:
            kind = "overlap" if info.begin < end else "leave a hole"
            raise ValueError(f"the offsets of {before} and {info.name} {kind}")
        end, before = info.end, info.name
    if end != size:
        state = "truncated" if end > size else "too long"
        raise ValueError(f"{state}: {size} bytes, its tensors end at {end}")
    return {info.name: info for info in tensors}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("its header names a tensor twice")
    return result


def _counts(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)


def _entry(name: str, entry: object, file: str, start: int) -> TensorInfo:
    """One header entry, checked by itself."""
    if not isinstance(entry, dict):
        raise ValueError(f"the entry of {name} is no JSON object")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in BITS:
        raise ValueError(f"{name} has the unknown dtype {dtype!r}")
    if not _counts(shape):
        raise ValueError(f"{name} has the shape {shape!r}")
    if not _counts(offsets) or len(offsets) != 2:
        raise ValueError(f"{name} has the offsets {offsets!r}")
    begin, end = offsets
    if math.prod(shape) * BITS[dtype] != 8 * (end - begin):
        raise ValueError(f"{name} {dtype}{shape} does not fit its {end - begin} bytes")
    return TensorInfo(name, dtype, tuple(shape), file, start + begin, start + end)
