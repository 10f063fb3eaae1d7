"""Gates on a few neurons are the gated swap at the cost of those neurons, and so are their gradients."""

from pathlib import Path

import pytest
import torch

from cnt_pipeline.models import teacher
from cnt_pipeline.models.architecture import read_architecture
from cnt_pipeline.models.gates import GatedSwap, Key
from cnt_pipeline.models.load import load_model
from cnt_pipeline.models.sparse_gates import SparseGates, sparse_gated
from cnt_pipeline.models.teacher import Example
from cnt_pipeline.models.tensors import read_index
from tests.unit.models.conftest import build

torch.set_num_threads(1)
EXAMPLES = [Example((5, 6, 7, 8, 9, 4), 2), Example((9, 8, 7, 3), 1)]


def a_swap(name: str, folder: Path) -> GatedSwap:
    for which, seed in (("target", 0), ("donor", 1)):
        (folder / which).mkdir()
        build(name, folder / which, seed=seed)
    target = folder / "target"
    return GatedSwap(load_model(target), read_architecture(target), read_index(folder / "donor"), read_index(target))


def some_of_every_other_family(swap: GatedSwap) -> list[tuple[Key, torch.Tensor]]:
    drawn = torch.Generator().manual_seed(3)
    return [
        ((matrix.layer, matrix.family), torch.randperm(matrix.neurons, generator=drawn)[:3])
        for number, matrix in enumerate(swap.architecture.matrices)
        if number % 2 == 0
    ]


def dense(swap: GatedSwap, candidates: list[tuple[Key, torch.Tensor]], gates: torch.Tensor) -> dict[Key, torch.Tensor]:
    widths = {(m.layer, m.family): m.neurons for m in swap.architecture.matrices}
    parts = torch.split(gates, [len(neurons) for _, neurons in candidates])
    return {
        key: gates.new_zeros(widths[key]).index_copy(0, neurons, part)
        for (key, neurons), part in zip(candidates, parts, strict=True)
    }


def loss(swap: GatedSwap) -> torch.Tensor:
    batch = teacher.make_batch(EXAMPLES, [0, 1], teacher.device_of(swap.model), teacher.pad_of(swap.model))
    return teacher.token_nll(swap.model, batch).sum()


@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen2", "phi3"])
def test_sparse_gates_equal_dense_gates_and_their_gradients(name: str, tmp_path: Path) -> None:
    swap = a_swap(name, tmp_path)
    candidates = some_of_every_other_family(swap)
    count = sum(len(neurons) for _, neurons in candidates)
    values = torch.rand(count, generator=torch.Generator().manual_seed(0)) * 4 - 0.5
    results = []
    for opened in (
        lambda gates: swap.gated(dense(swap, candidates, gates)),
        SparseGates(swap, candidates).gated,
        lambda gates: sparse_gated(swap, candidates, gates),
    ):
        gates = values.clone().requires_grad_(True)
        with opened(gates):
            value = loss(swap)
        value.backward()
        assert gates.grad is not None
        results.append((value.detach(), gates.grad))
    for value, gradient in results[1:]:
        torch.testing.assert_close(value, results[0][0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(gradient, results[0][1], rtol=1e-4, atol=1e-5)
    assert float(results[0][1].abs().max()) > 1e-3
    assert all(parameter.grad is None for parameter in swap.model.parameters())


def test_closed_gates_are_the_target_and_nothing_is_left_behind(tmp_path: Path) -> None:
    swap = a_swap("llama", tmp_path)
    plain = loss(swap)
    candidates = some_of_every_other_family(swap)
    count = sum(len(neurons) for _, neurons in candidates)
    with sparse_gated(swap, candidates, torch.zeros(count)):
        assert torch.equal(loss(swap), plain)
    with pytest.raises(RuntimeError, match="stop"), sparse_gated(swap, candidates, torch.ones(count)):
        assert not torch.equal(loss(swap), plain)
        raise RuntimeError("stop")
    assert torch.equal(loss(swap), plain)
    assert not any("forward" in vars(module) for module in swap.model.modules())
