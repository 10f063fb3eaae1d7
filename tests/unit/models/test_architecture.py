"""An architecture table says truly where the neurons of a model lie."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cnt_pipeline.errors import InputError
from cnt_pipeline.models.architecture import (
    Architecture,
    Matrix,
    coarse_units,
    read_architecture,
    supported,
    tensor_roles,
    tied_names,
)
from cnt_pipeline.models.architecture_table import read_sizes, tables
from cnt_pipeline.models.tensors import read_index

TOKENS = [[3, 17, 42, 9, 28, 55]]


def matrix(architecture: Architecture, family: str, layer: int = 0) -> Matrix:
    return next(m for m in architecture.matrices if m.family == family and m.layer == layer)


def logits(model: Any) -> Any:
    import torch

    with torch.no_grad():
        return model(torch.tensor(TOKENS)).logits


@contextmanager
def scaled(model: Any, *edits: tuple[Matrix, Any, float]) -> Iterator[None]:
    """The model with the chosen neurons of the chosen matrices (bias included) multiplied by a factor."""
    import torch

    saved = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        for m, neurons, factor in edits:
            module = model.get_submodule(m.module)
            where = torch.from_numpy(m.positions[list(neurons)])
            weight = module.weight if m.axis == 0 else module.weight.T
            weight[where] *= factor
            if m.bias is not None:
                module.bias[where] *= factor
    try:
        yield
    finally:
        model.load_state_dict(saved)


def o_inputs(model: Any, architecture: Architecture) -> Any:
    """What layer 0's o matrix reads: `[tokens, o neurons]`, in neuron order."""
    m, seen = matrix(architecture, "o"), []
    module = model.get_submodule(m.module)
    handle = module.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0][0].clone()))
    try:
        logits(model)
    finally:
        handle.remove()
    return seen[0][:, m.positions.tolist()]


def changed_columns(before: Any, after: Any) -> set[int]:
    return set((before - after).abs().amax(0).gt(1e-4).nonzero().flatten().tolist())


def unit_members(architecture: Architecture, unit: str, family: str, index: int) -> range:
    found = next(u for u in coarse_units(architecture) if u.name == unit)
    return found.members(matrix(architecture, family), index)


# --- coverage -------------------------------------------------------------------------------------


def test_every_attention_and_ffn_weight_is_covered_exactly_once(tiny: Any) -> None:
    index, architecture = read_index(tiny.folder), read_architecture(tiny.folder)
    covered: dict[str, list[int]] = defaultdict(list)
    axes: dict[str, set[int]] = defaultdict(set)
    for m in architecture.matrices:
        covered[m.tensor] += m.positions.tolist()
        axes[m.tensor].add(m.axis)
    in_blocks = {
        name
        for name, info in index.tensors.items()
        if len(info.shape) == 2 and any(part.isdigit() for part in name.split("."))
    }
    assert set(covered) == in_blocks
    for name, positions in covered.items():
        (axis,) = axes[name]
        assert sorted(positions) == list(range(index[name].shape[axis]))


def test_each_layer_has_each_family_once_with_the_width_and_bias_of_its_tensor(tiny: Any) -> None:
    index, architecture = read_index(tiny.folder), read_architecture(tiny.folder)
    seen = [(m.layer, m.family) for m in architecture.matrices]
    assert seen == [(layer, f) for layer in range(2) for f in architecture.families]
    for m in architecture.matrices:
        assert m.width == index[m.tensor].shape[1 - m.axis]
        stored_bias = m.tensor.replace(".weight", ".bias")
        if m.side == "row":
            assert m.bias == (stored_bias if stored_bias in index.tensors else None)
            assert m.parameters_per_neuron == m.width + (stored_bias in index.tensors)
        else:
            assert m.bias is None
    assert {m.family for m in architecture.matrices if m.side == "column"} == {"o", "down"}


def test_modules_resolve_in_the_live_model_and_hold_the_stored_tensor(tiny: Any) -> None:
    from safetensors.torch import load_file

    stored = load_file(tiny.folder / "model.safetensors")
    for m in read_architecture(tiny.folder).matrices:
        module = tiny.model.get_submodule(m.module)
        assert module.weight.equal(stored[m.tensor])
        assert m.bias is None or module.bias.equal(stored[m.bias])


def test_other_tensors_are_embeddings_norms_heads_and_output_biases(tiny: Any) -> None:
    roles = tensor_roles(tiny.folder)
    others = {name for name, role in roles.items() if role == "other"}
    assert "unused" not in roles.values()
    output_bias = ("o_proj.bias", "down_proj.bias", "dense.bias", "4h_to_h.bias", "c_proj.bias")
    parts = ("embed", "norm", "lm_head", "ln_", "wte", "wpe", *output_bias)
    assert all(any(part in name for part in parts) for name in others)


def test_tied_embeddings_are_detected(tiny: Any) -> None:
    architecture = read_architecture(tiny.folder)
    head = tiny.model.get_output_embeddings().weight
    really = head.data_ptr() == tiny.model.get_input_embeddings().weight.data_ptr()
    assert architecture.tied is really is (tiny.name in {"qwen2", "gemma2", "gemma3", "gpt2"})
    assert bool(tied_names(architecture)) is really
    for left, right in tied_names(architecture).items():
        assert tiny.model.get_parameter(left) is tiny.model.get_parameter(right)


def test_sizes_are_those_of_the_config(tiny: Any) -> None:
    a, config = read_architecture(tiny.folder), tiny.model.config
    assert (a.hidden_size, a.layers, a.heads, a.vocabulary, a.ffn) == (32, 2, 4, 64, 48)
    assert a.kv_heads == getattr(config, "num_key_value_heads", 4)
    assert a.head_dim == (getattr(config, "head_dim", None) or 8)


def test_absent_config_keys_take_the_defaults_of_transformers(tiny: Any) -> None:
    table, config = tables()[tiny.name], type(tiny.model.config)()
    sizes = read_sizes(Path("model"), {"model_type": table.model_types[0]}, table)
    for name, rule in table.config.items():
        if (expected := getattr(config, rule.get("key", name), None)) is not None:
            assert sizes[name] == expected, name


# --- the meaning of positions, in forward passes --------------------------------------------------


@pytest.mark.parametrize("channel", [0, 7, 47])
def test_an_ffn_channel_is_its_rows_and_its_down_column(tiny: Any, channel: int) -> None:
    """A channel whose gate row, up row or down column is zero contributes nothing: three equal outputs."""
    architecture = read_architecture(tiny.folder)
    before, results = logits(tiny.model), []
    families = next(u for u in coarse_units(architecture) if u.name == "ffn_channel").families
    for family in families:
        with scaled(tiny.model, (matrix(architecture, family), [channel], 0.0)):
            results.append(logits(tiny.model))
    assert (before - results[0]).abs().max() > 1e-3
    for result in results[1:]:
        assert (result - results[0]).abs().max() < 1e-4


def test_up_scales_a_gated_channel_linearly_and_gate_does_not(tiny: Any) -> None:
    architecture = read_architecture(tiny.folder)
    if "gate" not in architecture.families:
        assert tiny.name in {"gpt2", "gpt_neox"}, "only these have a plain FFN"
        return
    results = {}
    for family in ("gate", "up", "down"):
        with scaled(tiny.model, (matrix(architecture, family), [11], 2.0)):
            results[family] = logits(tiny.model)
    assert (results["up"] - results["down"]).abs().max() < 1e-4
    assert (results["gate"] - results["down"]).abs().max() > 1e-3


def test_each_v_neuron_feeds_the_o_neurons_of_its_group(tiny: Any) -> None:
    architecture = read_architecture(tiny.folder)
    v, size = matrix(architecture, "v"), architecture.head_dim
    group = architecture.heads // architecture.kv_heads
    before = o_inputs(tiny.model, architecture)
    for neuron in range(v.neurons):
        with scaled(tiny.model, (v, [neuron], 3.0)):
            after = o_inputs(tiny.model, architecture)
        kv_head, dimension = divmod(neuron, size)
        heads = range(kv_head * group, (kv_head + 1) * group)
        fed = [head * size + dimension for head in heads]
        assert changed_columns(before, after) == set(fed)
        assert (after[:, fed] - 3 * before[:, fed]).abs().max() < 1e-3


def test_each_q_neuron_changes_only_its_own_head(tiny: Any) -> None:
    architecture = read_architecture(tiny.folder)
    q, size = matrix(architecture, "q"), architecture.head_dim
    before = o_inputs(tiny.model, architecture)
    for neuron in range(q.neurons):
        with scaled(tiny.model, (q, [neuron], -4.0)):
            changed = changed_columns(before, o_inputs(tiny.model, architecture))
        head = neuron // size
        assert changed
        assert changed <= set(range(head * size, (head + 1) * size))
        assert changed <= set(unit_members(architecture, "query_head", "o", head))


def test_each_k_neuron_changes_only_the_heads_of_its_group(tiny: Any) -> None:
    architecture = read_architecture(tiny.folder)
    k = matrix(architecture, "k")
    before = o_inputs(tiny.model, architecture)
    for neuron in range(k.neurons):
        with scaled(tiny.model, (k, [neuron], -4.0)):
            changed = changed_columns(before, o_inputs(tiny.model, architecture))
        assert changed
        group = neuron // architecture.head_dim
        assert changed <= set(unit_members(architecture, "attention_group", "o", group))


def test_silent_queries_and_silent_keys_give_the_same_uniform_attention(tiny: Any) -> None:
    architecture = read_architecture(tiny.folder)
    results = []
    for family in ("q", "k"):
        members = unit_members(architecture, "attention_group", family, 1)
        with scaled(tiny.model, (matrix(architecture, family), members, 0.0)):
            results.append(logits(tiny.model))
    assert (results[0] - results[1]).abs().max() < 1e-4
    assert (results[0] - logits(tiny.model)).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox"])
def test_fused_q_and_k_are_not_exchanged(name: str, tiny_models: Callable[[str], Any]) -> None:
    """Softmax forgets a constant added to all keys (outside rotary dimensions), not one added to queries."""
    import torch

    tiny = tiny_models(name)
    architecture = read_architecture(tiny.folder)
    unrotated = 4 * architecture.head_dim - 1
    before, moved = logits(tiny.model), {}
    for family in ("q", "k"):
        m = matrix(architecture, family)
        bias = tiny.model.get_submodule(m.module).bias
        where = int(m.positions[unrotated])
        with torch.no_grad():
            original = float(bias[where])
            bias[where] = original + 5.0
            moved[family] = float((logits(tiny.model) - before).abs().max())
            bias[where] = original
    assert moved["k"] < 1e-3 < 1e-2 < moved["q"]


# --- checkpoint forms -----------------------------------------------------------------------------


def test_gpt2_tensor_names_may_lack_the_transformer_prefix(
    llama_folder: Callable[..., Path], rewrite_tensors: Callable[..., None], tiny_models: Callable[[str], Any]
) -> None:
    import torch

    from cnt_pipeline.models.load import load_model

    folder = llama_folder(architecture="gpt2")
    buffer = torch.ones(1, 1, 64, 64).tril()
    rewrite_tensors(
        folder,
        lambda t: {k.removeprefix("transformer."): v for k, v in t.items()} | {"h.0.attn.bias": buffer},
    )
    architecture = read_architecture(folder)
    m = matrix(architecture, "q", layer=1)
    assert (m.tensor, m.bias) == ("h.1.attn.c_attn.weight", "h.1.attn.c_attn.bias")
    assert m.module == "transformer.h.1.attn.c_attn"
    assert tensor_roles(folder)["h.0.attn.bias"] == "unused"
    assert logits(load_model(folder)).equal(logits(tiny_models("gpt2").model))


def test_a_sharded_checkpoint_reads_as_its_single_file(tiny_models: Callable[[str], Any], tmp_path: Path) -> None:
    tiny = tiny_models("llama")
    tiny.model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(read_index(tmp_path).files) > 1
    sharded, single = read_architecture(tmp_path), read_architecture(tiny.folder)
    for one, other in zip(sharded.matrices, single.matrices, strict=True):
        assert (one.tensor, one.bias, one.module) == (other.tensor, other.bias, other.module)


def test_phi3_lays_its_fused_rows_one_family_after_the_other(tiny_models: Callable[[str], Any]) -> None:
    architecture = read_architecture(tiny_models("phi3").folder)
    first = {f: int(matrix(architecture, f).positions[0]) for f in ("q", "k", "v", "gate", "up")}
    assert first == {"q": 0, "k": 32, "v": 48, "gate": 0, "up": 48}


def test_gpt_neox_interleaves_its_fused_rows_per_head(tiny_models: Callable[[str], Any]) -> None:
    architecture = read_architecture(tiny_models("gpt_neox").folder)
    assert matrix(architecture, "k").positions[[0, 7, 8]].tolist() == [8, 15, 32]


# --- refusals -------------------------------------------------------------------------------------


def test_all_nine_architectures_have_a_table() -> None:
    assert supported() == sorted(["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "gpt_neox", "gpt2"])


CONFIG_FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown architecture": ({"model_type": "falcon"}, "supported: gemma2,.*Add an architecture"),
    "image and text": ({"model_type": "gemma3"}, "Gemma3ForCausalLM"),
    "no model type": ({"model_type": ...}, "names no model_type"),
    "quantised": ({"quantization_config": {"bits": 4}}, "unquantised"),
    "layers as text": ({"num_hidden_layers": "two"}, "num_hidden_layers = 'two': it must be a positive"),
    "no heads": ({"num_attention_heads": 0}, "num_attention_heads = 0"),
    "tied as number": ({"tie_word_embeddings": 1}, "tie_word_embeddings = 1: it must be true or false"),
    "heads and groups": ({"num_key_value_heads": 3}, "4 attention heads for 3 key/value heads"),
    "heads and width": ({"num_attention_heads": 5, "head_dim": None}, "hidden_size = 32, no multiple"),
    "too many layers": ({"num_hidden_layers": 3}, r"num_hidden_layers = 3 but the weights hold 2 layer"),
    "too few layers": ({"num_hidden_layers": 1}, r"num_hidden_layers = 1 but the weights hold 2 layer"),
    "other ffn": (
        {"intermediate_size": 40},
        r"gate_proj.weight has the shape \[48, 32\] in the weights but \[40, 32\] by config.json \(9 more "
        r"tensors differ\); likely cause: intermediate_size in config.json",
    ),
    "other groups": ({"num_key_value_heads": 4}, r"k_proj.weight.*cause: num_key_value_heads, head_dim in"),
    "resized embedding": ({"vocab_size": 60}, r"embed_tokens.weight.*tokens were added"),
    "unasked biases": ({"attention_bias": False}, "q_proj.bias, for which config.json leaves no place"),
}


@pytest.mark.parametrize("fault", CONFIG_FAULTS)
def test_a_config_that_contradicts_the_weights_is_refused_with_the_cause(
    fault: str, llama_folder: Callable[..., Path], edit_json: Callable[..., None]
) -> None:
    changes, message = CONFIG_FAULTS[fault]
    folder = llama_folder()
    edit_json(folder / "config.json", **changes)
    with pytest.raises(InputError, match=message) as raised:
        read_architecture(folder)
    assert str(folder) in str(raised.value)
    assert "\n" not in str(raised.value)


TENSOR_FAULTS: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], str]] = {
    "no head": (
        lambda t: {k: v for k, v in t.items() if k != "lm_head.weight"},
        "without its language-model",
    ),
    "no norm": (lambda t: {k: v for k, v in t.items() if k != "model.norm.weight"}, "lacks 1 of the"),
    "no bias": (
        lambda t: {k: v for k, v in t.items() if "0.self_attn.q_proj.bias" not in k},
        "asks for biases",
    ),
    "adapter": (lambda t: {f"{k}.lora_A": v for k, v in t.items()}, "merge it into its base model"),
    "other names": (lambda t: {f"net.{k}": v for k, v in t.items()}, "AutoModelForCausalLM of llama"),
    "transposed": (lambda t: {k: v.T if "gate_proj.weight" in k else v for k, v in t.items()}, "transposed"),
    "packed": (lambda t: {k: v.flatten() if "v_proj.w" in k else v for k, v in t.items()}, "packed"),
    "doubles": (lambda t: {k: v.double() for k, v in t.items()}, "stored as F64: save the model as"),
}


@pytest.mark.parametrize("fault", TENSOR_FAULTS)
def test_weights_that_contradict_the_config_are_refused_with_the_cause(
    fault: str, llama_folder: Callable[..., Path], rewrite_tensors: Callable[..., None]
) -> None:
    change, message = TENSOR_FAULTS[fault]
    folder = llama_folder()
    rewrite_tensors(folder, change)
    with pytest.raises(InputError, match=message):
        read_architecture(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no config.json"),
        ("{", "cannot be read"),
        ("[1]", "not a JSON object"),
        ("\xff", "cannot be read"),
    ],
)
def test_an_unreadable_config_is_refused(content: str | None, message: str, llama_folder: Callable[..., Path]) -> None:
    path = llama_folder() / "config.json"
    path.unlink()
    if content is not None:
        path.write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=message):
        read_architecture(path.parent)
    shutil.rmtree(path.parent)
    with pytest.raises(InputError, match="is not a folder"):
        read_architecture(path.parent)


def test_reading_an_architecture_needs_neither_torch_nor_transformers(
    tiny_models: Callable[[str], Any],
) -> None:
    code = (
        "import sys, json; from pathlib import Path\n"
        "from cnt_pipeline.models import architecture, compare, load\n"
        "architecture.read_architecture(Path(sys.argv[1]))\n"
        "print(json.dumps([m for m in ('torch', 'transformers') if m in sys.modules]))"
    )
    folder = str(tiny_models("llama").folder)
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
