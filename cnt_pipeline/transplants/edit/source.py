"""What an edit reads: the weights of a study's models, one tensor at a time, and what probes measured of them.

An edit is a function `(source, options, seed) -> Edits`. It may look at every matrix once to plan (holding figures, not
matrices) and answers with a recipe for each tensor that it changes; the writer cooks them one by one in file order, so
no method holds a checkpoint.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from cnt_pipeline.errors import InputError
from cnt_pipeline.models.adapters import Adapters
from cnt_pipeline.models.architecture import Architecture, Matrix, Neurons
from cnt_pipeline.models.tensors import CheckpointIndex, read_entries, read_file_index
from cnt_pipeline.study.schema import Kind
from cnt_pipeline.transplants.edit.moments import Moments

Edits = Mapping[str, Callable[[], Tensor]]
"""By name of the changed tensor: what it becomes, float32 in the layout in which it is stored."""


@dataclass(frozen=True)
class AdapterEdits:
    """Edits that are an adapter's: the base model with what `adapter` gives merged into it is the edited model."""

    edits: Edits
    adapter: Callable[[], Adapters]


class NeuronEdits(dict[str, Callable[[], Tensor]]):
    """Edits that copy whole neurons of the donor, and which `neurons` these are."""

    def __init__(self, edits: Edits, neurons: Neurons) -> None:
        super().__init__(edits)
        self.neurons = neurons


FLOATS = ("F32", "BF16", "F16")

BLOCK = 1 << 18
"""Entries of a stored tensor that are converted at a time."""


@dataclass(frozen=True, eq=False)
class Linear:
    """One stored weight matrix, `[out, in]` as edits see it, and the neuron families in it (several where fused)."""

    tensor: str
    module: str
    layer: int
    matrices: tuple[Matrix, ...]

    @property
    def families(self) -> tuple[str, ...]:
        """Families stored in this matrix."""
        return tuple(matrix.family for matrix in self.matrices)

    @property
    def transposed(self) -> bool:
        """Whether the tensor is stored `[in, out]`."""
        return self.matrices[0].transposed


class Source:
    """Weights and statistics for one edit.

    Args:
        architecture: the neuron spaces that all models share.
        models: checkpoints by role: `target` (what is edited), `donor` (aligned), and `base` (before alignment) where
            the study has one.
        probes: artifact folders of the probes that the method reads, by probe and model, e.g. `moments/donor`; one of
            a single kind of prompt, e.g. `moments/donor/function`, goes before it.
        adapters: by role, the adapter that makes the model of `base`; of target and donor or of none.
    """

    def __init__(
        self,
        architecture: Architecture,
        models: Mapping[str, CheckpointIndex],
        probes: Mapping[str, Path] | None = None,
        adapters: Mapping[str, Adapters] | None = None,
    ) -> None:
        self.architecture = architecture
        self.models = models
        self.probes = probes or {}
        self.adapters = adapters or {}
        self._indices: dict[Path, CheckpointIndex] = {}

    @cached_property
    def linears(self) -> tuple[Linear, ...]:
        """Every stored weight matrix of the layers, in the architecture's order."""
        found: dict[str, list[Matrix]] = {}
        for matrix in self.architecture.matrices:
            found.setdefault(matrix.tensor, []).append(matrix)
        return tuple(
            Linear(tensor, matrices[0].module, matrices[0].layer, tuple(matrices)) for tensor, matrices in found.items()
        )

    @cached_property
    def floats(self) -> tuple[str, ...]:
        """Every tensor of the target stored as a float of 16 or 32 bits: matrices, embeddings, norms and biases."""
        return tuple(name for name, info in self.models["target"].tensors.items() if info.dtype in FLOATS)

    def tensor(self, model: str, name: str) -> Tensor:
        """A tensor of a model as stored, in float32.

        Raises:
            InputError: the model has no such tensor.
        """
        info = self.models[model][name]
        return _filled(info.shape, lambda begin, end: self.entries(model, name, slice(begin, end)))

    def entries(self, model: str, name: str, part: slice) -> Tensor:
        """The entries of a model's tensor from `part.start` to `part.stop`, counted row after row, in float32.

        Raises:
            InputError: the model has no such tensor, or not so many entries.
        """
        return read_entries(self.models[model], name, part.start, part.stop).float()

    def shape(self, linear: Linear) -> tuple[int, int]:
        """Outputs and inputs of a matrix."""
        rows, columns = self.models["target"][linear.tensor].shape
        return (columns, rows) if linear.transposed else (rows, columns)

    def weight(self, model: str, linear: Linear) -> Tensor:
        """The weight of a matrix, `[out, in]` in float32; its memory is laid out as it is stored."""
        stored = self.tensor(model, linear.tensor)
        return stored.T if linear.transposed else stored

    def rows(self, model: str, linear: Linear, part: slice) -> Tensor:
        """The outputs `part.start` to `part.stop` of a matrix, `[outputs, in]` in float32.

        Of a matrix stored `[in, out]` they are columns, for which the whole tensor is passed over.
        """
        stored, count = self.models[model][linear.tensor].shape[1], part.stop - part.start
        if not linear.transposed:
            found = self.entries(model, linear.tensor, slice(part.start * stored, part.stop * stored))
            return found.reshape(count, stored)
        inputs = self.models[model][linear.tensor].shape[0]
        rows = torch.empty(count, inputs)
        at_once = max(1, BLOCK // stored)
        for begin in range(0, inputs, at_once):
            end = min(begin + at_once, inputs)
            block = self.entries(model, linear.tensor, slice(begin * stored, end * stored)).reshape(-1, stored)
            rows[:, begin:end] = block[:, part].T
        return rows

    def add(self, made: Tensor, model: str, name: str, alpha: float = 1.0) -> Tensor:
        """`made`, float32 in the layout in which the tensor is stored, plus `alpha` times a model's tensor.

        Overwrites and returns `made`; the tensor is read block by block.
        """
        flat = made.view(-1)
        for begin in range(0, len(flat), BLOCK):
            part = slice(begin, min(begin + BLOCK, len(flat)))
            flat[part].add_(self.entries(model, name, part), alpha=alpha)
        return made

    def stored(self, linear: Linear, weight: Tensor) -> Tensor:
        """`weight` `[out, in]` in the layout in which the matrix is stored; no copy where its memory has it already."""
        return weight.T.contiguous() if linear.transposed else weight

    def moments(self, model: str, kind: Kind, linear: Linear) -> Moments:
        """What the `moments` probe measured of a matrix's inputs on a model's answers to prompts of a kind.

        Raises:
            InputError: the probe was not run on this model.
        """
        return Moments(self._measured("moments", model, kind), linear.module)

    def saliency(self, model: str, kind: Kind, linear: Linear) -> Tensor:
        """Mean over prompts of `|W o dL/dW|` (SNIP), `[out, in]`, L the NLL of the model's answers.

        Raises:
            InputError: the probe was not run on this model.
        """
        index = self._measured("saliency", model, kind)
        name = linear.tensor
        values = _filled(index[name].shape, lambda begin, end: read_entries(index, name, begin, end))
        return values.T if linear.transposed else values

    def probe(self, probe: str, model: str, kind: Kind | None = None) -> Path:
        """Artifact folder of a probe that was run on a model, of a kind of prompt where that has its own.

        Raises:
            InputError: it was not run.
        """
        try:
            return self.probes.get(f"{probe}/{model}/{kind}") or self.probes[f"{probe}/{model}"]
        except KeyError:
            raise InputError(f"the method reads the probe {probe} of the model {model}, which was not run") from None

    def _measured(self, probe: str, model: str, kind: Kind) -> CheckpointIndex:
        """The index of a probe's file, read once: it names every matrix of the model."""
        path = self.probe(probe, model, kind) / f"{kind}.safetensors"
        if path not in self._indices:
            self._indices[path] = read_file_index(path)
        return self._indices[path]


def _filled(shape: Sequence[int], read: Callable[[int, int], Tensor]) -> Tensor:
    """A tensor in float32 of the entries that are read block by block: no copy in their stored dtype is held beside."""
    whole = torch.empty(tuple(shape))
    flat = whole.view(-1)
    for begin in range(0, len(flat), BLOCK):
        end = min(begin + BLOCK, len(flat))
        flat[begin:end] = read(begin, end)
    return whole


def generator(seed: int, name: str) -> torch.Generator:
    """Random numbers of a seed for one name (a tensor, say): the same whatever was drawn before."""
    import hashlib

    number = int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big") >> 1
    return torch.Generator().manual_seed(number)
