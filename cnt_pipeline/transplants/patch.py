"""The inverse patch of a transplant: the values it replaced, and the way back to the target, bit for bit.

A Parquet file with a row per block of replaced values (`tensor`, `axis`, `first`, `rows`, `positions`,
`old` = their raw bytes, `new_sha256` = digest of the raw bytes that replaced them); its key-value metadata
hold the size and sha256 of every file of the target and of the checkpoint.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cnt_pipeline.errors import InputError
from cnt_pipeline.models.tensors import CheckpointIndex, read_index
from cnt_pipeline.transplants.arithmetic import BIT_TYPES, Bits
from cnt_pipeline.transplants.blocks import BUFFER, Block, Replace
from cnt_pipeline.transplants.new_files import new_files, writing
from cnt_pipeline.transplants.stream import stream_file

PATCH_NAME = "inverse_patch.parquet"
PATCH_VERSION = 1
METADATA_KEY = b"cnt_inverse_patch"

PATCH_SCHEMA = pa.schema(
    [
        pa.field("tensor", pa.string(), nullable=False),
        pa.field("axis", pa.int8(), nullable=False),
        pa.field("first", pa.int64(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("positions", pa.list_(pa.int64()), nullable=False),
        pa.field("old", pa.large_binary(), nullable=False),
        pa.field("new_sha256", pa.binary(32), nullable=False),
    ]
)


@dataclass(frozen=True)
class FileRecord:
    """Size of a file and its sha256 in the target and in the checkpoint (None: not taken)."""

    size: int
    target: str | None
    checkpoint: str | None


class PatchWriter:
    """Writes an inverse patch as its blocks come, holding at most a few `BUFFER` of them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pending: list[tuple[Block, bytes, bytes]] = []
        self._bytes = 0

    def __enter__(self) -> PatchWriter:
        with writing(self.path):
            self._writer = pq.ParquetWriter(
                self.path, PATCH_SCHEMA, compression="none", use_dictionary=False, write_page_checksum=True
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
        """Note that `block` held `old` and holds `new`."""
        digest = hashlib.sha256(np.ascontiguousarray(new).data).digest()
        self._pending.append((block, old.tobytes(), digest))
        self._bytes += old.nbytes
        if self._bytes >= BUFFER:
            self._flush()

    def finish(self, files: Mapping[str, FileRecord]) -> None:
        """Write what is pending and the record of all `files`."""
        self._flush()
        document = {
            "version": PATCH_VERSION,
            "files": {name: asdict(record) for name, record in files.items()},
        }
        self._writer.add_key_value_metadata({METADATA_KEY: json.dumps(document)})

    def _flush(self) -> None:
        if not self._pending:
            return
        blocks, old, digests = zip(*self._pending, strict=True)
        self._pending, self._bytes = [], 0
        ends = np.cumsum([0, *(len(block.positions) for block in blocks)], dtype=np.int32)
        columns = (
            [block.info.name for block in blocks],
            [block.axis for block in blocks],
            [block.first for block in blocks],
            [block.rows for block in blocks],
            pa.ListArray.from_arrays(ends, np.concatenate([block.positions for block in blocks])),
            list(old),
            list(digests),
        )
        table = pa.table([pa.array(c, f.type) for c, f in zip(columns, PATCH_SCHEMA, strict=True)], PATCH_SCHEMA)
        with writing(self.path):
            self._writer.write_table(table)


@dataclass(frozen=True)
class RevertReport:
    """The target as restored: `files` by name with their proven sha256."""

    folder: Path
    files: Mapping[str, str]


def revert(checkpoint: Path, patch: Path | None, out: Path) -> RevertReport:
    """Write to `out` the target of which `checkpoint` was made.

    `patch` is its inverse patch, `checkpoint / PATCH_NAME` when None. The sha256 of every restored file is
    compared with the target's in the patch. Raises `InputError` when the patch is corrupt, records no
    digests or belongs to another checkpoint, and `StoreError` when `out` cannot be written. After any error
    nothing is left behind.
    """
    inverse = InversePatch(checkpoint / PATCH_NAME if patch is None else patch)
    index = read_index(checkpoint)
    refusal = f"{checkpoint} is not the checkpoint that {inverse.path} was made for"
    for name, record in inverse.files.items():
        path = index.path(name)
        if not path.is_file() or path.stat().st_size != record.size:
            raise InputError(f"{refusal} ({name} is absent or of another size): take the patch made with it")
    files: dict[str, str] = {}
    with new_files(out, sum(record.size for record in inverse.files.values())) as claim:
        for name, record in inverse.files.items():
            blocks, replace = _restoring(inverse, index, name, refusal)
            done = stream_file(index.path(name), claim(out / name), blocks, replace, hash_written=True)
            if done.written is None or done.written != record.target:
                raise InputError(f"{refusal} ({name} differs): take the patch made with it")
            files[name] = done.written
    return RevertReport(out, files)


def _restoring(
    inverse: InversePatch, index: CheckpointIndex, file: str, refusal: str
) -> tuple[Iterator[Block], Replace]:
    """The blocks of one file, and what puts old values back into each that proves to hold the new ones."""
    pending: deque[tuple[bytes, bytes]] = deque()

    def blocks() -> Iterator[Block]:
        for block, old, digest in inverse.blocks(index, file):
            pending.append((old, digest))
            yield block

    def replace(block: Block, held: Bits) -> Bits:
        old, digest = pending.popleft()
        if hashlib.sha256(held.tobytes()).digest() != digest:
            raise InputError(f"{refusal} ({block.info.name} differs): take the patch made with it")
        return np.frombuffer(old, BIT_TYPES[block.info.dtype]).reshape(block.shape)

    return blocks(), replace


class InversePatch:
    """An inverse patch as read: the record of all `files`, and the blocks of one file at a time.

    Raises `InputError` when the patch is absent, corrupt, of another version, or lacks the target's digests.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = pq.ParquetFile(path, page_checksum_verification=True)
            if self._file.schema_arrow.names != PATCH_SCHEMA.names:
                raise ValueError("its columns are others")
            self._tensors = [
                set(self._file.read_row_group(group, ["tensor"]).column(0).to_pylist())
                for group in range(self._file.num_row_groups)
            ]
            document = json.loads(self._file.metadata.metadata[METADATA_KEY])
            version = document["version"]
            self.files = {name: FileRecord(**record) for name, record in document["files"].items()}
        except (OSError, pa.ArrowException, LookupError, TypeError, ValueError, AttributeError) as error:
            raise self._broken(str(error)) from None
        if version != PATCH_VERSION:
            raise InputError(f"{path} is an inverse patch of format {version}: use the cnt release that wrote it")
        for name, record in self.files.items():
            parts = PurePosixPath(name).parts
            if not parts or name.startswith("/") or ".." in parts or type(record.size) is not int:
                raise self._broken(f"it names the file {name!r}")
            if record.target is None:
                raise InputError(
                    f"{path} lacks the target's sha256 of {name}, so that nothing could be proven: write "
                    "the transplant again with digests"
                )

    def blocks(self, index: CheckpointIndex, file: str) -> Iterator[tuple[Block, bytes, bytes]]:
        """The blocks of one weights file in its order, the bytes to restore, the digest of those there."""
        inside = {name for name, info in index.tensors.items() if info.file == file}
        before = (-1, -1)
        for group, tensors in enumerate(self._tensors):
            if file == index.files[0] and not tensors <= index.tensors.keys():
                raise self._broken("it names a tensor that the checkpoint lacks")
            if not tensors & inside:
                continue
            try:
                rows = self._file.read_row_group(group).cast(PATCH_SCHEMA).to_pylist()
            except (OSError, pa.ArrowException, LookupError, ValueError) as error:
                raise self._broken(str(error)) from None
            for row in rows:
                if row["tensor"] not in inside:
                    continue
                positions = np.array(row["positions"], np.int64)
                block = Block(index[row["tensor"]], row["axis"], row["first"], row["rows"], positions)
                here = (block.info.begin, block.first)
                if here <= before or not _fits(block, len(row["old"])):
                    raise self._broken(f"a block of {block.info.name} does not fit the tensor")
                before = here
                yield block, row["old"], row["new_sha256"]

    def _broken(self, reason: str) -> InputError:
        first = reason.splitlines()[0] if reason else "empty"
        return InputError(f"{self.path} is no intact inverse patch ({first}): restore it from where it was written")


def _fits(block: Block, size: int) -> bool:
    """Whether a block as read lies inside its tensor and holds `size` bytes of values."""
    info, where = block.info, block.positions
    if info.dtype not in BIT_TYPES or block.axis not in range(len(info.shape)) or not len(where) or not info.size:
        return False
    inside = where[0] >= 0 and where[-1] < info.shape[block.axis] and bool((np.diff(where) > 0).all())
    rows_inside = block.first >= 0 and block.rows > 0 and block.first + block.rows <= info.shape[0]
    rows_match = block.axis == 1 or (where[0] == block.first and where[-1] - where[0] + 1 == block.rows)
    return inside and rows_inside and bool(rows_match) and size == block.shape[0] * block.shape[1] * info.itemsize
