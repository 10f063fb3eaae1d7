"""What a probe measures is what autograd, hooks written by hand and transformers itself say."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from cnt_pipeline.activation_caches.probes.effect import (
    AT_TARGET,
    EffectProbe,
    Objective,
    batch_gradients,
    nodes,
    path_change,
)
from cnt_pipeline.activation_caches.probes.state import ActivationProbe, HiddenStateProbe
from cnt_pipeline.models import teacher
from cnt_pipeline.models.gates import GatedSwap
from cnt_pipeline.models.teacher import Example
from tests.unit.activation_caches.conftest import Asked, examples, objectives
from tests.unit.models.conftest import CONFIGS

CPU = torch.device("cpu")


def by_autograd(swap: GatedSwap, objective: Objective, alpha: float) -> dict[tuple[int, str], torch.Tensor]:
    """`dL/dg` of one prompt through gates of its own, each answer passed through the model alone."""
    gates = {key: values.requires_grad_(True) for key, values in swap.filled(alpha, batch=1).items()}
    loss = torch.zeros(())
    for example, weight in objective.terms:
        with swap.gated(gates):
            logits = swap.model(torch.tensor([example.tokens])).logits[0]
        scored = logits[example.start - 1 : -1].log_softmax(-1)
        answer = torch.tensor(example.tokens[example.start :])
        loss = loss - weight * scored.gather(1, answer[:, None]).mean()
    found = torch.autograd.grad(loss, list(gates.values()))
    return {key: gradient[0] for key, gradient in zip(gates, found, strict=True)}


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "phi3", "gemma2"])
def test_effects_are_autograds(pairs: Callable[..., GatedSwap], name: str) -> None:
    swap, goals = pairs(name, 0.3), objectives(5)
    path = nodes(3)
    found = EffectProbe(swap, goals, path, 3)(range(5))
    assert set(found) == {(m.layer, m.family) for m in swap.architecture.matrices}
    for i, goal in enumerate(goals):
        expected = {key: torch.zeros_like(values[0]) for key, values in swap.filled(0.0, batch=1).items()}
        for alpha, share in path:
            for key, gradient in by_autograd(swap, goal, alpha).items():
                expected[key] -= share * gradient
        for key, values in found.items():
            largest = float(expected[key].abs().max())
            assert values[i] == pytest.approx(expected[key].numpy(), abs=max(2e-4 * largest, 1e-6)), key


def test_effects_do_not_depend_on_the_batch_size_or_on_the_company(asked: Asked) -> None:
    whole = EffectProbe(asked.swap, asked.objectives, nodes(3), 100)(range(11))
    for size in (1, 2, 4):
        again = EffectProbe(asked.swap, asked.objectives, nodes(3), size)(range(11))
        for key, values in whole.items():
            assert np.abs(again[key] - values).max() <= 1e-5 * max(np.abs(values).max(), 1), key
    some = EffectProbe(asked.swap, asked.objectives, nodes(3), 4)([7, 2, 10])
    for key, values in some.items():
        assert values == pytest.approx(whole[key][[7, 2, 10]], abs=1e-5)


def test_the_gradient_effect_is_a_path_with_its_one_node_at_the_target(asked: Asked) -> None:
    found = EffectProbe(asked.swap, asked.objectives, AT_TARGET, 4)(range(11))
    for i, goal in enumerate(asked.objectives):
        for key, gradient in by_autograd(asked.swap, goal, 0.0).items():
            largest = float(gradient.abs().max())
            assert found[key][i] == pytest.approx(-gradient.numpy(), abs=max(2e-4 * largest, 1e-6))


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_path_effects_add_up_to_the_whole_change_of_the_loss(pairs: Callable[..., GatedSwap], name: str) -> None:
    swap, goals = pairs(name, 0.05), objectives(6)
    at_target, at_donor = path_change(swap, goals, 4)
    total = sum(float(values.mean(0).sum()) for values in EffectProbe(swap, goals, nodes(8), 4)(range(6)).values())
    assert abs(at_target - at_donor) > 1e-3
    assert total == pytest.approx(at_target - at_donor, rel=0.01)


def test_the_change_along_the_path_is_between_target_and_donor(asked: Asked) -> None:
    expected = []
    for gate in (0.0, 1.0):
        losses = []
        for goal in asked.objectives:
            with torch.no_grad(), asked.swap.gated(asked.swap.filled(gate)):
                for example, weight in goal.terms:
                    logits = asked.swap.model(torch.tensor([example.tokens])).logits[0, example.start - 1 : -1]
                    answer = torch.tensor(example.tokens[example.start :])
                    losses.append(weight * float(torch.nn.functional.cross_entropy(logits, answer)))
        expected.append(sum(losses) / len(asked.objectives))
    assert path_change(asked.swap, asked.objectives, 3) == pytest.approx(tuple(expected), abs=1e-4)


def test_a_probe_leaves_the_model_as_it_was_even_when_it_fails(asked: Asked) -> None:
    model, tokens = asked.swap.model, torch.tensor([[5, 6, 7, 8]])
    before = model(tokens, output_hidden_states=True).logits  # transformers keeps hooks of its own from here on
    hooks = sum(len(m._forward_hooks) for m in model.modules())
    EffectProbe(asked.swap, asked.objectives, nodes(1), 4)([0, 1])
    HiddenStateProbe(model, examples(3), 2)([0, 1, 2])
    ActivationProbe(model, asked.swap.architecture, examples(3), "response", 2)([0, 1, 2])
    broken = [Objective(((Example((5, 10**6), 1), 1.0),))]
    with pytest.raises(IndexError):
        EffectProbe(asked.swap, broken, nodes(1), 4)([0])
    with pytest.raises(IndexError):
        ActivationProbe(model, asked.swap.architecture, [Example((5, 10**6), 1)], "response", 2)([0])
    assert torch.equal(model(tokens).logits, before)
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())
    assert sum(len(m._forward_hooks) for m in model.modules()) == hooks
    assert not any("forward" in m.__dict__ for m in model.modules())


def test_no_weight_gradient_is_ever_made(asked: Asked) -> None:
    batch = teacher.make_batch([asked.objectives[0].terms[0][0]], [0], CPU, 0)
    batch_gradients(asked.swap, batch, torch.ones(1), 0.5)
    assert all(parameter.grad is None for parameter in asked.swap.model.parameters())


@pytest.mark.parametrize("count", [1, 2, 4, 8, 64])
def test_nodes_integrate_polynomials_over_the_unit_interval(count: int) -> None:
    path = nodes(count)
    assert sum(weight for _, weight in path) == pytest.approx(1)
    assert all(0 < alpha < 1 for alpha, _ in path)
    for degree in range(2 * count):
        assert sum(weight * alpha**degree for alpha, weight in path) == pytest.approx(1 / (degree + 1))


def recorded(model: Any, module: str, tokens: tuple[int, ...], side: str) -> torch.Tensor:
    """A module's output (or input) of one sequence alone, `[tokens, units]`."""
    kept: list[torch.Tensor] = []
    handle = model.get_submodule(module).register_forward_hook(
        lambda _, inputs, output: kept.append(output[0] if side == "row" else inputs[0][0])
    )
    with torch.no_grad():
        model(torch.tensor([tokens]))
    handle.remove()
    return kept[0]


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "phi3"])
@pytest.mark.parametrize("tokens", ["response", "prompt"])
def test_activations_are_those_of_hooks_written_by_hand(
    pairs: Callable[..., GatedSwap], name: str, tokens: str
) -> None:
    swap, asked = pairs(name, 0.3), examples(7)
    found = ActivationProbe(swap.model, swap.architecture, asked, tokens, 3)(range(7))
    assert len(found) == 2 * len(swap.architecture.matrices)
    for matrix in swap.architecture.matrices:
        for i, example in enumerate(asked):
            whole = recorded(swap.model, matrix.module, example.tokens, matrix.side).double().numpy()
            part = whole[example.start :] if tokens == "response" else whole[: example.start]
            part = part[:, matrix.positions]
            close = {"abs": 1e-5, "rel": 1e-4}
            assert found[matrix.layer, f"{matrix.family}.mean"][i] == pytest.approx(part.mean(0), **close)
            rms = np.sqrt((part**2).mean(0))
            assert found[matrix.layer, f"{matrix.family}.rms"][i] == pytest.approx(rms, **close)


def test_activations_do_not_depend_on_the_batch_size(asked: Asked) -> None:
    def probe(size: int) -> dict[tuple[int, str], Any]:
        return ActivationProbe(asked.swap.model, asked.swap.architecture, examples(9), "response", size)(range(9))

    whole = probe(100)
    for size in (1, 4):
        for key, values in probe(size).items():
            assert np.abs(values - whole[key]).max() <= 1e-5


def test_a_prompt_that_was_answered_with_nothing_is_averaged_over_its_own_tokens(asked: Asked) -> None:
    silent = [Example((5, 6, 7), 3)]
    model, architecture = asked.swap.model, asked.swap.architecture
    response = ActivationProbe(model, architecture, silent, "response", 1)([0])
    prompt = ActivationProbe(model, architecture, silent, "prompt", 1)([0])
    assert all(np.array_equal(response[key], prompt[key]) for key in response)


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_hidden_states_are_transformers_own_at_the_last_token_of_the_prompt(
    pairs: Callable[..., GatedSwap], name: str
) -> None:
    model, asked = pairs(name, 0.05).model, examples(5)
    found = HiddenStateProbe(model, asked, 2)(range(5))
    for i, example in enumerate(asked):
        with torch.no_grad():
            theirs = model(torch.tensor([example.tokens]), output_hidden_states=True).hidden_states  # type: ignore[operator]
        assert len(theirs) == len(found) == model.config.num_hidden_layers + 1  # type: ignore[union-attr, operator]
        for layer, state in enumerate(theirs):
            expected = state[0, example.start - 1].numpy()
            assert np.abs(expected).max() > 0.01
            assert found[layer, "hidden"][i] == pytest.approx(expected, abs=1e-4)
