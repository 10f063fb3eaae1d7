"""Low-rank adapters as tensors: read and written in peft's format, and merged into the weights of their base.

LoRA: Hu et al., 2021, arXiv:2106.09685. A weight W [out, in] becomes W + (alpha / r) B A.
"""

import json
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cnt_pipeline.errors import InputError
from cnt_pipeline.models.adapter_files import CONFIG, PREFIX, WEIGHTS, read_adapter_header
from cnt_pipeline.models.architecture import Matrix, read_architecture
from cnt_pipeline.models.load import model_files
from cnt_pipeline.models.tensors import TORCH_NAMES, CheckpointIndex, read_array, read_index


@dataclass(frozen=True, eq=False)
class Adapters:
    """By module: A `[rank, in]` and B `[out, rank]`, float32, and alpha; alpha / rank is the factor of their product.

    Ranks may differ between modules.
    """

    factors: Mapping[str, tuple[Tensor, Tensor]]
    alphas: Mapping[str, float]

    def scale(self, module: str) -> float:
        """The factor of a module's product."""
        return self.alphas[module] / len(self.factors[module][0])

    def change(self, module: str) -> Tensor:
        """What is added to the weight of a module, `[out, in]` in float32."""
        a, b = self.factors[module]
        return self.scale(module) * (b @ a)


def read_adapter(folder: Path, base: CheckpointIndex) -> Adapters:
    """The adapter that peft saved in `folder`, for the model `base`; modules in the architecture's order.

    Raises:
        InputError: as `read_adapter_header`, or a factor that is not finite.
    """
    header = read_adapter_header(folder, base, read_architecture(base.folder, base))
    factors = {
        module: (read_array(header.index, a).float(), read_array(header.index, b).float())
        for module, (a, b) in header.factors.items()
    }
    for module, pair in factors.items():
        if not all(bool(torch.isfinite(factor).all()) for factor in pair):
            raise InputError(f"{folder / WEIGHTS} holds NaN or infinity for {module}: fetch or train the adapter again")
    return Adapters(factors, header.alphas)


def write_adapter(adapters: Adapters, base: CheckpointIndex, folder: Path) -> None:
    """Write `folder` as peft's save_pretrained would, float32, so that `PeftModel.from_pretrained(model, folder)` reads
    it. The base model is not named: its place is not content."""
    from safetensors.torch import save_file

    ranks = {module: len(a) for module, (a, _) in adapters.factors.items()}
    rank, alpha = (Counter(values).most_common(1)[0][0] for values in (ranks.values(), adapters.alphas.values()))
    matrices = {matrix.module: matrix for matrix in read_architecture(base.folder, base).matrices}
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": _short(alpha),
        "rank_pattern": {module: each for module, each in ranks.items() if each != rank},
        "alpha_pattern": {module: _short(each) for module, each in adapters.alphas.items() if each != alpha},
        "target_modules": list(ranks),
        "fan_in_fan_out": any(matrices[module].transposed for module in ranks),
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
    }
    tensors = {
        f"{PREFIX}{module}.lora_{which}.weight": factor.float().contiguous()
        for module, pair in adapters.factors.items()
        for which, factor in zip("AB", pair, strict=True)
    }
    folder.mkdir(parents=True)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def _short(alpha: float) -> float:
    """A whole number as peft writes it."""
    return int(alpha) if float(alpha).is_integer() else alpha


def write_merged(base: Path, adapters: Adapters, folder: Path) -> None:
    """Write the base with the adapters added as a model folder: the same files, tensors and dtypes.

    The sum is taken in float32 and rounded once to the stored dtype. Tensors without an adapter and every file beside
    the weights are copied byte for byte.
    """
    from safetensors.torch import save_file

    index = read_index(base)
    matrices = read_architecture(base, index).matrices
    changed = {matrix.tensor: matrix for matrix in matrices if matrix.module in adapters.factors}
    folder.mkdir(parents=True)
    for path in model_files(base):
        if path.name not in index.files:
            copy = folder / path.relative_to(base)
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, copy)
    for file in index.files:
        tensors = {}
        for name, info in index.tensors.items():
            if info.file == file:
                matrix = changed.get(name)
                tensors[name] = read_array(index, name) if matrix is None else _merged(index, matrix, adapters)
        save_file(tensors, folder / file, metadata={"format": "pt"})
        tensors.clear()


def _merged(index: CheckpointIndex, matrix: Matrix, adapters: Adapters) -> Tensor:
    change = adapters.change(matrix.module)
    if matrix.transposed:
        change = change.T
    weight = read_array(index, matrix.tensor)
    return (weight.float() + change).to(getattr(torch, TORCH_NAMES[index[matrix.tensor].dtype])).contiguous()
