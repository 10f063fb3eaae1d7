"""The transplant plan: which neurons move, with which amplitude, and where their weights lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from cnt_pipeline.errors import InputError, MismatchError, StoreError
from cnt_pipeline.models.tensors import CheckpointIndex, TensorInfo
from cnt_pipeline.transplants.arithmetic import BIT_TYPES

if TYPE_CHECKING:
    import polars as pl

Number = TypeVar("Number", bound=np.generic)

PLAN_SCHEMA = pa.schema(
    [
        pa.field("tensor", pa.string(), nullable=False),
        pa.field("axis", pa.int8(), nullable=False),
        pa.field("position", pa.int64(), nullable=False),
        pa.field("layer", pa.int32(), nullable=False),
        pa.field("family", pa.string(), nullable=False),
        pa.field("neuron", pa.int32(), nullable=False),
        pa.field("score", pa.float64(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),
        pa.field("standard_error", pa.float64(), nullable=True),
        pa.field("amplitude", pa.float32(), nullable=False),
        pa.field("bias", pa.string(), nullable=True),
    ]
)
"""One row per neuron; `axis` and `position` are of the stored tensor; the vector `bias` moves along. Score, rank
and the score's standard error (null where the rule has none) are the ranking's: whoever lists what moved needs no
ranking, of which most says nothing of these neurons."""


@dataclass(frozen=True, eq=False)
class TensorEdit:
    """The planned part of one stored tensor: rows (`axis` 0; a bias is rows of one element) or columns.

    `positions` [neurons] ascend; `amplitudes` [neurons] are float32, `rows` [neurons] the places of these neurons
    in the plan's table; `info` and `donor` say where the tensor lies in target and donor.
    """

    info: TensorInfo
    donor: TensorInfo
    axis: int
    positions: npt.NDArray[np.int64]
    amplitudes: npt.NDArray[np.float32]
    rows: npt.NDArray[np.int64]

    @property
    def width(self) -> int:
        """Weights of one neuron in this tensor."""
        return self.info.count // self.info.shape[self.axis]

    @property
    def parameters(self) -> int:
        """Weights that the edit replaces."""
        return len(self.positions) * self.width


@dataclass(frozen=True, eq=False)
class TransplantPlan:
    """Neurons to move, one row each, in the columns of `PLAN_SCHEMA`; made only of well-formed rows."""

    table: pa.Table

    def __post_init__(self) -> None:
        absent = [name for name in PLAN_SCHEMA.names if name not in self.table.column_names]
        if absent:
            raise InputError(f"the transplant plan lacks the column {absent[0]}: make it again with `cnt run`")
        table = self.table.select(PLAN_SCHEMA.names)
        try:
            object.__setattr__(self, "table", table.cast(PLAN_SCHEMA).combine_chunks())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"the transplant plan is malformed ({reason}): make it again with `cnt run`") from None
        if not np.isfinite(self._numbers("amplitude", np.float32)).all():
            raise InputError("the transplant plan holds an amplitude that is not finite: set eta to a number")
        if len(self) and not np.isin(self._numbers("axis", np.int64), (0, 1)).all():
            raise InputError("the transplant plan names an axis other than 0 and 1: make it again with `cnt run`")

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @classmethod
    def from_frame(cls, frame: pl.DataFrame) -> TransplantPlan:
        """The plan held by a Polars frame with (at least) the columns of `PLAN_SCHEMA`."""
        return cls(frame.to_arrow())

    def to_frame(self) -> pl.DataFrame:
        """The plan as a Polars frame."""
        import polars as pl

        frame = pl.from_arrow(self.table)
        assert isinstance(frame, pl.DataFrame)
        return frame

    def write(self, path: Path) -> None:
        """Write `plan.parquet`; raises `StoreError` when the disk refuses."""
        try:
            pq.write_table(self.table, path, compression="zstd")
        except OSError as error:
            raise StoreError(f"{path} cannot be written ({error}): free space or mend its permissions") from None

    def edits(self, target: CheckpointIndex, donor: CheckpointIndex) -> dict[str, tuple[TensorEdit, ...]]:
        """The planned tensors and biases by weights file of the target, in the order of their bytes.

        Raises `InputError` for tensors that target or donor lack, positions outside a tensor, neurons named
        twice and dtypes that are no float; `MismatchError` where the donor's tensor has another shape.
        """
        positions, amplitudes = self._numbers("position", np.int64), self._numbers("amplitude", np.float32)
        edits = [
            _edit(target, donor, name, axis, positions[rows], amplitudes[rows], rows)
            for (name, axis), rows in self._groups(positions).items()
        ]
        seen: set[str] = set()
        for edit in edits:
            if edit.info.name in seen:
                raise InputError(
                    f"the transplant plan edits {edit.info.name} along two axes: let a tensor give either "
                    "rows or columns"
                )
            seen.add(edit.info.name)
        edits.sort(key=lambda edit: edit.info.begin)
        return {file: tuple(edit for edit in edits if edit.info.file == file) for file in target.files}

    def _numbers(self, column: str, kind: type[Number]) -> npt.NDArray[Number]:
        numbers: npt.NDArray[np.generic] = self.table.column(column).to_numpy()
        return numbers.astype(kind)

    def _groups(self, positions: npt.NDArray[np.int64]) -> Mapping[tuple[str, int], npt.NDArray[np.int64]]:
        """Rows of the table by (tensor, axis), in the order of `positions`; a bias is a tensor with axis 0."""
        axes = self._numbers("axis", np.int64)
        groups: dict[tuple[str, int], npt.NDArray[np.int64]] = {}
        for column in ("tensor", "bias"):
            encoded = self.table.column(column).combine_chunks().dictionary_encode()
            codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
            along = axes if column == "tensor" else np.zeros_like(axes)
            key = codes * 2 + along
            order = np.lexsort((positions, key))
            order = order[codes[order] >= 0]
            for part in np.split(order, np.flatnonzero(np.diff(key[order])) + 1):
                if not len(part):
                    continue
                name, axis = encoded.dictionary[int(codes[part[0]])].as_py(), int(along[part[0]])
                if (name, axis) in groups:
                    raise InputError(f"the transplant plan names {name} both as a tensor and as a bias: name it once")
                groups[name, axis] = part
        return groups


def read_plan(path: Path) -> TransplantPlan:
    """Read `plan.parquet`; raises `InputError` when it is absent, corrupt or lacks a column."""
    try:
        return TransplantPlan(pq.read_table(path))
    except (OSError, pa.ArrowInvalid) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} is no readable transplant plan ({reason}): make it again with `cnt run`") from None


def _edit(
    target: CheckpointIndex,
    donor: CheckpointIndex,
    name: str,
    axis: int,
    positions: npt.NDArray[np.int64],
    amplitudes: npt.NDArray[np.float32],
    rows: npt.NDArray[np.int64],
) -> TensorEdit:
    info, given = target[name], donor[name]
    if info.shape != given.shape:
        raise MismatchError(
            f"{name} has the shape {list(info.shape)} in the target {target.folder} but {list(given.shape)} "
            f"in the donor {donor.folder}: give two models of the same architecture and size"
        )
    for model, one in ((target, info), (donor, given)):
        if one.dtype not in BIT_TYPES:
            raise InputError(
                f"{name} is stored as {one.dtype} in {model.folder}: save the model as bfloat16, float16 "
                "or float32 first"
            )
    if len(info.shape) <= axis or (axis == 1 and len(info.shape) != 2) or not info.size:
        raise InputError(f"{name} has the shape {list(info.shape)}: the plan cannot take neurons on its axis {axis}")
    if positions[0] < 0 or positions[-1] >= info.shape[axis]:
        wrong = positions[0] if positions[0] < 0 else positions[-1]
        raise InputError(
            f"the transplant plan names position {wrong} of {name}, which has {info.shape[axis]} on axis "
            f"{axis}: make the plan from this target"
        )
    twice = positions[1:][np.diff(positions) == 0]
    if len(twice):
        raise InputError(f"the transplant plan names position {twice[0]} of {name} twice: name every neuron once")
    return TensorEdit(info, given, axis, positions, amplitudes, rows)
