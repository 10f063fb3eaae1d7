"""Fine-grained safety neurons: scores, masks and edits against float64 references written from the formulas."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from pydantic import ValidationError
from safetensors.numpy import load_file, save_file

from cnt_pipeline.activation_caches.write import write_shard
from cnt_pipeline.errors import InputError
from cnt_pipeline.models.tensors import read_index
from cnt_pipeline.transplants.edit.fgsn import (
    continual_masks,
    decide,
    fgsn,
    fgsn_zero,
    left_directions,
    project_rows,
    row_masks,
)
from cnt_pipeline.transplants.edit.rows.fgsn import ROWS, FgsnOptions, FgsnZeroOptions
from cnt_pipeline.transplants.edit.source import Linear, Source

Array = npt.NDArray[np.float64]
SCALES = ("fro", "numel", "in", "projector")
BOTH = (0, 1)


@dataclass(frozen=True)
class Files:
    """The models' and probes' files, read without the code under test."""

    source: Source

    def stored(self, role: str, tensor: str) -> npt.NDArray[Any]:
        return load_file(self.source.models[role].folder / "model.safetensors")[tensor]

    def weight(self, role: str, linear: Linear) -> Array:
        stored = self.stored(role, linear.tensor).astype(np.float64)
        return stored.T if self.source.architecture.name == "gpt2" else stored

    def importance(self, kind: str, linear: Linear) -> list[float]:
        moments = load_file(self.source.probes["moments/donor"] / f"{kind}.safetensors")
        second = moments[f"{linear.module}.second"].astype(np.float64)
        weight = self.weight("donor", linear)
        sizes = [second[j, j] ** 0.5 for j in range(len(second))]
        return [float(sum(abs(weight[i, j]) * sizes[j] for j in range(len(sizes)))) for i in range(len(weight))]

    def mask(self, linear: Linear, top: float = 0.4, less: float = 0.2) -> list[bool]:
        harmful = best(self.importance("function", linear), top)
        benign = best(self.importance("utility", linear), less)
        return [i in harmful and i not in benign for i in range(len(self.weight("donor", linear)))]


def best(scores: list[float], share: float) -> set[int]:
    count = int(share * len(scores) + 0.5)
    return set(sorted(range(len(scores)), key=lambda i: -scores[i])[:count])


def safe(direction: Array, scale: str, k: int) -> Array:
    """W_safe `[out, out]`, written out."""
    if scale == "projector":
        left = np.linalg.svd(direction)[0][:, :k]
        return left @ left.T
    square = direction @ direction.T
    return square / {"fro": np.sqrt((direction**2).sum()), "numel": direction.size, "in": direction.shape[1]}[scale]


def truncated(matrix: Array, rank: int) -> tuple[Array, Array]:
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    return left[:, :rank] * values[:rank], right[:rank]


def close(found: torch.Tensor, expected: Array) -> None:
    assert found.dtype == torch.float32
    assert np.linalg.norm(found.double().numpy() - expected) <= 1e-5 * np.linalg.norm(expected)


def results(source: Source, edits: Any) -> dict[str, torch.Tensor]:
    """What is stored after the edit, by tensor, turned to `[out, in]` where gpt2 stores `[in, out]`."""
    made = {name: make() for name, make in edits.items()}
    return {name: made[name].T if source.architecture.name == "gpt2" else made[name] for name in made}


def with_states(source: Source, folder: Path) -> Source:
    """The source with hidden states in which benign and harmful prompts part in layer 0 alone."""
    folder.mkdir()
    lot = np.random.default_rng(3)
    states = lot.normal(size=(12, 16)).astype(np.float32) * 0.05 + np.eye(16, dtype=np.float32)[0]
    parted = states.copy()
    parted[6:, 1] += 2
    values = {(0, "hidden"): states, (1, "hidden"): parted, (2, "hidden"): parted}
    kinds = ["utility"] * 6 + ["function"] * 6
    write_shard(folder, 0, [str(i) for i in range(12)], kinds, values)
    return Source(source.architecture, source.models, {**source.probes, "hidden_state/donor": folder})


def with_models(source: Source, **models: str) -> Source:
    """The source with one model in the place of another."""
    chosen = {role: source.models[models.get(role, role)] for role in source.models}
    return Source(source.architecture, chosen, source.probes)


@pytest.mark.parametrize("pool", ["matrix", "layers"])
def test_the_mask_holds_rows_that_matter_on_harmful_but_not_on_benign_prompts(source: Source, pool: Any) -> None:
    files = Files(source)
    masks = decide(source, FgsnOptions(layers=BOTH, harmful_share=0.5, benign_share=0.25, pool=pool)).masks
    assert list(masks) == [linear.tensor for linear in source.linears]
    if pool == "matrix":
        for linear in source.linears:
            assert masks[linear.tensor].tolist() == files.mask(linear, 0.5, 0.25)
        return
    harmful, benign = (
        [value for linear in source.linears for value in files.importance(kind, linear)]
        for kind in ("function", "utility")
    )
    chosen = best(harmful, 0.5) - best(benign, 0.25)
    assert np.flatnonzero(torch.cat(list(masks.values()))).tolist() == sorted(chosen)


@pytest.mark.parametrize("scale", SCALES)
def test_masked_rows_hold_the_projected_difference_and_the_others_the_target(source: Source, scale: Any) -> None:
    files = Files(source)
    made = results(source, fgsn(source, FgsnOptions(layers=BOTH, scale=scale, directions=5), 0))
    assert set(made) == {linear.tensor for linear in source.linears}
    for linear in source.linears:
        target, donor, base = (files.weight(role, linear) for role in ("target", "donor", "base"))
        projected = safe(donor - base, scale, 5) @ (target - base)
        mask = np.array(files.mask(linear))
        assert 0 < mask.sum() < len(mask)
        close(made[linear.tensor], np.where(mask[:, None], base + projected, target))
        close(made[linear.tensor][mask] - torch.tensor(base[mask]).float(), projected[mask])
        assert np.array_equal(made[linear.tensor].numpy()[~mask], np.float32(target[~mask]))


@pytest.mark.parametrize("rank", [1, 3, 1000])
def test_a_rank_projects_the_factors_of_the_difference(source: Source, rank: int) -> None:
    files = Files(source)
    made = results(source, fgsn(source, FgsnOptions(layers=BOTH, rank=rank), 0))
    for linear in source.linears:
        target, donor, base = (files.weight(role, linear) for role in ("target", "donor", "base"))
        b, a = truncated(target - base, rank)
        mask = np.array(files.mask(linear))
        close(made[linear.tensor], np.where(mask[:, None], base + safe(donor - base, "fro", 0) @ b @ a, target))


def test_the_difference_may_be_taken_to_the_donor(source: Source) -> None:
    files = Files(source)
    made = results(source, fgsn(source, FgsnOptions(layers=BOTH, tuned_from="donor"), 0))
    zero = results(source, fgsn_zero(source, FgsnZeroOptions(layers=BOTH, tuned_from="donor"), 0))
    for linear in source.linears:
        target, donor, base = (files.weight(role, linear) for role in ("target", "donor", "base"))
        mask = np.array(files.mask(linear))[:, None]
        close(made[linear.tensor], np.where(mask, donor + safe(donor - base, "fro", 0) @ (target - donor), target))
        assert np.array_equal(zero[linear.tensor].numpy(), np.float32(np.where(mask, donor, target)))


@pytest.mark.parametrize("scale", SCALES)
def test_the_full_form_blends_projected_weights_in(source: Source, scale: Any) -> None:
    files = Files(source)
    options = FgsnOptions(layers=BOTH, form="full", blend=0.2, scale=scale, directions=5)
    made = results(source, fgsn(source, options, 0))
    for linear in source.linears:
        target, donor, base = (files.weight(role, linear) for role in ("target", "donor", "base"))
        blended = 0.8 * target + 0.2 * safe(donor - base, scale, 5) @ target
        mask = np.array(files.mask(linear))
        close(made[linear.tensor], np.where(mask[:, None], blended, target))
        assert np.array_equal(made[linear.tensor].numpy()[~mask], np.float32(target[~mask]))


def test_the_control_returns_the_same_rows_to_the_base_model_bit_for_bit(source: Source) -> None:
    files = Files(source)
    made = results(source, fgsn_zero(source, FgsnZeroOptions(layers=BOTH), 0))
    assert set(made) == set(fgsn(source, FgsnOptions(layers=BOTH), 0))
    for linear in source.linears:
        mask = np.array(files.mask(linear))[:, None]
        expected = np.where(mask, files.weight("base", linear), files.weight("target", linear))
        assert np.array_equal(made[linear.tensor].numpy(), np.float32(expected))


def test_results_have_the_layout_in_which_the_matrix_is_stored(source: Source) -> None:
    files = Files(source)
    for options in (FgsnOptions(layers=(1,)), FgsnOptions(layers=(1,), form="full")):
        for name, make in fgsn(source, options, 0).items():
            assert make().shape == files.stored("target", name).shape


def test_a_lora_adapter_is_projected_factor_by_factor_whatever_the_rank_option(
    make: Callable[[str], Source],
) -> None:
    source = make("qwen2")
    files = Files(source)
    folder = source.models["target"].folder
    base = load_file(source.models["base"].folder / "model.safetensors")
    lot = np.random.default_rng(5)
    adapters, tuned = {}, dict(base)
    for linear in source.linears:
        out, width = base[linear.tensor].shape
        adapters[linear.tensor] = lot.normal(size=(out, 2)), lot.normal(size=(2, width))
        tuned[linear.tensor] = np.float32(base[linear.tensor] + np.matmul(*adapters[linear.tensor]))
    save_file(tuned, folder / "model.safetensors")
    source = Source(source.architecture, {**source.models, "target": read_index(folder)}, source.probes)
    for rank in (None, 2, 7):
        made = results(source, fgsn(source, FgsnOptions(layers=BOTH, rank=rank), 0))
        for linear in source.linears:
            b, a = adapters[linear.tensor]
            start = files.weight("base", linear)
            projected = safe(files.weight("donor", linear) - start, "fro", 0) @ b
            mask = np.array(files.mask(linear))[:, None]
            close(made[linear.tensor], start + np.where(mask, projected, b) @ a)


def test_the_projector_leaves_a_change_along_alignment_as_it_is(source: Source) -> None:
    tuned = with_models(source, target="donor")
    every = FgsnOptions(layers=BOTH, scale="projector", directions=1000)
    few = FgsnOptions(layers=BOTH, scale="projector", directions=4)
    files = Files(source)
    changed, kept = results(source, fgsn(tuned, few, 0)), results(source, fgsn(tuned, every, 0))
    for linear in source.linears:
        donor = files.weight("donor", linear)
        close(kept[linear.tensor], donor)
        assert np.linalg.norm(changed[linear.tensor].numpy() - donor) > 0.1


@pytest.mark.parametrize("out,width,columns,chosen", [(40, 7, 3, 30), (7, 40, 40, 2), (40, 7, 50, 1), (16, 16, 16, 0)])
@pytest.mark.parametrize("scale", SCALES)
def test_projected_rows_do_not_depend_on_the_shapes_that_decide_the_order(
    out: int, width: int, columns: int, chosen: int, scale: str
) -> None:
    lot = np.random.default_rng(out * columns)
    direction, right = lot.normal(size=(out, width)), lot.normal(size=(out, columns))
    rows = torch.zeros(out, dtype=torch.bool)
    rows[torch.tensor(lot.permutation(out)[:chosen], dtype=torch.long)] = True
    found = project_rows(torch.tensor(direction).float(), torch.tensor(right).float(), rows, scale, 3)
    close(found, (safe(direction, scale, 3) @ right)[rows.numpy()])


def test_directions_of_rounding_alone_are_no_directions() -> None:
    lot = torch.Generator().manual_seed(1)
    low = torch.randn(30, 4, generator=lot) @ torch.randn(4, 20, generator=lot)
    left = left_directions(low.double(), 9)
    assert left.shape == (30, 4)
    assert torch.allclose(left.T @ left, torch.eye(4, dtype=torch.double), atol=1e-6)
    assert torch.allclose(left @ (left.T @ low.double()), low.double(), atol=1e-4)


def test_only_the_safety_layers_that_hidden_states_show_are_edited(source: Source, tmp_path: Path) -> None:
    found = with_states(source, tmp_path / "states")
    decision = decide(found, FgsnOptions())
    assert decision.layers == (0,)
    assert len(decision.gaps) == 3 and decision.gaps[1] - decision.gaps[0] > 0.1
    named = decide(source, FgsnOptions(layers=(0,)))
    assert named.gaps == ()
    assert set(fgsn(found, FgsnOptions(), 0)) == {linear.tensor for linear in source.linears if linear.layer == 0}
    assert all(torch.equal(named.masks[name], mask) for name, mask in decision.masks.items())
    with pytest.raises(InputError, match="no layer widens the gap"):
        decide(found, FgsnOptions(start_growth=5.0))


def test_the_decision_counts_rows_and_parameters(source: Source) -> None:
    files = Files(source)
    decision = decide(source, FgsnOptions(layers=(1,)))
    rows = {linear.tensor: sum(files.mask(linear)) for linear in source.linears if linear.layer == 1}
    width = {linear.tensor: files.weight("target", linear).shape[1] for linear in source.linears}
    assert decision.rows == rows
    assert decision.parameters == sum(count * width[name] for name, count in rows.items())
    whole = sum(array.size for array in load_file(source.models["target"].folder / "model.safetensors").values())
    assert decision.share == pytest.approx(decision.parameters / whole, rel=1e-12)


def test_shares_bound_the_mask() -> None:
    lot = torch.Generator().manual_seed(2)
    harmful = {"a": torch.rand(50, generator=lot), "b": torch.rand(10, generator=lot)}
    benign = {name: torch.rand(len(scores), generator=lot) for name, scores in harmful.items()}
    assert {name: int(mask.sum()) for name, mask in row_masks(harmful, benign, 0.3, 0.0).items()} == {"a": 15, "b": 3}
    assert not any(mask.any() for mask in row_masks(harmful, harmful, 0.3, 0.3).values())
    assert sum(int(mask.sum()) for mask in row_masks(harmful, benign, 0.3, 0.0, together=True).values()) == 18
    ties = row_masks({"a": torch.ones(5)}, {"a": torch.zeros(5)}, 0.4, 0.0)["a"]
    assert ties.tolist() == [True, True, False, False, False]


def test_continual_masks_share_no_row_and_lose_none() -> None:
    lot = torch.Generator().manual_seed(4)
    masks = [
        {name: torch.rand(40, generator=lot) < 0.4 for name in names} for names in (("a",), ("a", "b"), ("a", "b", "c"))
    ]
    disjoint = continual_masks(masks)
    assert [list(mask) for mask in disjoint] == [list(mask) for mask in masks]
    for name in "abc":
        before = [mask[name] for mask in masks if name in mask]
        after = [mask[name] for mask in disjoint if name in mask]
        assert torch.equal(after[0], before[0])
        assert torch.equal(torch.stack(after).sum(0), torch.stack(before).any(0).long())


def test_a_later_dimension_leaves_the_rows_of_earlier_ones(source: Source) -> None:
    first = decide(source, FgsnOptions(layers=BOTH, harmful_share=0.1, benign_share=0.05)).masks
    wider = FgsnOptions(layers=BOTH, harmful_share=0.6, benign_share=0.05)
    alone, later = decide(source, wider).masks, decide(source, wider, [first]).masks
    made, free = results(source, fgsn(source, wider, 0, later)), results(source, fgsn(source, wider, 0))
    assert any(mask.any() for mask in first.values())
    for linear in source.linears:
        name = linear.tensor
        assert torch.equal(later[name], alone[name] & ~first[name])
        target = source.weight("target", linear)
        assert torch.equal(made[name][first[name]], target[first[name]])
        assert torch.equal(made[name][later[name]], free[name][later[name]])
    with pytest.raises(InputError, match="no earlier dimension holds"):
        decide(source, wider, [first, later])


def test_a_matrix_that_alignment_left_alone_stays(make: Callable[[str], Source]) -> None:
    source = make("llama")
    with pytest.raises(InputError, match="aligned and base model are equal"):
        fgsn(with_models(source, base="donor"), FgsnOptions(layers=BOTH), 0)
    folder = source.models["base"].folder
    base = load_file(folder / "model.safetensors")
    same = source.linears[3].tensor
    base[same] = load_file(source.models["donor"].folder / "model.safetensors")[same]
    save_file(base, folder / "model.safetensors")
    partly = Source(source.architecture, {**source.models, "base": read_index(folder)}, source.probes)
    assert set(fgsn(partly, FgsnOptions(layers=BOTH), 0)) == {line.tensor for line in source.linears} - {same}


def test_the_same_study_gives_the_same_weights_under_every_seed(source: Source) -> None:
    options = FgsnOptions(layers=BOTH, rank=4)
    one, other = (fgsn(source, options, seed) for seed in (1, 2))
    assert all(torch.equal(one[name](), other[name]()) for name in one)


def test_what_cannot_be_done_is_refused_in_a_sentence(source: Source) -> None:
    with pytest.raises(InputError, match="layer 2, but the model has the layers 0 to 1"):
        decide(source, FgsnOptions(layers=(0, 2)))
    with pytest.raises(InputError, match="raise `harmful_share:`"):
        decide(source, FgsnOptions(layers=BOTH, harmful_share=0.0))
    with pytest.raises(InputError, match="probe hidden_state of the model donor"):
        decide(source, FgsnOptions())


@pytest.mark.parametrize(
    "options,reason",
    [
        ({"blend": 0.6}, "erases it"),
        ({"blend": 1.0}, "erases it"),
        ({"layers": [1, 1]}, "each layer once"),
        ({"layers": [-1]}, "greater than or equal to 0"),
        ({"scale": "rows"}, "projector"),
        ({"rank": 0}, "greater than or equal to 1"),
    ],
)
def test_an_option_beyond_its_limits_is_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        FgsnOptions.model_validate(options)


def test_every_row_names_a_function_and_describes_every_option() -> None:
    for row in ROWS:
        module, name = row.function.split(":")
        assert callable(getattr(importlib.import_module(f"cnt_pipeline.transplants.edit.{module}"), name))
        assert all(field.description for field in row.options.model_fields.values())
        assert row.options() == row.options.model_validate({})
