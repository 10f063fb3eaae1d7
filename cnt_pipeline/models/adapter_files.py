"""A LoRA adapter as peft stores it: what its two files say, checked against the model it is for. Needs no torch.

Format: `adapter_config.json` and `adapter_model.safetensors` with two tensors for every adapted module,
`base_model.model.<module>.lora_A.weight` [rank, in] and `....lora_B.weight` [out, rank], in this layout also where the
model stores the weight [in, out]: `fan_in_fan_out` follows from the model and is not read.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cnt_pipeline.errors import InputError
from cnt_pipeline.models.architecture import Architecture
from cnt_pipeline.models.architecture_table import read_json
from cnt_pipeline.models.header import TensorInfo
from cnt_pipeline.models.tensors import CheckpointIndex, read_file_index

ADAPTER = "adapter"
"""Folder of an artifact that holds an adapter."""
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
FLOATS = ("F32", "BF16", "F16")

_NEUTRAL: tuple[object, ...] = (None, False, "none", [], {})
_UNSUPPORTED = (
    "bias", "lora_bias", "use_dora", "modules_to_save", "trainable_token_indices", "target_parameters",
    "layer_replication", "alora_invocation_tokens", "use_qalora", "use_bdlora", "arrow_config", "kasa_config",
    "monteclora_config",
)  # fmt: skip
"""Keys of peft's LoraConfig that make an adapter more than a product added to weight matrices."""
_PLAIN_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")
"""Values of `init_lora_weights` that leave the base model as it is; others (PiSSA, OLoRA, LoftQ) change it."""
_FACTOR = re.compile(re.escape(PREFIX) + r"(.+)\.lora_([AB])\.weight")
_MERGE = "merge it into its base with peft's merge_and_unload, and name the merged folder as `path`"


@dataclass(frozen=True)
class Settings:
    """What adapter_config.json says of ranks and scales; a pattern is a regular expression for the end of a module's
    name, and the first one that fits counts, as in peft."""

    rank: int
    alpha: float
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    rank_stabilised: bool
    layers: tuple[int, ...] | None

    def rank_of(self, module: str) -> int:
        """Rank of a module's factors."""
        return int(_fitting(self.rank_pattern, module, self.rank))

    def alpha_of(self, module: str) -> float:
        """The alpha for which alpha / rank is the factor of a module's product; rsLoRA divides by the root instead."""
        alpha, rank = _fitting(self.alpha_pattern, module, self.alpha), self.rank_of(module)
        return alpha * math.sqrt(rank) if self.rank_stabilised else alpha


@dataclass(frozen=True)
class AdapterHeader:
    """An adapter that fits its base: by module, the names of its two tensors in `index`, and its alpha."""

    index: CheckpointIndex
    factors: Mapping[str, tuple[str, str]]
    alphas: Mapping[str, float]


def adapter_files(folder: Path) -> tuple[Path, Path]:
    """Config and weights of the adapter in `folder`.

    Raises:
        InputError: the folder or one of the two files is missing.
    """
    if not folder.is_dir():
        raise InputError(f"the adapter {folder} is no folder: give the one that holds {CONFIG} and {WEIGHTS}")
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise InputError(f"the adapter {folder} holds no {name}: save it with peft's save_pretrained")
    return folder / CONFIG, folder / WEIGHTS


def read_settings(folder: Path) -> Settings:
    """What the adapter's config says.

    Raises:
        InputError: a file is missing, the config is unreadable, or the adapter is not a plain LoRA.
    """
    path, _ = adapter_files(folder)
    config = read_json(path) or {}
    kind = config.get("peft_type")
    if kind != "LORA":
        raise InputError(f"{path} says `peft_type: {kind}`, where LORA alone is read: {_MERGE}")
    special = next((key for key in _UNSUPPORTED if config.get(key) not in _NEUTRAL), None)
    if special is not None:
        raise InputError(f"{path} sets `{special}`, which is not read as factors of weight matrices: {_MERGE}")
    start = config.get("init_lora_weights")
    if start not in _PLAIN_STARTS:
        raise InputError(f"{path} sets `init_lora_weights: {start}`, which changes the base model itself: {_MERGE}")
    try:
        return _settings(config)
    except (TypeError, ValueError, AttributeError, re.error) as error:
        raise InputError(f"{path} has a rank, an alpha or layers that cannot be ({error}): save it again") from None


def _settings(config: Mapping[str, Any]) -> Settings:
    layers = config.get("layers_to_transform")
    settings = Settings(
        rank=_count(config.get("r", 8)),
        alpha=_positive(config.get("lora_alpha", 8)),
        rank_pattern={re.compile(key).pattern: _count(rank) for key, rank in _mapping(config, "rank_pattern")},
        alpha_pattern={re.compile(key).pattern: _positive(value) for key, value in _mapping(config, "alpha_pattern")},
        rank_stabilised=bool(config.get("use_rslora")),
        layers=None,
    )
    if layers is None:
        return settings
    listed = layers if isinstance(layers, list) else [layers]
    if not all(type(layer) is int for layer in listed):
        raise ValueError(f"layers_to_transform is {layers!r}")
    return replace(settings, layers=tuple(listed))


def _mapping(config: Mapping[str, Any], key: str) -> list[tuple[str, Any]]:
    return list((config.get(key) or {}).items())


def _count(value: object) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(f"the rank {value!r}")
    return value


def _positive(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"the alpha {value!r}")
    return value


def _fitting(patterns: Mapping[str, float], module: str, otherwise: float) -> float:
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), otherwise)


def read_adapter_header(folder: Path, base: CheckpointIndex, architecture: Architecture) -> AdapterHeader:
    """The adapter in `folder`, checked against the model it is for; from headers alone.

    Raises:
        InputError: as `read_settings`; it names modules or layers that the model has not or that hold no neurons, a
            factor lacks the other one, or a tensor has another shape or dtype than config and model promise.
    """
    settings = read_settings(folder)
    path = folder / WEIGHTS
    known = {matrix.module: matrix for matrix in architecture.matrices}
    for layer in settings.layers or ():
        if not 0 <= layer < architecture.layers:
            raise InputError(
                f"{folder / CONFIG} transforms layer {layer}, but the base has {architecture.layers} layers, counted "
                "from 0: name the adapter's own base model"
            )
    index = read_file_index(folder / WEIGHTS)
    pairs: dict[str, dict[str, str]] = {}
    for name, info in index.tensors.items():
        module, factor = _parts(path, name)
        matrix = known.get(module)
        if matrix is None:
            raise InputError(
                f"{path} adapts {module}, which is no weight matrix in a layer of the base ({architecture.name}): "
                "name the adapter's own base model, or train it on attention and feed-forward matrices alone"
            )
        if settings.layers is not None and matrix.layer not in settings.layers:
            raise InputError(f"{path} adapts {module}, but its config leaves layer {matrix.layer} out: save it again")
        stored = base[matrix.tensor].shape
        outputs, inputs = stored[::-1] if matrix.transposed else stored
        rank = settings.rank_of(module)
        _check(path, info, (rank, inputs) if factor == "A" else (outputs, rank))
        pairs.setdefault(module, {})[factor] = name
    if not pairs:
        raise InputError(f"{path} holds no tensor: save the adapter again")
    half = next((module for module, pair in pairs.items() if len(pair) < 2), None)
    if half is not None:
        raise InputError(f"{path} holds only one of the two factors of {half}: save the adapter again")
    order = [module for module in known if module in pairs]
    return AdapterHeader(
        index,
        {module: (pairs[module]["A"], pairs[module]["B"]) for module in order},
        {module: settings.alpha_of(module) for module in order},
    )


def _parts(path: Path, name: str) -> tuple[str, str]:
    """Module and factor (A or B) that a tensor's name tells."""
    found = _FACTOR.fullmatch(name)
    if found is None:
        raise InputError(f"{path} holds {name}, which is no LoRA factor of a weight matrix: {_MERGE}")
    return found[1], found[2]


def _check(path: Path, info: TensorInfo, shape: tuple[int, ...]) -> None:
    if info.shape != shape:
        raise InputError(
            f"{path} holds {info.name} as {list(info.shape)} where config and base model need {list(shape)}: name the "
            "adapter's own base model, or save it again"
        )
    if info.dtype not in FLOATS:
        raise InputError(f"{path} holds {info.name} as {info.dtype}: save the adapter as one of {', '.join(FLOATS)}")
