"""One pass over a weights file: unchanged ranges are passed on, planned blocks replaced, in bounded memory.

Without digests the unchanged ranges never enter the process (`copy_file_range`). With digests every byte
goes through one small buffer and is hashed on its way. Nothing here knows where the replacements come from.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import BinaryIO

import numpy as np

from cnt_pipeline.errors import InputError
from cnt_pipeline.models.tensors import open_weights, read_into
from cnt_pipeline.transplants.arithmetic import BIT_TYPES
from cnt_pipeline.transplants.blocks import BUFFER, Block, Replace, read_row_values, runs, sized
from cnt_pipeline.transplants.new_files import writing

PAGE = 4096

AHEAD = 8
"""Blocks whose new values may wait in memory, so that columns are made while their neighbours are copied."""

NO_KERNEL_COPY = {
    errno.EXDEV,
    errno.ENOSYS,
    errno.EOPNOTSUPP,
    errno.EINVAL,
    errno.EBADF,
    errno.EPERM,
    errno.ETXTBSY,
}


@dataclass(frozen=True)
class FileDigests:
    """What passed through: bytes, and the sha256 of the file read and of the file written where taken."""

    size: int
    read: str | None
    written: str | None


def stream_file(
    source: Path,
    out: Path,
    blocks: Iterable[Block] = (),
    replace: Replace | None = None,
    *,
    hash_read: bool = False,
    hash_written: bool = False,
) -> FileDigests:
    """Write `out` as `source` with the values of `blocks` (in file order) replaced, holding a few `BUFFER`.

    Raises `InputError` when the source cannot be read and `StoreError` when `out` cannot be written; a
    partial `out` is the caller's to remove.
    """
    with open_weights(source) as stream, writing(out), out.open("xb", buffering=0) as sink:
        size = os.fstat(stream.fileno()).st_size
        with _HashedPass(stream, sink, hash_read) if hash_read or hash_written else _KernelPass(stream, sink) as step:
            step.replace(blocks, replace)
            step.copy_to(size)
            return FileDigests(size, step.read_digest, step.written_digest)


class _KernelPass(ExitStack):
    """Without digests: large ranges are copied inside the kernel, the planned values written over them.

    `at` is the offset up to which everything is copied. Copies are cut at page borders, which the kernel is
    much faster at, so that they may run ahead into what the next block overwrites.
    """

    read_digest = written_digest = None

    def __init__(self, source: BinaryIO, sink: BinaryIO) -> None:
        super().__init__()
        self.source, self.sink, self.at = source, sink, 0
        self.size = os.fstat(source.fileno()).st_size
        self.in_kernel = hasattr(os, "copy_file_range")
        self._maker = self.enter_context(ThreadPoolExecutor(1))

    def copy_to(self, end: int) -> None:
        """Copy on until at least the offset `end`."""
        end = min(self.size, -(-end // PAGE) * PAGE)
        while self.at < end:
            if self.at % PAGE or not self.in_kernel:
                border = PAGE - self.at % PAGE if self.in_kernel else BUFFER
                piece = memoryview(bytearray(min(BUFFER, border, end - self.at)))
                read_into(self.source, self.at, piece)
                write_at(self.sink, self.at, piece)
                self.at += len(piece)
                continue
            source, sink = self.source.fileno(), self.sink.fileno()
            try:
                count = os.copy_file_range(source, sink, end - self.at, self.at, self.at)
            except OSError as error:
                if error.errno not in NO_KERNEL_COPY:
                    raise
                self.in_kernel = False
                continue
            if not count:
                raise InputError(f"{self.source.name} was cut while it was read: let its writer finish first")
            self.at += count

    def replace(self, blocks: Iterable[Block], replace: Replace | None) -> None:
        """Write the new values of `blocks`, made up to `AHEAD` blocks ahead while the ranges before are copied."""
        ahead: deque[tuple[Block, Future[memoryview]]] = deque()
        buffers = cycle([bytearray() for _ in range(AHEAD)])
        for block in blocks:
            assert replace is not None
            if len(ahead) == AHEAD:
                self._place(*ahead.popleft())
            ahead.append((block, self._maker.submit(self._make, block, replace, next(buffers))))
        while ahead:
            self._place(*ahead.popleft())

    def _make(self, block: Block, replace: Replace, buffer: bytearray) -> memoryview:
        """The new bytes of `block`: of its planned rows, or of all its rows with the planned columns in them."""
        kind = BIT_TYPES[block.info.dtype]
        if block.axis == 0:
            old = np.empty(block.shape, kind)
            read_row_values(self.source, block.info, block.positions, old)
            return np.ascontiguousarray(replace(block, old)).data.cast("B")
        if not buffer:
            buffer.extend(bytes(BUFFER))
        piece = sized(buffer, block.rows * block.row_bytes)
        read_into(self.source, block.begin, piece)
        values = np.frombuffer(piece, kind).reshape(block.rows, block.width)
        values[:, block.positions] = replace(block, values.take(block.positions, axis=1))
        return piece

    def _place(self, block: Block, made: Future[memoryview]) -> None:
        # Copying comes before waiting: it is what the making runs beside.
        self.copy_to(block.end if block.axis == 0 else block.begin)
        new = made.result()
        if block.axis == 1:
            write_at(self.sink, block.begin, new)
            self.at = max(self.at, block.end)
            return
        width = block.row_bytes
        for start, stop in runs(block.positions):
            offset = block.begin + int(block.positions[start] - block.first) * width
            write_at(self.sink, offset, new[start * width : stop * width])


class _HashedPass(ExitStack):
    """With digests: every byte passes through buffers in file order, hashed beside reading and writing."""

    def __init__(self, source: BinaryIO, sink: BinaryIO, hash_read: bool) -> None:
        super().__init__()
        self.source, self.sink, self.at = source, sink, 0
        self._written = self.enter_context(_Digest())
        self._read = self.enter_context(_Digest()) if hash_read else None
        # Two of each: one is filled while the other is still being hashed.
        self._old = cycle([bytearray(BUFFER), bytearray(BUFFER)])
        self._new = cycle([bytearray(BUFFER), bytearray(BUFFER)]) if hash_read else None

    @property
    def read_digest(self) -> str | None:
        """Of all bytes of the source so far."""
        return self._read.hexdigest() if self._read else None

    @property
    def written_digest(self) -> str:
        """Of all bytes written so far."""
        return self._written.hexdigest()

    def copy_to(self, end: int) -> None:
        """Copy on until the offset `end`."""
        while self.at < end:
            piece = self._next(min(BUFFER, end - self.at))
            self._pass_on(piece, piece)

    def replace(self, blocks: Iterable[Block], replace: Replace | None) -> None:
        """Pass the rows of `blocks` on with the new values in them."""
        for block in blocks:
            assert replace is not None
            self._replace(block, replace)

    def _replace(self, block: Block, replace: Replace) -> None:
        self.copy_to(block.begin)
        kind = BIT_TYPES[block.info.dtype]
        if block.axis == 1:
            old = self._next(block.rows * block.row_bytes)
            new = self._editable(old)
            values = np.frombuffer(new, kind).reshape(block.rows, block.width)
            values[:, block.positions] = replace(block, values.take(block.positions, axis=1))
            self._pass_on(old, new)
            return
        held = np.empty(block.shape, kind)
        read_row_values(self.source, block.info, block.positions, held)
        fresh = replace(block, held)
        at_once = max(1, BUFFER // block.row_bytes)
        for first in range(block.first, block.first + block.rows, at_once):
            rows = min(at_once, block.first + block.rows - first)
            start, stop = np.searchsorted(block.positions, (first, first + rows))
            old = self._next(rows * block.row_bytes)
            new = self._editable(old)
            values = np.frombuffer(new, kind).reshape(rows, block.width)
            values[block.positions[start:stop] - first] = fresh[start:stop]
            self._pass_on(old, new)

    def _next(self, size: int) -> memoryview:
        """The next `size` bytes of the source, in a buffer that nobody is hashing any more."""
        piece = sized(next(self._old), size)
        read_into(self.source, self.at, piece)
        return piece

    def _editable(self, old: memoryview) -> memoryview:
        """`old` itself where nobody hashes it, else a copy."""
        if self._new is None:
            return old
        piece = sized(next(self._new), len(old))
        piece[:] = old
        return piece

    def _pass_on(self, old: memoryview, new: memoryview) -> None:
        if self._read:
            self._read.update(old)
        self._written.update(new)
        write_at(self.sink, self.at, new)
        self.at += len(new)


class _Digest(ExitStack):
    """sha256 in a thread of its own, at most one piece behind."""

    def __init__(self) -> None:
        super().__init__()
        self._hash = hashlib.sha256()
        self._thread = self.enter_context(ThreadPoolExecutor(1))
        self._pending: Future[None] | None = None

    def update(self, piece: memoryview) -> None:
        """Begin with `piece`, which must stay as it is until the next call has returned."""
        self._settle()
        self._pending = self._thread.submit(self._hash.update, piece)

    def hexdigest(self) -> str:
        """Of all pieces so far."""
        self._settle()
        return self._hash.hexdigest()

    def _settle(self) -> None:
        if self._pending:
            self._pending.result()


def write_at(sink: BinaryIO, offset: int, data: memoryview) -> None:
    """Write all of `data` from `offset` on."""
    while data:
        count = os.pwrite(sink.fileno(), data, offset)
        data, offset = data[count:], offset + count
