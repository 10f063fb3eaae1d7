"""A permuted model is the same function in another order, and the order can be found again and undone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cnt_pipeline.models.architecture import Architecture, read_architecture
from cnt_pipeline.models.load import load_model
from cnt_pipeline.models.matching import match, same_function
from cnt_pipeline.models.permute import CHANNEL, GROUP, HEAD, Permutation, neuron_orders, permutable, write_permuted
from cnt_pipeline.models.tensors import read_index
from tests.unit.models.conftest import Tiny, build


def shuffled(architecture: Architecture, seed: int = 0) -> Permutation:
    """Any order that keeps the heads of a group together."""
    random = np.random.default_rng(seed)
    units = permutable(architecture)
    groups, heads = units[GROUP][0], units[HEAD][0]
    share = heads // groups
    layers = range(architecture.layers)
    return Permutation(
        {layer: random.permutation(architecture.ffn) for layer in layers},
        {
            layer: np.concatenate([g * share + random.permutation(share) for g in random.permutation(groups)])
            for layer in layers
        },
    )


def permuted(folder: Path, out: Path, permutation: Permutation) -> Path:
    write_permuted(read_index(folder), read_architecture(folder), permutation, out)
    return out


def logits(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=tokens).logits.float()
    return found


def prompts(count: int = 40, vocabulary: int = 64) -> list[tuple[int, ...]]:
    random = np.random.default_rng(5)
    return [tuple(random.integers(3, vocabulary, random.integers(6, 20)).tolist()) for _ in range(count)]


TOKENS = torch.tensor([list(range(3, 40)), list(range(20, 57))])


def test_a_permuted_model_says_the_same(tiny: Tiny, tmp_path: Path) -> None:
    permutation = shuffled(read_architecture(tiny.folder))
    assert permutation.moved > 0.5
    folder = permuted(tiny.folder, tmp_path / "permuted", permutation)
    before, after = logits(load_model(tiny.folder), TOKENS), logits(load_model(folder), TOKENS)
    assert torch.allclose(before, after, rtol=1e-4, atol=1e-4 * float(before.abs().max()))
    assert torch.equal(before.argmax(-1), after.argmax(-1))


def test_the_check_before_a_transfer_knows_another_order_from_another_function(tiny: Tiny, tmp_path: Path) -> None:
    folder = permuted(tiny.folder, tmp_path / "permuted", shuffled(read_architecture(tiny.folder)))
    build(tiny.name, tmp_path / "other", seed=9)
    for dtype in ("float32", "bfloat16"):
        model = load_model(tiny.folder, dtype=dtype)
        assert same_function(model, load_model(folder, dtype=dtype), prompts())
        assert not same_function(model, load_model(tmp_path / "other", dtype=dtype), prompts())


def test_the_inverse_order_gives_the_bytes_back(tiny: Tiny, tmp_path: Path) -> None:
    permutation = shuffled(read_architecture(tiny.folder))
    there = permuted(tiny.folder, tmp_path / "there", permutation)
    back = permuted(there, tmp_path / "back", permutation.inverse())
    weights = "model.safetensors"
    assert (there / weights).read_bytes() != (tiny.folder / weights).read_bytes()
    assert (back / weights).read_bytes() == (tiny.folder / weights).read_bytes()
    assert (back / "config.json").read_bytes() == (tiny.folder / "config.json").read_bytes()


def test_matching_finds_the_order_of_a_shuffled_copy_exactly(tiny: Tiny, tmp_path: Path) -> None:
    architecture = read_architecture(tiny.folder)
    permutation = shuffled(architecture, seed=3)
    folder = permuted(tiny.folder, tmp_path / "permuted", permutation)
    found = match(load_model(tiny.folder), load_model(folder), architecture, prompts(), batch_size=8)
    wanted = permutation.inverse()
    for layer in range(architecture.layers):
        assert np.array_equal(found.permutation.channels[layer], wanted.channels[layer])
        assert np.array_equal(found.permutation.heads[layer], wanted.heads[layer])
    assert min(found.after.values()) == pytest.approx(1, abs=1e-3)
    assert max(value for (_, unit), value in found.before.items() if unit == CHANNEL) < 0.5
    restored = permuted(folder, tmp_path / "restored", found.permutation)
    assert (restored / "model.safetensors").read_bytes() == (tiny.folder / "model.safetensors").read_bytes()


def test_a_model_is_matched_with_itself_unit_by_unit(tiny: Tiny) -> None:
    model = load_model(tiny.folder)
    found = match(model, load_model(tiny.folder), read_architecture(tiny.folder), prompts(), batch_size=8)
    assert found.permutation.moved == 0


def test_neither_memory_nor_batches_change_the_pairing(tiny_models: Callable[[str], Tiny], tmp_path: Path) -> None:
    tiny = tiny_models("llama")
    build("llama", tmp_path / "other", seed=9)
    models = load_model(tiny.folder), load_model(tmp_path / "other")
    architecture = read_architecture(tiny.folder)
    calls: list[int] = []
    once = match(*models, architecture, prompts(), batch_size=40)
    layer_by_layer = match(
        *models, architecture, prompts(), batch_size=3, report=lambda what, done, total: calls.append(done), memory=1
    )
    assert len(calls) == 2 * architecture.layers
    for layer in range(architecture.layers):
        assert np.array_equal(once.permutation.channels[layer], layer_by_layer.permutation.channels[layer])
        assert np.array_equal(once.permutation.heads[layer], layer_by_layer.permutation.heads[layer])
    assert all(once.after[key] >= once.before[key] for key in once.before)


def test_a_large_common_mean_does_not_hide_the_pairing(tmp_path: Path) -> None:
    model = build("llama", tmp_path / "biased", seed=4)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.up_proj.bias.add_(50.0)
    model.save_pretrained(tmp_path / "biased")
    architecture = read_architecture(tmp_path / "biased")
    permutation = shuffled(architecture)
    folder = permuted(tmp_path / "biased", tmp_path / "permuted", permutation)
    found = match(load_model(tmp_path / "biased"), load_model(folder), architecture, prompts(), batch_size=8)
    for layer, order in permutation.inverse().channels.items():
        assert np.array_equal(found.permutation.channels[layer], order)


def test_an_order_that_tears_a_group_apart_is_refused(tiny_models: Callable[[str], Tiny]) -> None:
    architecture = read_architecture(tiny_models("llama").folder)
    with pytest.raises(ValueError, match="inside their group"):
        neuron_orders(architecture, Permutation({}, {0: np.array([0, 2, 1, 3])}))
    with pytest.raises(ValueError, match="no permutation"):
        neuron_orders(architecture, Permutation({0: np.zeros(architecture.ffn, np.int64)}, {}))
    inside = neuron_orders(architecture, Permutation({}, {0: np.array([3, 2, 0, 1])}))
    assert inside[0, "k"].tolist() == [*range(8, 16), *range(8)]
    assert inside[0, "q"].tolist() == [*range(24, 32), *range(16, 24), *range(16)]
