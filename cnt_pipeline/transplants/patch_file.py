"""Reading a patch: the record of its files, and its blocks where they fit a checkpoint. A damaged one is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cnt_pipeline.errors import InputError
from cnt_pipeline.models.tensors import CheckpointIndex
from cnt_pipeline.transplants.arithmetic import BIT_TYPES
from cnt_pipeline.transplants.blocks import Block
from cnt_pipeline.transplants.patch import FORWARD, INVERSE, PATCH_VERSION, Direction, FileRecord


class Patch:
    """A patch as read: the record of all `files`, and the blocks of one file at a time.

    Raises `InputError` when it is absent, corrupt, of another version or direction, or lacks the digests of what it
    leads to.
    """

    def __init__(self, path: Path, direction: Direction) -> None:
        self.path, self.direction = path, direction
        try:
            self._file = pq.ParquetFile(path, page_checksum_verification=True)
            self._refuse_other_direction()
            if self._file.schema_arrow.names != direction.schema.names:
                raise ValueError("its columns are others")
            self._tensors = [
                set(self._file.read_row_group(group, ["tensor"]).column(0).to_pylist())
                for group in range(self._file.num_row_groups)
            ]
            document = json.loads(self._file.metadata.metadata[direction.key])
            version = document["version"]
            self.files = {name: FileRecord(**record) for name, record in document["files"].items()}
        except (OSError, pa.ArrowException, LookupError, TypeError, ValueError, AttributeError) as error:
            raise self._broken(str(error)) from None
        if version != PATCH_VERSION:
            raise InputError(f"{path} is a {direction.name} of format {version}: use the cnt release that wrote it")
        for name, record in self.files.items():
            parts = PurePosixPath(name).parts
            if not parts or name.startswith("/") or ".." in parts or type(record.size) is not int:
                raise self._broken(f"it names the file {name!r}")
            if direction.wanted(record) is None:
                raise InputError(
                    f"{path} lacks the {direction.result}'s sha256 of {name}, so that nothing could be proven: write "
                    "the transplant again with digests"
                )

    def blocks(self, index: CheckpointIndex, file: str) -> Iterator[tuple[Block, bytes, bytes]]:
        """The blocks of one weights file in its order, the bytes to put there, the digest of those there."""
        inside = {name for name, info in index.tensors.items() if info.file == file}
        if file == index.files[0]:
            absent = next((name for part in self._tensors for name in sorted(part) if name not in index.tensors), None)
            if absent is not None:
                raise self.refusal(index, f"it lacks the tensor {absent}")
        before = (-1, -1)
        for group, tensors in enumerate(self._tensors):
            if not tensors & inside:
                continue
            try:
                rows = self._file.read_row_group(group).cast(self.direction.schema).to_pylist()
            except (OSError, pa.ArrowException, LookupError, ValueError) as error:
                raise self._broken(str(error)) from None
            for row in rows:
                if row["tensor"] not in inside:
                    continue
                positions, values = np.array(row["positions"], np.int64), row[self.direction.values]
                block = Block(index[row["tensor"]], row["axis"], row["first"], row["rows"], positions)
                here = (block.info.begin, block.first)
                if here <= before or not _fits(block, len(values)):
                    raise self.refusal(index, f"{file}: {block.info.name} is of another shape or dtype")
                before = here
                yield block, values, row[self.direction.digests]

    def refusal(self, index: CheckpointIndex, difference: str) -> InputError:
        """That `index` is not what the patch starts from, with the first difference."""
        start = self.direction.start
        remedy = "take the patch made with it" if start == "checkpoint" else "give that target, unchanged"
        return InputError(f"{index.folder} is not the {start} that {self.path} was made for ({difference}): {remedy}")

    def _refuse_other_direction(self) -> None:
        other = INVERSE if self.direction is FORWARD else FORWARD
        if other.key in (self._file.metadata.metadata or {}):
            raise InputError(
                f"{self.path} is the {other.name} of a transplant, not its {self.direction.name}: give it to "
                f"`{other.command}`"
            )

    def _broken(self, reason: str) -> InputError:
        first = reason.splitlines()[0] if reason else "empty"
        return InputError(
            f"{self.path} is no intact {self.direction.name} ({first}): restore it from where it was written"
        )


def _fits(block: Block, size: int) -> bool:
    """Whether a block as read lies inside its tensor and holds `size` bytes of values."""
    info, where = block.info, block.positions
    if info.dtype not in BIT_TYPES or block.axis not in range(len(info.shape)) or not len(where) or not info.size:
        return False
    inside = where[0] >= 0 and where[-1] < info.shape[block.axis] and bool((np.diff(where) > 0).all())
    rows_inside = block.first >= 0 and block.rows > 0 and block.first + block.rows <= info.shape[0]
    rows_match = block.axis == 1 or (where[0] == block.first and where[-1] - where[0] + 1 == block.rows)
    return inside and rows_inside and bool(rows_match) and size == block.shape[0] * block.shape[1] * info.itemsize
