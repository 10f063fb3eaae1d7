"""Llamas of given sizes, with what each probe measured of them: the files of which an edit's memory is measured.

All files are in the project's own formats, written through its own writers. Layers are shifted copies of a few random
matrices, so that writing them takes seconds.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cnt_pipeline.activation_caches.capture import Item, capture
from cnt_pipeline.activation_caches.tensor_file import write_tensors
from cnt_pipeline.models.architecture import read_architecture
from cnt_pipeline.models.tensors import read_index
from cnt_pipeline.study.schema import KINDS
from cnt_pipeline.transplants.edit.source import Source
from tests.unit.transplants.checkpoints import write_checkpoint


@dataclass(frozen=True)
class Size:
    """Sizes of a Llama of four heads."""

    hidden: int
    ffn: int
    layers: int
    vocabulary: int
    head: int

    @property
    def config(self) -> dict[str, Any]:
        """Its config.json."""
        return {
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.ffn,
            "num_hidden_layers": self.layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": self.head,
            "vocab_size": self.vocabulary,
        }

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Its tensors."""
        hidden, heads = self.hidden, 4 * self.head
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocabulary, hidden)}
        for layer in range(self.layers):
            place = f"model.layers.{layer}."
            shapes |= {f"{place}self_attn.{part}_proj.weight": (heads, hidden) for part in "qkv"}
            shapes |= {f"{place}self_attn.o_proj.weight": (hidden, heads)}
            shapes |= {f"{place}mlp.{part}_proj.weight": (self.ffn, hidden) for part in ("gate", "up")}
            shapes |= {f"{place}mlp.down_proj.weight": (hidden, self.ffn)}
            shapes |= {f"{place}{norm}.weight": (hidden,) for norm in ("input_layernorm", "post_attention_layernorm")}
        return shapes | {"model.norm.weight": (hidden,), "lm_head.weight": (self.vocabulary, hidden)}


LAYERED = Size(hidden=192, ffn=1536, layers=32, vocabulary=16384, head=48)
"""Large as a whole, small in every tensor."""
WIDE = Size(hidden=1536, ffn=6144, layers=1, vocabulary=256, head=64)
"""Whose largest tensors, of 38 MB in float32, are the matrices of its FFN."""
SHARDS = 3
PROMPTS = 6
"""Of each kind."""
ROLES = ("target", "donor", "base")

Values = dict[tuple[int, str], npt.NDArray[np.float32]]


def write(root: Path, size: Size) -> None:
    """The models of a size and what all probes measured of them, with the probes' folders in `probes.json`."""
    write_models(root, size)
    probes = {name: str(folder) for name, folder in write_probes(root, size).items()}
    (root / "probes.json").write_text(json.dumps(probes))


def write_models(root: Path, size: Size) -> None:
    """The bfloat16 checkpoints `target`, `donor` and `base`: related, and different in every tensor."""
    start = _matrices(size, 0)
    for seed, role in enumerate(ROLES, 1):
        change = _matrices(size, seed)
        tensors = {}
        for name, shape in size.shapes.items():
            layer = int(name.split(".")[2]) if ".layers." in name else 0
            values = start[shape].roll(layer, 0) + 0.1 * change[shape].roll(3 * layer, 0)
            tensors[name] = values.bfloat16()
        write_checkpoint(root / role, tensors, SHARDS)
        (root / role / "config.json").write_text(json.dumps(size.config))


def write_probes(root: Path, size: Size) -> dict[str, Path]:
    """Folders of the probes of the models under `root`, by probe and model."""
    source = Source(read_architecture(root / "target"), {"target": read_index(root / "target")})
    drawn = torch.Generator().manual_seed(9)
    folders = {name: root / "probes" / name for name in ("moments", "saliency", "activation", "hidden_state")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    shapes = {linear: source.models["target"][linear.tensor].shape for linear in source.linears}
    for kind in KINDS:
        inputs = {
            width: torch.randn(200, width, generator=drawn) for width in sorted({width for _, width in shapes.values()})
        }
        means = {width: part.mean(0) for width, part in inputs.items()}
        seconds = {width: part.T @ part / len(part) for width, part in inputs.items()}
        moments: dict[str, Tensor] = {}
        for linear, (_, width) in shapes.items():
            moments |= {f"{linear.module}.mean": means[width], f"{linear.module}.second": seconds[width]}
            moments[f"{linear.module}.tokens"] = torch.tensor(200)
        sizes = {shape: torch.rand(shape, generator=drawn) for shape in set(shapes.values())}
        if kind != "lookalike":  # of which no method reads moments
            write_tensors(moments, folders["moments"] / f"{kind}.safetensors")
        write_tensors({linear.tensor: sizes[shape] for linear, shape in shapes.items()},
                      folders["saliency"] / f"{kind}.safetensors")  # fmt: skip
    _write_cache(folders["activation"], _activations(source))
    _write_cache(folders["hidden_state"], _states(size))
    return {f"{name}/{role}": folder for name, folder in folders.items() for role in ("target", "donor")}


def float32_bytes(root: Path) -> tuple[int, int]:
    """Size of the largest tensor of the target and of all together, as float32."""
    counts = [info.count for info in read_index(root / "target").tensors.values()]
    return 4 * max(counts), 4 * sum(counts)


def _matrices(size: Size, seed: int) -> dict[tuple[int, ...], Tensor]:
    drawn = torch.Generator().manual_seed(seed)
    return {shape: 0.05 * torch.randn(shape, generator=drawn) for shape in sorted(set(size.shapes.values()))}


def _activations(source: Source) -> Values:
    """Means and root mean squares of every neuron: harmful prompts drive some neurons well above the others."""
    lot = np.random.default_rng(3)
    values: Values = {}
    for matrix in source.architecture.matrices:
        loud = _harmful() * (lot.random(matrix.neurons) < 0.02) * 5
        mean = lot.normal(size=(len(loud), matrix.neurons)) + loud
        values[matrix.layer, f"{matrix.family}.mean"] = mean.astype(np.float32)
        values[matrix.layer, f"{matrix.family}.rms"] = np.sqrt(mean**2 + lot.random(mean.shape)).astype(np.float32)
    return values


def _states(size: Size) -> Values:
    """Hidden states whose direction on harmful prompts turns away from the others' layer by layer."""
    lot = np.random.default_rng(4)
    values: Values = {}
    for state in range(size.layers + 1):
        angle = _harmful() * state / size.layers * np.pi / 2
        turned = np.zeros((len(angle), size.hidden))
        turned[:, :1], turned[:, 1:2] = np.cos(angle), np.sin(angle)
        values[state, "hidden"] = (turned + 0.001 * lot.normal(size=turned.shape)).astype(np.float32)
    return values


def _harmful() -> npt.NDArray[np.bool_]:
    """Which prompts are of the kind function, `[prompts, 1]`."""
    return np.array([kind == "function" for kind in KINDS for _ in range(PROMPTS)])[:, None]


def _write_cache(folder: Path, values: Values) -> None:
    items = [Item(f"{kind}-{number}", kind, 9) for kind in KINDS for number in range(PROMPTS)]
    capture(lambda members: {key: part[list(members)] for key, part in values.items()}, items, folder)
