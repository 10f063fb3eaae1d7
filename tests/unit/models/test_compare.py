"""Target and donor are compared without loading them, and every refusal says what differs and why."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnt_pipeline.errors import InputError, MismatchError
from cnt_pipeline.models.compare import check_finite, compare, estimate, non_neuron_difference
from cnt_pipeline.models.tensors import read_index
from cnt_pipeline.models.tokenizer_files import read_tokenizer
from cnt_pipeline.models.weight_checks import NON_NEURON_LIMIT

Copy = Callable[..., Path]
Edit = Callable[..., None]
Rewrite = Callable[[Path, Callable[[dict[str, Any]], dict[str, Any]]], None]


@pytest.fixture
def pair(llama_folder: Copy) -> tuple[Path, Path]:
    return llama_folder("target"), llama_folder("donor")


# --- agreement ------------------------------------------------------------------------------------


def test_a_pair_of_one_shape_agrees_on_everything(pair: tuple[Path, Path]) -> None:
    comparison = compare(*pair)
    assert not comparison.warnings
    assert not comparison.notes
    text = comparison.report()
    for part in (
        "llama: 2 layers, 32 wide, 4 heads, 2 key/value",
        "35 tensors",
        "64 tokens",
        "chat template",
    ):
        assert part in text


def test_another_dtype_of_the_same_shape_is_allowed_and_noted(
    pair: tuple[Path, Path], rewrite_tensors: Rewrite
) -> None:
    rewrite_tensors(pair[1], lambda t: {k: v.bfloat16() for k, v in t.items()})
    comparison = compare(*pair)
    assert comparison.notes == ("24 tensors are F32 in the target, BF16 in the donor: written back as F32",)


def test_how_a_tokenizer_is_written_does_not_matter(pair: tuple[Path, Path]) -> None:
    path = pair[1] / "tokenizer.json"
    content = json.loads(path.read_text())
    content["padding"] = {"strategy": "BatchLongest"}
    content["truncation"] = {"max_length": 12}
    content["model"]["byte_fallback"] = False
    path.write_text(json.dumps(dict(reversed(content.items())), indent=2))
    assert not compare(*pair).warnings


def test_merges_may_be_strings_or_pairs(pair: tuple[Path, Path]) -> None:
    model = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}}
    for folder, merges in zip(pair, (["a b"], [["a", "b"]]), strict=True):
        (folder / "tokenizer.json").write_text(json.dumps({"model": {**model, "merges": merges}}))
    one, other = map(read_tokenizer, pair)
    assert one.digest == other.digest


def test_a_chat_template_counts_wherever_it_is_kept(pair: tuple[Path, Path], edit_json: Edit) -> None:
    config = json.loads((pair[0] / "tokenizer_config.json").read_text())
    (pair[1] / "chat_template.jinja").write_text(config["chat_template"] + "\n")
    edit_json(pair[1] / "tokenizer_config.json", chat_template=...)
    assert compare(*pair).template_digest


def test_a_setting_that_only_one_tokenizer_states_is_noted(pair: tuple[Path, Path], edit_json: Edit) -> None:
    edit_json(pair[1] / "tokenizer_config.json", add_bos_token=True)
    assert compare(*pair).notes == ("only the donor's tokenizer_config.json sets add_bos_token",)


def test_a_tied_head_may_be_stored_or_not(llama_folder: Copy, rewrite_tensors: Rewrite) -> None:
    pair = llama_folder("target", "qwen2"), llama_folder("donor", "qwen2")
    rewrite_tensors(pair[1], lambda t: {**t, "lm_head.weight": t["model.embed_tokens.weight"].clone()})
    assert not compare(*pair).warnings
    assert non_neuron_difference(*map(read_index, pair)).largest == 0


def test_settings_without_a_shape_are_compared_across_config_styles(pair: tuple[Path, Path], edit_json: Edit) -> None:
    edit_json(pair[1] / "config.json", rope_parameters=..., rope_theta=10000.0)
    assert not compare(*pair).warnings
    edit_json(pair[1] / "config.json", rope_theta=500000.0)
    (warning,) = compare(*pair).warnings
    assert "rope_theta is 10000.0 in the target and 500000.0 in the donor" in warning


def test_unused_tensors_and_other_end_tokens_are_noted(
    pair: tuple[Path, Path], edit_json: Edit, rewrite_tensors: Rewrite
) -> None:
    import torch

    rewrite_tensors(pair[1], lambda t: {**t, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)})
    edit_json(pair[1] / "generation_config.json", eos_token_id=[2, 5])
    notes = " ".join(compare(*pair).notes)
    assert "the donor holds 1 tensor(s) that the model does not use" in notes
    assert "answers end at token 2 in the target and [2, 5] in the donor" in notes


# --- refusals -------------------------------------------------------------------------------------


def test_another_family_is_refused(llama_folder: Copy) -> None:
    with pytest.raises(MismatchError, match=r"model_type\) +llama +mistral\n.*different families"):
        compare(llama_folder("target"), llama_folder("donor", "mistral"))


def test_an_unsupported_donor_is_named_with_what_is_supported(pair: tuple[Path, Path], edit_json: Edit) -> None:
    edit_json(pair[1] / "config.json", model_type="falcon")
    with pytest.raises(InputError, match=r"donor has the architecture 'falcon'.*supported: gemma2"):
        compare(*pair)


def test_another_size_gives_a_diff_with_both_shapes(
    pair: tuple[Path, Path], edit_json: Edit, rewrite_tensors: Rewrite
) -> None:
    def shrink(tensors: dict[str, Any]) -> dict[str, Any]:
        cut = {k: v[:40] if "gate" in k or "up_" in k else v for k, v in tensors.items()}
        return {k: v[:, :40] if "down_proj.weight" in k else v for k, v in cut.items()}

    rewrite_tensors(pair[1], shrink)
    edit_json(pair[1] / "config.json", intermediate_size=40)
    with pytest.raises(MismatchError) as raised:
        compare(*pair)
    text = str(raised.value)
    assert "ffn " in text
    assert "model.layers.0.mlp.down_proj.weight  [32, 48]       [32, 40]" in text
    assert "likely cause: they are models of different sizes" in text
    assert str(pair[0]) in text and str(pair[1]) in text


def test_a_grown_vocabulary_says_who_added_tokens(
    pair: tuple[Path, Path], edit_json: Edit, rewrite_tensors: Rewrite
) -> None:
    rewrite_tensors(
        pair[1],
        lambda t: {k: v.repeat(2, 1)[:66] if "embed" in k or "lm_head" in k else v for k, v in t.items()},
    )
    edit_json(pair[1] / "config.json", vocab_size=66)
    with pytest.raises(MismatchError, match=r"2 token\(s\) were added to the donor.*shrink its embeddings to 64"):
        compare(*pair)


def test_other_bias_switches_are_refused(pair: tuple[Path, Path], edit_json: Edit, rewrite_tensors: Rewrite) -> None:
    rewrite_tensors(pair[1], lambda t: {k: v for k, v in t.items() if not ("attn" in k and "bias" in k)})
    edit_json(pair[1] / "config.json", attention_bias=False)
    with pytest.raises(MismatchError, match=r"q_proj.bias +\[32\] +absent\n(.|\n)*bias switches"):
        compare(*pair)


def test_another_tokenizer_is_refused_with_the_tokens_that_differ(pair: tuple[Path, Path]) -> None:
    path = pair[1] / "tokenizer.json"
    path.write_text(path.read_text().replace('"w7"', '"x7"'))
    with pytest.raises(MismatchError, match=r"tokenizer vocabulary +'w7'=7 +'x7'=7\n(.|\n)*likely cause"):
        compare(*pair)
    (warning,) = compare(*pair, allow=["tokenizer"]).warnings
    assert warning == "the tokenizers differ in tokenizer vocabulary"


def test_another_tokenizer_setting_is_refused(pair: tuple[Path, Path], edit_json: Edit) -> None:
    edit_json(pair[1] / "tokenizer_config.json", eos_token={"content": "w9"})
    with pytest.raises(MismatchError, match=r"tokenizer setting eos_token +'</s>' +'w9'"):
        compare(*pair)


def test_another_tokenizer_format_is_refused(pair: tuple[Path, Path]) -> None:
    (pair[1] / "tokenizer.json").unlink()
    (pair[1] / "tokenizer.model").write_bytes(b"sentencepiece")
    with pytest.raises(MismatchError, match=r"tokenizer file +tokenizer.json +tokenizer.model"):
        compare(*pair)


@pytest.mark.parametrize("template", ["{{ messages }}", ...])
def test_another_chat_template_is_refused_unless_allowed(
    template: Any, pair: tuple[Path, Path], edit_json: Edit
) -> None:
    edit_json(pair[1] / "tokenizer_config.json", chat_template=template)
    with pytest.raises(MismatchError, match=r"chat template .*\n.*base model"):
        compare(*pair)
    (warning,) = compare(*pair, allow=["chat_template"]).warnings
    assert "chat templates differ" in warning


TOKENIZER_FAULTS: dict[str, tuple[str | None, str]] = {
    "absent": (None, "donor holds no tokenizer: copy"),
    "not JSON": ("{", "tokenizer.json cannot be read"),
    "no model": ('{"added_tokens": []}', "tokenizer.json is no tokenizer"),
    "no vocabulary": ('{"model": {"vocab": 3}}', "tokenizer.json is no tokenizer"),
    "too many tokens": (
        '{"model": {"vocab": {"a": 64}}}',
        "ids up to 64 but the model has only 64 embeddings",
    ),
}


@pytest.mark.parametrize("fault", TOKENIZER_FAULTS)
def test_an_unusable_tokenizer_is_refused(fault: str, pair: tuple[Path, Path]) -> None:
    content, message = TOKENIZER_FAULTS[fault]
    path = pair[1] / "tokenizer.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(InputError, match=message):
        compare(*pair)


# --- weights --------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_weight_that_is_not_finite_is_refused_with_tensor_and_file(
    value: float, dtype: str, llama_folder: Copy, rewrite_tensors: Rewrite
) -> None:
    import torch

    folder = llama_folder()
    rewrite_tensors(folder, lambda t: {k: v.to(getattr(torch, dtype)) for k, v in t.items()})
    check_finite(read_index(folder))

    def spoil(tensors: dict[str, Any]) -> dict[str, Any]:
        tensors["model.layers.1.mlp.up_proj.weight"][5, 7] = value
        return tensors

    rewrite_tensors(folder, spoil)
    with pytest.raises(InputError, match=r"layers.1.mlp.up_proj.weight in .*model.safetensors.*first at \[5, 7\]"):
        check_finite(read_index(folder))


def test_the_first_bad_weight_is_found_beyond_the_first_block(
    llama_folder: Copy, rewrite_tensors: Rewrite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cnt_pipeline.models.weight_checks._BLOCK", 100)

    def spoil(tensors: dict[str, Any]) -> dict[str, Any]:
        tensors["lm_head.weight"][40:42, 3] = float("nan")
        return tensors

    folder = llama_folder()
    rewrite_tensors(folder, spoil)
    with pytest.raises(InputError, match=r"lm_head.weight .* holds 2 NaN .* first at \[40, 3\]"):
        check_finite(read_index(folder))


def test_equal_models_differ_nowhere(llama_folder: Copy) -> None:
    pair = llama_folder("target"), llama_folder("donor")
    difference = non_neuron_difference(*map(read_index, pair))
    assert difference.largest == 0
    assert not difference.warnings
    assert {n.split(".")[-2] for n in difference.relative} == {
        "embed_tokens", "lm_head", "norm", "input_layernorm", "post_attention_layernorm", "o_proj",
        "down_proj",
    }  # fmt: skip


def test_only_tensors_without_neurons_count(pair: tuple[Path, Path], rewrite_tensors: Rewrite) -> None:
    rewrite_tensors(pair[1], lambda t: {k: v * 2 if "_proj.weight" in k else v for k, v in t.items()})
    assert non_neuron_difference(*map(read_index, pair)).largest == 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_relative_difference_is_that_of_the_norms(
    dtype: str, pair: tuple[Path, Path], rewrite_tensors: Rewrite, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr("cnt_pipeline.models.weight_checks._BLOCK", 100)
    kept: dict[str, Any] = {}

    def shift(tensors: dict[str, Any]) -> dict[str, Any]:
        kept["target"] = tensors["lm_head.weight"].double()
        tensors["lm_head.weight"] = (tensors["lm_head.weight"] * 1.07 + 0.01).to(getattr(torch, dtype))
        kept["donor"] = tensors["lm_head.weight"].double()
        return tensors

    rewrite_tensors(pair[1], shift)
    expected = float((kept["donor"] - kept["target"]).norm() / kept["donor"].norm())
    difference = non_neuron_difference(*map(read_index, pair))
    assert next(iter(difference.relative)) == "lm_head.weight"
    assert difference.relative["lm_head.weight"] == pytest.approx(expected, rel=1e-9)
    assert "lm_head.weight" in difference.warnings[0]


def test_rounding_to_bf16_alone_never_warns(pair: tuple[Path, Path], rewrite_tensors: Rewrite) -> None:
    rewrite_tensors(pair[1], lambda t: {k: v.bfloat16() for k, v in t.items()})
    difference = non_neuron_difference(*map(read_index, pair))
    assert 0 < difference.largest < NON_NEURON_LIMIT
    assert not difference.warnings


def test_a_donor_with_an_untied_head_is_compared_with_the_embedding(
    llama_folder: Copy, rewrite_tensors: Rewrite, edit_json: Edit
) -> None:
    pair = llama_folder("target", "qwen2"), llama_folder("donor", "qwen2")
    edit_json(pair[1] / "config.json", tie_word_embeddings=False)
    rewrite_tensors(pair[1], lambda t: {**t, "lm_head.weight": t["model.embed_tokens.weight"] * 1.1})
    assert "only the target ties its head" in compare(*pair).warnings[0]
    difference = non_neuron_difference(*map(read_index, pair))
    assert difference.relative["lm_head.weight"] == pytest.approx(0.1 / 1.1, rel=1e-5)
    assert difference.relative["model.embed_tokens.weight"] == 0


# --- estimates ------------------------------------------------------------------------------------


def test_estimates_count_what_is_stored(tiny: Any) -> None:
    found = estimate(tiny.folder, tiny.folder)
    assert found.parameters == sum(p.numel() for p in tiny.model.parameters())
    assert found.disk_bytes == (tiny.folder / "model.safetensors").stat().st_size
    layer = found.neuron_parameters // 2
    assert found.memory_bytes == 4 * (2 * found.parameters + layer)
    gated = any("gate" in name for name in read_index(tiny.folder).tensors)
    queries, keys = (
        tiny.model.config.num_attention_heads,
        getattr(tiny.model.config, "num_key_value_heads", 4),
    )
    size = getattr(tiny.model.config, "head_dim", None) or 8
    assert found.neurons == 2 * (size * (2 * queries + 2 * keys) + 48 * (2 + gated))


def test_a_missing_donor_is_named(llama_folder: Copy, tmp_path: Path) -> None:
    target = llama_folder()
    with pytest.raises(InputError, match="nowhere is not a folder"):
        compare(target, tmp_path / "nowhere")
    shutil.copytree(target, tmp_path / "donor")
    (tmp_path / "donor" / "model.safetensors").write_bytes(np.zeros(4).tobytes())
    with pytest.raises(InputError, match=r"model\.safetensors"):
        compare(target, tmp_path / "donor")
