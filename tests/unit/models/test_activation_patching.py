"""A patched target is what plain hooks make of it on whole sequences: one prompt at a time, without caches."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cnt_pipeline.models import reading, teacher
from cnt_pipeline.models.activation_patching import patched
from cnt_pipeline.models.architecture import Architecture, Neurons, read_architecture
from cnt_pipeline.models.generate import greedy
from cnt_pipeline.models.load import load_model
from cnt_pipeline.models.teacher import Example
from tests.unit.models.conftest import CONFIGS, build

torch.set_num_threads(1)
NEW = 6
CLOSE: Mapping[str, Any] = {"rtol": 0, "atol": 1e-4}
START = tuple(range(3, 15))
ALIKE = [(*START, 20, 23, 24, 25, 26), (*START, 27, 28, 29), (*START, 20, 21), (*START, 22)]
"""Prompts whose common start is read once, the longest first."""
APART = [(9, 8, 41, 30, 31, 32, 33), (20, 23, 24, 25, 26), (27, 28), (21,)]
"""Prompts that are padded on the left, the longest first."""
CONTINUATIONS = [((30,), (31, 32, 33)), (), ((34, 35),), ((36,), (37,), (38, 39))]


@dataclass(frozen=True)
class Trio:
    """A target, a donor that differs in every tensor, and one that differs in the rows of its matrices alone."""

    target: Any
    donor: Any
    donor_of_rows: Any
    architecture: Architecture

    def patched(self, neurons: Neurons, donor: Any = None) -> Any:
        return patched(self.target, donor or self.donor, self.architecture, neurons)

    def every(self, *sides: str) -> Neurons:
        return {(m.layer, m.family): np.arange(m.neurons) for m in self.architecture.matrices if m.side in sides}

    def some(self, share: float = 0.3) -> Neurons:
        """A random third of the neurons of every matrix."""
        lot = np.random.default_rng(7)
        return {
            (m.layer, m.family): np.sort(lot.choice(m.neurons, max(1, int(share * m.neurons)), replace=False))
            for m in self.architecture.matrices
        }

    @torch.no_grad()
    def reference(self, neurons: Neurons, tokens: Sequence[int]) -> torch.Tensor:
        """Logits `[tokens, vocabulary]` of one whole sequence, neuron by neuron through hooks."""
        given = torch.tensor([tokens])
        seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        places: dict[tuple[str, str], list[int]] = {}
        for m in self.architecture.matrices:
            chosen = [int(m.positions[n]) for n in neurons.get((m.layer, m.family), ())]
            places.setdefault((m.module, m.side), []).extend(chosen)

        def watch(name: str) -> Callable[..., None]:
            def hook(module: Any, inputs: Any, output: torch.Tensor) -> None:
                seen[name] = inputs[0].clone(), output.clone()

            return hook

        def change_input(name: str) -> Callable[..., Any]:
            def hook(module: Any, inputs: Any) -> Any:
                changed = inputs[0].clone()
                for place in places.get((name, "column"), ()):
                    changed[0, :, place] = seen[name][0][0, :, place]
                return (changed,)

            return hook

        def change_output(name: str) -> Callable[..., Any]:
            def hook(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
                changed = output.clone()
                for place in places.get((name, "row"), ()):
                    changed[0, :, place] = seen[name][1][0, :, place]
                return changed

            return hook

        names = {m.module for m in self.architecture.matrices}
        handles = [self.donor.get_submodule(name).register_forward_hook(watch(name)) for name in names]
        self.donor(given, use_cache=False)
        for name in names:
            module = self.target.get_submodule(name)
            handles += [
                module.register_forward_pre_hook(change_input(name)), module.register_forward_hook(change_output(name))
            ]  # fmt: skip
        logits: torch.Tensor = self.target(given, use_cache=False).logits[0]
        for handle in handles:
            handle.remove()
        return logits


def make_trio(name: str, root: Path) -> Trio:
    build(name, root / "target")
    build(name, root / "donor", seed=1)
    build(name, root / "rows")
    architecture = read_architecture(root / "target")
    ours, theirs = (load_file(root / role / "model.safetensors") for role in ("rows", "donor"))
    for matrix in architecture.matrices:
        for tensor in (matrix.tensor, matrix.bias):
            if matrix.side == "row" and tensor is not None:
                ours[tensor] = theirs[tensor]
    save_file(ours, root / "rows" / "model.safetensors", {"format": "pt"})
    return Trio(*(load_model(root / role) for role in ("target", "donor", "rows")), architecture)


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def trio(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trio:
    """The three models of every architecture in turn."""
    return make_trio(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def llamas(tmp_path_factory: pytest.TempPathFactory) -> Trio:
    return make_trio("llama", tmp_path_factory.mktemp("llamas"))


@torch.no_grad()
def answered(model: Any, prompts: Sequence[Sequence[int]]) -> tuple[list[tuple[int, ...]], list[torch.Tensor]]:
    """Answers to one batch, and the logits `[prompts, vocabulary]` behind every token."""
    logits: list[torch.Tensor] = []
    handle = model.register_forward_hook(lambda module, inputs, output: logits.append(output.logits[:, -1].clone()))
    try:
        answers = greedy(model, prompts, NEW, len(prompts), frozenset())
    finally:
        handle.remove()
    return [answer.tokens for answer in answers], logits


@pytest.mark.parametrize("prompts", [ALIKE, APART], ids=["alike", "apart"])
def test_a_subset_acts_as_in_whole_sequences_without_caches(trio: Trio, prompts: list[tuple[int, ...]]) -> None:
    neurons = trio.some()
    with trio.patched(neurons):
        answers, logits = answered(trio.target, prompts)
    for row, prompt in enumerate(prompts):
        tokens = prompt
        for step in range(NEW):
            expected = trio.reference(neurons, tokens)[-1]
            torch.testing.assert_close(logits[step][row], expected, **CLOSE)
            tokens = (*tokens, int(expected.argmax()))
        assert answers[row] == tokens[len(prompt) :]
    for other in (trio.target, trio.donor):
        assert not torch.allclose(logits[0], answered(other, prompts)[1][0], **CLOSE)


@pytest.mark.parametrize("sides", [("row", "column"), ("column",)], ids=["all", "last-writes"])
def test_all_activations_are_the_donor_where_it_shares_what_they_are_written_with(
    trio: Trio, sides: tuple[str, ...]
) -> None:
    expected, theirs = answered(trio.donor_of_rows, APART)
    assert not torch.allclose(theirs[0], answered(trio.target, APART)[1][0], **CLOSE)
    with trio.patched(trio.every(*sides), trio.donor_of_rows):
        answers, logits = answered(trio.target, APART)
    assert answers == expected
    for ours, wanted in zip(logits, theirs, strict=True):
        torch.testing.assert_close(ours, wanted, **CLOSE)


@pytest.mark.parametrize("neurons", [{}, {(0, "down"): np.array([], dtype=np.int64)}], ids=["none", "empty"])
def test_no_activation_is_the_target_bit_for_bit(trio: Trio, neurons: Neurons) -> None:
    expected, own = answered(trio.target, ALIKE)
    with trio.patched(neurons):
        answers, logits = answered(trio.target, ALIKE)
    assert answers == expected
    assert all(torch.equal(ours, wanted) for ours, wanted in zip(logits, own, strict=True))


@pytest.mark.parametrize("prompts", [ALIKE, APART], ids=["alike", "apart"])
def test_the_size_of_a_batch_changes_no_token(trio: Trio, prompts: list[tuple[int, ...]]) -> None:
    with trio.patched(trio.some()):
        found = [greedy(trio.target, prompts, NEW, size, frozenset()) for size in (1, 3, 100)]
    tokens = [[answer.tokens for answer in answers] for answers in found]
    assert tokens[0] == tokens[1] == tokens[2]


@pytest.mark.parametrize("batch_size", [1, 100])
def test_likelihoods_are_those_of_whole_sequences(trio: Trio, batch_size: int) -> None:
    neurons = trio.some()
    examples = [Example((*prompt, 30, 31 + i), len(prompt)) for i, prompt in enumerate(ALIKE)]
    with trio.patched(neurons):
        found = reading.continuation_logliks(trio.target, ALIKE, CONTINUATIONS, batch_size)
        answers = teacher.answer_nll(trio.target, examples, batch_size, mean=False)

    def loglik(prompt: tuple[int, ...], text: tuple[int, ...]) -> float:
        values = trio.reference(neurons, prompt + text).double().log_softmax(-1)
        return sum(float(values[len(prompt) - 1 + i, token]) for i, token in enumerate(text))

    for prompt, texts, values in zip(ALIKE, CONTINUATIONS, found, strict=True):
        assert values == pytest.approx([loglik(prompt, text) for text in texts], abs=1e-4)
    for i, prompt in enumerate(ALIKE):
        assert -answers[i] == pytest.approx(loglik(prompt, (30, 31 + i)), abs=1e-4)


def test_a_neuron_of_equal_weights_brings_what_changed_before_it(llamas: Trio) -> None:
    """Which copying its weights cannot: the last layer's columns are the same in both models."""
    last = llamas.architecture.layers - 1
    neurons = {(last, "down"): np.arange(llamas.architecture.ffn)}
    _, own = answered(llamas.target, APART)
    with llamas.patched(neurons, llamas.donor_of_rows):
        _, logits = answered(llamas.target, APART)
    assert not torch.allclose(logits[0], own[0], **CLOSE)


def test_where_down_is_patched_gate_and_up_reach_nothing_else(llamas: Trio) -> None:
    found = []
    for families in (("down",), ("gate", "up", "down")):
        neurons = {key: chosen for key, chosen in llamas.every("row", "column").items() if key[1] in families}
        with llamas.patched(neurons):
            found.append(answered(llamas.target, APART)[1])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_after_the_context_both_models_are_as_before(llamas: Trio) -> None:
    before = [answered(model, APART)[0] for model in (llamas.target, llamas.donor)]
    with pytest.raises(RuntimeError, match="stop"), llamas.patched(llamas.some()):
        answered(llamas.target, APART)
        raise RuntimeError("stop")
    assert [answered(model, APART)[0] for model in (llamas.target, llamas.donor)] == before
    for model in (llamas.target, llamas.donor):
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_what_cannot_be_patched_is_refused(llamas: Trio) -> None:
    with pytest.raises(ValueError, match=r"no layer and family \(9, 'down'\)"), llamas.patched({(9, "down"): [0]}):
        pass
    with pytest.raises(ValueError, match="from another model"), llamas.patched({}, llamas.target):
        pass
    outside = reading.read_prompts(llamas.target, APART)
    with pytest.raises(ValueError, match="made outside"), llamas.patched(llamas.some()):
        llamas.target(torch.tensor([[5]] * len(APART)), past_key_values=outside.cache, use_cache=True)
