"""Tiny random models, one per architecture, built from their configs once per session."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

LLAMA_SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {**LLAMA_SHAPE, "attention_bias": True, "mlp_bias": True},
    "mistral": LLAMA_SHAPE,
    "qwen2": {**LLAMA_SHAPE, "tie_word_embeddings": True},
    "qwen3": {**LLAMA_SHAPE, "head_dim": 16},
    "gemma2": {**LLAMA_SHAPE, "head_dim": 16},
    "gemma3": {**LLAMA_SHAPE, "head_dim": 16, "model_type": "gemma3_text"},
    "phi3": LLAMA_SHAPE,
    "gpt_neox": {**{k: v for k, v in LLAMA_SHAPE.items() if k != "num_key_value_heads"}},
    "gpt2": {
        "n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 48, "n_positions": 64, "vocab_size": 64,
        "initializer_range": 0.3, "bos_token_id": 1, "eos_token_id": 2,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Tiny:
    """A live random model and the folder it was saved to."""

    name: str
    folder: Path
    model: Any


def build(name: str, folder: Path, seed: int = 0, **overrides: Any) -> Any:
    """A random model with biases and norms away from their neutral start, saved as safetensors."""
    import torch
    import transformers

    settings = {"model_type": name, **CONFIGS[name], **overrides}
    config = transformers.AutoConfig.for_model(**settings)
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return model


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Tiny]:
    """The tiny model of an architecture; read only, copy the folder before changing it."""
    import torch

    torch.set_num_threads(1)
    built: dict[str, Tiny] = {}

    def get(name: str) -> Tiny:
        if name not in built:
            folder = tmp_path_factory.mktemp(name)
            built[name] = Tiny(name, folder, build(name, folder))
        return built[name]

    return get


@pytest.fixture(scope="session", params=sorted(CONFIGS))
def tiny(request: pytest.FixtureRequest, tiny_models: Callable[[str], Tiny]) -> Tiny:
    """Every architecture in turn."""
    return tiny_models(request.param)


def write_tokenizer(folder: Path, vocabulary: int = 64, **settings: Any) -> None:
    """A word-level tokenizer with a chat template, as transformers lays it out."""
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, **{f"w{i}": i for i in range(3, vocabulary)}}
    special = [
        {
            "id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": True,
        }
        for i, token in enumerate(["<pad>", "<s>", "</s>"])
    ]  # fmt: skip
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None,
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "<pad>"},
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>",
        "chat_template": "{% for m in messages %}{{ m['content'] }}{% endfor %}", **settings,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


@pytest.fixture
def edit_json() -> Callable[..., None]:
    """Change keys of a JSON file; a value of `...` removes the key."""

    def edit(path: Path, **changes: Any) -> None:
        content = json.loads(path.read_text())
        for key, value in changes.items():
            content.pop(key, None) if value is ... else content.__setitem__(key, value)
        path.write_text(json.dumps(content))

    return edit


@pytest.fixture
def llama_folder(tiny_models: Callable[[str], Tiny], tmp_path: Path) -> Callable[..., Path]:
    """A fresh copy of the tiny llama with a tokenizer, to be changed by the test."""
    import shutil

    def copy(name: str = "target", architecture: str = "llama") -> Path:
        folder = tmp_path / name
        shutil.copytree(tiny_models(architecture).folder, folder)
        write_tokenizer(folder)
        return folder

    return copy


@pytest.fixture
def rewrite_tensors() -> Callable[[Path, Callable[[dict[str, Any]], dict[str, Any]]], None]:
    """Load all tensors of a folder, pass them through a function, save them again."""

    def rewrite(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        from safetensors.torch import load_file, save_file

        tensors = change(load_file(folder / "model.safetensors"))
        save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "model.safetensors")

    return rewrite
