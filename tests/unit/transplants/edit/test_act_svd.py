"""ActSVD against eigenvectors of the whole second moment of outputs."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.numpy import load_file

from cnt_pipeline.transplants.edit.act_svd import act_svd, weight_directions
from cnt_pipeline.transplants.edit.rows.entries import ActSvdOptions
from cnt_pipeline.transplants.edit.source import Source

torch.set_num_threads(1)

Array = npt.NDArray[np.float64]

FUSED = {"qkv_proj": (32, 16, 16), "gate_up_proj": (48, 48), "c_attn": (32, 32, 32)}


def oriented(source: Source, tensor: Any) -> Array:
    values: Array = np.asarray(tensor).astype(np.float64)
    return values.T if source.architecture.name == "gpt2" else values


def blocks(source: Source) -> Iterator[tuple[str, slice, Array, Array, dict[str, Array]]]:
    """Name, rows, target's and donor's weights, and the donor's input moments by kind, of every family's matrix."""
    target, donor = (load_file(source.models[m].folder / "model.safetensors") for m in ("target", "donor"))
    probes = {k: load_file(source.probes["moments/donor"] / f"{k}.safetensors") for k in ("function", "utility")}
    for name in dict.fromkeys(matrix.tensor for matrix in source.architecture.matrices):
        ours, theirs = oriented(source, target[name]), oriented(source, donor[name])
        key = f"{name.removesuffix('.weight')}.second"
        second = {kind: found[key].astype(np.float64) for kind, found in probes.items()}
        begin = 0
        for size in next((sizes for part, sizes in FUSED.items() if part in name), (len(ours),)):
            rows = slice(begin, begin + size)
            yield name, rows, ours[rows], theirs[rows], second
            begin += size


def top_projection(weight: Array, second: Array, share: float) -> Array:
    values, vectors = np.linalg.eigh(weight @ second @ weight.T)
    count = max(1, round(share * len(weight)))
    assert values[-count] > 1e-9 * values[-1], "the reference asks for directions that exist"
    return sum(np.outer(vectors[:, i], vectors[:, i]) for i in range(len(weight) - count, len(weight)))  # type: ignore[return-value]


@pytest.mark.parametrize("directions", ["safety", "orthogonal"])
@pytest.mark.parametrize("action", ["copy", "remove"])
def test_directions_are_eigenvectors_of_the_outputs_second_moment(source: Source, action: Any, directions: Any) -> None:
    options = ActSvdOptions(action=action, directions=directions, safety_rank=0.2, utility_rank=0.3)
    found = {name: oriented(source, thunk().numpy()) for name, thunk in act_svd(source, options, 0).items()}
    for name, rows, target, donor, second in blocks(source):
        projection = top_projection(donor, second["function"], 0.2)
        if directions == "orthogonal":
            projection = (np.eye(len(target)) - top_projection(donor, second["utility"], 0.3)) @ projection
        wanted = target + projection @ (donor - target) if action == "copy" else target - projection @ target
        assert np.linalg.norm(found[name][rows] - wanted) <= 1e-5 * np.linalg.norm(wanted)
        assert np.linalg.norm(found[name][rows] - target) > 1e-2 * np.linalg.norm(target)


def test_all_matrices_are_edited_in_their_stored_layout_and_nothing_else_is(source: Source) -> None:
    edits = act_svd(source, ActSvdOptions(), 0)
    assert set(edits) == {matrix.tensor for matrix in source.architecture.matrices}
    for name, thunk in edits.items():
        assert thunk().shape == source.models["target"][name].shape


def test_copying_along_every_direction_gives_the_donor(source: Source) -> None:
    found = act_svd(source, ActSvdOptions(safety_rank=1.0), 0)
    full = 0
    for name, rows, _, donor, _ in blocks(source):
        if len(donor) <= donor.shape[1]:
            part = oriented(source, found[name]().numpy())[rows]
            assert np.linalg.norm(part - donor) <= 1e-5 * np.linalg.norm(donor)
            full += 1
    assert full


def test_what_is_removed_orthogonally_leaves_outputs_along_utility_directions_alone(source: Source) -> None:
    options = ActSvdOptions(action="remove", directions="orthogonal", safety_rank=0.5, utility_rank=0.5)
    found = act_svd(source, options, 0)
    for name, rows, target, donor, second in blocks(source):
        utility = top_projection(donor, second["utility"], 0.5)
        change = oriented(source, found[name]().numpy())[rows] - target
        assert np.linalg.norm(utility @ change) <= 1e-5 * np.linalg.norm(target)
        assert np.linalg.norm(change) > 1e-3 * np.linalg.norm(target)


def output_directions(outputs: torch.Tensor, share: float) -> torch.Tensor:
    """Directions of a matrix whose inputs are uncorrelated and of one size: those of its singular values."""
    return weight_directions(outputs, torch.eye(outputs.shape[1]), share)


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (8, 8)])
def test_directions_are_orthonormal_and_ordered_by_size(shape: tuple[int, int]) -> None:
    outputs = torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    left = np.linalg.svd(outputs.numpy(), full_matrices=False)[0]
    found = output_directions(outputs, 0.3).numpy()
    assert found.shape == (shape[0], round(0.3 * shape[0]))
    assert np.allclose(found.T @ found, np.eye(found.shape[1]), atol=1e-10)
    for i in range(found.shape[1]):
        assert abs(found[:, i] @ left[:, i]) == pytest.approx(1, abs=1e-9)


def test_directions_without_any_output_are_not_made_up() -> None:
    column = torch.arange(1.0, 9, dtype=torch.float64)[:, None]
    assert output_directions(column @ torch.ones(1, 5, dtype=torch.float64), 1.0).shape == (8, 1)
    assert output_directions(column.T.expand(5, 8).clone(), 1.0).shape == (5, 1)
    assert output_directions(torch.zeros(4, 3, dtype=torch.float64), 0.5).shape == (4, 0)
