"""LoRA adapters against peft itself: what it saves is merged as it would, and what is written here it reads."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cnt_pipeline.errors import InputError
from cnt_pipeline.models.adapter_files import CONFIG, WEIGHTS, read_adapter_header
from cnt_pipeline.models.adapters import Adapters, read_adapter, write_adapter, write_merged
from cnt_pipeline.models.architecture import read_architecture
from cnt_pipeline.models.load import load_model
from cnt_pipeline.models.tensors import read_index
from tests.unit.models.conftest import Tiny

TARGETS = {
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "phi3": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"],
}
"""Grouped-query attention, transposed (Conv1D) matrices, fused matrices."""
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {"r": 4, "lora_alpha": 12},
    "by pattern": {
        "r": 4, "lora_alpha": 12, "rank_pattern": {"down_proj": 2, "mlp.c_proj": 2, r".*\.0\..*attn.o_proj": 3},
        "alpha_pattern": {"q_proj": 1, "c_attn": 1, "qkv_proj": 1},
    },
    "rank-stabilised": {"r": 4, "lora_alpha": 6, "use_rslora": True},
    "one layer": {"r": 2, "lora_alpha": 4, "layers_to_transform": [1]},
}  # fmt: skip


@pytest.fixture(autouse=True)
def quiet() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def peft_model(tiny: Tiny, settings: dict[str, Any]) -> Any:
    """The tiny model with a random adapter beside it."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        target_modules=TARGETS[tiny.name], fan_in_fan_out=tiny.name == "gpt2", task_type="CAUSAL_LM", **settings
    )
    model = get_peft_model(load_model(tiny.folder), config)
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.2)
    return model.eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(torch.arange(3, 40).reshape(1, -1)).logits
    return found


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("name", TARGETS)
def test_an_adapter_that_peft_saved_is_merged_as_peft_merges_it(
    name: str, settings: str, tiny_models: Callable[[str], Tiny], tmp_path: Path
) -> None:
    tiny = tiny_models(name)
    model = peft_model(tiny, SETTINGS[settings])
    model.save_pretrained(tmp_path / "adapter")
    write_merged(tiny.folder, read_adapter(tmp_path / "adapter", read_index(tiny.folder)), tmp_path / "model")
    beside = logits(model)
    assert (logits(load_model(tmp_path / "model")) - beside).abs().max() < 1e-4 * beside.abs().max()
    assert (logits(tiny.model) - beside).abs().max() > 1e-2 * beside.abs().max()
    expected = model.merge_and_unload().state_dict()
    for tensor, found in load_file(tmp_path / "model" / "model.safetensors").items():
        assert torch.allclose(found, expected[tensor], rtol=1e-5, atol=1e-6), tensor


@pytest.mark.parametrize("name", TARGETS)
def test_a_written_adapter_is_read_by_peft_and_read_back_bit_for_bit(
    name: str, tiny_models: Callable[[str], Tiny], tmp_path: Path
) -> None:
    from peft import PeftModel

    tiny = tiny_models(name)
    base = read_index(tiny.folder)
    peft_model(tiny, SETTINGS["by pattern"]).save_pretrained(tmp_path / "first")
    adapters = read_adapter(tmp_path / "first", base)
    write_adapter(adapters, base, tmp_path / "adapter")
    again = read_adapter(tmp_path / "adapter", base)
    assert again.alphas == adapters.alphas
    assert list(again.factors) == list(adapters.factors)
    for module, (a, b) in adapters.factors.items():
        assert torch.equal(again.factors[module][0], a) and torch.equal(again.factors[module][1], b)
    write_merged(tiny.folder, adapters, tmp_path / "model")
    beside = logits(PeftModel.from_pretrained(load_model(tiny.folder), str(tmp_path / "adapter")).eval())
    assert (logits(load_model(tmp_path / "model")) - beside).abs().max() < 1e-4 * beside.abs().max()


def test_an_adapter_in_half_precision_is_read_as_float32(tiny_models: Callable[[str], Tiny], tmp_path: Path) -> None:
    tiny = tiny_models("llama")
    peft_model(tiny, SETTINGS["plain"]).to(torch.bfloat16).save_pretrained(tmp_path)
    stored = load_file(tmp_path / WEIGHTS)
    for module, (a, b) in read_adapter(tmp_path, read_index(tiny.folder)).factors.items():
        assert (a.dtype, b.dtype) == (torch.float32, torch.float32)
        assert torch.equal(a, stored[f"base_model.model.{module}.lora_A.weight"].float())


def test_the_scale_is_alpha_over_the_rank_of_the_module() -> None:
    adapters = Adapters({"m": (torch.ones(4, 3), torch.ones(2, 4))}, {"m": 6.0})
    assert adapters.scale("m") == 1.5
    assert torch.equal(adapters.change("m"), torch.full((2, 3), 6.0))


@pytest.fixture
def saved(tiny_models: Callable[[str], Tiny], tmp_path: Path) -> Path:
    """A sound adapter of the tiny llama, to be spoilt."""
    peft_model(tiny_models("llama"), SETTINGS["plain"]).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def configured(**keys: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps({**config, **keys}))

    return change


def tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        held = load_file(folder / WEIGHTS)
        change(held)
        save_file(held, folder / WEIGHTS)

    return rewrite


PLACE = "base_model.model.model.layers.1.mlp.up_proj"
REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no folder": (lambda folder: folder.rename(folder.with_name("gone")), "is no folder: give the one that holds"),
    "no config": (lambda folder: (folder / CONFIG).unlink(), "holds no adapter_config.json: save it with peft"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), "holds no adapter_model.safetensors"),
    "broken config": (lambda folder: (folder / CONFIG).write_text("{"), "adapter_config.json cannot be read"),
    "cut weights": (lambda folder: (folder / WEIGHTS).write_bytes(b"12345678"), "no intact safetensors file"),
    "another kind": (configured(peft_type="IA3"), "says `peft_type: IA3`, where LORA alone is read"),
    "no kind": (configured(peft_type=None), "says `peft_type: None`, where LORA alone is read"),
    "trained biases": (configured(bias="all"), "sets `bias`"),
    "DoRA": (configured(use_dora=True), "sets `use_dora`"),
    "whole modules": (configured(modules_to_save=["lm_head"]), "sets `modules_to_save`"),
    "bias of B": (configured(lora_bias=True), "sets `lora_bias`"),
    "repeated layers": (configured(layer_replication=[[0, 2], [1, 2]]), "sets `layer_replication`"),
    "changed base": (configured(init_lora_weights="pissa"), "`init_lora_weights: pissa`, which changes the base"),
    "rank that cannot be": (configured(r=0), r"cannot be \(the rank 0\)"),
    "alpha that cannot be": (configured(lora_alpha="big"), r"cannot be \(the alpha 'big'\)"),
    "pattern that is none": (configured(rank_pattern={"(": 2}), "cannot be"),
    "layers that are none": (configured(layers_to_transform=["all"]), r"layers_to_transform is \['all'\]"),
    "unknown layers": (configured(layers_to_transform=[0, 1, 2]), "transforms layer 2, but the base has 2 layers"),
    "layer left out": (configured(layers_to_transform=[0]), "adapts model.layers.1.*leaves layer 1 out"),
    "other rank": (configured(r=8), r"as \[4, \d+\] where config and base model need \[8, \d+\]"),
    "unknown module": (
        tensors(lambda held: held.update({f"{PLACE}2.lora_A.weight": torch.ones(4, 32)})),
        r"adapts model.layers.1.mlp.up_proj2, which is no weight matrix .* \(llama\)",
    ),
    "embeddings": (
        tensors(lambda held: held.update({"base_model.model.model.embed_tokens.lora_embedding_A": torch.ones(4, 64)})),
        "embed_tokens.lora_embedding_A, which is no LoRA factor of a weight matrix",
    ),
    "other shape": (
        tensors(lambda held: held.update({f"{PLACE}.lora_B.weight": torch.ones(49, 4)})),
        r"up_proj.lora_B.weight as \[49, 4\] where config and base model need \[48, 4\]",
    ),
    "other dtype": (
        tensors(lambda held: held.update({f"{PLACE}.lora_B.weight": torch.ones(48, 4).int()})), "as I32: save the",
    ),
    "half a pair": (tensors(lambda held: held.pop(f"{PLACE}.lora_B.weight")), "only one of the two factors of model"),
    "no tensor": (tensors(lambda held: held.clear()), "holds no tensor"),
}  # fmt: skip


@pytest.mark.parametrize("fault", REFUSED)
def test_what_is_no_plain_adapter_of_the_base_is_refused_from_headers_in_one_sentence(
    fault: str, saved: Path, tiny_models: Callable[[str], Tiny]
) -> None:
    spoil, said = REFUSED[fault]
    spoil(saved)
    base = tiny_models("llama").folder
    with pytest.raises(InputError, match=said) as refused:
        read_adapter_header(saved, read_index(base), read_architecture(base))
    assert "\n" not in str(refused.value)


def test_a_factor_that_is_not_finite_is_refused(saved: Path, tiny_models: Callable[[str], Tiny]) -> None:
    tensors(lambda held: held[f"{PLACE}.lora_A.weight"].fill_(torch.nan))(saved)
    with pytest.raises(InputError, match=r"NaN or infinity for model.layers.1.mlp.up_proj"):
        read_adapter(saved, read_index(tiny_models("llama").folder))
