"""LoX, LSSF and Safe LoRA against dense decompositions and dense projectors in float64."""

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from pydantic import ValidationError

from cnt_pipeline.transplants.edit import blockwise
from cnt_pipeline.transplants.edit.rows.merging import LoxOptions, LssfOptions, SafeLoraOptions
from cnt_pipeline.transplants.edit.source import Linear, Source
from cnt_pipeline.transplants.edit.subspace import (
    entropy_rank,
    leading_part,
    lox,
    lssf,
    project,
    safe_lora,
)

Array = npt.NDArray[np.float64]


def weight(source: Source, model: str, linear: Linear) -> Array:
    """A matrix `[out, in]`."""
    stored = source.tensor(model, linear.tensor).double().numpy()
    return stored.T if linear.transposed else stored


def error(source: Source, linear: Linear, found: torch.Tensor, expected: Array) -> float:
    """Relative error of a stored tensor against an `[out, in]` expectation."""
    assert found.dtype == torch.float32
    assert found.is_contiguous()
    layout = expected.T if linear.transposed else expected
    assert found.shape == layout.shape == source.tensor("target", linear.tensor).shape
    return float(np.linalg.norm(found.double().numpy() - layout) / np.linalg.norm(layout))


def truncated(matrix: Array, rank: int) -> Array:
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    total = np.zeros_like(matrix)
    for number in range(min(rank, len(values))):
        total += values[number] * np.outer(left[:, number], right[number])
    return total


def with_models(source: Source, **roles: str) -> Source:
    """A source in which each role is played by the model of another."""
    return Source(source.architecture, {**source.models, **{role: source.models[by] for role, by in roles.items()}})


@pytest.mark.parametrize(("rank", "coefficient"), [(1, 1.0), (6, 1.25), (500, 0.5)])
def test_lox_adds_the_leading_part_of_the_alignment_difference(source: Source, rank: int, coefficient: float) -> None:
    edits = lox(source, LoxOptions(rank=rank, coefficient=coefficient), 0)
    assert list(edits) == [linear.tensor for linear in source.linears]
    for linear in source.linears:
        safety = weight(source, "donor", linear) - weight(source, "base", linear)
        expected = weight(source, "target", linear) + coefficient * truncated(safety, rank)
        assert error(source, linear, edits[linear.tensor](), expected) <= 1e-5


def test_lox_on_the_aligned_model_extrapolates_it(source: Source) -> None:
    aligned = with_models(source, target="donor")
    edits = lox(aligned, LoxOptions(rank=3, coefficient=1.0), 0)
    for linear in source.linears:
        safety = weight(source, "donor", linear) - weight(source, "base", linear)
        found = edits[linear.tensor]()
        assert error(source, linear, found, weight(source, "donor", linear) + truncated(safety, 3)) <= 1e-5


def entropic_rank(values: list[float], share: float) -> int:
    whole = sum(values)
    terms = [-value / whole * math.log(value / whole) for value in values if value > 0]
    carried, rank = 0.0, 0
    while rank < len(terms):
        carried += terms[rank]
        rank += 1
        if carried >= share * sum(terms):
            break
    return rank


@pytest.mark.parametrize(
    ("share", "spectrum", "alpha"), [(0.85, "squared", 1.0), (0.85, "plain", 0.7), (0.3, "squared", 2.0)]
)
def test_lssf_adds_the_directions_that_carry_the_entropy(
    source: Source, share: float, spectrum: str, alpha: float
) -> None:
    options = LssfOptions.model_validate({"entropy": share, "spectrum": spectrum, "alpha": alpha})
    edits = lssf(source, options, 0)
    assert list(edits) == [linear.tensor for linear in source.linears]
    for linear in source.linears:
        safety = weight(source, "donor", linear) - weight(source, "base", linear)
        left, values, _ = np.linalg.svd(safety, full_matrices=False)
        rank = entropic_rank([value ** (2 if spectrum == "squared" else 1) for value in values.tolist()], share)
        assert 0 < rank < len(values)
        kept = left[:, :rank]
        expected = weight(source, "target", linear) + alpha * kept @ (kept.T @ safety)
        assert error(source, linear, edits[linear.tensor](), expected) <= 1e-5


def test_the_whole_entropy_is_the_whole_difference(source: Source) -> None:
    edits = lssf(source, LssfOptions(entropy=1.0), 0)
    for linear in source.linears:
        safety = weight(source, "donor", linear) - weight(source, "base", linear)
        assert error(source, linear, edits[linear.tensor](), weight(source, "target", linear) + safety) <= 1e-5


@pytest.mark.parametrize(
    ("spectrum", "share", "rank"),
    [
        ([1.0] * 10, 0.85, 9),
        ([1.0] * 10, 0.79, 8),
        ([1.0] * 10, 1.0, 10),
        ([3.0, 0.0, 0.0], 0.85, 1),
        ([2.0, 2.0, 0.0], 0.85, 2),
        ([0.0, 0.0], 0.85, 0),
        ([8.0, 1.0, 1.0], 0.5, 2),
    ],
)
def test_the_entropy_rank_of_small_spectra(spectrum: list[float], share: float, rank: int) -> None:
    assert entropy_rank(torch.tensor(spectrum, dtype=torch.float64), share) == rank


@pytest.mark.parametrize("shape", [(40, 12), (12, 40), (20, 20)])
def test_a_matrix_of_low_rank_is_its_own_leading_part(shape: tuple[int, int]) -> None:
    lot = torch.Generator().manual_seed(3)
    matrix = torch.randn(shape[0], 4, generator=lot) @ torch.randn(4, shape[1], generator=lot)
    assert torch.linalg.norm(leading_part(matrix, 4) - matrix) <= 1e-6 * torch.linalg.norm(matrix)
    assert torch.linalg.norm(leading_part(matrix, 3) - matrix) >= 1e-2 * torch.linalg.norm(matrix)
    assert not leading_part(torch.zeros(shape), 4).any()


def test_the_entropy_of_one_direction_keeps_that_direction() -> None:
    matrix = torch.outer(torch.arange(1.0, 9.0), torch.arange(1.0, 5.0))
    seen: list[int] = []

    def rank(squares: torch.Tensor) -> int:
        seen.append(entropy_rank(squares.sqrt(), 0.85))
        return seen[-1]

    assert torch.allclose(leading_part(matrix, rank), matrix, rtol=1e-6)
    assert seen == [1]


def dense(source: Source, linear: Linear, options: SafeLoraOptions) -> tuple[Array, float]:
    """The projected update and its cosine, from the projector written out in full."""
    update = weight(source, "target", linear) - weight(source, options.start, linear)
    if options.rank is not None:
        update = truncated(update, options.rank)
    alignment = weight(source, "donor", linear) - weight(source, "base", linear)
    if options.projector == "paper":
        projector = alignment @ alignment.T / math.sqrt((alignment**2).sum())
    elif options.projector_rank is None:
        projector = alignment @ np.linalg.pinv(alignment)
    else:
        left = np.linalg.svd(alignment, full_matrices=False)[0][:, : options.projector_rank]
        projector = left @ left.T
    projected = projector @ update
    cosine = (projected * update).sum() / math.sqrt((projected**2).sum() * (update**2).sum())
    return projected, float(cosine)


PROJECTIONS = [
    {"start": "donor"},
    {"start": "base"},
    {"start": "donor", "rank": 4},
    {"start": "base", "projector": "orthogonal", "projector_rank": 5},
]


@pytest.mark.parametrize("settings", PROJECTIONS, ids=str)
def test_safe_lora_projects_exactly_the_matrices_at_or_below_tau(source: Source, settings: dict[str, object]) -> None:
    options = SafeLoraOptions.model_validate(settings)
    expected = {linear: dense(source, linear, options) for linear in source.linears}
    ordered = sorted(cosine for _, cosine in expected.values())
    tau = (ordered[len(ordered) // 2 - 1] + ordered[len(ordered) // 2]) / 2
    edits = safe_lora(source, options.model_copy(update={"tau": tau}), 0)
    chosen = [linear for linear, (_, cosine) in expected.items() if cosine <= tau]
    assert list(edits) == [linear.tensor for linear in chosen]
    for linear in chosen:
        after = weight(source, options.start, linear) + expected[linear][0]
        assert error(source, linear, edits[linear.tensor](), after) <= 1e-5


@pytest.mark.parametrize("settings", PROJECTIONS, ids=str)
def test_a_tau_of_one_projects_every_matrix_and_of_zero_none(source: Source, settings: dict[str, object]) -> None:
    options = SafeLoraOptions.model_validate({**settings, "tau": 1.0})
    edits = safe_lora(source, options, 0)
    assert list(edits) == [linear.tensor for linear in source.linears]
    for linear in source.linears:
        after = weight(source, options.start, linear) + dense(source, linear, options)[0]
        assert error(source, linear, edits[linear.tensor](), after) <= 1e-5
    assert not safe_lora(source, options.model_copy(update={"tau": 0.0}), 0)


def test_a_number_of_matrices_takes_the_least_similar(source: Source) -> None:
    options = SafeLoraOptions(matrices=3, tau=0.0)
    cosines = {linear.tensor: dense(source, linear, options)[1] for linear in source.linears}
    assert set(safe_lora(source, options, 0)) == set(sorted(cosines, key=lambda name: cosines[name])[:3])


@pytest.mark.parametrize("rank", [None, 8])
def test_the_orthogonal_projector_on_all_directions_edits_only_what_has_more_outputs_than_inputs(
    source: Source, rank: int | None
) -> None:
    options = SafeLoraOptions(projector="orthogonal", rank=rank, tau=0.9999)
    edits = safe_lora(source, options, 0)
    tall = [linear for linear in source.linears if np.diff(weight(source, "base", linear).shape) < 0]
    assert tall
    assert list(edits) == [linear.tensor for linear in tall]
    for linear in tall:
        after = weight(source, "donor", linear) + dense(source, linear, options)[0]
        assert error(source, linear, edits[linear.tensor](), after) <= 1e-5


def test_matrices_without_an_update_or_without_alignment_stay(source: Source) -> None:
    everything = SafeLoraOptions(tau=1.0)
    assert not safe_lora(with_models(source, target="donor"), everything, 0)
    assert not safe_lora(with_models(source, base="donor"), everything, 0)
    assert not safe_lora(with_models(source, target="base"), SafeLoraOptions(tau=1.0, start="base"), 0)


@pytest.mark.parametrize("width", [3, 9])
@pytest.mark.parametrize("projector", ["paper", "orthogonal"])
def test_an_update_outside_the_kept_subspace_is_undone(projector: str, width: int) -> None:
    alignment, update = torch.zeros(4, width), torch.zeros(4, width)
    alignment[0], update[2] = 1.0, 5.0
    projected, cosine = project(
        lambda: update.clone(), alignment, SafeLoraOptions.model_validate({"projector": projector})
    )
    assert not projected.any()
    assert cosine == 0.0
    assert project(lambda: update.clone(), torch.zeros(4, width), SafeLoraOptions())[1] is None
    assert project(lambda: torch.zeros(4, width), alignment, SafeLoraOptions())[1] is None


@pytest.mark.parametrize("settings", [*PROJECTIONS, {"projector": "orthogonal", "rank": 3}], ids=str)
def test_the_size_of_blocks_changes_results_by_rounding_alone(
    source: Source, settings: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = SafeLoraOptions.model_validate({**settings, "tau": 1.0})

    def made() -> dict[str, torch.Tensor]:
        methods = (lox(source, LoxOptions(), 0), lssf(source, LssfOptions(), 0), safe_lora(source, options, 0))
        return {f"{number} {name}": cook() for number, edits in enumerate(methods) for name, cook in edits.items()}

    whole = made()
    monkeypatch.setattr(blockwise, "HELD", 100)
    blocks = made()
    assert all(torch.allclose(blocks[name], whole[name], rtol=1e-6, atol=1e-7) for name in whole)


def test_seeds_do_not_matter_and_thunks_repeat(source: Source) -> None:
    for method, options in ((lox, LoxOptions()), (lssf, LssfOptions()), (safe_lora, SafeLoraOptions(tau=1.0))):
        one, two = method(source, options, 1), method(source, options, 2)
        name = source.linears[-1].tensor
        assert torch.equal(one[name](), two[name]())
        assert torch.equal(one[name](), one[name]())


@pytest.mark.parametrize("settings", [{"tau": 1.5}, {"matrices": 0}, {"rank": 0}, {"start": "target"}])
def test_safe_lora_refuses_options_outside_their_range(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SafeLoraOptions.model_validate(settings)
