"""The planned part of a tensor in blocks that fit in memory, and reading their values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from cnt_pipeline.models.tensors import TensorInfo, read_into
from cnt_pipeline.transplants.arithmetic import Bits

BUFFER = 2 << 20
"""Bytes held at once per array: small enough for the processor's cache, large enough for few system calls."""


@dataclass(frozen=True, eq=False)
class Block:
    """The planned values inside the stored rows `first` to `first + rows`, few enough to be held in memory.

    With `axis` 0 they are the whole rows `positions` (`rows` spans them), values `[positions, width]`; with
    `axis` 1 the columns `positions` of every row, values `[rows, positions]`.
    """

    info: TensorInfo
    axis: int
    first: int
    rows: int
    positions: npt.NDArray[np.int64]

    @property
    def width(self) -> int:
        """Elements of one stored row."""
        return self.info.count // self.info.shape[0]

    @property
    def row_bytes(self) -> int:
        """Bytes of one stored row."""
        return self.width * self.info.itemsize

    @property
    def begin(self) -> int:
        """Offset of the first byte of the row `first` in the file."""
        return self.info.begin + self.first * self.row_bytes

    @property
    def end(self) -> int:
        """Offset of the first byte after the block's last row."""
        return self.begin + self.rows * self.row_bytes

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the block's values."""
        return (len(self.positions), self.width) if self.axis == 0 else (self.rows, len(self.positions))


Replace = Callable[[Block, Bits], Bits]
"""Given a block and the bits it holds in the source, the bits to write; same shape and integer type."""


def blocks_of(info: TensorInfo, axis: int, positions: npt.NDArray[np.int64]) -> Iterator[Block]:
    """The planned part of one tensor in file order, in blocks of at most `BUFFER` bytes (or one row)."""
    at_once = max(1, BUFFER * info.shape[0] // info.size)
    if axis == 0:
        for start in range(0, len(positions), at_once):
            part = positions[start : start + at_once]
            yield Block(info, 0, int(part[0]), int(part[-1] - part[0]) + 1, part)
    else:
        for first in range(0, info.shape[0], at_once):
            yield Block(info, 1, first, min(at_once, info.shape[0] - first), positions)


def read_row_values(stream: BinaryIO, info: TensorInfo, rows: npt.NDArray[np.int64], into: Bits) -> None:
    """Fill `into` `[rows, width]` with the stored rows `rows` (ascending), reading no others."""
    width = info.size // info.shape[0]
    for start, stop in runs(rows):
        read_into(stream, info.begin + int(rows[start]) * width, into[start:stop].data)


def runs(positions: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Slices of ascending `positions` that follow each other without a gap."""
    return pairwise([0, *(np.flatnonzero(np.diff(positions) != 1) + 1).tolist(), len(positions)])


def sized(buffer: bytearray, size: int) -> memoryview:
    """The first `size` bytes of `buffer`, or a fresh one for the rare row that is longer."""
    return memoryview(buffer)[:size] if size <= len(buffer) else memoryview(bytearray(size))
