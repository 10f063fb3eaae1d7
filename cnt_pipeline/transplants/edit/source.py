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
from cnt_pipeline.models.architecture import Architecture, Matrix
from cnt_pipeline.models.tensors import CheckpointIndex, read_array
from cnt_pipeline.study.schema import Kind

Edits = Mapping[str, Callable[[], Tensor]]
"""By name of the changed tensor: what it becomes, float32 in the layout in which it is stored."""


@dataclass(frozen=True)
class AdapterEdits:
    """Edits that are an adapter's: the base model with what `adapter` gives merged into it is the edited model."""

    edits: Edits
    adapter: Callable[[], Adapters]


FLOATS = ("F32", "BF16", "F16")


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


@dataclass(frozen=True)
class Moments:
    """What a probe summed of one module's inputs over tokens, each example's answer counting the same.

    `second` `[in, in]` is the mean of x x^T, `mean` `[in]` that of x; `tokens` is how many were read. Float32.
    """

    mean: Tensor
    second: Tensor
    tokens: int

    @property
    def norms(self) -> Tensor:
        """Root mean square of every input, `[in]`: `||X_j||_2` up to the square root of the number of tokens."""
        return self.second.diagonal().clamp(min=0).sqrt()

    @property
    def variance(self) -> Tensor:
        """Variance of every input over tokens, `[in]`."""
        return (self.second.diagonal() - self.mean.square()).clamp(min=0)


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
        return read_array(self.models[model], name).float()

    def shape(self, linear: Linear) -> tuple[int, int]:
        """Outputs and inputs of a matrix."""
        rows, columns = self.models["target"][linear.tensor].shape
        return (columns, rows) if linear.transposed else (rows, columns)

    def weight(self, model: str, linear: Linear) -> Tensor:
        """The weight of a matrix, `[out, in]` in float32."""
        stored = self.tensor(model, linear.tensor)
        return stored.T.contiguous() if linear.transposed else stored

    def stored(self, linear: Linear, weight: Tensor) -> Tensor:
        """`weight` `[out, in]` in the layout in which the matrix is stored."""
        return weight.T.contiguous() if linear.transposed else weight

    def moments(self, model: str, kind: Kind, linear: Linear) -> Moments:
        """What the `moments` probe measured of a matrix's inputs on a model's answers to prompts of a kind.

        Raises:
            InputError: the probe was not run on this model.
        """
        return read_moments(self.probe("moments", model, kind) / f"{kind}.safetensors", linear.module)

    def saliency(self, model: str, kind: Kind, linear: Linear) -> Tensor:
        """Mean over prompts of `|W o dL/dW|` (SNIP), `[out, in]`, L the NLL of the model's answers.

        Raises:
            InputError: the probe was not run on this model.
        """
        values = _read(self.probe("saliency", model) / f"{kind}.safetensors", (linear.tensor,))[0].float()
        return values.T.contiguous() if linear.transposed else values

    def probe(self, probe: str, model: str, kind: Kind | None = None) -> Path:
        """Artifact folder of a probe that was run on a model, of a kind of prompt where that has its own.

        Raises:
            InputError: it was not run.
        """
        try:
            return self.probes.get(f"{probe}/{model}/{kind}") or self.probes[f"{probe}/{model}"]
        except KeyError:
            raise InputError(f"the method reads the probe {probe} of the model {model}, which was not run") from None


def read_moments(path: Path, module: str) -> Moments:
    """The moments of one module from a probe's file (`<module>.mean`, `<module>.second`, `<module>.tokens`)."""
    mean, second, tokens = _read(path, (f"{module}.mean", f"{module}.second", f"{module}.tokens"))
    return Moments(mean.float(), second.float(), int(tokens))


def _read(path: Path, names: Sequence[str]) -> list[Tensor]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return [file.get_tensor(name) for name in names]


def generator(seed: int, name: str) -> torch.Generator:
    """Random numbers of a seed for one name (a tensor, say): the same whatever was drawn before."""
    import hashlib

    number = int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big") >> 1
    return torch.Generator().manual_seed(number)
