"""The gated swap is the target at 0, the donor at 1, the written checkpoint between, and its gradients are
autograd's."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file

from cnt_pipeline.activation_caches.probes.effect import EffectProbe, Objective, batch_gradients, nodes, path_change
from cnt_pipeline.models import gate_linear, teacher
from cnt_pipeline.models.architecture import Architecture, read_architecture, tensor_roles
from cnt_pipeline.models.gates import GatedSwap
from cnt_pipeline.models.load import load_model
from cnt_pipeline.models.teacher import Example
from cnt_pipeline.models.tensors import read_index
from cnt_pipeline.transplants.apply import write_transplant
from cnt_pipeline.transplants.plan import TransplantPlan
from tests.unit.models.conftest import CONFIGS, build

torch.set_num_threads(1)
INPUT = torch.tensor([[5, 9, 17, 33, 41, 8], [3, 60, 22, 7, 19, 50]])
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@dataclass(frozen=True)
class Pair:
    """Two tiny models that differ in the tensors that hold neurons and in nothing else."""

    target: Path
    donor: Path
    architecture: Architecture

    def swap(self, dtype: str = "float32") -> GatedSwap:
        model = load_model(self.target, dtype=dtype)  # type: ignore[arg-type]
        return GatedSwap(model, self.architecture, read_index(self.donor), read_index(self.target))


def make_pair(root: Path, name: str, blend: float = 1.0, dtype: torch.dtype = torch.float32) -> Pair:
    """`blend` says how far the donor's neurons go from the target's towards another random model's."""
    target, donor = root / "target", root / "donor"
    build(name, target)
    build(name, donor, seed=1)
    roles = tensor_roles(target)
    ours, theirs = load_file(target / "model.safetensors"), load_file(donor / "model.safetensors")
    mixed = {k: torch.lerp(v, theirs[k], blend) if roles[k] == "neuron" else v.clone() for k, v in ours.items()}
    save_file({k: v.to(dtype) for k, v in ours.items()}, target / "model.safetensors", {"format": "pt"})
    save_file({k: v.to(dtype) for k, v in mixed.items()}, donor / "model.safetensors", {"format": "pt"})
    return Pair(target, donor, read_architecture(target))


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A pair of every architecture in turn."""
    return make_pair(tmp_path_factory.mktemp(request.param), request.param)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model(input_ids=INPUT).logits
    return result


def some_neurons(architecture: Architecture, amplitude: float, share: float = 0.3) -> pl.DataFrame:
    """A random third of the neurons of every matrix, as plan rows."""
    generator = np.random.default_rng(7)
    rows = [
        {
            "tensor": m.tensor, "axis": m.axis, "position": int(m.positions[n]), "layer": m.layer, "family": m.family,
            "neuron": int(n), "score": 0.0, "rank": 1, "standard_error": 0.0, "amplitude": amplitude, "bias": m.bias,
        }
        for m in architecture.matrices
        for n in generator.choice(m.neurons, max(1, int(share * m.neurons)), replace=False)
    ]  # fmt: skip
    return pl.DataFrame(rows, schema_overrides={"amplitude": pl.Float32, "bias": pl.String})


def gates_for(frame: pl.DataFrame, swap: GatedSwap) -> dict[tuple[int, str], torch.Tensor]:
    gates = swap.filled(0.0)
    for row in frame.iter_rows(named=True):
        gates[row["layer"], row["family"]][row["neuron"]] = row["amplitude"]
    return gates


def written(pair: Pair, frame: pl.DataFrame, out: Path) -> Any:
    target, donor = read_index(pair.target), read_index(pair.donor)
    write_transplant(target, donor, TransplantPlan.from_frame(frame), out)
    return load_model(out)


def test_all_gates_at_zero_are_the_target_bit_for_bit(pair: Pair) -> None:
    swap = pair.swap()
    expected = logits(load_model(pair.target))
    with swap.gated(swap.filled(0.0)):
        assert torch.equal(logits(swap.model), expected)
    with swap.folded(swap.filled(0.0)):
        assert torch.equal(logits(swap.model), expected)


def test_all_gates_at_one_are_the_donor(pair: Pair) -> None:
    swap = pair.swap()
    expected = logits(load_model(pair.donor))
    assert not torch.allclose(logits(swap.model), expected, **CLOSE)
    with swap.gated(swap.filled(1.0)):
        assert torch.allclose(logits(swap.model), expected, **CLOSE)
    with swap.folded(swap.filled(1.0)):
        assert torch.equal(logits(swap.model), expected)


@pytest.mark.parametrize("amplitude", [1.0, 2.5])
def test_gates_on_a_subset_are_the_checkpoint_with_those_neurons_copied(
    pair: Pair, amplitude: float, tmp_path: Path
) -> None:
    frame = some_neurons(pair.architecture, amplitude)
    swap = pair.swap()
    expected = logits(written(pair, frame, tmp_path / "out"))
    with swap.gated(gates_for(frame, swap)):
        assert torch.allclose(logits(swap.model), expected, rtol=1e-3, atol=1e-4)
    with swap.folded(gates_for(frame, swap)):
        assert torch.equal(logits(swap.model), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_partial_copy_is_rounded_as_the_writer_rounds_it(dtype: torch.dtype, tmp_path: Path) -> None:
    pair = make_pair(tmp_path, "llama", dtype=dtype)
    frame = some_neurons(pair.architecture, 1.7)
    swap = pair.swap()
    expected = logits(written(pair, frame, tmp_path / "out"))
    with swap.folded(gates_for(frame, swap)):
        assert torch.equal(logits(swap.model), expected)


def test_the_target_is_itself_again_after_a_context_that_raised(pair: Pair) -> None:
    swap = pair.swap()
    before = logits(swap.model)
    contexts: list[Callable[[], Any]] = [
        lambda: swap.gated(swap.filled(0.5)), lambda: swap.folded(swap.filled(0.5)), lambda: swap.uniform(0.5)
    ]  # fmt: skip
    for context in contexts:
        with pytest.raises(RuntimeError, match="inside"), context():
            raise RuntimeError("inside")
        assert torch.equal(logits(swap.model), before)


@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_effects_per_example_equal_autograds(pair: Pair, alpha: float) -> None:
    swap = pair.swap()
    examples = [Example((5, 9, 17, 33, 41, 8), 3), Example((3, 60, 22, 7), 2), Example((11, 12), 1)]
    weights = torch.tensor([1.0, -1.0, 0.5])
    batch = teacher.make_batch(examples, range(3), torch.device("cpu"), 0)
    found = batch_gradients(swap, batch, weights, alpha)

    gates = {key: value.requires_grad_() for key, value in swap.filled(alpha, batch=3).items()}
    with swap.gated(gates):
        output = swap.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    losses = []
    for row, example in enumerate(examples):
        predicted = output[row, example.start - 1 : len(example.tokens) - 1].log_softmax(-1)
        answer = torch.tensor(example.tokens[example.start :])
        losses.append(-predicted.gather(1, answer.unsqueeze(1)).mean())
    (torch.stack(losses) * weights).sum().backward()
    scale = max(float(gate.grad.abs().max()) for gate in gates.values() if gate.grad is not None)
    for key, gate in gates.items():
        assert gate.grad is not None
        assert torch.allclose(found[key], gate.grad, rtol=1e-3, atol=1e-5 * scale), key


@pytest.mark.skipif(not torch.cpu._is_avx512_bf16_supported(), reason="the processor has no bfloat16 products")
def test_the_product_in_bfloat16_moves_effects_by_its_rounding_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = make_pair(tmp_path, "llama")
    batch = teacher.make_batch([Example((5, 9, 17, 33, 41, 8), 3)], [0], torch.device("cpu"), 0)
    exact = batch_gradients(pair.swap(), batch, torch.ones(1), 0.4)
    monkeypatch.setattr(gate_linear, "LARGE", 1)
    rounded = batch_gradients(pair.swap(), batch, torch.ones(1), 0.4)
    scale = max(float(effects.abs().max()) for effects in exact.values())
    assert any(not torch.equal(rounded[key], effects) for key, effects in exact.items())
    for key, effects in exact.items():
        assert torch.allclose(rounded[key], effects, rtol=0, atol=2**-7 * scale), key


def test_path_effects_sum_to_the_whole_change_of_the_loss(tmp_path: Path) -> None:
    pair = make_pair(tmp_path, "llama", blend=0.2)
    swap = pair.swap()
    objectives = [
        Objective(((Example((5, 9, 17, 33, 41), 3), 1.0), (Example((5, 9, 17, 6, 2), 3), -1.0))),
        Objective(((Example((3, 60, 22, 7, 19), 2), 1.0), (Example((3, 60, 50, 51), 2), -1.0))),
    ]
    effects = EffectProbe(swap, objectives, nodes(8), batch_size=3)([0, 1])
    before, after = path_change(swap, objectives, batch_size=3)
    total = sum(float(values.sum()) for values in effects.values()) / 2
    assert abs(before - after) > 0.01
    assert total == pytest.approx(before - after, rel=0.01)


def test_answer_logits_are_the_models_own_at_the_scored_positions(pair: Pair) -> None:
    model = load_model(pair.target)
    examples = [Example((5, 9, 17, 33, 41, 8), 3), Example((3, 60, 22, 7), 2)]
    batch = teacher.make_batch(examples, [0, 1], torch.device("cpu"), 0)
    with torch.no_grad():
        found = teacher.answer_logits(model, batch)
        whole = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    assert torch.allclose(found, whole[batch.row, batch.column].float(), **CLOSE)
