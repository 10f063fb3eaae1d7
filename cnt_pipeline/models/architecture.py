"""Where the neurons of a model lie, from config.json and the safetensors headers alone.

Everything that is particular to an architecture is data in `architectures/*.toml` (format: see
`architecture_table`). This module turns a table and a checkpoint into `Matrix` rows, one per layer and
family, after checking every header against config.json. It needs neither torch nor a byte of weights.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cnt_pipeline.errors import InputError
from cnt_pipeline.models.architecture_table import Side, Table, read_config, read_sizes, table_for, tables
from cnt_pipeline.models.tensors import CheckpointIndex, read_index

TRANSPLANTABLE_DTYPES = ("F32", "BF16", "F16")

Role = Literal["neuron", "other", "unused"]

Neurons = Mapping[tuple[int, str], npt.NDArray[np.int64]]
"""Some neurons of a model: their indices by (layer, family)."""


@dataclass(frozen=True, eq=False)
class Matrix:
    """The neurons of one family in one layer.

    `side`: "row" when a neuron is an output unit (q, k, v, gate, up), "column" when it is an input unit (o,
    down). `axis`: the axis of the stored tensor that holds the neurons. `positions`: `[neurons]` int64, where
    neuron i of the family lies on that axis. `module`: dotted path in the transformers model. `bias`: the
    bias tensor that has the same positions (rows only). `width`: length of the other axis.
    """

    layer: int
    family: str
    tensor: str
    module: str
    side: Side
    axis: int
    positions: npt.NDArray[np.int64]
    bias: str | None
    width: int

    @property
    def transposed(self) -> bool:
        """Whether the tensor is stored [in, out], as transformers' Conv1D does."""
        return (self.axis == 1) == (self.side == "row")

    @property
    def neurons(self) -> int:
        """How many neurons the family has in this layer."""
        return len(self.positions)

    @property
    def parameters_per_neuron(self) -> int:
        """How many weights move with one neuron, its bias included."""
        return self.width + (self.bias is not None)


@dataclass(frozen=True, eq=False)
class Architecture:
    """The neuron space of one checkpoint; `matrices` by layer, within a layer in the table's order."""

    name: str
    families: tuple[str, ...]
    matrices: tuple[Matrix, ...]
    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    tied: bool
    vocabulary: int


@dataclass(frozen=True)
class Unit:
    """A coarser neuron (FFN channel, attention head): neurons of several families that share an index.

    `count`: how many of them a layer has.
    """

    name: str
    families: tuple[str, ...]
    count: int

    def members(self, matrix: Matrix, index: int) -> range:
        """The neurons of `matrix` (one of `families`) that belong to unit `index` of its layer."""
        share = matrix.neurons // self.count
        return range(index * share, (index + 1) * share)


@dataclass(frozen=True)
class _Expected:
    """What config.json promises about one tensor; `sizes` names the sizes behind each axis."""

    role: Role
    sizes: tuple[list[str], ...]
    shape: tuple[int, ...]


def supported() -> list[str]:
    """The names of the architectures with a table."""
    return list(tables())


def read_architecture(folder: Path, index: CheckpointIndex | None = None) -> Architecture:
    """The neuron space of the checkpoint in `folder`, from config.json and headers only.

    Raises `InputError` for an unsupported architecture (naming the supported ones), a quantised checkpoint,
    and headers that contradict config.json (naming tensor, both shapes and the likely cause).
    """
    return _read(Path(folder), index)[0]


def tensor_roles(folder: Path, index: CheckpointIndex | None = None) -> dict[str, Role]:
    """What each stored tensor is: it holds neurons (or their biases), holds none, or the model ignores it."""
    return _read(Path(folder), index)[1]


def coarse_units(architecture: Architecture) -> tuple[Unit, ...]:
    """The coarser neurons that the architecture's table defines for a layer."""
    sizes = {"heads": architecture.heads, "kv_heads": architecture.kv_heads, "ffn": architecture.ffn}
    return tuple(
        Unit(name, tuple(unit["families"]), math.prod(sizes[size] for size in unit["count"]))
        for name, unit in tables()[architecture.name].units.items()
    )


def tied_names(architecture: Architecture) -> dict[str, str]:
    """`{tensor: the tensor it equals}` of a model with tied embeddings, empty for another."""
    return dict(tables()[architecture.name].tied_names) if architecture.tied else {}


def _read(folder: Path, index: CheckpointIndex | None) -> tuple[Architecture, dict[str, Role]]:
    config = read_config(folder)
    table = table_for(folder, config)
    if config.get("quantization_config"):
        raise InputError(f"{folder} is quantised: use the unquantised checkpoint it was made from")
    sizes = read_sizes(folder, config, table)
    index = index if index is not None else read_index(folder)
    prefix = table.optional_prefix
    dropped = prefix if prefix and not any(name.startswith(prefix) for name in index.tensors) else ""
    matrices, expected = _neuron_tensors(config, table, sizes, dropped)
    for pattern, dims in table.others.items():
        for layer in range(sizes["layers"] if "{layer}" in pattern else 1):
            name = pattern.format(layer=layer).removeprefix(dropped)
            if not (sizes["tied"] and pattern in table.tied_names and name not in index.tensors):
                shape = tuple(sizes[size] for size in dims)
                expected[name] = _Expected("other", tuple([size] for size in dims), shape)
    _check_layers(folder, index, table, sizes["layers"], dropped)
    _check_headers(folder, index, table, expected)
    roles: dict[str, Role] = {name: expected[name].role if name in expected else "unused" for name in index.tensors}
    for bias in (matrix.tensor.removesuffix("weight") + "bias" for matrix in matrices):
        if roles.get(bias) == "unused":
            raise InputError(
                f"{folder} holds {bias}, for which config.json leaves no place: set the bias switch in "
                "config.json (attention_bias, mlp_bias) as the model was trained, or fetch both files again"
            )
    architecture = Architecture(
        name=table.name,
        families=tuple(table.families),
        matrices=tuple(matrices),
        hidden_size=sizes["hidden"],
        layers=sizes["layers"],
        heads=sizes["heads"],
        kv_heads=sizes["kv_heads"],
        head_dim=sizes["head_dim"],
        ffn=sizes["ffn"],
        tied=bool(sizes["tied"]),
        vocabulary=sizes["vocabulary"],
    )
    return architecture, roles


def _neuron_tensors(
    config: Mapping[str, Any], table: Table, sizes: Mapping[str, int], dropped: str
) -> tuple[list[Matrix], dict[str, _Expected]]:
    """The matrices of every layer, and what is promised about the tensors (and biases) that store them."""
    matrices: list[Matrix] = []
    expected: dict[str, _Expected] = {}
    layouts = [(spec, table.positions(spec, sizes)) for spec in table.matrix]
    for layer in range(sizes["layers"]):
        for spec, positions in layouts:
            module = spec.module.format(layer=layer)
            tensor, bias = (f"{module.removeprefix(dropped)}.{part}" for part in ("weight", "bias"))
            row = spec.side == "row"
            axis = int(row is (table.stored == "in_out"))
            names = [size for family in spec.families for size in table.families[family]], [spec.width]
            shape = sum(len(where) for where in positions.values()), sizes[spec.width]
            turn = -1 if axis else 1
            expected[tensor] = _Expected("neuron", names[::turn], shape[::turn])
            has_bias = spec.has_bias(config)
            if has_bias:
                out = 0 if row else 1
                expected[bias] = _Expected("neuron" if row else "other", (names[out],), (shape[out],))
            for family, where in positions.items():
                own_bias = bias if row and has_bias else None
                matrices.append(
                    Matrix(layer, family, tensor, module, spec.side, axis, where, own_bias, sizes[spec.width])
                )
    return matrices, expected


def _check_layers(folder: Path, index: CheckpointIndex, table: Table, layers: int, dropped: str) -> None:
    tensor = re.escape(f"{table.matrix[0].module.removeprefix(dropped)}.weight")
    pattern = tensor.replace(r"\{layer\}", r"(\d+)")
    numbers = {int(match[1]) for name in index.tensors if (match := re.fullmatch(pattern, name))}
    if numbers and numbers != set(range(layers)):
        raise InputError(
            f"{folder}/config.json gives {table.config_keys(['layers'])} = {layers} but the weights hold "
            f"{len(numbers)} layer(s), numbers {min(numbers)} to {max(numbers)}: config.json and weights are "
            "of different checkpoints or the download is incomplete, fetch them again together"
        )


def _check_headers(folder: Path, index: CheckpointIndex, table: Table, expected: Mapping[str, _Expected]) -> None:
    absent = [name for name in expected if name not in index.tensors]
    if absent:
        raise InputError(
            f"{folder} lacks {len(absent)} of the {len(expected)} tensors that config.json promises, first "
            f"{absent[0]} {list(expected[absent[0]].shape)}: {_absence_cause(index, table, absent[0])}"
        )
    wrong = [name for name, promise in expected.items() if index.tensors[name].shape != promise.shape]
    if wrong:
        shape, promise = index.tensors[wrong[0]].shape, expected[wrong[0]]
        raise InputError(
            f"{folder}: {wrong[0]} has the shape {list(shape)} in the weights but {list(promise.shape)} by "
            f"config.json{f' ({len(wrong) - 1} more tensors differ)' if len(wrong) > 1 else ''}; "
            f"{_shape_cause(table, promise, shape)}"
        )
    for name, promise in expected.items():
        dtype = index.tensors[name].dtype
        if promise.role == "neuron" and dtype not in TRANSPLANTABLE_DTYPES:
            raise InputError(
                f"{folder}: {name} is stored as {dtype}: save the model as one of "
                f"{', '.join(TRANSPLANTABLE_DTYPES)} (load it unquantised, then save_pretrained)"
            )


def _absence_cause(index: CheckpointIndex, table: Table, name: str) -> str:
    if any("lora_" in stored for stored in index.tensors):
        return "this is a LoRA adapter, merge it into its base model first (peft: merge_and_unload)"
    if name in table.tied_names:
        return (
            "the model was saved without its language-model head (save it as AutoModelForCausalLM), or "
            "config.json should say tie_word_embeddings: true"
        )
    if name.endswith(".bias"):
        return "config.json asks for biases that the weights lack, set its switch as the model was trained"
    return (
        f"the weights (first tensor {next(iter(index.tensors), 'none')}) were not saved as the "
        f"AutoModelForCausalLM of {table.name} or are incomplete, save or fetch them again"
    )


def _shape_cause(table: Table, promise: _Expected, shape: tuple[int, ...]) -> str:
    if len(shape) == 2 and shape[::-1] == promise.shape:
        return "likely cause: the tensor was saved transposed, save the model again with transformers"
    if len(shape) != len(promise.shape):
        return f"likely cause: the weights are quantised or packed, not plain {table.name} weights"
    axes = [a for a, length in enumerate(shape) if length != promise.shape[a]]
    sizes = [size for axis in axes for size in promise.sizes[axis]]
    keys = table.config_keys(sizes)
    if sizes == ["vocabulary"]:
        return f"likely cause: tokens were added to the model without writing the new {keys} to config.json"
    return f"likely cause: {keys} in config.json is another model's, fetch config.json and weights together"
