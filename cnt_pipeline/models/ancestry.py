"""Do two models descend from one? Told by the angle between each neuron's weights in the one and in the other.

Fine-tuning turns a neuron by a few degrees, while neurons of models that were trained apart stand at right angles:
in two models without a shared ancestor, neuron 17 of the one has nothing to do with neuron 17 of the other, and
copying it by its index moves noise. Weights are streamed in blocks, so memory does not grow with the model. No torch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cnt_pipeline.models.architecture import Architecture, Matrix
from cnt_pipeline.models.tensors import CheckpointIndex, TensorInfo, open_weights, read_into

SHARED_FROM = 0.8
"""Median cosine from which two models count as descendants of one. Measured: 0.98 between the packaged pair,
trained hard from one small base, 0.99 from that base to either; 0.54 between a trained model and the random start of
its own training; 0.00 between models that started apart."""
LOW = 0.5
"""Cosine below which a neuron counts as another neuron: more than 60 degrees apart."""

_BLOCK = 1 << 20
"""Values held at once of each model: what fits the processor's cache is several times faster than a whole tensor."""

Floats = npt.NDArray[np.float32]
Sums = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Ancestry:
    """How alike the neurons of equal index are.

    `median_cosine` in [-1, 1]; `share_low`: share of the neurons below `LOW`; `by_family`: both by weight family.
    """

    median_cosine: float
    share_low: float
    by_family: Mapping[str, Mapping[str, float]]

    @property
    def shared(self) -> bool:
        """Whether the two descend from one model."""
        return self.median_cosine >= SHARED_FROM

    def document(self) -> dict[str, Any]:
        """As `comparison.json` holds it."""
        return {
            "median_cosine": self.median_cosine,
            "share_low": self.share_low,
            "by_family": {family: dict(values) for family, values in self.by_family.items()},
            "shared": self.shared,
        }


def ancestry(
    target: CheckpointIndex,
    donor: CheckpointIndex,
    architecture: Architecture,
    layers: Collection[int] | None = None,
) -> Ancestry:
    """Compare every neuron of the target (or of some `layers`) with the donor's of the same index; shapes must agree.

    Raises:
        InputError: the weights cannot be read.
    """
    by_family: dict[str, list[Sums]] = {family: [] for family in architecture.families}
    for (_, family), values in sorted(cosines(target, donor, architecture, layers).items()):
        by_family[family].append(values)
    families = {family: np.concatenate(parts) for family, parts in by_family.items() if parts}
    everyone = np.concatenate(list(families.values()))
    return Ancestry(**_figures(everyone), by_family={family: _figures(values) for family, values in families.items()})


def cosines(
    target: CheckpointIndex,
    donor: CheckpointIndex,
    architecture: Architecture,
    layers: Collection[int] | None = None,
) -> dict[tuple[int, str], Sums]:
    """The cosine of each neuron's weights (bias left out) in both models, `[neurons]` by (layer, family).

    A neuron without any weight in one of the models has the cosine 0, in both of them 1.
    """
    found: dict[tuple[int, str], Sums] = {}
    by_tensor: dict[str, list[Matrix]] = {}
    for matrix in architecture.matrices:
        if layers is None or matrix.layer in layers:
            by_tensor.setdefault(matrix.tensor, []).append(matrix)
    for name, matrices in by_tensor.items():
        whole = _tensor_cosines(target, target[name], donor, donor[name], matrices[0].axis)
        for matrix in matrices:
            found[matrix.layer, matrix.family] = whole[matrix.positions]
    return found


def _tensor_cosines(
    target: CheckpointIndex, ours: TensorInfo, donor: CheckpointIndex, theirs: TensorInfo, axis: int
) -> Sums:
    """Cosine of every row (`axis` 0) or column (1) of one tensor in both models."""
    sums = np.zeros((3, ours.shape[axis]))
    equation = "ij,ij->i" if axis == 0 else "ij,ij->j"
    first = 0
    for one, other in zip(_blocks(target, ours), _blocks(donor, theirs), strict=True):
        where = slice(first, first + len(one)) if axis == 0 else slice(None)
        for slot, (left, right) in enumerate(((one, other), (one, one), (other, other))):
            sums[slot, where] += np.einsum(equation, left, right)
        first += len(one)
    dot, ours_squared, theirs_squared = sums
    scale = np.sqrt(ours_squared * theirs_squared)
    empty = (ours_squared == 0) & (theirs_squared == 0)
    cosine = np.divide(dot, scale, out=np.zeros_like(dot), where=scale > 0)
    return np.where(empty, 1.0, np.clip(cosine, -1, 1))


def _blocks(index: CheckpointIndex, info: TensorInfo) -> Iterator[Floats]:
    """The tensor in blocks of whole rows, as float32."""
    width = info.count // info.shape[0]
    rows = max(1, _BLOCK // width)
    with open_weights(index.path(info.file)) as stream:
        for first in range(0, info.shape[0], rows):
            count = min(rows, info.shape[0] - first)
            data = bytearray(count * width * info.itemsize)
            read_into(stream, info.begin + first * width * info.itemsize, data)
            yield _floats(data, info.dtype).reshape(count, width)


def _floats(data: bytearray, dtype: str) -> Floats:
    """Stored values as float32; bfloat16 is the upper half of a float32."""
    if dtype == "BF16":
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data, {"F32": "<f4", "F16": "<f2"}[dtype]).astype(np.float32, copy=False)


def _figures(values: Sums | Sequence[float]) -> dict[str, float]:
    return {"median_cosine": float(np.median(values)), "share_low": float(np.mean(np.asarray(values) < LOW))}


def ancestry_warning(found: Ancestry, match: str) -> str | None:
    """What a user must know of two models that do not descend from one; None where they do."""
    if found.shared:
        return None
    said = (
        f"neurons of equal index are strangers in target and donor, which share no ancestor or not their order: the "
        f"median cosine is {found.median_cosine:.2f} (at least {SHARED_FROM:.1f} in models fine-tuned from one base), "
        f"{found.share_low:.0%} lie below {LOW:.1f}"
    )
    if match == "activation":
        return (
            f"{said}; channels and heads are paired by activation as the study asks, which cannot align the residual "
            "stream (each model keeps its own axes), so trust the transplant by its measured recovery alone"
        )
    return (
        f"{said}; choose a donor fine-tuned from the target's base, or write `match: activation`, which pairs channels "
        "and heads by what they do but cannot align the residual stream of models that were trained apart"
    )
