"""The saliency of a weight is what autograd gives for each example alone, in float64."""

# ruff: noqa: F811 (fixtures are imported by the name under which tests take them)

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cnt_pipeline.activation_caches.probes.saliency import weight_saliency, write_saliency
from cnt_pipeline.errors import InputError
from cnt_pipeline.models.architecture import read_architecture
from cnt_pipeline.models.load import load_model
from cnt_pipeline.models.teacher import Example
from cnt_pipeline.models.tensors import read_index
from cnt_pipeline.transplants.edit.source import Source
from tests.unit.activation_caches.conftest import examples
from tests.unit.models.conftest import Tiny, tiny, tiny_models  # noqa: F401

ASKED = [*examples(7), Example((3, 4, 5), 3)]
"""Several lengths, and one prompt that was answered with nothing."""


def by_autograd(tiny: Tiny, asked: list[Example]) -> dict[str, Tensor]:
    """Mean of `|W o dL/dW|` by tensor name, gradients of whole weights, every example alone in float64."""
    model = copy.deepcopy(load_model(tiny.folder)).double().requires_grad_(True)
    tensors = {matrix.tensor: matrix.module for matrix in read_architecture(tiny.folder).matrices}
    weights = {tensor: model.get_submodule(module).weight for tensor, module in tensors.items()}
    answered = [example for example in asked if example.answer_length]
    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for example in answered:
        scored = model(torch.tensor([example.tokens])).logits[0, example.start - 1 : -1].log_softmax(-1)
        loss = torch.zeros(()).double()
        for row, token in zip(scored, example.tokens[example.start :], strict=True):
            loss = loss - row[token] / example.answer_length
        for name, gradient in zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True):
            total[name] += (weights[name].detach() * gradient).abs() / len(answered)
    return total


@pytest.mark.parametrize("batch_size", [1, 3])
def test_saliencies_are_autograds(tiny: Tiny, batch_size: int) -> None:
    architecture = read_architecture(tiny.folder)
    found = weight_saliency(load_model(tiny.folder), architecture, ASKED, batch_size)
    expected = by_autograd(tiny, ASKED)
    assert set(found) == set(expected)
    for name, values in expected.items():
        assert found[name].dtype == torch.float32
        assert found[name].shape == values.shape
        assert float(values.norm()) > 1e-4
        assert float((found[name].double() - values).norm() / values.norm()) < 1e-5, name


def test_opposite_gradients_of_two_examples_do_not_cancel(tiny_models: Callable[[str], Tiny]) -> None:
    tiny = tiny_models("llama")
    model, architecture = load_model(tiny.folder), read_architecture(tiny.folder)
    pair = [Example((5, 9, 17, token), 3) for token in (20, 40)]
    alone = [weight_saliency(model, architecture, [example]) for example in pair]
    both = weight_saliency(model, architecture, pair, 2)
    for name, values in both.items():
        assert torch.allclose(values, (alone[0][name] + alone[1][name]) / 2, rtol=1e-4, atol=1e-7)


def test_a_file_of_each_kind_is_what_an_edit_reads(tiny: Tiny, tmp_path: Path) -> None:
    model, architecture = load_model(tiny.folder), read_architecture(tiny.folder)
    told: list[tuple[str, int, int]] = []
    asked = {"function": ASKED, "utility": ASKED[:2]}
    write_saliency(model, architecture, asked, tmp_path, report=lambda *step: told.append(step))
    assert told[-1] == ("measuring weights (utility)", 2, 2)
    source = Source(architecture, {"target": read_index(tiny.folder)}, {"saliency/target": tmp_path})
    for kind, kept in asked.items():
        expected = weight_saliency(model, architecture, kept)
        for linear in source.linears:
            values = source.saliency("target", kind, linear)  # type: ignore[arg-type]
            assert values.shape == source.weight("target", linear).shape
            assert torch.equal(source.stored(linear, values), expected[linear.tensor])


def test_only_the_modules_asked_for_are_scored(tiny_models: Callable[[str], Tiny]) -> None:
    tiny = tiny_models("gpt2")
    model, architecture = load_model(tiny.folder), read_architecture(tiny.folder)
    asked = "transformer.h.1.mlp.c_fc"
    some, whole = (weight_saliency(model, architecture, ASKED, 2, names) for names in ([asked], None))
    assert set(some) == {f"{asked}.weight"}
    assert torch.equal(some[f"{asked}.weight"], whole[f"{asked}.weight"])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_models_of_16_bits_are_summed_in_float32(tiny_models: Callable[[str], Tiny], dtype: str) -> None:
    tiny = tiny_models("llama")
    architecture = read_architecture(tiny.folder)
    exact = weight_saliency(load_model(tiny.folder), architecture, ASKED)
    found = weight_saliency(load_model(tiny.folder, dtype), architecture, ASKED)  # type: ignore[arg-type]
    for name, values in found.items():
        assert values.dtype == torch.float32
        assert not torch.equal(values, values.to(getattr(torch, dtype)).float())
        assert float((values - exact[name]).norm() / exact[name].norm()) < 0.1


def test_no_gradient_of_the_model_is_held_and_no_hook_stays(tiny_models: Callable[[str], Tiny]) -> None:
    tiny = tiny_models("llama")
    model, architecture = load_model(tiny.folder), read_architecture(tiny.folder)
    held: list[int] = []

    def count(*_: object) -> None:
        held.append(sum(parameter.grad is not None for parameter in model.parameters()))

    weight_saliency(model, architecture, ASKED, 2, report=count)
    with pytest.raises(IndexError):
        weight_saliency(model, architecture, [Example((5, 10**6), 1)])
    assert held and not any(held)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not any(model.get_submodule(matrix.module)._forward_hooks for matrix in architecture.matrices)


def test_what_cannot_be_scored_is_refused_in_one_sentence(tiny_models: Callable[[str], Tiny]) -> None:
    tiny = tiny_models("llama")
    model, architecture = load_model(tiny.folder), read_architecture(tiny.folder)
    with pytest.raises(InputError, match="no prompt has an answer"):
        weight_saliency(model, architecture, [Example((3, 4), 2)])
    with pytest.raises(InputError, match="lm_head is no module"):
        weight_saliency(model, architecture, ASKED, modules=["lm_head"])
    model.get_submodule("model.layers.0.mlp.up_proj").weight.data[0, 0] = float("nan")
    with pytest.raises(InputError, match="the model gave values that are not finite"):
        weight_saliency(model, architecture, ASKED)
