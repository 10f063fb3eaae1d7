"""Task arithmetic, TIES and DARE against their formulas entry by entry in float64."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from pydantic import ValidationError

from cnt_pipeline.errors import InputError
from cnt_pipeline.models.tensors import read_index
from cnt_pipeline.transplants.edit import merging
from cnt_pipeline.transplants.edit.merging import dare, drop, merge, task_arithmetic, ties, trim
from cnt_pipeline.transplants.edit.rows.merging import ROWS, DareOptions, TaskArithmeticOptions, TiesOptions
from cnt_pipeline.transplants.edit.source import Source
from tests.unit.models.conftest import build

Array = npt.NDArray[np.float64]


def stored(source: Source, model: str, name: str) -> Array:
    return source.tensor(model, name).double().numpy()


def vector(source: Source, model: str, name: str) -> Array:
    return stored(source, model, name) - stored(source, "base", name)


def linears(source: Source) -> list[str]:
    return [linear.tensor for linear in source.linears]


def error(found: torch.Tensor, expected: Array) -> float:
    assert found.dtype == torch.float32
    assert found.shape == expected.shape
    return float(np.linalg.norm(found.double().numpy() - expected) / np.linalg.norm(expected))


def trimmed(values: Array, density: float) -> list[float]:
    flat = [float(value) for value in values.reshape(-1)]
    keep = int(density * len(flat))
    best = sorted(range(len(flat)), key=lambda place: (-abs(flat[place]), place))[:keep]
    chosen = set(best)
    return [value if place in chosen else 0.0 for place, value in enumerate(flat)]


def agreed(
    columns: list[list[float]], weights: tuple[float, ...], method: str, normalize: bool, scale: float
) -> list[float]:
    """The merged entry of every place, by the documented definition, one number at a time."""
    merged = []
    for values in zip(*columns, strict=True):
        weighted = [weight * value for weight, value in zip(weights, values, strict=True)]
        signs = [(value > 0) - (value < 0) for value in weighted]
        elected = 1 if (sum(weighted) if method == "total" else sum(signs)) >= 0 else -1
        total = sum(value for value, sign in zip(weighted, signs, strict=True) if sign == elected)
        share = sum(weight for weight, sign in zip(weights, signs, strict=True) if sign == elected)
        merged.append(scale * (total / share if normalize and share else total))
    return merged


@pytest.mark.parametrize("gamma", [1.0, -0.4])
def test_task_arithmetic_adds_the_safety_vector_to_every_matrix(source: Source, gamma: float) -> None:
    edits = task_arithmetic(source, TaskArithmeticOptions(gamma=gamma), 0)
    assert list(edits) == linears(source)
    for name, cook in edits.items():
        expected = stored(source, "target", name) + gamma * vector(source, "donor", name)
        assert error(cook(), expected) <= 1e-5


def test_all_tensors_are_every_stored_float_once(source: Source) -> None:
    for method, options in (
        (task_arithmetic, TaskArithmeticOptions(tensors="all")),
        (ties, TiesOptions(tensors="all")),
        (dare, DareOptions(tensors="all")),
    ):
        edits = method(source, options, 0)
        assert sorted(edits) == sorted(source.floats)
        assert set(edits) > set(linears(source))
    tied = "lm_head.weight" not in source.models["target"].tensors
    assert ("lm_head.weight" in edits) is not tied
    embedding = next(name for name in edits if name.endswith(("embed_tokens.weight", "wte.weight")))
    found = task_arithmetic(source, TaskArithmeticOptions(tensors="all"), 0)[embedding]()
    assert error(found, stored(source, "target", embedding) + vector(source, "donor", embedding)) <= 1e-5


@pytest.mark.parametrize(
    ("method", "normalize", "weights", "densities", "scale"),
    [
        ("total", True, (1.0, 1.0), (0.2, 0.2), 1.0),
        ("total", False, (0.7, 0.4), (0.31, 0.83), 1.5),
        ("count", True, (0.3, 1.2), (0.83, 1.0), 1.0),
        ("count", False, (1.0, 0.5), (1.0, 0.5), 0.6),
    ],
)
def test_ties_is_trim_elect_and_disjoint_merge(
    source: Source,
    method: str,
    normalize: bool,
    weights: tuple[float, float],
    densities: tuple[float, float],
    scale: float,
) -> None:
    options = TiesOptions.model_validate(
        {
            "target_density": densities[0],
            "donor_density": densities[1],
            "target_weight": weights[0],
            "donor_weight": weights[1],
            "majority_sign_method": method,
            "normalize": normalize,
            "scale": scale,
        }
    )
    edits = ties(source, options, 0)
    assert list(edits) == linears(source)
    for name, cook in edits.items():
        columns = [
            trimmed(vector(source, model, name), density)
            for model, density in zip(("target", "donor"), densities, strict=True)
        ]
        base = stored(source, "base", name)
        expected = base + np.array(agreed(columns, weights, method, normalize, scale)).reshape(base.shape)
        assert error(cook(), expected) <= 1e-5


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (task_arithmetic, TaskArithmeticOptions(density=0.4, rescale="none")),
        (ties, TiesOptions(target_density=0.3, donor_density=1.0)),
        (dare, DareOptions(target_density=0.5, majority_sign_method="total")),
    ],
)
def test_the_size_of_blocks_changes_no_bit(
    source: Source, method: Any, options: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = {name: cook() for name, cook in method(source, options, 6).items()}
    monkeypatch.setattr(merging, "BLOCK", 7)
    assert all(torch.equal(cook(), whole[name]) for name, cook in method(source, options, 6).items())


def test_the_size_of_blocks_changes_an_l1_rescale_by_rounding_alone(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, options = linears(source)[0], TaskArithmeticOptions(density=0.4, rescale="l1")
    whole = task_arithmetic(source, options, 6)[name]()
    monkeypatch.setattr(merging, "BLOCK", 7)
    assert torch.allclose(task_arithmetic(source, options, 6)[name](), whole, rtol=1e-6, atol=1e-7)


def test_ties_at_the_limit_stay_in_stored_order_across_blocks() -> None:
    blocks = [torch.tensor([1.0, -2.0]), torch.tensor([2.0, 2.0, 3.0])]
    assert [block.tolist() for block in merging.trimmed(blocks, 5, 0.6)] == [[0.0, -2.0], [2.0, 0.0, 3.0]]


def test_ties_does_not_draw(source: Source) -> None:
    name = linears(source)[0]
    assert torch.equal(ties(source, TiesOptions(), 1)[name](), ties(source, TiesOptions(), 2)[name]())


@pytest.mark.parametrize("size", [1, 2, 7, 10, 99, 100, 1000])
@pytest.mark.parametrize("density", [0.001, 0.29, 0.5, 0.7, 0.999])
def test_trimming_keeps_an_exact_count_even_where_all_magnitudes_are_equal(size: int, density: float) -> None:
    values = torch.tensor([1.0, -1.0]).repeat(size)[:size]
    kept = trim(values.clone(), density).nonzero().flatten().tolist()
    assert kept == list(range(max(1, int(density * size))))


def test_trimming_prefers_the_larger_then_the_first_stored() -> None:
    values = torch.tensor([[2.0, -3.0, 1.0], [-2.0, 2.0, 0.5]])
    assert trim(values.clone(), 0.5).tolist() == [[2.0, -3.0, 0.0], [-2.0, 0.0, 0.0]]
    assert trim(values.clone(), 0.34).tolist() == [[2.0, -3.0, 0.0], [0.0, 0.0, 0.0]]
    assert torch.equal(trim(values.clone(), 1.0), values)


def test_a_draw_elects_positive_and_a_zero_agrees_with_no_sign() -> None:
    first, second = torch.tensor([2.0, -2.0, 0.0, -3.0, 1.0]), torch.tensor([-2.0, 2.0, 0.0, 0.0, -4.0])

    def merged(method: str, normalize: bool) -> list[float]:
        return merge([first.clone(), second.clone()], (1.0, 1.0), method, normalize).tolist()

    assert merged("total", True) == [2.0, 2.0, 0.0, -3.0, -4.0]
    assert merged("count", True) == [2.0, 2.0, 0.0, -3.0, 1.0]
    assert merged("total", False) == [2.0, 2.0, 0.0, -3.0, -4.0]
    assert merged("none", False) == [0.0, 0.0, 0.0, -3.0, -3.0]
    assert merged("none", True) == [0.0, 0.0, 0.0, -1.5, -1.5]


def test_normalizing_divides_by_the_weights_that_agree_alone() -> None:
    first, second = torch.tensor([1.0, 1.0, -1.0]), torch.tensor([3.0, -1.0, -1.0])
    assert merge([first, second], (1.0, 3.0), "total", True).tolist() == [2.5, -1.0, -1.0]


def single(model: str, density: float, rescale: str = "none") -> DareOptions:
    """Options of a merge that shows one model's dropped vector alone."""
    other = "donor" if model == "target" else "target"
    return DareOptions.model_validate(
        {f"{model}_weight": 1.0, f"{other}_weight": 0.0, f"{model}_density": density, "rescale": rescale}
    )


def kept(source: Source, model: str, name: str, density: float, seed: int) -> npt.NDArray[np.bool_]:
    """Which entries of a model's vector survived, read off the edited tensor."""
    found = dare(source, single(model, density), seed)[name]().double().numpy()
    base, full = stored(source, "base", name), vector(source, model, name)
    mask = found != base
    np.testing.assert_allclose(found, base + mask * full, atol=1e-6)
    return mask


@pytest.mark.parametrize("model", ["target", "donor"])
def test_dare_keeps_entries_at_the_rate_of_its_density_and_divides_them_by_it(source: Source, model: str) -> None:
    survivors, size = 0, 0
    for name in linears(source):
        mask = kept(source, model, name, 0.3, 5)
        found = dare(source, single(model, 0.3, "density"), 5)[name]()
        assert error(found, stored(source, "base", name) + mask * vector(source, model, name) / 0.3) <= 1e-5
        survivors, size = survivors + int(mask.sum()), size + mask.size
    assert abs(survivors - 0.3 * size) < 4 * (0.3 * 0.7 * size) ** 0.5


def test_the_l1_rescale_restores_the_sum_of_absolute_values(source: Source) -> None:
    for name in linears(source):
        mask, full = kept(source, "donor", name, 0.4, 3), vector(source, "donor", name)
        factor = np.abs(full).sum() / np.abs(full * mask).sum()
        found = dare(source, single("donor", 0.4, "l1"), 3)[name]()
        assert error(found, stored(source, "base", name) + factor * mask * full) <= 1e-5
        restored = np.abs(found.double().numpy() - stored(source, "base", name)).sum()
        assert restored == pytest.approx(np.abs(full).sum(), rel=1e-5)


def test_an_l1_rescale_of_nothing_is_nothing() -> None:
    assert drop(torch.zeros(4), 0.5, "l1", torch.Generator().manual_seed(0)).tolist() == [0.0] * 4


@pytest.mark.parametrize("method", ["none", "total", "count"])
@pytest.mark.parametrize("normalize", [False, True])
def test_dare_merges_what_survived_with_or_without_election(source: Source, method: str, normalize: bool) -> None:
    weights, densities = (0.6, 0.9), (0.5, 0.7)
    options = DareOptions.model_validate(
        {
            "target_weight": weights[0],
            "donor_weight": weights[1],
            "target_density": densities[0],
            "donor_density": densities[1],
            "majority_sign_method": method,
            "normalize": normalize,
            "scale": 1.2,
        }
    )
    edits = dare(source, options, 11)
    for name in linears(source)[:6]:
        dropped = [
            vector(source, model, name) * kept(source, model, name, density, 11) / density
            for model, density in zip(("target", "donor"), densities, strict=True)
        ]
        base = stored(source, "base", name)
        if method == "none":
            added = 1.2 * (weights[0] * dropped[0] + weights[1] * dropped[1]) / (sum(weights) if normalize else 1)
        else:
            columns = [values.reshape(-1).tolist() for values in dropped]
            added = np.array(agreed(columns, weights, method, normalize, 1.2)).reshape(base.shape)
        assert error(edits[name](), base + added) <= 1e-5


def test_draws_depend_on_the_seed_the_model_and_the_tensor_alone(source: Source) -> None:
    first, second = linears(source)[:2]
    options = DareOptions()
    alone = dare(source, options, 4)[second]()
    both = dare(source, options, 4)
    both[first]()
    assert torch.equal(both[second](), alone)
    assert not torch.equal(dare(source, options, 5)[second](), alone)
    assert (kept(source, "target", first, 0.5, 4) != kept(source, "donor", first, 0.5, 4)).any()


def test_the_safety_vector_can_be_thinned_before_it_is_added(source: Source) -> None:
    name = linears(source)[0]
    target, full = stored(source, "target", name), vector(source, "donor", name)
    thin = TaskArithmeticOptions(density=0.25, gamma=2.0)
    found = task_arithmetic(source, thin, 8)[name]()
    mask = found.double().numpy() != target
    assert 0.15 < mask.mean() < 0.35
    assert error(found, target + 2 * mask * full / 0.25) <= 1e-5
    assert torch.equal(found, task_arithmetic(source, thin, 8)[name]())
    assert not torch.equal(found, task_arithmetic(source, thin, 9)[name]())


def test_models_of_different_vocabulary_merge_their_matrices_only(
    make: Callable[[str], Source], tmp_path: Path
) -> None:
    full = make("llama")
    build("llama", tmp_path / "base", seed=2, vocab_size=48)
    source = Source(full.architecture, {**full.models, "base": read_index(tmp_path / "base")})
    for cook in ties(source, TiesOptions(), 0).values():
        assert cook().isfinite().all()
    with pytest.raises(InputError, match=r"embed_tokens.*\[64, 32\].*\[48, 32\].*tensors: linear"):
        task_arithmetic(source, TaskArithmeticOptions(tensors="all"), 0)["model.embed_tokens.weight"]()


@pytest.mark.parametrize("density", [0.0, 1.01, -0.5])
def test_a_density_outside_its_range_is_refused(density: float) -> None:
    with pytest.raises(ValidationError):
        TiesOptions(target_density=density)


def test_every_row_names_a_function_and_has_defaults() -> None:
    for row in ROWS:
        module, name = row.function.split(":")
        assert callable(getattr(importlib.import_module(f"cnt_pipeline.transplants.edit.{module}"), name))
        assert row.options() == row.options.model_validate({})
        assert all(field.description for field in row.options.model_fields.values())
        assert row.needs == ("base",)
