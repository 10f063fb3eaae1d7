"""Proof that a checkpoint is the target with the planned neurons of the donor, and nothing else.

Every byte of every file is compared in blocks: headers, tensors without a planned neuron and the other
files with the target's, planned rows and columns with the donor's (or with the edit rule where an amplitude
is not 1).
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from cnt_pipeline.models.tensors import CheckpointIndex, TensorInfo, open_weights, read_into
from cnt_pipeline.transplants.apply import OWN_FILES, companion_files
from cnt_pipeline.transplants.arithmetic import BIT_TYPES, Bits
from cnt_pipeline.transplants.blocks import BUFFER, blocks_of, read_row_values
from cnt_pipeline.transplants.donor import DonorNeurons
from cnt_pipeline.transplants.plan import TensorEdit, TransplantPlan

BESIDE = (*OWN_FILES, "plan.parquet", "manifest.json")
"""Files that may lie in a checkpoint folder besides those of its target: no loader reads them."""


@dataclass(frozen=True)
class Verification:
    """What the comparison found.

    `holds` tells whether every claim is true; `offence` is the first that is not, by file, tensor and row.
    `bytes_compared` counts the bytes of the checkpoint that were compared until then, `neurons` and
    `parameters` those of the plan, and `parameters_changed` how many of them differ from the target's (a
    donor's neuron may equal the target's).
    """

    holds: bool
    offence: str | None
    bytes_compared: int
    neurons: int
    parameters: int
    parameters_changed: int


def verify_transplant(
    target: CheckpointIndex,
    donor: CheckpointIndex,
    plan: TransplantPlan,
    checkpoint: CheckpointIndex,
    beside: Iterable[str] = BESIDE,
) -> Verification:
    """Compare `checkpoint` with what `plan` makes of `target` and `donor`, in bounded memory.

    `beside` are name patterns of files that the checkpoint may hold in addition to the target's. A
    checkpoint that deviates is reported, not raised; `InputError` is for plan, target or donor that do not
    fit together or cannot be read.
    """
    edits = plan.edits(target, donor)
    check = Comparison(target, checkpoint.folder)
    try:
        check.folder(tuple(beside))
        with DonorNeurons(donor) as neurons:
            for file in target.files:
                check.weights(file, edits[file], neurons)
        offence = None
    except Deviation as deviation:
        offence = str(deviation)
    parameters = sum(edit.parameters for part in edits.values() for edit in part)
    return Verification(offence is None, offence, check.compared, len(plan), parameters, check.changed)


class Deviation(Exception):  # noqa: N818
    """The checkpoint is not what it should be; the message says where."""


class Comparison:
    """A pass over the files of target and checkpoint that ends at the first deviation."""

    def __init__(self, target: CheckpointIndex, folder: Path) -> None:
        self.target, self.made = target, folder
        self.compared = 0
        self.changed = 0

    def folder(self, beside: tuple[str, ...]) -> None:
        """The same files in both folders, and the same bytes in those that hold no weights."""
        copied, _ = companion_files(self.target)
        expected = {*copied, *self.target.files}
        present = {path.relative_to(self.made).as_posix() for path in self.made.rglob("*") if path.is_file()}
        for name in sorted(expected - present):
            raise Deviation(f"{name}: absent from the checkpoint")
        for name in sorted(present - expected):
            if not any(fnmatch(name, pattern) for pattern in beside):
                raise Deviation(f"{name}: not a file of the target")
        for name in copied:
            with FilePair(self.target.path(name), self.made / name) as pair:
                self.same(pair, 0, pair.size, name)

    def weights(self, file: str, edits: tuple[TensorEdit, ...], neurons: DonorNeurons) -> None:
        """One weights file: header, planned tensors, and every byte between them."""
        with FilePair(self.target.path(file), self.made / file) as pair:
            tensors = [info for info in self.target.tensors.values() if info.file == file]
            at = min((info.begin for info in tensors), default=pair.size)
            self.same(pair, 0, at, f"{file}: header")
            planned = {edit.info.name: edit for edit in edits}
            for info in sorted(tensors, key=lambda info: info.begin):
                edit = planned.get(info.name)
                if edit is None:
                    self.same(pair, info.begin, info.end, f"{file}: {info.name}", info)
                elif edit.axis == 0:
                    self._rows(pair, edit, neurons)
                else:
                    self._columns(pair, edit, neurons)
                at = info.end
            self.same(pair, at, pair.size, file)

    def same(self, pair: FilePair, begin: int, end: int, place: str, info: TensorInfo | None = None) -> None:
        """The same bytes from `begin` to `end`; `place` and, with `info`, the row name a deviation."""
        for at in range(begin, end, BUFFER):
            mine, made = pair.read(at, min(BUFFER, end - at))
            self.compared += len(made)
            if not np.array_equal(mine, made):
                offset = at + int((mine != made).argmax())
                where = f"byte {offset}"
                if info is not None and info.shape:
                    where = f"row {(offset - info.begin) // (info.size // info.shape[0])}"
                raise Deviation(f"{place}: {where} differs from the target's but is not planned")

    def _rows(self, pair: FilePair, edit: TensorEdit, neurons: DonorNeurons) -> None:
        """Planned rows are the donor's, the rows between them the target's."""
        info = edit.info
        width = info.size // info.shape[0]
        place = f"{info.file}: {info.name}"
        at = info.begin
        for block in blocks_of(info, 0, edit.positions):
            old, made = (np.empty(block.shape, BIT_TYPES[info.dtype]) for _ in range(2))
            read_row_values(pair.mine, info, block.positions, old)
            read_row_values(pair.made, info, block.positions, made)
            wrong = (made != neurons.transplanted(edit, block, old)).any(axis=1)
            if wrong.any():
                row = int(block.positions[wrong.argmax()])
                raise Deviation(f"{place}: row {row} is planned but does not hold the donor's neuron")
            self.changed += int(np.count_nonzero(made != old))
            self.compared += made.nbytes
            for position in block.positions.tolist():
                self.same(pair, at, info.begin + position * width, place, info)
                at = info.begin + (position + 1) * width
        self.same(pair, at, info.end, place, info)

    def _columns(self, pair: FilePair, edit: TensorEdit, neurons: DonorNeurons) -> None:
        """Planned columns are the donor's, the columns between them the target's."""
        info = edit.info
        place = f"{info.file}: {info.name}"
        for block in blocks_of(info, 1, edit.positions):
            size = block.rows * block.width * info.itemsize
            pieces = pair.read(info.begin + block.first * block.width * info.itemsize, size)
            old: Bits = pieces[0].view(BIT_TYPES[info.dtype]).reshape(block.rows, block.width)
            made: Bits = pieces[1].view(BIT_TYPES[info.dtype]).reshape(block.rows, block.width)
            expected = old.copy()
            expected[:, block.positions] = neurons.transplanted(edit, block, old.take(block.positions, axis=1))
            differs = made != expected
            if differs.any():
                row, column = (int(n) for n in np.argwhere(differs)[0])
                planned = "is planned but does not hold the donor's neuron"
                outside = "differs from the target's but is not planned"
                verdict = planned if column in block.positions else outside
                raise Deviation(f"{place}: row {block.first + row}, column {column} {verdict}")
            self.changed += int(np.count_nonzero(made != old))
            self.compared += size


class FilePair(ExitStack):
    """The same file of target (`mine`) and checkpoint (`made`), which must be of one size."""

    def __init__(self, mine: Path, made: Path) -> None:
        super().__init__()
        self.size = mine.stat().st_size
        if made.stat().st_size != self.size:
            raise Deviation(f"{made.name}: {made.stat().st_size} bytes, the target's has {self.size}")
        self.mine: BinaryIO = self.enter_context(open_weights(mine))
        self.made: BinaryIO = self.enter_context(open_weights(made))

    def read(self, begin: int, size: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """`size` bytes from `begin` on, of both files."""
        pieces = np.empty(size, np.uint8), np.empty(size, np.uint8)
        read_into(self.mine, begin, pieces[0].data)
        read_into(self.made, begin, pieces[1].data)
        return pieces
