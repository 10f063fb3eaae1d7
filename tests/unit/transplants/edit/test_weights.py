"""Matrices and their differences, read in rows or whole, against the models' files."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor

from cnt_pipeline.errors import InputError
from cnt_pipeline.transplants.edit import source as module
from cnt_pipeline.transplants.edit import weights
from cnt_pipeline.transplants.edit.source import Linear, Source
from cnt_pipeline.transplants.edit.weights import Weight, held

torch.set_num_threads(1)

Array = npt.NDArray[np.float64]


def matrix(source: Source, role: str, linear: Linear) -> Array:
    """A stored matrix as `[out, in]`, read without the code under test."""
    stored = load_file(source.models[role].folder / "model.safetensors")[linear.tensor].astype(np.float64)
    return stored.T if linear.transposed else stored


@pytest.mark.parametrize("block", [5, 1 << 18])
def test_a_difference_read_whole_or_in_rows_is_that_of_the_files(
    source: Source, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "BLOCK", block)
    monkeypatch.setattr(module, "BLOCK", block)
    for linear in source.linears:
        wanted = matrix(source, "donor", linear) - matrix(source, "base", linear)
        weight = Weight(source, linear, "donor", "base")
        assert weight.shape == wanted.shape
        assert np.array_equal(weight.whole(torch.float64).numpy(), wanted)
        assert np.array_equal(held(weight).numpy(), wanted.astype(np.float32))
        for rows in (slice(0, 3), slice(4, len(wanted)), slice(2, 2)):
            assert np.array_equal(weight[rows].numpy(), wanted[rows].astype(np.float32))
        assert np.array_equal(Weight(source, linear, "donor").whole().numpy(), matrix(source, "donor", linear))


def test_a_weight_may_be_narrowed_to_the_rows_of_a_family(source: Source) -> None:
    linear = source.linears[0]
    whole = matrix(source, "target", linear)
    part = Weight(source, linear, "target", rows=slice(5, 13))
    assert part.shape == (8, whole.shape[1])
    assert np.array_equal(part.whole().numpy(), whole[5:13])
    assert np.array_equal(part[2:6].numpy(), whole[7:11])


def test_what_is_whole_lies_in_memory_as_it_is_stored(source: Source) -> None:
    for linear in source.linears:
        whole = Weight(source, linear, "target").whole()
        assert source.stored(linear, whole).data_ptr() == whole.data_ptr()


def test_a_models_tensor_is_added_to_a_stored_one(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 7)
    for linear in source.linears:
        made = source.tensor("target", linear.tensor)
        found = source.add(made, "base", linear.tensor, -0.5)
        assert found is made
        wanted = source.tensor("target", linear.tensor) - 0.5 * source.tensor("base", linear.tensor)
        assert torch.equal(found, wanted)


def test_weights_that_are_not_finite_are_refused(source: Source) -> None:
    class Broken(Source):
        def entries(self, model: str, name: str, part: slice) -> Tensor:
            return super().entries(model, name, part) * (torch.nan if model == "target" else 1)

    broken = Broken(source.architecture, source.models)
    with pytest.raises(InputError, match="of the target or the base model holds NaN"):
        Weight(broken, broken.linears[0], "target", "base").whole()
    with pytest.raises(InputError, match="of the target model holds NaN"):
        Weight(broken, broken.linears[0], "target")[0:1]
