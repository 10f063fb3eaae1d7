"""Questions that need the weights' bytes but no torch: are they finite, and how far apart are two models.

Tensors are streamed in blocks, so memory does not grow with the model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import numpy.typing as npt

from cnt_pipeline.errors import InputError, MismatchError
from cnt_pipeline.models.architecture import read_architecture, tensor_roles, tied_names
from cnt_pipeline.models.architecture_table import tables
from cnt_pipeline.models.tensors import CheckpointIndex, TensorInfo, open_weights, read_into

NON_NEURON_LIMIT = 5e-3
"""Relative L2 difference of a tensor without neurons above which a warning says that a transfer of neurons
alone may not carry the function. Rounding to bf16 moves a tensor by at most 2^-8 = 3.9e-3 (typically
1.6e-3), so what lies above was trained."""

_BLOCK = 1 << 22
_EXPONENTS = {"F32": ("<u4", 0x7F800000), "BF16": ("<u2", 0x7F80), "F16": ("<u2", 0x7C00)}
_EXPONENTS |= {"F64": ("<u8", 0x7FF0000000000000)}


@dataclass(frozen=True)
class NonNeuronDifference:
    """How far the donor's embeddings, norms, head and o/down biases are from the target's.

    `relative`: `||donor - target|| / max(||target||, ||donor||)` by tensor, largest first, in [0, 2].
    """

    relative: Mapping[str, float]
    warnings: tuple[str, ...]

    @property
    def largest(self) -> float:
        return max(self.relative.values(), default=0.0)


def check_finite(index: CheckpointIndex) -> None:
    """Raise `InputError`, naming tensor and file, when a weight is NaN or infinite."""
    ignored = [pattern for table in tables().values() for pattern in table.ignored]
    for name, info in index.tensors.items():
        if info.dtype not in _EXPONENTS or any(fnmatchcase(name, pattern) for pattern in ignored):
            continue
        kind, mask = _EXPONENTS[info.dtype]
        bad, first, seen = 0, -1, 0
        for block in _raw_blocks(index, info):
            words = block.view(kind)
            broken = (words & mask) == mask
            count = int(np.count_nonzero(broken))
            if count and not bad:
                first = seen + int(broken.argmax())
            bad, seen = bad + count, seen + len(words)
        if bad:
            where = [int(i) for i in np.unravel_index(first, info.shape)]
            raise InputError(
                f"{name} in {index.path(info.file)} holds {bad} NaN or infinite value(s), first at {where}: "
                "the training or the conversion failed, use another checkpoint"
            )


def non_neuron_difference(target_index: CheckpointIndex, donor_index: CheckpointIndex) -> NonNeuronDifference:
    """Compare the tensors that a transfer of neurons leaves behind, streaming one block at a time.

    Call after `compare`, which makes sure that the shapes agree. Raises `InputError` for an unsupported
    architecture or dtype, `MismatchError` for shapes that differ.
    """
    sides = [
        (index, tied_names(read_architecture(index.folder, index)), tensor_roles(index.folder, index))
        for index in (target_index, donor_index)
    ]
    names = {name for _, _, roles in sides for name, role in roles.items() if role == "other"}
    relative: dict[str, float] = {}
    for name in names:
        infos = [
            None if name in tied and tied[name] not in index.tensors else index.tensors.get(tied.get(name, name))
            for index, tied, _ in sides
        ]
        one, other = infos
        if one is not None and other is not None and not all(name in tied for _, tied, _ in sides):
            relative[name] = _relative(target_index, one, donor_index, other)
    relative = dict(sorted(relative.items(), key=lambda item: (-item[1], item[0])))
    above = {name: value for name, value in relative.items() if value > NON_NEURON_LIMIT}
    warnings: tuple[str, ...] = ()
    if above:
        name, value = next(iter(above.items()))
        warnings = (
            f"{len(above)} tensor(s) that hold no neuron differ by more than {NON_NEURON_LIMIT:.1%}, most "
            f"{name} by {value:.2%}: they stay the target's, so a transfer of neurons alone may not carry "
            "the function; prefer a donor fine-tuned with embeddings, norms and head frozen",
        )
    return NonNeuronDifference(relative, warnings)


def _relative(
    target_index: CheckpointIndex, target: TensorInfo, donor_index: CheckpointIndex, donor: TensorInfo
) -> float:
    if target.shape != donor.shape:
        raise MismatchError(
            f"{target.name} has the shape {list(target.shape)} in the target but {list(donor.shape)} in the "
            "donor: choose a donor of the same architecture and vocabulary"
        )
    sums = np.zeros(3)
    blocks = zip(_float_blocks(target_index, target), _float_blocks(donor_index, donor), strict=True)
    for ours, theirs in blocks:
        for slot, values in enumerate((theirs - ours, ours, theirs)):
            sums[slot] += np.dot(values, values)
    scale = max(sums[1], sums[2])
    return math.sqrt(sums[0] / scale) if scale > 0 else 0.0


def _raw_blocks(index: CheckpointIndex, info: TensorInfo) -> Iterator[npt.NDArray[np.uint8]]:
    """The tensor's bytes, at most `_BLOCK` values at a time."""
    elements = math.prod(info.shape)
    itemsize = (info.end - info.begin) // max(1, elements)
    with open_weights(index.path(info.file)) as stream:
        for first in range(0, elements, _BLOCK):
            buffer = bytearray(min(_BLOCK, elements - first) * itemsize)
            read_into(stream, info.begin + first * itemsize, buffer)
            yield np.frombuffer(buffer, np.uint8)


def _float_blocks(index: CheckpointIndex, info: TensorInfo) -> Iterator[npt.NDArray[np.float64]]:
    for block in _raw_blocks(index, info):
        if info.dtype == "BF16":
            yield (block.view("<u2").astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        elif info.dtype in _EXPONENTS:
            yield block.view(_EXPONENTS[info.dtype][0].replace("u", "f")).astype(np.float64)
        else:
            raise InputError(f"{info.name} is stored as {info.dtype}: save the model as bfloat16 or float32")
