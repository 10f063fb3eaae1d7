"""Directions, memory settings and devices change what a swap holds, never what it computes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import dispatch_model

from cnt_pipeline.activation_caches.probes.effect import EffectProbe, Objective, batch_gradients, nodes
from cnt_pipeline.models import gate_linear, teacher
from cnt_pipeline.models.gates import DonorMemory, GatedSwap, Key
from cnt_pipeline.models.load import load_model
from cnt_pipeline.models.teacher import Example
from cnt_pipeline.models.tensors import read_index
from tests.unit.models.conftest import CONFIGS
from tests.unit.models.test_gates import INPUT, Pair, logits, make_pair, pair  # noqa: F401

EXAMPLES = [Example((5, 9, 17, 33, 41, 8), 3), Example((3, 60, 22, 7), 2), Example((11, 12), 1)]
OBJECTIVES = [Objective(((example, weight),)) for example, weight in zip(EXAMPLES, (1.0, -1.0, 0.5), strict=True)]


def swap_of(
    pair: Pair,  # noqa: F811
    memory: DonorMemory = "keep",
    checkpointing: bool = False,
    dtype: str = "float32",
    device: str = "cpu",
) -> GatedSwap:
    model = load_model(pair.target, dtype=dtype, device=device)  # type: ignore[arg-type]
    donor, stored = read_index(pair.donor), read_index(pair.target)
    return GatedSwap(model, pair.architecture, donor, stored, memory, checkpointing)


def gradients(swap: GatedSwap, direction: dict[Key, torch.Tensor] | None, alpha: float) -> dict[Key, torch.Tensor]:
    """`dL/dg` of one batch, at all gates `alpha` or along a direction."""
    batch = teacher.make_batch(EXAMPLES, range(3), torch.device("cpu"), 0)
    context = swap.uniform(alpha) if direction is None else swap.along(direction, alpha)
    with teacher.differentiable_inputs(swap.model), context as effects:
        teacher.per_example(teacher.token_nll(swap.model, batch), batch).sum().backward()  # type: ignore[no-untyped-call]
    return effects.by_key


def some_direction(swap: GatedSwap, families: set[str]) -> dict[Key, torch.Tensor]:
    """Amplitudes between 0 and 3 on a third of the neurons of some families."""
    drawn = torch.Generator().manual_seed(5)
    return {
        key: 3 * torch.rand(gate.shape, generator=drawn) * (torch.rand(gate.shape, generator=drawn) < 0.3)
        for key, gate in swap.filled(0.0).items()
        if key[1] in families
    }


def test_along_a_direction_the_effects_are_autograds_and_absent_families_leave_none(pair: Pair) -> None:  # noqa: F811
    swap = swap_of(pair)
    families = set(pair.architecture.families[::2])
    direction, alpha = some_direction(swap, families), 0.6
    found = gradients(swap, direction, alpha)
    assert set(found) == set(direction)
    gates = {key: (alpha * gate).repeat(3, 1).requires_grad_() for key, gate in direction.items()}
    batch = teacher.make_batch(EXAMPLES, range(3), torch.device("cpu"), 0)
    with swap.gated(gates):
        teacher.per_example(teacher.token_nll(swap.model, batch), batch).sum().backward()  # type: ignore[no-untyped-call]
    largest = max(float(gate.grad.abs().max()) for gate in gates.values() if gate.grad is not None)
    assert largest > 1e-3
    for key, gate in gates.items():
        assert gate.grad is not None
        assert torch.allclose(found[key], gate.grad, rtol=1e-3, atol=2e-5 * largest), key


def test_along_all_ones_is_uniform(pair: Pair) -> None:  # noqa: F811
    swap = swap_of(pair)
    everywhere, along = gradients(swap, None, 0.4), gradients(swap, swap.filled(1.0), 0.4)
    assert all(torch.equal(along[key], values) for key, values in everywhere.items())
    with swap.uniform(0.4):
        expected = logits(swap.model)
    with swap.along(swap.filled(1.0), 0.4):
        assert torch.equal(logits(swap.model), expected)


def test_a_module_without_a_direction_runs_the_targets_own_layer(tmp_path: Path) -> None:
    swap = swap_of(make_pair(tmp_path, "llama"))
    with swap.along(some_direction(swap, {"down"}), 1.0):
        replaced = {linear.matrices[0].family for linear in swap.linears if "forward" in linear.module.__dict__}
    assert replaced == {"down"}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("memory", "checkpointing"), [("lazy", False), ("keep", True), ("lazy", True)])
def test_effects_are_the_same_to_the_bit_however_little_memory_they_take(
    pair: Pair,  # noqa: F811
    memory: DonorMemory,
    checkpointing: bool,
    dtype: str,
) -> None:
    expected = EffectProbe(swap_of(pair, dtype=dtype), OBJECTIVES, nodes(2), 2)(range(3))
    thrifty = swap_of(pair, memory, checkpointing, dtype)
    found = EffectProbe(thrifty, OBJECTIVES, nodes(2), 2)(range(3))
    assert any(np.abs(values).max() > 1e-4 for values in expected.values())
    assert all(np.array_equal(found[key], values) for key, values in expected.items())
    assert not any("forward" in module.__dict__ for module in thrifty.model.modules())


@pytest.mark.parametrize(("memory", "checkpointing"), [("lazy", False), ("keep", True)])
def test_gates_learn_the_same_however_little_memory_they_take(
    tmp_path: Path, memory: DonorMemory, checkpointing: bool
) -> None:
    pair_ = make_pair(tmp_path, "llama")
    learned = []
    for swap in (swap_of(pair_), swap_of(pair_, memory, checkpointing)):
        gates = {key: gate.requires_grad_() for key, gate in swap.filled(0.7).items()}
        with swap.gated(gates):
            swap.model(input_ids=INPUT, use_cache=False).logits.square().mean().backward()  # type: ignore[operator]
        learned.append([gate.grad for gate in gates.values()])
        with swap.folded(swap.filled(1.0)):
            learned[-1].append(logits(swap.model))
    assert all(torch.equal(a, b) for a, b in zip(*learned, strict=True))


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_checkpointing_holds_the_input_of_a_layer_and_not_its_insides(name: str, tmp_path: Path) -> None:
    pair_ = make_pair(tmp_path, name)

    def held(checkpointing: bool) -> int:
        """Bytes that the graph of one forward pass keeps for its backward pass."""
        swap, kept = swap_of(pair_, checkpointing=checkpointing), 0

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal kept
            kept += tensor.nbytes
            return tensor

        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with teacher.differentiable_inputs(swap.model), swap.uniform(0.5), hooks:
            swap.model(input_ids=INPUT, use_cache=False)
        return kept

    assert held(True) < 0.5 * held(False)


def test_a_lazy_swap_holds_no_tensor_of_the_donor(tmp_path: Path) -> None:
    pair_ = make_pair(tmp_path, "llama")
    for memory, empty in (("keep", False), ("lazy", True)):
        swap = swap_of(pair_, memory)  # type: ignore[arg-type]
        EffectProbe(swap, OBJECTIVES, nodes(1), 2)(range(3))
        held = [value for linear in swap.linears for value in linear.held()]
        assert (not held) is empty


def test_the_product_in_bfloat16_stays_far_below_the_prompts_own_spread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair_ = make_pair(tmp_path, "llama", blend=0.2)
    generator = np.random.default_rng(0)
    asked = [Objective(((Example(tuple(generator.integers(3, 60, 12).tolist()), 5), 1.0),)) for _ in range(16)]
    exact = EffectProbe(swap_of(pair_), asked, nodes(2), 8)(range(16))
    monkeypatch.setattr(gate_linear, "product_dtype", lambda weight: torch.bfloat16)
    rounded = EffectProbe(swap_of(pair_), asked, nodes(2), 8)(range(16))
    worst = max(
        float((np.abs(rounded[key].mean(0) - values.mean(0)) / (values.std(0, ddof=1) / 4 + 1e-12)).max())
        for key, values in exact.items()
    )
    assert 0 < worst < 0.05


def test_a_model_under_accelerates_hooks_gives_the_same_effects_and_keeps_its_hooks(tmp_path: Path) -> None:
    pair_ = make_pair(tmp_path, "llama")
    batch = teacher.make_batch(EXAMPLES, range(3), torch.device("cpu"), 0)
    expected = batch_gradients(swap_of(pair_), batch, torch.ones(3), 0.4)
    swap = swap_of(pair_, device="auto")
    dispatch_model(swap.model, {"": "cpu"}, force_hooks=True)
    hooked = {
        name: module.__dict__["forward"] for name, module in swap.model.named_modules() if "forward" in module.__dict__
    }
    assert len(hooked) > len(swap.linears)
    found = batch_gradients(swap, batch, torch.ones(3), 0.4)
    assert all(torch.equal(found[key], values) for key, values in expected.items())
    after: dict[str, Any] = dict(swap.model.named_modules())
    assert all(after[name].__dict__["forward"] is forward for name, forward in hooked.items())


def test_effects_of_bfloat16_weights_are_added_up_in_float32(tmp_path: Path) -> None:
    pair_ = make_pair(tmp_path, "llama", dtype=torch.bfloat16)
    found = gradients(swap_of(pair_, dtype="bfloat16"), None, 0.5)
    assert all(values.dtype == torch.float32 for values in found.values())
    assert any(not torch.equal(values, values.bfloat16().float()) for values in found.values())
