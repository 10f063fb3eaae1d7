"""Which files make a model what it is, and loading it into transformers.

Nothing here trusts code from a checkpoint: weights are safetensors, `trust_remote_code` stays off. Torch and
transformers are imported by the functions that need them. Where a model comes from is in `sources`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cnt_pipeline.errors import InputError
from cnt_pipeline.models.architecture_table import read_config, read_json
from cnt_pipeline.models.sources import (
    CONFIG_FILES,
    TEMPLATE_FILES,
    TOKENIZER_FILES,
    ModelSource,
    resolve_model,
)
from cnt_pipeline.models.tensors import SHARD_INDEX, SINGLE_FILE, read_index

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

Dtype = Literal["float32", "bfloat16", "float16"]
Attention = Literal["eager", "sdpa"]
Head = Literal["language", "classes"]
"""What a model is loaded with: the next token's logits, or a logit for every class of a text."""

AUTO = "auto"
"""The device that stands for all: accelerate gives every layer its place."""

__all__ = ["ModelSource", "load_model", "load_tokenizer", "model_files", "resolve_model"]


def model_files(folder: Path) -> list[Path]:
    """The files that determine the model's behaviour, sorted: weights, configs, tokenizer, chat template."""
    index = read_index(folder)
    names = {*index.files, *CONFIG_FILES, *TOKENIZER_FILES, *TEMPLATE_FILES}
    if SINGLE_FILE not in index.files:
        names.add(SHARD_INDEX)
    paths = [folder / name for name in sorted(names)]
    paths += sorted((folder / "additional_chat_templates").glob("*.jinja"))
    return [path for path in paths if path.is_file()]


def load_model(
    folder: Path, dtype: Dtype = "float32", attention: Attention = "eager", device: str = "cpu", head: Head = "language"
) -> PreTrainedModel:
    """The frozen model of a checkpoint folder, in eval mode; with device `auto` spread over the accelerators there are.

    Raises `InputError` for pickle weights, code of its own, weights that do not fill the model, an unknown
    device.
    """
    config = read_config(folder)
    _refuse_remote_code(folder, config)
    read_index(folder)
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    from cnt_pipeline.models.fast_linear import hasten

    kind = AutoModelForCausalLM if head == "language" else AutoModelForSequenceClassification
    spread = device == AUTO
    with _device_errors(device):
        place = torch.device("cpu" if spread else device)
        torch.empty(0, device=place)
    with quiet_transformers(), _load_errors(folder, "model"):
        model, report = kind.from_pretrained(
            str(folder),
            dtype=getattr(torch, dtype),
            attn_implementation=attention,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **({"device_map": AUTO} if spread else {}),
        )
    absent = sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"])
    if absent:
        raise InputError(
            f"{folder} leaves {len(absent)} tensor(s) of the model unfilled, first {absent[0]}: config.json "
            "and weights are of different models, fetch them again together"
        )
    model.requires_grad_(False)
    model.eval()
    if not spread:
        if place.type == "cpu" and dtype == "float32":
            hasten(model)
        return model.to(place)
    outside = [name for name, parameter in model.named_parameters() if parameter.device.type == "meta"]
    if outside:
        raise InputError(
            f"{folder} does not fit on this machine's devices, first left out {outside[0]}: set `dtype: bfloat16`, or "
            "`device: cpu` where main memory is larger"
        )
    return model


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The fast tokenizer of a checkpoint folder: pads on the left, with the end token where none is set.

    Raises `InputError` when the folder has no fast tokenizer, or one that needs code of its own.
    """
    _refuse_remote_code(folder, read_json(folder / "tokenizer_config.json") or {})
    if not any((folder / name).is_file() for name in TOKENIZER_FILES if name != "tokenizer_config.json"):
        raise InputError(f"{folder} holds no tokenizer: copy tokenizer.json and tokenizer_config.json into it")
    from transformers import AutoTokenizer

    with quiet_transformers(), _load_errors(folder, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder), use_fast=True, local_files_only=True, trust_remote_code=False, padding_side="left"
        )
    if not tokenizer.is_fast:
        raise InputError(f"{folder} has no fast tokenizer: save it as tokenizer.json with transformers")
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise InputError(f"{folder}: the tokenizer has neither pad nor end token: set one of them")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _refuse_remote_code(folder: Path, config: Mapping[str, Any]) -> None:
    """`auto_map` beside a model type that transformers knows is ignored; any other would run foreign code."""
    if not config.get("auto_map"):
        return
    from transformers import CONFIG_MAPPING

    known = config.get("model_type", (read_json(folder / "config.json") or {}).get("model_type"))
    if known not in CONFIG_MAPPING:
        raise InputError(
            f"{folder} needs Python code from the checkpoint (auto_map), which is never run: use a model "
            "that transformers supports by itself"
        )


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Transformers without its warnings and bars; what fails is told by whoever called it."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def _load_errors(folder: Path, what: str) -> Iterator[None]:
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, TypeError, KeyError, ImportError, RuntimeError, SafetensorError,
            StrictDataclassError) as error:  # fmt: skip
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"transformers cannot load the {what} in {folder} ({type(error).__name__}: {reason}): fetch or "
            "save it again"
        ) from error


@contextmanager
def _device_errors(device: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"the device {device!r} cannot be used ({reason}): choose cpu or a present one") from None
