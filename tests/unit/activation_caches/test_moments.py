"""The moments of a layer's inputs are those of float64 loops over the tokens of each answer."""

# ruff: noqa: F811 (fixtures are imported by the name under which tests take them)

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from cnt_pipeline.activation_caches.probes.moments import input_moments, write_moments
from cnt_pipeline.activation_caches.tensor_file import write_tensors
from cnt_pipeline.errors import InputError
from cnt_pipeline.models.architecture import Architecture, read_architecture
from cnt_pipeline.models.load import load_model
from cnt_pipeline.models.teacher import Example
from cnt_pipeline.models.tensors import read_index
from cnt_pipeline.transplants.edit.moments import read_moments
from cnt_pipeline.transplants.edit.source import Source
from tests.unit.activation_caches.conftest import examples
from tests.unit.models.conftest import Tiny, build, tiny, tiny_models  # noqa: F401

ASKED = [*examples(9), Example((3, 4, 5), 3)]
"""Several lengths, and one prompt that was answered with nothing."""


def by_hand(tiny: Tiny, asked: list[Example]) -> dict[str, tuple[Tensor, Tensor, int]]:
    """Mean, second moment and tokens of every layer's input, each example alone through the model in float64."""
    model = load_model(tiny.folder).double()
    answered = [example for example in asked if example.answer_length]
    found: dict[str, tuple[Tensor, Tensor, int]] = {}
    for example in answered:
        kept: dict[str, Tensor] = {}

        def keep(name: str, kept: dict[str, Tensor]) -> Callable[..., None]:
            return lambda _, given: kept.__setitem__(name, given[0][0])

        names = {matrix.module for matrix in read_architecture(tiny.folder).matrices}
        handles = [model.get_submodule(name).register_forward_pre_hook(keep(name, kept)) for name in names]
        with torch.no_grad():
            model(torch.tensor([example.tokens]))
        for handle in handles:
            handle.remove()
        for name, inputs in kept.items():
            width = inputs.shape[1]
            mean, second, tokens = found.get(name, (torch.zeros(width).double(), torch.zeros(width, width).double(), 0))
            for x in inputs[example.start :]:
                share = 1 / example.answer_length / len(answered)
                mean, second, tokens = mean + share * x, second + share * torch.outer(x, x), tokens + 1
            found[name] = mean, second, tokens
    return found


def error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


def test_moments_are_those_of_float64_loops(tiny: Tiny) -> None:
    found = input_moments(load_model(tiny.folder), read_architecture(tiny.folder), ASKED, 4)
    expected = by_hand(tiny, ASKED)
    assert {name.rpartition(".")[0] for name in found} == set(expected)
    for name, (mean, second, tokens) in expected.items():
        assert error(found[f"{name}.mean"], mean) < 1e-5, name
        assert error(found[f"{name}.second"], second) < 1e-5, name
        assert int(found[f"{name}.tokens"]) == tokens


def test_a_long_answer_counts_no_more_than_a_short_one(tiny_models: Callable[[str], Tiny]) -> None:
    tiny = tiny_models("llama")
    model, architecture = load_model(tiny.folder), read_architecture(tiny.folder)
    short, long = Example((5, 9, 17, 33), 3), Example((11, 12, *range(20, 44)), 2)
    alone = [input_moments(model, architecture, [example], 1) for example in (short, long)]
    both = input_moments(model, architecture, [short, long], 2)
    for name, values in both.items():
        if name.endswith(".second"):
            assert torch.allclose(values, (alone[0][name] + alone[1][name]) / 2, rtol=1e-4, atol=1e-5)


def test_the_batch_size_changes_nothing_but_rounding(tiny_models: Callable[[str], Tiny]) -> None:
    tiny = tiny_models("gpt2")
    model, architecture = load_model(tiny.folder), read_architecture(tiny.folder)
    one, all_ = (input_moments(model, architecture, ASKED, size) for size in (1, 100))
    assert all(error(values, all_[name].double()) < 1e-5 for name, values in one.items())


def test_layers_that_read_the_same_input_share_one_sum(tiny_models: Callable[[str], Tiny]) -> None:
    tiny = tiny_models("llama")
    found = input_moments(load_model(tiny.folder), read_architecture(tiny.folder), ASKED, 4)
    places = {
        name.removeprefix("model.layers.1.").removesuffix(".second"): values.data_ptr()
        for name, values in found.items()
        if name.startswith("model.layers.1.") and name.endswith(".second")
    }
    q, k, v, o = (places[f"self_attn.{name}_proj"] for name in "qkvo")
    gate, up, down = (places[f"mlp.{name}_proj"] for name in ("gate", "up", "down"))
    assert q == k == v and gate == up
    assert len({q, o, gate, down}) == 4


def test_second_moments_are_symmetric_and_not_negative(tiny_models: Callable[[str], Tiny]) -> None:
    tiny = tiny_models("qwen2")
    found = input_moments(load_model(tiny.folder), read_architecture(tiny.folder), ASKED, 4)
    for name, values in found.items():
        if name.endswith(".second"):
            assert (values - values.T).abs().max() <= 1e-6 * values.abs().max()
            assert float(torch.linalg.eigvalsh(values.double()).min()) > -1e-6 * float(values.diagonal().sum())


def test_only_the_modules_asked_for_are_measured(tiny_models: Callable[[str], Tiny]) -> None:
    tiny = tiny_models("llama")
    model, architecture = load_model(tiny.folder), read_architecture(tiny.folder)
    asked = ["model.layers.1.self_attn.v_proj", "model.layers.0.mlp.down_proj"]
    some, whole = (input_moments(model, architecture, ASKED, 4, names) for names in (asked, None))
    assert set(some) == {f"{name}.{part}" for name in asked for part in ("mean", "second", "tokens")}
    assert all(torch.equal(values, whole[name]) for name, values in some.items())
    with pytest.raises(InputError, match="lm_head is no module that holds neurons: name modules such as"):
        input_moments(model, architecture, ASKED, 4, ["lm_head"])


def test_the_file_holds_every_module_as_an_edit_reads_it(tiny: Tiny, tmp_path: Path) -> None:
    model, architecture = load_model(tiny.folder), read_architecture(tiny.folder)
    told: list[tuple[str, int, int]] = []
    asked = {"function": ASKED, "utility": ASKED[:3]}
    write_moments(model, architecture, asked, tmp_path, 4, report=lambda *step: told.append(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["function.safetensors", "utility.safetensors"]
    assert told[-1] == ("measuring inputs (utility)", 3, 3)
    source = Source(architecture, {"target": read_index(tiny.folder)}, {"moments/target": tmp_path})
    for kind, kept in asked.items():
        expected = input_moments(model, architecture, kept, 4)
        for linear in source.linears:
            moments = source.moments("target", kind, linear)  # type: ignore[arg-type]
            second = moments.second[:]
            assert second.shape == (source.weight("target", linear).shape[1],) * 2
            assert torch.equal(second, expected[f"{linear.module}.second"])
            assert torch.equal(moments.squares, second.diagonal())
            assert torch.equal(moments.mean, expected[f"{linear.module}.mean"])
            assert moments.tokens == sum(example.answer_length for example in kept)


def test_a_bfloat16_model_is_summed_in_float32(tmp_path: Path) -> None:
    build("llama", tmp_path / "model")
    model, architecture = load_model(tmp_path / "model", "bfloat16"), read_architecture(tmp_path / "model")
    found = input_moments(model, architecture, ASKED, 4)
    seconds = [values for name, values in found.items() if name.endswith(".second")]
    assert all(values.dtype == torch.float32 for values in seconds)
    assert not any(torch.equal(values, values.bfloat16().float()) for values in seconds)


def test_the_model_keeps_no_hook_even_when_it_fails(tiny_models: Callable[[str], Tiny]) -> None:
    tiny = tiny_models("llama")
    model, architecture = load_model(tiny.folder), read_architecture(tiny.folder)
    input_moments(model, architecture, ASKED, 4)
    with pytest.raises(IndexError):
        input_moments(model, architecture, [Example((5, 10**6), 1)], 4)
    assert not any(model.get_submodule(matrix.module)._forward_hooks for matrix in architecture.matrices)


def broken(tiny: Tiny) -> tuple[torch.nn.Module, Architecture]:
    """A model with a damaged weight."""
    model = load_model(tiny.folder)
    model.get_submodule("model.layers.0.mlp.up_proj").weight.data[0, 0] = float("nan")
    return model, read_architecture(tiny.folder)


def test_what_cannot_be_measured_is_refused_in_one_sentence(tiny_models: Callable[[str], Tiny]) -> None:
    model, architecture = broken(tiny_models("llama"))
    with pytest.raises(InputError, match="no prompt has an answer"):
        input_moments(model, architecture, [Example((3, 4), 2)], 1)
    with pytest.raises(InputError, match=r"model\.layers\.0\.mlp\.down_proj: the model gave values that are not fin"):
        input_moments(model, architecture, ASKED, 4)


def test_tensors_that_share_memory_are_written_whole(tmp_path: Path) -> None:
    one, number = torch.randn(5, 3), torch.tensor(7)
    tensors = {"a": one, "b": one, "odd": torch.randn(3), "turned": one.T, "n": number, "none": torch.zeros(0, 4)}
    write_tensors(tensors, tmp_path / "some.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["some.safetensors"]
    found = load_file(tmp_path / "some.safetensors")
    assert set(found) == set(tensors)
    assert all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in tensors.items()
    )
    with safe_open(tmp_path / "some.safetensors", framework="np") as file:
        assert np.array_equal(file.get_tensor("turned"), one.T.numpy())


def test_modules_of_a_probe_file_are_read_one_by_one(tmp_path: Path) -> None:
    written = {"m.mean": torch.randn(3), "m.second": torch.randn(3, 3), "m.tokens": torch.tensor(11)}
    write_tensors(written, tmp_path / "function.safetensors")
    read = read_moments(tmp_path / "function.safetensors", "m")
    assert torch.equal(read.mean, written["m.mean"]) and torch.equal(read.second[:], written["m.second"])
    assert torch.equal(read.second[1:], written["m.second"][1:]) and len(read.second) == 3
    assert torch.equal(read.squares, written["m.second"].diagonal())
    assert read.tokens == 11
