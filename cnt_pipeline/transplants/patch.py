"""The two patches of a transplant: what makes the target the checkpoint, and the way back, both bit for bit.

A patch is a Parquet file with a row per block of replaced values: `tensor`, `axis`, `first`, `rows`, `positions`, the
raw bytes to put there and the sha256 of the raw bytes that must lie there before. Its key-value metadata hold the
size of every file and its sha256 in the target and in the checkpoint.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cnt_pipeline.transplants.arithmetic import Bits
from cnt_pipeline.transplants.blocks import BUFFER, Block
from cnt_pipeline.transplants.new_files import writing

PATCH_VERSION = 1


@dataclass(frozen=True)
class FileRecord:
    """Size of a file and its sha256 in the target and in the checkpoint (None: not taken)."""

    size: int
    target: str | None
    checkpoint: str | None


@dataclass(frozen=True)
class Direction:
    """Which way a patch leads.

    `file` is its usual name, `command` what takes it, `key` that of its metadata; `values` and `digests` are the
    columns of the bytes to put and of the digest of those before, `start` and `result` the two models, by their names
    in `FileRecord`.
    """

    name: str
    file: str
    command: str
    key: bytes
    values: str
    digests: str
    start: str
    result: str

    @property
    def schema(self) -> pa.Schema:
        """Columns of the patch."""
        return pa.schema(
            [
                pa.field("tensor", pa.string(), nullable=False),
                pa.field("axis", pa.int8(), nullable=False),
                pa.field("first", pa.int64(), nullable=False),
                pa.field("rows", pa.int64(), nullable=False),
                pa.field("positions", pa.list_(pa.int64()), nullable=False),
                pa.field(self.values, pa.large_binary(), nullable=False),
                pa.field(self.digests, pa.binary(32), nullable=False),
            ]
        )

    def wanted(self, record: FileRecord) -> str | None:
        """The sha256 that a file has once the patch is applied."""
        return record.checkpoint if self.result == "checkpoint" else record.target


FORWARD = Direction(
    name="forward patch", file="patch.parquet", command="cnt apply", key=b"cnt_patch",
    values="new", digests="old_sha256", start="target", result="checkpoint",
)  # fmt: skip
INVERSE = Direction(
    name="inverse patch", file="inverse_patch.parquet", command="cnt revert", key=b"cnt_inverse_patch",
    values="old", digests="new_sha256", start="checkpoint", result="target",
)  # fmt: skip


class PatchWriter:
    """Writes a patch as its blocks come, holding at most a few `BUFFER` of them."""

    def __init__(self, path: Path, direction: Direction) -> None:
        self.path, self.direction = path, direction
        self._pending: list[tuple[Block, bytes, bytes]] = []
        self._bytes = 0

    def __enter__(self) -> PatchWriter:
        with writing(self.path):
            self._writer = pq.ParquetWriter(
                self.path, self.direction.schema, compression="none", use_dictionary=False, write_page_checksum=True
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            with writing(self.path):
                self._writer.close()
        else:
            with suppress(OSError):
                self._writer.close()

    def record(self, block: Block, old: Bits, new: Bits) -> None:
        """Note that `block` holds `old` in the target and `new` in the checkpoint."""
        before, after = (old, new) if self.direction is FORWARD else (new, old)
        digest = hashlib.sha256(np.ascontiguousarray(before).data).digest()
        self._pending.append((block, after.tobytes(), digest))
        self._bytes += after.nbytes
        if self._bytes >= BUFFER:
            self._flush()

    def finish(self, files: Mapping[str, FileRecord]) -> None:
        """Write what is pending and the record of all `files`."""
        self._flush()
        document = {
            "version": PATCH_VERSION,
            "files": {name: asdict(record) for name, record in files.items()},
        }
        self._writer.add_key_value_metadata({self.direction.key: json.dumps(document)})

    def _flush(self) -> None:
        if not self._pending:
            return
        blocks, values, digests = zip(*self._pending, strict=True)
        self._pending, self._bytes = [], 0
        ends = np.cumsum([0, *(len(block.positions) for block in blocks)], dtype=np.int32)
        columns = (
            [block.info.name for block in blocks],
            [block.axis for block in blocks],
            [block.first for block in blocks],
            [block.rows for block in blocks],
            pa.ListArray.from_arrays(ends, np.concatenate([block.positions for block in blocks])),
            list(values),
            list(digests),
        )
        schema = self.direction.schema
        table = pa.table([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema)
        with writing(self.path):
            self._writer.write_table(table)
