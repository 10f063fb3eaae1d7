"""Neurons copied from the donor, and the best of them within a budget."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.numpy import load_file

from cnt_pipeline.errors import InputError
from cnt_pipeline.transplants.edit.copying import (
    copied,
    matrices_of,
    random_like,
    read_choice,
    space_of,
    within_budget,
    write_choice,
)
from cnt_pipeline.transplants.edit.source import Source

torch.set_num_threads(1)

Key = tuple[int, str]


def weights(source: Source, model: str) -> dict[str, npt.NDArray[Any]]:
    return load_file(source.models[model].folder / "model.safetensors")


def some(source: Source, seed: int = 0) -> dict[Key, npt.NDArray[np.int64]]:
    """A few neurons of every other layer and family."""
    lot = np.random.default_rng(seed)
    matrices = source.architecture.matrices[::2]
    return {(m.layer, m.family): np.sort(lot.choice(m.neurons, 5, replace=False)) for m in matrices}


def scores(source: Source, seed: int = 0) -> dict[Key, npt.NDArray[np.float64]]:
    lot = np.random.default_rng(seed)
    return {(m.layer, m.family): lot.normal(size=m.neurons) for m in source.architecture.matrices}


def test_chosen_neurons_are_the_donors_bit_for_bit_and_all_else_the_targets(source: Source) -> None:
    chosen = some(source)
    target, donor = weights(source, "target"), weights(source, "donor")
    expected: dict[str, npt.NDArray[Any]] = {}
    for matrix in source.architecture.matrices:
        for neuron in chosen.get((matrix.layer, matrix.family), ()):
            place = matrix.positions[neuron]
            where = (place, slice(None)) if matrix.axis == 0 else (slice(None), place)
            expected.setdefault(matrix.tensor, target[matrix.tensor].copy())[where] = donor[matrix.tensor][where]
            if matrix.bias is not None:
                expected.setdefault(matrix.bias, target[matrix.bias].copy())[place] = donor[matrix.bias][place]
    edits = copied(source, chosen)
    assert set(edits) == set(expected)
    for name, thunk in edits.items():
        assert np.array_equal(thunk().numpy(), expected[name])
        assert not np.array_equal(expected[name], target[name])


def test_row_biases_move_with_their_neurons_and_column_biases_stay(make: Callable[[str], Source]) -> None:
    source = make("gpt2")
    edits = copied(source, {(0, "k"): np.array([3]), (1, "down"): np.array([7])})
    assert set(edits) == {
        "transformer.h.0.attn.c_attn.weight", "transformer.h.0.attn.c_attn.bias", "transformer.h.1.mlp.c_proj.weight"
    }  # fmt: skip
    target, donor = weights(source, "target"), weights(source, "donor")
    bias = edits["transformer.h.0.attn.c_attn.bias"]().numpy()
    changed = np.flatnonzero(bias != target["transformer.h.0.attn.c_attn.bias"])
    assert changed.tolist() == [32 + 3]
    assert bias[35] == donor["transformer.h.0.attn.c_attn.bias"][35]
    down = edits["transformer.h.1.mlp.c_proj.weight"]().numpy()
    name = "transformer.h.1.mlp.c_proj.weight"
    assert np.flatnonzero((down != target[name]).any(1)).tolist() == [7]
    assert np.array_equal(down[7], donor[name][7])


def test_fused_families_are_copied_into_one_tensor(make: Callable[[str], Source]) -> None:
    source = make("phi3")
    chosen = {(0, "q"): np.array([1]), (0, "v"): np.array([2]), (0, "k"): np.array([], dtype=np.int64)}
    edits = copied(source, chosen)
    name = "model.layers.0.self_attn.qkv_proj.weight"
    assert list(edits) == [name]
    changed = (edits[name]().numpy() != weights(source, "target")[name]).any(1)
    assert np.flatnonzero(changed).tolist() == [1, 32 + 16 + 2]


def test_an_edit_knows_the_neurons_it_copies_and_they_can_be_stored(source: Source, tmp_path: Path) -> None:
    chosen = within_budget(source, scores(source), 0.1)
    edits = copied(source, chosen)
    write_choice(edits.neurons, tmp_path / "chosen.parquet")
    found = read_choice(tmp_path / "chosen.parquet")
    assert list(found) == list(chosen)
    assert all(np.array_equal(found[key], neurons) and found[key].dtype == np.int64 for key, neurons in chosen.items())


def test_nothing_chosen_edits_nothing(source: Source) -> None:
    assert copied(source, {}) == {}


def test_a_family_that_the_models_lack_is_refused(source: Source) -> None:
    with pytest.raises(ValueError, match="no layer and family"):
        copied(source, {(9, "q"): np.array([0])})


@pytest.mark.parametrize("share", [0.01, 0.1, 0.3])
def test_the_best_neurons_of_all_layers_are_taken_until_the_budget_is_full(source: Source, share: float) -> None:
    given = scores(source)
    tensors = weights(source, "target")
    total = sum(tensor.size for tensor in tensors.values())
    sizes = {
        (m.layer, m.family): tensors[m.tensor].shape[1 - m.axis] + (m.bias is not None)
        for m in source.architecture.matrices
    }
    ranked = sorted(((key, i) for key in given for i in range(len(given[key]))), key=lambda p: -given[p[0]][p[1]])
    expected: dict[Key, list[int]] = {}
    spent = 0
    for key, neuron in ranked:
        if spent + sizes[key] > round(share * total):
            break
        spent += sizes[key]
        expected.setdefault(key, []).append(neuron)
    found = within_budget(source, given, share)
    assert {key: values.tolist() for key, values in found.items()} == {k: sorted(v) for k, v in expected.items()}
    assert share * total - max(sizes.values()) - 1 < spent <= share * total
    assert space_of(source).total_parameters == total


def test_at_least_one_neuron_is_taken_and_without_a_budget_all_that_qualify(source: Source) -> None:
    given = scores(source)
    assert sum(len(part) for part in within_budget(source, given, 1e-9).values()) == 1
    passing = {key: np.where(values > 1.5, values, -np.inf) for key, values in given.items()}
    for share in (None, 1.0):
        found = within_budget(source, passing, share)
        for key, values in given.items():
            assert found.get(key, np.array([])).tolist() == np.flatnonzero(values > 1.5).tolist()


def test_no_neuron_that_qualifies_is_an_error_that_says_what_to_do(source: Source) -> None:
    key = next(iter(scores(source)))
    with pytest.raises(InputError, match="lower the method's thresholds"):
        within_budget(source, {key: np.full(4, -np.inf)}, 0.5)


def test_random_neurons_match_layer_and_family_and_avoid_the_chosen(source: Source) -> None:
    chosen = some(source)
    drawn, again, other = (random_like(source, chosen, seed) for seed in (0, 0, 1))
    assert drawn.keys() == chosen.keys()
    for key, neurons in chosen.items():
        assert len(np.unique(drawn[key])) == len(neurons)
        assert not set(drawn[key].tolist()) & set(neurons.tolist())
        assert np.array_equal(drawn[key], again[key])
    assert any(not np.array_equal(drawn[key], other[key]) for key in drawn)


def test_families_are_chosen_by_name_by_unit_or_by_side(make: Callable[[str], Source]) -> None:
    source = make("llama")

    def families(*asked: Any) -> list[str]:
        return list(dict.fromkeys(matrix.family for matrix in matrices_of(source, *asked)))

    assert families("all") == ["q", "k", "v", "o", "gate", "up", "down"]
    assert families("ffn") == ["gate", "up", "down"]
    assert families("ffn", "column") == ["down"]
    assert families("all", "column") == ["o", "down"]
    assert families(("down", "q")) == ["q", "down"]
    with pytest.raises(InputError, match=r"'gate'.*choose among o, down"):
        families(("gate",), "column")
    with pytest.raises(InputError, match="'ffn1'"):
        families(("ffn1",))
