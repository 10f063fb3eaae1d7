"""Write an edited model: the target's checkpoint, byte for byte, with the tensors that an edit cooks.

The target is never loaded: every weights file is passed on in one stream, in which the edited tensors are cooked one
at a time, in the order of their bytes, and rounded once to the dtype in which they are stored.
"""

import ctypes
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cnt_pipeline.errors import InputError, MismatchError
from cnt_pipeline.models.tensors import CheckpointIndex, TensorInfo
from cnt_pipeline.progress import Report, silent
from cnt_pipeline.transplants.apply import companion_files
from cnt_pipeline.transplants.arithmetic import BIT_TYPES, Bits, from_float32, to_float32
from cnt_pipeline.transplants.blocks import Block, blocks_of
from cnt_pipeline.transplants.edit.source import Edits
from cnt_pipeline.transplants.new_files import new_files
from cnt_pipeline.transplants.stream import stream_file
from cnt_pipeline.transplants.verify import BESIDE, Comparison, Deviation, FilePair


@dataclass(frozen=True)
class Change:
    """What an edit did to one stored tensor.

    `changed` of its `total` parameters have other bits than before; `difference` and `norm` are the Frobenius norms of
    the change and of the target's tensor, both as stored.
    """

    changed: int
    total: int
    difference: float
    norm: float

    @property
    def relative(self) -> float:
        """Size of the change relative to the tensor; infinite where a tensor of zeros was changed."""
        if self.norm == 0:
            return math.inf if self.difference else 0.0
        return self.difference / self.norm


@dataclass(frozen=True)
class Edited:
    """What was written to `folder`: the change of every edited tensor in file order, by name.

    `left_out` are files of the target that were not copied: weights in other formats and the target's model card.
    """

    folder: Path
    tensors: Mapping[str, Change]
    left_out: tuple[str, ...]

    @property
    def parameters(self) -> int:
        """Stored parameters whose bits changed."""
        return sum(change.changed for change in self.tensors.values())

    @property
    def modules(self) -> tuple[str, ...]:
        """Modules of which a parameter changed, in file order."""
        touched = (name.rpartition(".")[0] for name, change in self.tensors.items() if change.changed)
        return tuple(dict.fromkeys(touched))


@dataclass(frozen=True)
class Unchanged:
    """Whether everything but the edited tensors is the target's, byte for byte; `offence` is the first that is not.

    `bytes_compared` counts the bytes of the checkpoint that were compared until then.
    """

    holds: bool
    offence: str | None
    bytes_compared: int


def write_edited(target: CheckpointIndex, edits: Edits, folder: Path, report: Report = silent) -> Edited:
    """Write the model folder `folder`: the target's files, names, dtypes and shards with the edited tensors.

    Every recipe is called once; at most one cooked tensor is held, beside a few blocks of 2 MB.

    Raises:
        InputError: the target has no such tensor or stores it as no float of 16 or 32 bits; a new value is not finite,
            or too large for the stored dtype.
        MismatchError: a cooked tensor has another shape than the stored one.
        StoreError: `folder` cannot be written, or holds one of the files already.

    After any error nothing is left behind.
    """
    by_file = _in_file_order(target, edits)
    copied, left_out = companion_files(target)
    names = [*copied, *target.files]
    cook = _Cook(edits)
    numbers = count()

    def tell() -> None:
        report("writing the edited model", next(numbers), len(edits))

    tell()
    with new_files(folder, sum(target.path(name).stat().st_size for name in names)) as claim:
        for name in names:
            stream_file(target.path(name), claim(folder / name), _blocks(by_file.get(name, ()), tell), cook)
    changes = {info.name: cook.change(info) for infos in by_file.values() for info in infos}
    return Edited(folder, changes, left_out)


def _in_file_order(target: CheckpointIndex, edits: Edits) -> dict[str, list[TensorInfo]]:
    """The edited tensors by file, in the order of their bytes."""
    by_file: dict[str, list[TensorInfo]] = {file: [] for file in target.files}
    for name in edits:
        info = target[name]
        if info.dtype not in BIT_TYPES:
            raise InputError(
                f"{name} is stored as {info.dtype}, which no edit writes: save the target as one of "
                f"{', '.join(BIT_TYPES)}"
            )
        by_file[info.file].append(info)
    return {file: sorted(infos, key=lambda info: info.begin) for file, infos in by_file.items()}


def _blocks(infos: Iterable[TensorInfo], finished: Callable[[], None]) -> Iterator[Block]:
    """Whole tensors in blocks of rows; `finished` is called after each tensor's last."""
    for info in infos:
        if info.count:
            rows = replace(info, shape=info.shape or (1,))
            yield from blocks_of(rows, 0, np.arange(rows.shape[0]))
        finished()


class _Cook:
    """Gives every block of the edited tensors its new bits and measures how they differ from the old ones."""

    def __init__(self, edits: Edits) -> None:
        self._edits = edits
        self._cooked: Tensor | None = None
        self._failure: BaseException | None = None
        self._changed: dict[str, int] = {}
        self._squares: dict[str, tuple[float, float]] = {}

    def __call__(self, block: Block, old: Bits) -> Bits:
        # The stream asks for blocks ahead: after a failure those must not start the same recipe over.
        if self._failure is not None:
            raise self._failure
        try:
            return self._replaced(block, old)
        except BaseException as error:
            self._failure, self._cooked = error, None
            raise

    def change(self, info: TensorInfo) -> Change:
        """What became of a tensor."""
        difference, norm = self._squares.get(info.name, (0.0, 0.0))
        return Change(self._changed.get(info.name, 0), info.count, math.sqrt(difference), math.sqrt(norm))

    def _replaced(self, block: Block, old: Bits) -> Bits:
        info = block.info
        values = self._tensor(info)[block.first : block.first + block.rows].reshape(block.shape).cpu().numpy()
        if block.first + block.rows == info.shape[0]:
            self._cooked = None
        if not np.isfinite(values).all():
            raise InputError(
                f"the edit gives {info.name} a value that is not finite: check the models for damaged weights, or "
                "lower the method's strength"
            )
        # A copy, also where nothing is rounded: what waits to be written must not keep the cooked tensor alive.
        new = from_float32(np.array(values, order="C"), info.dtype)
        before, after = (to_float32(bits, info.dtype).astype(np.float64) for bits in (old, new))
        if not np.isfinite(after).all():
            raise InputError(
                f"the edit takes a value of {info.name} beyond the largest {info.dtype} number: lower the method's "
                "strength, or save the target as bfloat16"
            )
        difference, norm = self._squares.get(info.name, (0.0, 0.0))
        after -= before
        self._squares[info.name] = difference + float(np.vdot(after, after)), norm + float(np.vdot(before, before))
        self._changed[info.name] = self._changed.get(info.name, 0) + int(np.count_nonzero(new != old))
        return new

    def _tensor(self, info: TensorInfo) -> Tensor:
        """The cooked tensor, of one row where it has no axis; the one before was dropped with its last block."""
        if self._cooked is None:
            _give_back()
            with torch.no_grad():
                cooked = self._edits[info.name]().detach()
            if cooked.dtype != torch.float32:
                raise TypeError(f"the edit of {info.name} gives {cooked.dtype}: cook in float32, it is rounded once")
            cooked = cooked if cooked.dim() else cooked.reshape(1)
            if cooked.shape != info.shape:
                raise MismatchError(
                    f"the edit gives {info.name} the shape {list(cooked.shape)} where {list(info.shape)} is stored: "
                    "use models of one architecture"
                )
            self._cooked = cooked
        return self._cooked


def _give_back() -> None:
    """Hand freed memory back to the system: glibc's malloc keeps blocks of up to 32 MB, for every thread."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def verify_unchanged(
    target: CheckpointIndex, written: CheckpointIndex, edited: Collection[str], beside: Iterable[str] = BESIDE
) -> Unchanged:
    """Compare every byte of `written` outside the tensors `edited` with the target's, headers and other files included.

    `beside` are name patterns of files that the checkpoint may hold in addition. A checkpoint that deviates is
    reported, not raised.

    Raises:
        InputError: the target has no such tensor, or cannot be read.
    """
    skipped = {target[name].name for name in edited}
    check = Comparison(target, written.folder)
    offence = None
    try:
        check.folder(tuple(beside))
        for file in target.files:
            tensors = sorted((info for info in target.tensors.values() if info.file == file), key=lambda i: i.begin)
            with FilePair(target.path(file), written.path(file)) as pair:
                header_end = tensors[0].begin if tensors else pair.size
                check.same(pair, 0, header_end, f"{file}: header")
                for info in tensors:
                    if info.name not in skipped:
                        check.same(pair, info.begin, info.end, f"{file}: {info.name}", info)
    except Deviation as deviation:
        offence = str(deviation)
    return Unchanged(offence is None, offence, check.compared)
