"""What moved, neuron by neuron: where its weights lie, why it was chosen, and the digests of its bytes.

`neurons.parquet` has a row per planned neuron and tensor, in the order of the checkpoint's bytes; a bias that moves
with a neuron is a row of its own. A neuron's bytes are those of its row as stored, or of its column from the first
row to the last, so that anyone can take the digest again from the checkpoint alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cnt_pipeline.transplants.arithmetic import Bits
from cnt_pipeline.transplants.blocks import Block
from cnt_pipeline.transplants.new_files import writing
from cnt_pipeline.transplants.plan import PLAN_SCHEMA, TensorEdit, TransplantPlan

if TYPE_CHECKING:
    from hashlib import _Hash

NEURONS = "neurons.parquet"

_OF_PLAN = ("layer", "family", "neuron", "amplitude", "score", "rank", "standard_error")
NEURONS_SCHEMA = pa.schema(
    [
        pa.field("tensor", pa.string(), nullable=False),
        pa.field("axis", pa.int8(), nullable=False),
        pa.field("position", pa.int64(), nullable=False),
        *(PLAN_SCHEMA.field(name) for name in _OF_PLAN[:4]),
        pa.field("parameters", pa.int64(), nullable=False),
        pa.field("sha256_before", pa.string(), nullable=False),
        pa.field("sha256_after", pa.string(), nullable=False),
        *(PLAN_SCHEMA.field(name) for name in _OF_PLAN[4:]),
    ]
)
"""`position` on `axis` of the stored tensor; `parameters` are the weights of the neuron in this tensor."""

_ROWS_AT_ONCE = 1 << 16
"""Rows that wait in memory before they are written."""


class MovedNeurons:
    """Writes `neurons.parquet` as the blocks come; of a tensor it holds two running digests a planned neuron."""

    def __init__(self, path: Path, plan: TransplantPlan, edits: Mapping[str, Sequence[TensorEdit]]) -> None:
        self.path = path
        self._plan = plan.table
        self._edits = {edit.info.name: edit for edit in chain.from_iterable(edits.values())}
        self._columns: list[tuple[_Hash, _Hash]] = []
        self._pending: list[pa.Table] = []

    def __enter__(self) -> MovedNeurons:
        with writing(self.path):
            self._writer = pq.ParquetWriter(
                self.path,
                NEURONS_SCHEMA,
                compression="zstd",
                use_dictionary=["tensor", "family"],
                write_statistics=False,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
            with writing(self.path):
                self._writer.close()
        else:
            with suppress(OSError):
                self._writer.close()

    def record(self, block: Block, old: Bits, new: Bits) -> None:
        """Note that `block` held `old` and holds `new`; the blocks of a tensor come in its order."""
        if block.axis == 0:
            self._add(block, *([hashlib.sha256(row) for row in np.ascontiguousarray(bits)] for bits in (old, new)))
            return
        if block.first == 0:
            self._columns = [(hashlib.sha256(), hashlib.sha256()) for _ in block.positions]
        columns = zip(self._columns, np.ascontiguousarray(old.T), np.ascontiguousarray(new.T), strict=True)
        for (before, after), held, put in columns:
            before.update(held)
            after.update(put)
        if block.first + block.rows == block.info.shape[0]:
            self._add(block, [before for before, _ in self._columns], [after for _, after in self._columns])

    def _add(self, block: Block, before: Sequence[_Hash], after: Sequence[_Hash]) -> None:
        edit = self._edits[block.info.name]
        rows = edit.rows[np.searchsorted(edit.positions, block.positions)]
        count = len(rows)
        given = self._plan.select(_OF_PLAN).take(pa.array(rows))
        columns = {name: given.column(name) for name in _OF_PLAN} | {
            "tensor": pa.repeat(block.info.name, count),
            "axis": pa.repeat(pa.scalar(block.axis, pa.int8()), count),
            "position": pa.array(block.positions),
            "parameters": pa.repeat(pa.scalar(edit.width, pa.int64()), count),
            "sha256_before": pa.array([digest.hexdigest() for digest in before], pa.string()),
            "sha256_after": pa.array([digest.hexdigest() for digest in after], pa.string()),
        }
        self._pending.append(pa.table([columns[name] for name in NEURONS_SCHEMA.names], NEURONS_SCHEMA))
        if sum(table.num_rows for table in self._pending) >= _ROWS_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            with writing(self.path):
                self._writer.write_table(pa.concat_tables(self._pending).combine_chunks())
            self._pending = []
