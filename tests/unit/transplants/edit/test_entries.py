"""Set differences, Antidote and SafePatching against masks written out entry by entry."""

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.numpy import load_file

from cnt_pipeline.models.architecture import Matrix
from cnt_pipeline.transplants.edit.entries import antidote, safe_patching, set_difference, top_entries
from cnt_pipeline.transplants.edit.rows.entries import ROWS, AntidoteOptions, SafePatchingOptions, SetDifferenceOptions
from cnt_pipeline.transplants.edit.source import Edits, Linear, Source

torch.set_num_threads(1)

Array = npt.NDArray[np.float64]

FUSED = {"qkv_proj": (32, 16, 16), "gate_up_proj": (48, 48), "c_attn": (32, 32, 32)}
"""Outputs of each family where a matrix holds several."""


def stored(source: Source, model: str, name: str) -> Array:
    found: Array = load_file(source.models[model].folder / "model.safetensors")[name].astype(np.float64)
    return found


def weight(source: Source, model: str, name: str) -> Array:
    """A matrix as `[out, in]`."""
    found = stored(source, model, name)
    return found.T if source.architecture.name == "gpt2" else found


def probe(source: Source, name: str, kind: str) -> dict[str, Any]:
    return load_file(source.probes[name] / f"{kind}.safetensors")


def wanda(source: Source, model: str, kind: str, name: str) -> Array:
    second = probe(source, f"moments/{model}", kind)[f"{name.removesuffix('.weight')}.second"].astype(np.float64)
    w = weight(source, model, name)
    return np.array([[abs(w[i, j]) * second[j, j] ** 0.5 for j in range(w.shape[1])] for i in range(w.shape[0])])


def snip(source: Source, kind: str, name: str) -> Array:
    found: Array = probe(source, "saliency/donor", kind)[name].astype(np.float64)
    return found.T if source.architecture.name == "gpt2" else found


def groups(name: str, shape: tuple[int, ...], group: str) -> Iterator[list[tuple[int, int]]]:
    rows, columns = shape
    sizes = next((sizes for part, sizes in FUSED.items() if part in name), (rows,))
    begin = 0
    for size in (1,) * rows if group == "row" else sizes:
        yield [(i, j) for i in range(begin, begin + size) for j in range(columns)]
        begin += size
    assert begin == rows


def top(name: str, scores: Array, share: float, group: str) -> npt.NDArray[np.bool_]:
    mask = np.zeros(scores.shape, dtype=bool)
    for places in groups(name, scores.shape, group):
        best = sorted(places, key=lambda place: -scores[place])
        for place in best[: round(share * len(places))]:
            mask[place] = True
    return mask


def cooked(source: Source, edits: Edits) -> Iterator[tuple[str, Array]]:
    """Every edited matrix as `[out, in]`, in the order of the matrices."""
    assert set(edits) == {linear.tensor for linear in source.linears}
    for name, thunk in edits.items():
        tensor = thunk()
        assert tensor.dtype == torch.float32
        assert tensor.shape == source.models["target"][name].shape
        values = tensor.double().numpy()
        yield name, values.T if source.architecture.name == "gpt2" else values


@pytest.mark.parametrize("group", ["row", "matrix"])
@pytest.mark.parametrize("score", ["wanda", "snip"])
@pytest.mark.parametrize("action", ["copy", "zero"])
def test_a_set_difference_changes_the_weights_that_are_top_on_safety_alone(
    source: Source, group: Any, score: Any, action: Any
) -> None:
    options = SetDifferenceOptions(score=score, group=group, action=action, safety_share=0.2, utility_share=0.3)
    for name, found in cooked(source, set_difference(source, options, 0)):
        safety, utility = (
            wanda(source, "donor", kind, name) if score == "wanda" else snip(source, kind, name)
            for kind in ("function", "utility")
        )
        mask = top(name, safety, 0.2, group) & ~top(name, utility, 0.3, group)
        assert 0 < mask.sum() < 0.2 * mask.size
        new = weight(source, "donor", name) if action == "copy" else 0.0
        assert np.array_equal(found, np.where(mask, new, weight(source, "target", name)))


def test_no_weight_is_safety_critical_where_all_count_as_useful(source: Source) -> None:
    options = SetDifferenceOptions(utility_share=1.0, safety_share=0.5)
    for name, found in cooked(source, set_difference(source, options, 0)):
        assert np.array_equal(found, weight(source, "target", name))


def test_without_useful_weights_the_whole_top_is_copied(source: Source) -> None:
    options = SetDifferenceOptions(utility_share=0.0, safety_share=1.0)
    for name, found in cooked(source, set_difference(source, options, 0)):
        assert np.array_equal(found, weight(source, "donor", name))


@pytest.mark.parametrize("group", ["row", "matrix"])
def test_antidote_zeroes_the_targets_own_top_weights_on_function_prompts(source: Source, group: Any) -> None:
    options = AntidoteOptions(share=0.15, group=group)
    for name, found in cooked(source, antidote(source, options, 0)):
        mask = top(name, wanda(source, "target", "function", name), 0.15, group)
        assert np.array_equal(found, np.where(mask, 0, weight(source, "target", name)))
        if group == "row":
            assert ((found == 0).sum(1) == round(0.15 * found.shape[1])).all()


@pytest.mark.parametrize("against", ["lookalike", "utility"])
@pytest.mark.parametrize("group", ["row", "matrix"])
def test_safe_patching_adds_what_alignment_changed_on_the_selected_entries(
    source: Source, against: Any, group: Any
) -> None:
    options = SafePatchingOptions(safety_share=0.3, against_share=0.2, against=against, group=group, scale=0.7)
    for name, found in cooked(source, safe_patching(source, options, 0)):
        mask = top(name, snip(source, "function", name), 0.3, group) & ~top(
            name, snip(source, against, name), 0.2, group
        )
        target, donor, base = (weight(source, model, name) for model in ("target", "donor", "base"))
        wanted = target + 0.7 * mask * (donor - base)
        assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()
        assert np.array_equal(found[~mask], target[~mask])
        assert (found[mask] != target[mask]).all()


def test_retained_entries_are_a_share_drawn_by_the_seed(make: Callable[[str], Source]) -> None:
    source = make("llama")
    whole = SafePatchingOptions(safety_share=0.5, against_share=0.1)
    part = whole.model_copy(update={"retain": 0.4})

    def changed(options: SafePatchingOptions, seed: int) -> dict[str, npt.NDArray[np.bool_]]:
        edits = cooked(source, safe_patching(source, options, seed))
        return {name: found != weight(source, "target", name) for name, found in edits}

    everything, first, again, other = changed(whole, 0), changed(part, 0), changed(part, 0), changed(part, 1)
    assert all((first[name] <= everything[name]).all() for name in first)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert all(not np.array_equal(first[name], other[name]) for name in first)
    kept = sum(mask.sum() for mask in first.values()) / sum(mask.sum() for mask in everything.values())
    assert kept == pytest.approx(0.4, abs=0.02)


def lone(rows: int) -> Linear:
    matrix = Matrix(0, "q", "q.weight", "q", "row", 0, np.arange(rows), None, 10)
    return Linear("q.weight", "q", 0, (matrix,))


def test_exactly_the_share_is_taken_even_among_equal_scores() -> None:
    scores = torch.tensor([[1.0, 0, 2, 0, 0, 0, 0, 0, 0, 0], [3.0, 3, 3, 3, 3, 3, 3, 3, 3, 3]])
    rows = top_entries(lone(2), scores, 0.4, "row")
    assert rows.nonzero().tolist() == [[0, 0], [0, 1], [0, 2], [0, 3], [1, 0], [1, 1], [1, 2], [1, 3]]
    whole = top_entries(lone(2), scores, 0.55, "matrix")
    assert whole.nonzero().tolist() == [[0, 2], *([1, j] for j in range(10))]
    assert not top_entries(lone(2), scores, 0.0, "row").any()
    assert top_entries(lone(2), scores, 1.0, "matrix").all()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_row_names_an_edit_and_defaults_for_all_its_options(row: Any) -> None:
    module, function = row.function.split(":")
    assert callable(getattr(import_module(f"cnt_pipeline.transplants.edit.{module}"), function))
    row.options()
    assert all(field.description for field in row.options.model_fields.values())
